// Sluice's own past, out of the metrics that it writes into itself.

import { get, uncounted } from './api'
import { now as serverNow } from './clock'
import { added, onGrid } from './grid'
import type { Points } from './grid'
import { href } from './route'
import { formatDuration } from './time'
import type { Access } from './session'

export interface Past {
  /** All series added up. */
  points: Points
  from: number
  to: number
  /** Of an expression with several series, the last value of each, by its labels' values. */
  last: [string, number][]
}

interface Matrix {
  resultType: string
  result: { metric: Record<string, string>; values?: [number, string][] }[]
}

const pointsAnHour = 120

/** Whether this user may look at Sluice's own metrics, and whether they are kept. */
export function mayLookBack(a: Access | undefined): boolean {
  if (!a || a.self_monitoring_tenant === '' || !a.rights.includes('read')) return false
  return !a.users || a.tenants.includes(a.self_monitoring_tenant)
}

/** The last hour of an expression; several series are added up. Steps lie on a grid, so that the next question finds this one's answer cached. */
export async function lastHour(expression: string, a: Access, signal: AbortSignal, now = serverNow()): Promise<Past> {
  const step = 3_600_000 / pointsAnHour
  const to = Math.floor(now / step) * step
  const from = to - 3_600_000
  const found = await get<Matrix>(
    'api/v1/query_range',
    { query: expression, start: from / 1000, end: to / 1000, step: step / 1000 },
    { signal, headers: uncounted, tenant: a.self_monitoring_tenant },
  )
  const all = found.result.map((r) => onGrid(r.values ?? [], from, to, step))
  const last = found.result.map((r, i): [string, number] => [Object.values(r.metric).join(' '), all[i]!.at(-1)![1]])
  return { points: added(all, from, to, step), from, to, last: last.filter(([, v]) => !Number.isNaN(v)) }
}

/** The query page with an expression, over the last hour or between two times (ms). */
export function queryLink(expression: string, tenant?: string, from?: number, to?: number): string {
  const span = from !== undefined && to !== undefined ? Math.max(1000, Math.ceil((to - from) / 1000) * 1000) : 3_600_000
  return href('query', {
    'g0.expr': expression,
    'g0.tab': '0',
    'g0.range_input': formatDuration(span),
    'g0.end_input': to === undefined ? undefined : new Date(to).toISOString().slice(0, 19).replace('T', ' '),
    tenant,
  })
}
