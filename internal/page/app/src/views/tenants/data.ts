// What the views of tenants ask for.

import { ApiError, get } from '../../lib/api'

/** A tenant, summed up over the whole cluster. */
export interface TenantRow {
  tenant: string
  active_series: number
  head_series?: number
  samples_per_second?: number
  blocks?: number
  block_bytes?: number
  block_samples?: number
  oldest?: number
  newest?: number
  rejected?: number
  last_rejected?: number
}

export type TenantSort = 'active_series' | 'samples_per_second' | 'block_bytes' | 'rejected' | 'tenant'

/** A page of the list of tenants, for administrators. */
export function listTenants(q: { search: string; sort: TenantSort; limit: number; offset: number }, signal: AbortSignal): Promise<{ total: number; tenants: TenantRow[] }> {
  return get('-/tenants', q, { signal })
}

export type LimitValue = number | string | boolean | readonly unknown[] | null

export interface Reject {
  reason: string
  count: number
  first: number
  last: number
  series?: string
  message: string
  processes?: number
}

export interface HACluster {
  cluster: string
  replica: string
  elected_at: number
  received_at: number
  /** s */
  failover_timeout: number
  epoch?: number
}

export interface TenantStatus {
  tenant: string
  limits: Record<string, LimitValue>
  source?: { class?: string; override?: boolean }
  usage: Record<string, number>
  top_metrics?: { name: string; series: number }[] | null
  rejects?: Reject[] | null
  ha?: HACluster[] | null
}

export const tenantStatus = (signal: AbortSignal): Promise<TenantStatus> => get('api/v1/status/tenant', {}, { signal })

export interface BlocksSummary {
  total: number
  bytes: number
  samples: number
  oldest: number
  newest: number
  quarantined: number
  jobs: number
  tooLarge: number
}

/** The tenant's blocks, summed up. */
export async function blocksSummary(signal: AbortSignal): Promise<BlocksSummary> {
  const found = await get<Omit<BlocksSummary, 'jobs' | 'tooLarge'> & { jobs?: unknown[] | null; too_large?: unknown[] | null }>('api/v1/status/blocks', { limit: 1 }, { signal })
  return { ...found, jobs: found.jobs?.length ?? 0, tooLarge: found.too_large?.length ?? 0 }
}

export interface ActiveQuery {
  id: string
  user?: string
  endpoint: string
  query: string
  state: string
  duration: number
}

export interface TopQuery {
  endpoint: string
  query: string
  count: number
  avgDurationSeconds: number
  sumDurationSeconds: number
}

/** What of the tenant's queries is under way, and what has taken most time lately; both of the reader that answers. */
export async function queriesOf(signal: AbortSignal): Promise<{ active: ActiveQuery[]; top: TopQuery[] }> {
  const [active, top] = await Promise.all([
    get<ActiveQuery[] | null>('api/v1/status/active_queries', {}, { signal }),
    get<{ topBySumDuration?: TopQuery[] | null }>('api/v1/status/top_queries', { topN: 5, maxLifetime: '1h' }, { signal }),
  ])
  return { active: (active ?? []).filter((q) => q.query), top: (top.topBySumDuration ?? []).filter((q) => q.query) }
}

/** Ends a query. That it is over already is no failure. */
export async function cancelQuery(id: string): Promise<void> {
  try {
    await get('api/v1/status/active_queries/cancel', { id }, { post: true })
  } catch (err) {
    if (!(err instanceof ApiError && err.status === 404)) throw err
  }
}
