// The chart: uPlot with our own tooltip and highlight. Moving the mouse never draws the lines again: what is highlighted is drawn on a
// canvas above them.

import uPlot from 'uplot'
import { useEffect, useRef } from 'preact/hooks'
import { time } from '../../lib/format'
import type { Grid } from './range'
import { seriesName, stack } from './series'
import type { Line } from './series'
import { axisSteps, axisValues, farSplits, unitValue } from './units'
import type { Unit } from './units'

export interface ChartProps {
  lines: readonly Line[]
  grid: Grid
  unit: Unit
  log: boolean
  stacked: boolean
  /** A line's colour, for the theme at hand. */
  colour: (line: Line) => string
  /** What stands before a line's name, such as the letter of its query. */
  prefix: (line: Line) => string
  /** Lines that are not drawn. */
  hidden: ReadonlySet<string>
  /** The line that the legend points at. */
  pointed: string | undefined
  onZoom: (from: number, to: number) => void
  label: string
  theme: number
  onDrawn?: () => void
}

const css = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

/** A colour of the page as the canvas knows it: variables may say light-dark(). */
function resolved(name: string): string {
  const probe = document.createElement('i')
  probe.style.color = `var(${name})`
  document.body.append(probe)
  const colour = getComputedStyle(probe).color
  probe.remove()
  return colour || css(name)
}

/** How the x axis writes times: 24 hours, dates as years-months-days. */
const timeValues: uPlot.Axis.TimeValuesConfig = [
  [3600 * 24 * 365, '{YYYY}', null, null, null, null, null, null, 1],
  [3600 * 24 * 28, '{YYYY}-{MM}', null, null, null, null, null, null, 1],
  [3600 * 24, '{MM}-{DD}', '\n{YYYY}', null, null, null, null, null, 1],
  [60, '{HH}:{mm}', '\n{YYYY}-{MM}-{DD}', null, '\n{MM}-{DD}', null, null, null, 1],
  [1, '{HH}:{mm}:{ss}', '\n{YYYY}-{MM}-{DD}', null, '\n{MM}-{DD}', null, null, null, 1],
  [0.001, ':{ss}.{fff}', '\n{YYYY}-{MM}-{DD} {HH}:{mm}', null, '\n{MM}-{DD} {HH}:{mm}', null, '\n{HH}:{mm}', null, 1],
]

const height = () => (innerWidth < 700 ? 260 : 380)

export function Chart(props: ChartProps) {
  const place = useRef<HTMLDivElement>(null)
  const chart = useRef<{ plot: uPlot; point: (key: string | undefined) => void } | undefined>(undefined)
  const latest = useRef(props)
  latest.current = props

  // Everything but what is hidden and pointed at makes a new chart, which takes less than drawing its lines.
  useEffect(() => {
    chart.current = draw(place.current!, latest)
    return () => chart.current?.plot.destroy()
  }, [props.lines, props.grid, props.unit, props.log, props.stacked, props.theme, props.stacked ? props.hidden : undefined])

  useEffect(() => {
    const plot = chart.current?.plot
    if (!plot || props.stacked) return
    plot.batch(() => {
      props.lines.forEach((line, i) => {
        const show = !props.hidden.has(line.key)
        if (plot.series[i + 1] && plot.series[i + 1]!.show !== show) plot.setSeries(i + 1, { show })
      })
    })
    chart.current?.point(undefined)
  }, [props.hidden])

  useEffect(() => chart.current?.point(props.pointed), [props.pointed])

  useEffect(() => {
    const box = place.current!
    let width = box.clientWidth
    const observer = new ResizeObserver(() => {
      if (box.clientWidth === width || box.clientWidth === 0) return
      width = box.clientWidth
      chart.current?.plot.setSize({ width, height: height() })
    })
    observer.observe(box)
    return () => observer.disconnect()
  }, [])

  return <div class="chart" ref={place} role="img" aria-label={props.label} />
}

/** Draws the lines. `latest` has the properties of the last rendering. */
function draw(box: HTMLDivElement, latest: { current: ChartProps }) {
  const { lines, grid, unit, log, stacked, colour, hidden } = latest.current
  const shown = lines.map((l) => !hidden.has(l.key))
  const xs = Array.from({ length: grid.points }, (_, i) => (grid.start + i * grid.step) / 1000)
  let columns: (number | null)[][]
  const bands: uPlot.Band[] = []
  const colours = lines.map(colour)
  if (stacked) {
    const sums = stack(lines.filter((_, i) => shown[i]), grid.points)
    let n = 0
    columns = lines.map((l, i) => (shown[i] ? sums[n++]! : l.values))
    let below = -1
    lines.forEach((_, i) => {
      if (!shown[i]) return
      if (below >= 0) bands.push({ series: [i + 1, below + 1], fill: faded(colours[i]!) })
      below = i
    })
  } else {
    columns = lines.map((l) => (log ? l.values.map((v) => (v !== null && v > 0 ? v : null)) : l.values))
  }
  const positive = !log || columns.some((c) => c.some((v) => v !== null && v > 0))
  const ground = stacked ? shown.indexOf(true) : -1
  const text = resolved('--quiet'), lineColour = resolved('--line')
  const axis = { stroke: text, grid: { stroke: lineColour, width: 1 }, ticks: { stroke: lineColour, width: 1 }, font: '12px system-ui, sans-serif' }
  const many = lines.length > 30
  const steps = axisSteps(unit)
  const far = log ? undefined : farOf(columns, shown, stacked, unit)

  const overlay = document.createElement('canvas')
  overlay.className = 'highlight'
  const tip = document.createElement('div')
  tip.className = 'tip'
  tip.hidden = true
  let pointed = -1 // the line that is drawn above the others

  const highlight = (u: uPlot, index: number) => {
    if (index === pointed) return
    pointed = index
    const ctx = overlay.getContext('2d')!
    ctx.clearRect(0, 0, overlay.width, overlay.height)
    const column = columns[index]
    if (!column || lines.length < 2) return
    ctx.strokeStyle = colours[index]!
    ctx.lineWidth = 3 * devicePixelRatio
    ctx.lineJoin = 'round'
    ctx.beginPath()
    let pen = false
    for (let i = 0; i < column.length; i++) {
      const v = column[i]
      if (v === null || v === undefined) {
        pen = false
        continue
      }
      const x = u.valToPos(xs[i]!, 'x') * devicePixelRatio, y = u.valToPos(v, 'y') * devicePixelRatio
      if (pen) ctx.lineTo(x, y)
      else ctx.moveTo(x, y)
      pen = true
    }
    ctx.stroke()
  }

  const size = (u: uPlot) => {
    overlay.width = u.over.clientWidth * devicePixelRatio
    overlay.height = u.over.clientHeight * devicePixelRatio
    pointed = -1
  }

  const hover = (u: uPlot) => {
    const { left = -1, top = -1, idx } = u.cursor
    if (left < 0 || idx === null || idx === undefined) {
      tip.hidden = true
      highlight(u, -1)
      return
    }
    // The nearest line at the cursor's time, of stacked ones the one whose area it is: one linear transformation for all of them.
    const y = u.scales.y!
    const here = stacked ? u.posToVal(top, 'y') : 0
    let best = -1, distance = Infinity
    for (let i = 0; i < columns.length; i++) {
      const v = columns[i]![idx]
      if (v === null || v === undefined || !u.series[i + 1]!.show) continue
      const d = log && positive ? Math.abs(u.valToPos(v, 'y') - top) : Math.abs(((y.max! - v) / (y.max! - y.min!)) * u.over.clientHeight - top)
      if (d < distance) {
        distance = d
        best = i
      }
      if (stacked && v >= here && (lines[i]!.values[idx] ?? 0) > 0) {
        best = i
        break
      }
    }
    highlight(u, best)
    show(u, best, idx, left, top)
  }

  const when = document.createElement('div')
  const name = document.createElement('div')
  const number = document.createElement('strong')
  const swatch = document.createElement('span')
  swatch.className = 'swatch'
  const first = document.createElement('div')
  first.append(swatch, number)
  when.className = 'when'
  name.className = 'name'
  tip.append(when, first, name)
  const show = (u: uPlot, best: number, idx: number, left: number, top: number) => {
    tip.hidden = false
    when.textContent = time(xs[idx]! * 1000)
    first.hidden = name.hidden = best < 0
    if (best >= 0) {
      const line = lines[best]!
      const v = line.values[idx]
      number.textContent = v === null || v === undefined ? 'no value' : unitValue(v, unit)
      name.textContent = latest.current.prefix(line) + seriesName(line.labels)
      swatch.style.background = colours[best]!
    }
    const right = left > u.over.clientWidth / 2
    tip.style.transform = `translate(${right ? left - 14 : left + 14}px, ${Math.max(0, Math.min(top, u.over.clientHeight - 90))}px)${right ? ' translateX(-100%)' : ''}`
  }

  const points = (i: number) => lines[i - 1]?.lonely ?? []
  const plot = new uPlot(
    {
      width: Math.max(200, box.clientWidth),
      height: height(),
      ms: 1e-3,
      pxAlign: many ? 0 : 1,
      legend: { show: false },
      padding: [10, 24, 0, 0],
      bands,
      cursor: { points: { show: false }, drag: { x: true, y: false, setScale: false, dist: 6 }, focus: { prox: -1 } },
      scales: {
        x: { time: true, range: () => [grid.start / 1000, Math.max(grid.end, grid.start + 1) / 1000] },
        y: log && positive ? { distr: 3, range: (_, min, max) => logRangeOf(min, max) } : { range: (_, min, max) => rangeOf(min, max, stacked, unit) },
      },
      axes: [
        { ...axis, values: timeValues, space: 70 },
        {
          ...axis,
          values: (_, splits) => axisValues(splits, unit),
          size: (_, values) => Math.max(46, 18 + 7 * Math.max(0, ...(values ?? []).map((v) => String(v ?? '').length))),
          ...(steps && !log && { incrs: steps }),
          ...(far && { incrs: [far[1]! - far[0]!], splits: far }),
        },
      ],
      series: [
        {},
        ...lines.map((_, i) => ({
          show: shown[i]!,
          stroke: colours[i]!,
          width: many ? 1 : 1.5,
          ...(stacked && i === ground && { fill: faded(colours[i]!) }),
          points: {
            show: (_: uPlot, n: number) => points(n).length > 0,
            filter: (_: uPlot, n: number) => points(n),
            size: 5,
            fill: colours[i]!,
          },
        })),
      ],
      hooks: {
        ready: [(u) => (u.over.append(overlay, tip), size(u))],
        setSize: [size],
        setCursor: [hover],
        setSelect: [
          (u) => {
            const { left, width } = u.select
            if (width < 6) return
            u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false)
            latest.current.onZoom(u.posToVal(left, 'x') * 1000, u.posToVal(left + width, 'x') * 1000)
          },
        ],
        draw: [() => latest.current.onDrawn?.()],
      },
    },
    [xs, ...columns],
    box,
  )
  return {
    plot,
    point: (key: string | undefined) => highlight(plot, key === undefined ? -1 : lines.findIndex((l) => l.key === key && !latest.current.hidden.has(key))),
  }
}

/** The numbers of the y axis, where uPlot has none. */
function farOf(columns: readonly (readonly (number | null)[])[], shown: readonly boolean[], stacked: boolean, unit: Unit): number[] | undefined {
  let min = Infinity, max = -Infinity
  columns.forEach((c, i) => {
    if (shown[i]) for (const v of c) if (v !== null) [min, max] = [Math.min(min, v), Math.max(max, v)]
  })
  const splits = min <= max ? farSplits(...rangeOf(min, max, stacked, unit)) : undefined
  return splits && splits.length > 1 ? splits : undefined
}

function rangeOf(min: number | null, max: number | null, stacked: boolean, unit: Unit): [number, number] {
  if (min === null || max === null || !Number.isFinite(min) || !Number.isFinite(max)) return [0, 1]
  // Zero is nothing special among times.
  if (unit === 'time') return [min - Math.max(60, (max - min) / 10), max + Math.max(60, (max - min) / 10)]
  if (min === max) return min === 0 ? [0, 1] : min > 0 ? [0, min * 2] : [min * 2, 0]
  if (farSplits(min, max)) return [Math.min(min, stacked ? 0 : min) - (max - min) / 20, max + (max - min) / 20]
  const [low, high] = uPlot.rangeNum(stacked ? Math.min(0, min) : min, max, 0.1, true)
  return [low ?? min, high ?? max]
}

function logRangeOf(min: number | null, max: number | null): uPlot.Range.MinMax {
  if (min === null || max === null || !(min > 0)) return [1, 10]
  return min === max ? [min / 2, max * 2] : uPlot.rangeLog(min, max, 10, false)
}

const faded = (colour: string) => colour.replace(/\)$/, ' / 0.35)')
