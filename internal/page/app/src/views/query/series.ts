// The answers of the query API, made ready to be looked at.

import type { Grid } from './range'

export type Labels = Record<string, string>

/** A native histogram: its buckets are [boundary rule, lower, upper, count]. */
export interface Histogram {
  count: string
  sum: string
  buckets?: [number, string, string, string][]
}

export interface Sample {
  metric: Labels
  value?: [number, string]
  histogram?: [number, Histogram]
}

export interface Stream {
  metric: Labels
  values?: [number, string][]
  histograms?: [number, Histogram][]
}

export type Result =
  | { resultType: 'vector'; result: Sample[] }
  | { resultType: 'matrix'; result: Stream[] }
  | { resultType: 'scalar' | 'string'; result: [number, string] }

/** A series on a grid: null is a hole, or what cannot be drawn (NaN, infinite). */
export interface Line {
  /** Unique among all lines of a view. */
  key: string
  /** Which query it answers. */
  query: number
  labels: Labels
  values: (number | null)[]
  /** Points without a neighbour, which a line would not show. */
  lonely: number[]
  last: number | undefined
  min: number | undefined
  max: number | undefined
  mean: number | undefined
  /** What is drawn is the mean of a native histogram. */
  histogram: boolean
  /** How many of its values are NaN or infinite, and not drawn. */
  odd: number
}

/** A value as the API writes it. */
export const numberOf = (text: string) => (text === '+Inf' ? Infinity : text === '-Inf' ? -Infinity : Number(text))

/** Labels in the order people read them. */
export const labelNames = (labels: Labels) => Object.keys(labels).filter((n) => n !== '__name__').sort()

const plainName = /^[a-zA-Z_:][\w:]*$/
const plainLabel = /^[a-zA-Z_]\w*$/
/** Characters that nobody sees, and that turn around or hide what stands beside them. */
const unseen = /[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]/g

/** A string of PromQL. What cannot be seen is written out. */
export const quoted = (text: string) => JSON.stringify(text).replace(unseen, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)

/** A label's value for people: as it is, in quotes where its ends or something in it could not be seen. */
export const valueText = (text: string) => (text !== '' && text === text.trim() && quoted(text) === `"${text}"` ? text : quoted(text))
export const labelText = (name: string) => (plainLabel.test(name) ? name : quoted(name))

/** A series as PromQL would select it. Labels in `without` are left out. */
export function seriesName(labels: Labels, without?: ReadonlySet<string>): string {
  const name = labels.__name__
  const inside = labelNames(labels).filter((n) => !without?.has(n)).map((n) => `${labelText(n)}=${quoted(labels[n]!)}`)
  const shown = without?.has('__name__') ? undefined : name
  if (shown !== undefined && !plainName.test(shown)) inside.unshift(quoted(shown))
  const head = shown !== undefined && plainName.test(shown) ? shown : ''
  return inside.length > 0 || !head ? `${head}{${inside.join(', ')}}` : head
}

/** Labels that all of several series have in common; none for one series. */
export function common(all: readonly Labels[]): Labels {
  const [first, ...rest] = all
  if (!first || rest.length === 0) return {}
  const out: Labels = {}
  for (const [name, value] of Object.entries(first)) if (rest.every((l) => l[name] === value)) out[name] = value
  return out
}

/** Puts the answer of a range query onto its grid. */
export function linesOf(streams: readonly Stream[], grid: Grid, query: number): Line[] {
  return streams.map((stream) => {
    const values = new Array<number | null>(grid.points).fill(null)
    const line: Line = { key: `${query} ${seriesName(stream.metric)}`, query, labels: stream.metric, values, lonely: [], last: undefined, min: undefined, max: undefined, mean: undefined, histogram: false, odd: 0 }
    let sum = 0, n = 0
    const put = (t: number, v: number) => {
      const i = Math.round((t * 1000 - grid.start) / grid.step)
      if (i < 0 || i >= grid.points) return
      if (!Number.isFinite(v)) {
        if (!line.histogram) line.odd++
        return
      }
      values[i] = v
      sum += v
      n++
      if (line.min === undefined || v < line.min) line.min = v
      if (line.max === undefined || v > line.max) line.max = v
    }
    for (const [t, v] of stream.values ?? []) put(t, numberOf(v))
    for (const [t, h] of stream.histograms ?? []) {
      line.histogram = true
      put(t, numberOf(h.sum) / numberOf(h.count))
    }
    for (let i = 0; i < values.length; i++) {
      if (values[i] === null) continue
      line.last = values[i]!
      if ((values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null) line.lonely.push(i)
    }
    line.mean = n > 0 ? sum / n : undefined
    return line
  })
}

/** The columns to draw, and between which of them the colour is filled, if lines are put on top of each other. */
export function stack(lines: readonly Line[], points: number): (number | null)[][] {
  const sum = new Array<number>(points).fill(0)
  return lines.map((line) =>
    line.values.map((v, i) => {
      sum[i]! += v ?? 0
      return v === null && line.lonely.length === 0 && line.last === undefined ? null : sum[i]!
    }),
  )
}

/** Rows of an instant answer; a range vector (`up[5m]`) has its last sample, and how many there are. */
export interface Row {
  key: string
  labels: Labels
  /** s since 1970 */
  time: number
  value: string
  histogram?: Histogram
  /** Samples of a range vector. */
  samples?: [number, string][]
}

export function rowsOf(result: Result): Row[] {
  switch (result.resultType) {
    case 'vector':
      return result.result.map((s) => ({ key: seriesName(s.metric), labels: s.metric, time: (s.value ?? s.histogram)?.[0] ?? 0, value: s.value?.[1] ?? '', ...(s.histogram && { histogram: s.histogram[1] }) }))
    case 'matrix':
      return result.result.map((s) => {
        const last = s.values?.at(-1), h = s.histograms?.at(-1)
        return { key: seriesName(s.metric), labels: s.metric, time: (last ?? h)?.[0] ?? 0, value: last?.[1] ?? '', ...(h && { histogram: h[1] }), ...(s.values && { samples: s.values }) }
      })
    default:
      return [{ key: '', labels: {}, time: result.result[0], value: result.result[1] }]
  }
}

/** Rows as CSV: a column for each label, then time and value. */
export function csvOf(rows: readonly Row[]): string {
  const names = [...new Set(rows.flatMap((r) => Object.keys(r.labels)))].sort()
  // A cell that a spreadsheet would take for a formula is made text.
  const cell = (text: string, own: boolean) => {
    const safe = own && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
  }
  const lines = rows.map((r) => [...names.map((n) => cell(r.labels[n] ?? '', true)), String(r.time), cell(r.histogram ? JSON.stringify(r.histogram) : r.value, false)].join(','))
  return [[...names.map((n) => cell(n, true)), 'time', 'value'].join(','), ...lines].join('\n') + '\n'
}

/** Whether all words are in a series' name. */
export function matches(labels: Labels, words: readonly string[]): boolean {
  if (words.length === 0) return true
  const text = seriesName(labels).toLowerCase()
  return words.every((w) => text.includes(w))
}

export const wordsOf = (filter: string) => filter.toLowerCase().split(/\s+/).filter(Boolean)
