// The time line: a band for each level and resolution, blocks as bars, merges to come below them.

import type { ComponentChildren } from 'preact'
import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { bytes, count, time } from '../../lib/format'
import { formatDuration } from '../../lib/time'
import { layout, ticks, zoom } from './layout'
import type { Band, Mark } from './layout'
import type { Block, Job } from './types'

export type View = readonly [from: number, to: number]

const bandTop = 19
const bandGap = 9
const axisHeight = 22
const jobHeight = 12

/** How high a lane is: the more there are the lower. */
const laneHeight = (lanes: number) => (lanes <= 4 ? 14 : lanes <= 10 ? 10 : 6)

export const levelName = (level: number, resolution: number) => `level ${level}${resolution > 0 ? `, one sample per ${formatDuration(resolution)}` : ''}`

interface Placed {
  band: Band
  top: number
  lane: number
}

export function TimeLine({ blocks, jobs, view, now, chosen, onView, onBlock }: { blocks: readonly Block[]; jobs: readonly Job[]; view: View; now: number; chosen: string | null; onView: (view: View) => void; onBlock: (id: string) => void }) {
  const [box, width] = useWidth()
  const [from, to] = view
  const [at, setAt] = useState<Mark | undefined>()
  const [drag, setDrag] = useState<[number, number] | undefined>()
  const bands = useMemo(() => layout(blocks, from, to, width), [blocks, from, to, width])
  const marks = useMemo(() => bands.flatMap((b) => b.marks), [bands])
  const scale = width / Math.max(1, to - from)
  const x = (t: number) => (t - from) * scale
  let y = 4
  const placed: Placed[] = bands.map((band) => {
    const one = { band, top: y, lane: laneHeight(band.lanes) }
    y += bandTop + band.lanes * one.lane + bandGap
    return one
  })
  const seen = jobs.filter((j) => j.end > from && j.start < to)
  const jobsTop = y
  if (seen.length > 0) y += bandTop + lanesOf(seen) * jobHeight + bandGap
  const height = y + axisHeight

  const act = (mark: Mark) => {
    if (mark.blocks.length === 1) onBlock(mark.blocks[0]!.id)
    else onView(zoom([Math.min(...mark.blocks.map((b) => b.min_time)), Math.max(...mark.blocks.map((b) => b.max_time))], 1.2))
  }
  const here = (e: PointerEvent & { currentTarget: SVGSVGElement }) => e.clientX - e.currentTarget.getBoundingClientRect().left
  const key = (e: KeyboardEvent) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key]
    if (step !== undefined && marks.length > 0) setAt(marks[at ? Math.min(marks.length - 1, Math.max(0, marks.indexOf(at) + step)) : 0])
    else if (e.key === 'Enter' && at) act(at)
    else if (e.key === '+' || e.key === '=') onView(zoom(view, 0.5))
    else if (e.key === '-') onView(zoom(view, 2))
    else return
    e.preventDefault()
  }
  return (
    <div class="time-line" ref={box}>
      <svg
        width={width}
        height={height}
        role="group"
        tabindex={0}
        aria-label="Time line of the blocks. Arrow keys go through them, Enter opens one, + and − zoom; the table below has the same."
        aria-describedby="block-at"
        onKeyDown={key}
        onPointerLeave={() => !drag && setAt(undefined)}
        onPointerDown={(e) => e.button === 0 && (e.currentTarget.setPointerCapture(e.pointerId), setDrag([here(e), here(e)]))}
        onPointerMove={(e) => {
          if (drag) setDrag([drag[0], here(e)])
          else setAt(markAt(placed, here(e), e.clientY - e.currentTarget.getBoundingClientRect().top))
        }}
        onPointerUp={(e) => {
          if (!drag) return
          setDrag(undefined)
          const [a, b] = [Math.min(drag[0], here(e)), Math.max(drag[0], here(e))]
          if (b - a > 4) onView([Math.round(from + a / scale), Math.round(from + b / scale)])
          else {
            const mark = markAt(placed, here(e), e.clientY - e.currentTarget.getBoundingClientRect().top)
            if (mark) act(mark)
          }
        }}
        onPointerCancel={() => setDrag(undefined)}
      >
        <defs>
          <pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
            <line x1="0" x2="0" y1="0" y2="6" class="hatch-line" />
          </pattern>
        </defs>
        <Axis from={from} to={to} width={width} height={height} />
        {now > from && now < to && <line class="now" x1={x(now)} x2={x(now)} y1="0" y2={height - axisHeight + 4} />}
        {placed.map((p) => (
          <BandOf key={`${p.band.level}/${p.band.resolution}`} placed={p} chosen={chosen} at={at} />
        ))}
        {seen.length > 0 && <JobsOf jobs={seen} top={jobsTop} x={x} width={width} />}
        {drag && <rect class="selection" x={Math.min(...drag)} width={Math.abs(drag[1] - drag[0])} y="0" height={height - axisHeight} />}
      </svg>
      <p id="block-at" class="at" aria-live="polite">
        {at ? <About mark={at} /> : <span class="quiet">{drag ? 'Let go to zoom in.' : 'Point at a block to see what it is; drag over a time to zoom in.'}</span>}
      </p>
    </div>
  )
}

/** The width of what the ref is at, followed. */
function useWidth() {
  const box = useRef<HTMLDivElement>(null)
  const [width, set] = useState(800)
  useEffect(() => {
    const seen = new ResizeObserver(([entry]) => set(Math.max(100, Math.floor(entry!.contentRect.width))))
    seen.observe(box.current!)
    return () => seen.disconnect()
  }, [])
  return [box, width] as const
}

/** The mark below the pointer; narrow ones are met from two pixels beside them. */
function markAt(placed: readonly Placed[], px: number, py: number): Mark | undefined {
  for (const { band, top, lane } of placed) {
    const row = Math.floor((py - top - bandTop) / lane)
    if (row < 0 || row >= band.lanes) continue
    let best: Mark | undefined
    let distance = 3
    for (const m of band.marks) {
      if (m.lane !== row) continue
      const d = px < m.x ? m.x - px : px > m.x + m.width ? px - m.x - m.width : 0
      if (d < distance) [best, distance] = [m, d]
    }
    return best
  }
  return undefined
}

function BandOf({ placed: { band, top, lane }, chosen, at }: { placed: Placed; chosen: string | null; at: Mark | undefined }) {
  return (
    <g class={`level-${Math.min(band.level, 5)}`}>
      <text class="band-name" x="0" y={top + 13}>
        {levelName(band.level, band.resolution)}
        <tspan class="quiet">
          {' '}
          {count(band.blocks)} {band.blocks === 1 ? 'block' : 'blocks'}
          {band.hidden > 0 && `, ${band.hidden} more lanes in the last`}
        </tspan>
      </text>
      {band.marks.map((m) => {
        const bad = m.blocks.some((b) => b.quarantined)
        const is = m === at || (chosen !== null && m.blocks.some((b) => b.id === chosen))
        const place = { x: m.x, y: top + bandTop + m.lane * lane, width: Math.max(1, m.width - (m.width > 3 ? 1 : 0)), height: lane - 2, rx: m.width > 8 ? 2 : 0 }
        return (
          <g key={m.blocks[0]!.id} class={`${bad ? 'bad' : ''} ${m.blocks.length > 1 ? 'many' : ''} ${is ? 'is' : ''}`}>
            <rect class="bar" {...place} />
            {bad && <rect class="over" {...place} />}
          </g>
        )
      })}
    </g>
  )
}

function Axis({ from, to, width, height }: { from: number; to: number; width: number; height: number }) {
  return (
    <g class="axis">
      {ticks(from, to, width).map(({ time: t, label }) => {
        const at = ((t - from) / Math.max(1, to - from)) * width
        const anchor = at < 24 ? 'start' : at > width - 24 ? 'end' : 'middle'
        return (
          <g key={t}>
            <line x1={at} x2={at} y1="0" y2={height - axisHeight + 4} />
            <text x={at} y={height - 5} text-anchor={anchor}>
              {label}
            </text>
          </g>
        )
      })}
    </g>
  )
}

/** Windows of merges overlap where one needs the other's result: the longer stand lower. */
const lanesOf = (jobs: readonly Job[]) => new Set(jobs.map((j) => j.end - j.start)).size

function JobsOf({ jobs, top, x, width }: { jobs: readonly Job[]; top: number; x: (t: number) => number; width: number }) {
  const spans = [...new Set(jobs.map((j) => j.end - j.start))].sort((a, b) => a - b)
  return (
    <g class="jobs">
      <text class="band-name" x="0" y={top + 13}>
        merges to come
      </text>
      {jobs.map((j) => {
        const left = Math.max(0, x(j.start))
        const right = Math.min(width, x(j.end))
        return (
          <rect key={`${j.start}/${j.end}/${j.blocks[0]}`} class={j.state} x={left + 0.5} width={Math.max(2, right - left - 1)} y={top + bandTop + spans.indexOf(j.end - j.start) * jobHeight} height={jobHeight - 4} rx="2">
            <title>{`${j.why} (${j.state.replace('_', ' ')})`}</title>
          </rect>
        )
      })}
    </g>
  )
}

/** What the mark is, in a line. */
function About({ mark }: { mark: Mark }): ComponentChildren {
  const first = mark.blocks[0]!
  if (mark.blocks.length > 1) {
    const from = Math.min(...mark.blocks.map((b) => b.min_time))
    const to = Math.max(...mark.blocks.map((b) => b.max_time))
    return (
      <>
        <strong>{mark.blocks.length} blocks</strong>, {levelName(first.level, first.resolution)}, {time(from)} to {time(to)}, {bytes(mark.blocks.reduce((n, b) => n + b.bytes, 0))}; a click zooms in
      </>
    )
  }
  return (
    <>
      <code>{first.id}</code> {levelName(first.level, first.resolution)}, {time(first.min_time)} to {time(first.max_time)}, {bytes(first.bytes)}, {count(first.series)} series, {count(first.samples)} samples
      {first.quarantined && <strong> set aside: {first.quarantined.reason}</strong>}
    </>
  )
}
