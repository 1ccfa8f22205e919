// Limits and what of them is in use, for people.

import { bytes, count, exact } from '../../lib/format'
import type { HACluster, LimitValue, TenantStatus } from './data'

/** A limit that has a use. */
export interface Use {
  name: string
  what: string
  limit: number
  used: number
  /** Of the limit; undefined if there is none. Above 1 is possible, as limits change. */
  share: number | undefined
  /** The limit holds for each producer, the use is that of all of them together. */
  each: boolean
  format: (v: number) => string
}

const perSecond = (v: number) => `${count(v)}/s`

/** What has a use, in the order in which it is shown. Bursts are not here: of them the API tells what is left, not what is used. */
const known: Record<string, { what: string; each?: boolean; format?: (v: number) => string }> = {
  max_global_series_per_user: { what: 'Active series' },
  max_global_series_per_metric: { what: 'Series of the largest metric' },
  ingestion_rate: { what: 'Samples', each: true, format: perSecond },
  native_histogram_ingestion_rate: { what: 'Native histograms', each: true, format: perSecond },
  request_rate: { what: 'Write requests', each: true, format: perSecond },
  ha_max_clusters: { what: 'HA clusters' },
}

export const isBurst = (name: string) => /_burst_(size|factor)$/.test(name)

/** The limits with a use: those that are set first, the fullest of them on top, then those without a limit. */
export function usesOf(status: TenantStatus): Use[] {
  const order = Object.keys(known)
  return Object.entries(status.usage ?? {})
    .filter(([name, used]) => !isBurst(name) && typeof used === 'number')
    .map(([name, used]) => {
      const limit = Number(status.limits[name] ?? 0) || 0
      const k = known[name]
      const each = k?.each ?? false
      return { name, what: k?.what ?? name, limit, used, share: limit > 0 && !each ? used / limit : undefined, each, format: k?.format ?? count }
    })
    .sort((a, b) => Number(b.limit > 0) - Number(a.limit > 0) || (b.share ?? -1) - (a.share ?? -1) || place(order, a.name) - place(order, b.name))
}

const place = (order: readonly string[], name: string) => (order.indexOf(name) + order.length) % (order.length + 1)

/** A limit's value. */
export function limitText(name: string, value: LimitValue | undefined): string {
  if (value === null || value === undefined || value === '') return '–'
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  if (typeof value === 'number') return /bytes|_response_size$|memory/.test(name) && value >= 1024 ? `${exact(value)} (${bytes(value)})` : exact(value)
  if (typeof value === 'string') return value
  return value.length === 0 ? '–' : value.map((v) => (typeof v === 'string' ? v : JSON.stringify(v))).join('\n')
}

/** The limits by name, those that contain the text in their name or value. */
export function limitsLike(limits: Readonly<Record<string, LimitValue>>, text: string): [string, LimitValue][] {
  const t = text.trim().toLowerCase()
  return Object.entries(limits)
    .filter(([name, value]) => `${name}\n${limitText(name, value)}`.toLowerCase().includes(t))
    .sort(([a], [b]) => (a < b ? -1 : 1))
}

/** Where the limits come from. */
export function sourceText(source: TenantStatus['source']): string {
  const from = [source?.override ? 'an entry of its own' : '', source?.class ? `class ${source.class}` : ''].filter(Boolean)
  return from.length === 0 ? 'The file of --limits.file says nothing of this tenant: its default holds, and the defaults of docs/limits.md.' : `From ${from.join(', then ')}, then the default of the file of --limits.file and those of docs/limits.md.`
}

/** Whether a cluster has sent nothing for longer than its time-out, at the time now, ms. */
export const isSilent = (c: HACluster, now: number) => c.received_at > 0 && now - c.received_at > c.failover_timeout * 1000

/** Whether nothing comes in for the tenant, and nothing is active. */
export const isQuiet = (status: TenantStatus): boolean =>
  !(status.rejects?.length || status.top_metrics?.length) && Object.entries(status.usage).every(([name, used]) => used === 0 || isBurst(name))

/** What somebody should know of the tenant, the worst first. */
export function alertsOf(status: TenantStatus, now: number): { tone: 'warning' | 'critical'; text: string }[] {
  const out: { tone: 'warning' | 'critical'; text: string }[] = []
  for (const u of usesOf(status)) {
    if (u.share === undefined || u.share < 0.8) continue
    const of = `${u.format(u.used)} of ${u.format(u.limit)}`
    if (u.share >= 1) out.push({ tone: 'critical', text: `${u.what}: the limit is reached, ${of} (${u.name}).` })
    else out.push({ tone: 'warning', text: `${u.what}: ${Math.floor(u.share * 100)} % of the limit, ${of} (${u.name}).` })
  }
  const silent = (status.ha ?? []).filter((c) => isSilent(c, now))
  if (silent.length > 0) out.push({ tone: 'warning', text: `HA: nothing is received from ${silent.length === 1 ? `cluster ${silent[0]!.cluster}` : `${silent.length} clusters: ${silent.map((c) => c.cluster).join(', ')}`}.` })
  const recent = (status.rejects ?? []).filter((r) => now - r.last < 10 * 60_000)
  if (recent.length > 0) out.push({ tone: 'warning', text: `Samples were refused in the last 10 minutes: ${recent.map((r) => r.reason).join(', ')}.` })
  return out.sort((a, b) => Number(a.tone === 'warning') - Number(b.tone === 'warning'))
}
