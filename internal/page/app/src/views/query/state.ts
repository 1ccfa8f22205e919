// What the query view shows, as its URL says it: Prometheus' own parameters (g0.expr, g0.tab, g0.range_input, …), so that links
// to Prometheus work here and ours there, and a few more of ours. All queries share one time range, which g0 has.

import { formatDuration, known, parseDuration } from '../../lib/time'

export interface Asked {
  expr: string
  hidden: boolean
}

export type Tab = 'graph' | 'table'

export interface State {
  queries: Asked[]
  tab: Tab
  /** Length of the time range, ms. */
  range: number
  /** Its end, ms; undefined = now. */
  end: number | undefined
  /** Fixed resolution, ms; undefined = by the width of the chart. */
  step: number | undefined
  /** Seconds between two automatic runs; 0 = none. */
  refresh: number
  /** Whether each query has a chart of its own; undefined = if they are of different units. */
  apart: boolean | undefined
  stacked: boolean
  log: boolean
  explain: boolean
  strong: boolean
  partial: boolean
  fresh: boolean
  /** Prometheus' duration, '' = the server's. */
  timeout: string
}

export const defaults: State = {
  queries: [{ expr: '', hidden: false }],
  tab: 'table',
  range: 3_600_000,
  end: undefined,
  step: undefined,
  refresh: 0,
  apart: undefined,
  stacked: false,
  log: false,
  explain: false,
  strong: false,
  partial: false,
  fresh: false,
  timeout: '',
}

/** Longest range of a link, ms: 100 years. */
const maxRange = 100 * 365 * 86_400_000

/** How many queries a link may carry. */
const maxQueries = 20

/** The parameters of ours that are set or not. */
const switches = { log: 'log', explain: 'explain', strong: 'strong', partial: 'partial_response', fresh: 'no_cache' } as const

/** A time of Prometheus' links: seconds since 1970 or a date, which is in UTC if it does not say. */
export function linkTime(text: string | null): number | undefined {
  const t = text?.trim() ?? ''
  if (t === '') return undefined
  if (/^\d+(\.\d+)?$/.test(t)) return known(Number(t) > 1e11 ? Number(t) : Number(t) * 1000)
  const zoned = /(z|[+-]\d\d:?\d\d)$/i.test(t) ? t : /\d:\d\d/.test(t) ? `${t}Z` : t
  const ms = Date.parse(zoned.replace(/^(\d{4}-\d{2}-\d{2}) /, '$1T'))
  return known(ms)
}

const linkText = (ms: number) => new Date(Math.round(ms / 1000) * 1000).toISOString().slice(0, 19).replace('T', ' ')

/** A step of a link: seconds, or a duration. */
function stepOf(text: string | null): number | undefined {
  if (!text) return undefined
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text) > 0 ? Number(text) * 1000 : undefined
  return parseDuration(text)
}

export function stateOf(params: URLSearchParams): State {
  const numbers = [...params.keys()].flatMap((k) => /^g(\d{1,3})\.expr$/.exec(k)?.[1] ?? [])
  const sorted = [...new Set(numbers)].map(Number).sort((a, b) => a - b).slice(0, maxQueries)
  // One alone is not hidden: nothing would show it again.
  const queries = sorted.map((n) => ({ expr: params.get(`g${n}.expr`) ?? '', hidden: sorted.length > 1 && params.get(`g${n}.hide`) === '1' }))
  const first = (name: string) => params.get(`g${sorted[0] ?? 0}.${name}`)
  const tab = first('tab')
  const timeout = params.get('timeout') ?? ''
  return {
    queries: queries.length > 0 ? queries : [{ expr: '', hidden: false }],
    tab: tab === 'graph' || tab === '0' ? 'graph' : tab === null && queries.length === 0 ? 'graph' : 'table',
    range: Math.min(maxRange, parseDuration(first('range_input') ?? '') ?? defaults.range),
    end: linkTime(first('end_input') ?? first('moment_input')),
    step: stepOf(first('step_input') ?? (first('res_type') === 'fixed' ? first('res_step') : null)),
    refresh: parseDuration(params.get('refresh') ?? '') !== undefined ? Math.max(1, parseDuration(params.get('refresh')!)! / 1000) : 0,
    stacked: first('stacked') === '1' || first('display_mode') === 'stacked',
    timeout: parseDuration(timeout) === undefined ? '' : timeout,
    apart: params.has('apart') ? params.get('apart') === '1' : undefined,
    ...(Object.fromEntries(Object.entries(switches).map(([field, name]) => [field, ['1', 'true'].includes(params.get(name) ?? '')])) as Record<keyof typeof switches, boolean>),
  }
}

/** The parameters of a state, beside those of the page that are none of this view's (the tenant). */
export function paramsOf(state: State, others: URLSearchParams = new URLSearchParams()): URLSearchParams {
  const out = new URLSearchParams()
  const ours = new Set<string>(['refresh', 'timeout', 'apart', ...Object.values(switches)])
  for (const [name, value] of others) if (!ours.has(name) && !/^g\d+\./.test(name)) out.append(name, value)
  state.queries.forEach((q, i) => {
    const set = (name: string, value: string | undefined) => value && out.set(`g${i}.${name}`, value)
    out.set(`g${i}.expr`, q.expr)
    set('hide', q.hidden ? '1' : undefined)
    set('tab', state.tab)
    set('range_input', formatDuration(state.range))
    set('end_input', state.end === undefined ? undefined : linkText(state.end))
    set('step_input', state.step === undefined ? undefined : String(state.step / 1000))
    set('stacked', state.stacked ? '1' : undefined)
  })
  if (state.refresh > 0) out.set('refresh', `${state.refresh}s`)
  if (state.timeout) out.set('timeout', state.timeout)
  if (state.apart !== undefined) out.set('apart', state.apart ? '1' : '0')
  for (const [field, name] of Object.entries(switches)) if (state[field as keyof typeof switches]) out.set(name, '1')
  return out
}
