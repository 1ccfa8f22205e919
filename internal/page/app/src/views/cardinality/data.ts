// What the cardinality view asks for.

import { envelope, get, uncounted } from '../../lib/api'
import { now } from '../../lib/clock'
import { quoteRegex, quoteString, labelName } from './rules'
import { rangeMs, selectorOf } from './state'
import type { Counting, Part, State } from './state'

export interface Window {
  start: number
  end: number
  series: number
  source?: 'blocks' | 'heads' | 'both' | ''
}

/** A metric, a label or a value of a label. */
export interface Row {
  name: string
  series: number
  /** Of a label: how many values it has. */
  values?: number
  /** By window; NaN = nothing is known of the window. */
  trend?: number[]
  first?: number
  last?: number
  growth?: number
}

export interface List {
  rows: Row[]
  /** How many there are of those that were searched for. */
  total: number
  /** Series of the tenant, or of the part; undefined = unknown. */
  all?: number
  windows?: Window[]
  warnings: string[]
  truncated: boolean
}

interface OverTime {
  windows: Window[]
  total: number
  entries: { name: string; series: number[]; values?: number[]; max: number; first: number; last: number; growth: number }[]
  truncated: boolean
}

interface LabelValues {
  series_count_total: number
  labels: { label_name: string; label_values_count: number; series_count: number; cardinality: { label_value: string; series_count: number }[] }[]
}

interface LabelNames {
  label_names_count: number
  cardinality: { label_name: string; label_values_count: number }[]
}

/** Labels, or the values of one, in windows over time. */
export async function overTime(label: string, s: Pick<State, 'range' | 'sort' | 'search' | 'limit'>, signal: AbortSignal): Promise<List> {
  const end = now()
  const answer = await envelope<OverTime>(
    'api/v1/cardinality/over_time',
    { label, start: Math.floor((end - rangeMs[s.range]) / 1000), end: Math.ceil(end / 1000), limit: s.limit, search: s.search, sort: s.sort },
    { signal, headers: uncounted },
  )
  const { windows, entries, total, truncated } = answer.data
  const known = windows.map((w) => !!w.source)
  return {
    rows: entries.map((e) => ({
      name: e.name,
      series: e.max,
      ...(e.values ? { values: e.values[known.lastIndexOf(true)] ?? 0 } : {}),
      trend: e.series.map((n, i) => (known[i] ? n : NaN)),
      first: e.first,
      last: e.last,
      growth: e.growth,
    })),
    total,
    all: Math.max(0, ...windows.map((w) => w.series)),
    windows,
    warnings: answer.warnings ?? [],
    truncated,
  }
}

const maxNames = 100 // label_values_max_cardinality_label_names_per_request, unless somebody has set it

/** The labels that a part of the series has now, with their values and series. */
export async function labelsNow(part: Part, counting: Counting, search: string, limit: number, signal: AbortSignal): Promise<List> {
  const selector = selectorOf(part)
  const names = await get<LabelNames>('api/v1/cardinality/label_names', { selector, count_method: counting, limit: 500 }, { signal, headers: uncounted })
  const wanted = names.cardinality.filter((l) => l.label_name.toLowerCase().includes(search.toLowerCase())).slice(0, Math.min(limit, maxNames))
  if (wanted.length === 0) return { rows: [], total: 0, warnings: [], truncated: false }
  const values = await labelValues(wanted.map((l) => l.label_name), selector, counting, 0, signal)
  const series = new Map(values.labels.map((l) => [l.label_name, l.series_count]))
  return {
    rows: wanted.map((l) => ({ name: l.label_name, values: l.label_values_count, series: series.get(l.label_name) ?? 0 })),
    total: search ? wanted.length : names.label_names_count,
    all: Math.max(series.get('__name__') ?? 0, ...series.values()),
    warnings: [],
    truncated: false,
  }
}

function labelValues(names: readonly string[], selector: string | undefined, counting: Counting, limit: number, signal: AbortSignal) {
  return get<LabelValues>('api/v1/cardinality/label_values', { 'label_names[]': names, selector, count_method: counting, limit }, { signal, headers: uncounted, post: true })
}

/** The values that a label has now, in a part of the series. */
export async function valuesNow(label: string, part: Part, counting: Counting, search: string, limit: number, signal: AbortSignal): Promise<List> {
  let selector = selectorOf(part)
  if (search) {
    const like = `${labelName(label)}=~${quoteString(`(?i).*${quoteRegex(search)}.*`)}`
    selector = selector ? selector.replace(/\}$/, `, ${like}}`) : `{${like}}`
  }
  const found = await labelValues([label], selector, counting, limit, signal)
  const of = found.labels[0]
  return {
    rows: of?.cardinality.map((v) => ({ name: v.label_value, series: v.series_count })) ?? [],
    total: of?.label_values_count ?? 0,
    all: selectorOf(part) ? (of?.series_count ?? 0) : found.series_count_total,
    warnings: [],
    truncated: false,
  }
}

/** How many series a part has now, and the tenant in all. */
export async function seriesNow(part: Part, counting: Counting, signal: AbortSignal): Promise<{ series: number; all: number }> {
  const found = await labelValues(['__name__'], selectorOf(part), counting, 0, signal)
  return { series: found.labels[0]?.series_count ?? 0, all: found.series_count_total }
}

/** Some of the series that a part has now. */
export function someSeries(part: Part, limit: number, signal: AbortSignal): Promise<Record<string, string>[]> {
  const match = selectorOf(part) ?? '{__name__!=""}'
  return get('api/v1/series', { 'match[]': match, start: Math.floor(now() / 1000) - 20 * 60, limit }, { signal, headers: uncounted })
}

export interface LabelPair {
  label: string
  value: string
  series: number
}

/** The pairs of a label and a value with most series. Names of metrics are not among them: they have a view of their own. */
export async function pairs(limit: number, signal: AbortSignal): Promise<{ pairs: LabelPair[]; all: number }> {
  const found = await get<{ headStats: { numSeries: number }; seriesCountByLabelValuePair: { name: string; value: number }[] }>(
    'api/v1/status/tsdb',
    { limit: Math.min(10_000, limit * 4) },
    { signal, headers: uncounted },
  )
  return {
    pairs: found.seriesCountByLabelValuePair
      .map(({ name, value }) => ({ label: name.slice(0, name.indexOf('=')), value: name.slice(name.indexOf('=') + 1), series: value }))
      .filter((p) => p.label !== '__name__')
      .slice(0, limit),
    all: found.headStats.numSeries,
  }
}

export interface MetricUse {
  metricName: string
  queryRequests: number
  /** s since 1970; 0 = never. */
  lastRequestTimestamp: number
  series: number
}

export interface Uses {
  statsCollectedSince: number
  statsCollectedRecordsTotal: number
  records: MetricUse[]
}

/** How often metrics were queried: those that nothing has queried, or all, the least queried first. */
export function uses(never: boolean, signal: AbortSignal): Promise<Uses> {
  return get('api/v1/status/metric_names_stats', { limit: 1000, le: never ? 0 : undefined }, { signal, headers: uncounted })
}
