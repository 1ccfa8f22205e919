import { describe, expect, it } from 'vitest'
import { alertsOf, isQuiet, limitText, limitsLike, sourceText, usesOf } from './limits'
import type { TenantStatus } from './data'

const now = 1_800_000_000_000
const status = (over: Partial<TenantStatus>): TenantStatus => ({ tenant: 't', limits: {}, usage: {}, ...over })

describe('uses', () => {
  it('the fullest limit is on top, what has none is below', () => {
    const uses = usesOf(
      status({
        limits: { max_global_series_per_user: 100, max_global_series_per_metric: 10, ingestion_rate: 5, request_rate: 0, ha_max_clusters: 0 },
        usage: { request_rate: 3, ingestion_rate: 9, max_global_series_per_user: 80, max_global_series_per_metric: 12, ha_max_clusters: 1, ingestion_burst_size: 70, something_new: 2 },
      }),
    )
    expect(uses.map((u) => u.name)).toEqual(['max_global_series_per_metric', 'max_global_series_per_user', 'ingestion_rate', 'request_rate', 'ha_max_clusters', 'something_new'])
    expect(uses[0]!.share).toBeCloseTo(1.2)
  })
  it('a rate of all producers is no share of what each of them lets through', () => {
    const [rate] = usesOf(status({ limits: { ingestion_rate: 100 }, usage: { ingestion_rate: 300 } }))
    expect(rate!.share).toBeUndefined()
    expect(rate!.format(300)).toBe('300/s')
  })
})

it('values are for people', () => {
  expect(limitText('x', false)).toBe('no')
  expect(limitText('max_label_value_length', 2048)).toBe('2,048')
  expect(limitText('active_series_results_max_size_bytes', 419430400)).toBe('419,430,400 (400 MiB)')
  expect(limitText('drop_labels', ['a', 'b'])).toBe('a\nb')
  expect(limitText('metric_relabel_configs', [{ action: 'drop' }])).toBe('{"action":"drop"}')
  expect(limitText('x', [])).toBe('–')
})

it('search looks at names and values', () => {
  const limits = { b_limit: '10m', a_limit: 5, drop_labels: ['pod'] }
  expect(limitsLike(limits, '').map(([n]) => n)).toEqual(['a_limit', 'b_limit', 'drop_labels'])
  expect(limitsLike(limits, 'POD').map(([n]) => n)).toEqual(['drop_labels'])
  expect(limitsLike(limits, '10m').map(([n]) => n)).toEqual(['b_limit'])
})

it('a tenant that nobody writes for is quiet, whatever it might burst', () => {
  expect(isQuiet(status({ usage: { ingestion_rate: 0, ingestion_burst_size: 100 } }))).toBe(true)
  expect(isQuiet(status({ usage: { ingestion_rate: 1 } }))).toBe(false)
  expect(isQuiet(status({ rejects: [{ reason: 'err-x', count: 1, first: 1, last: 1, message: '' }] }))).toBe(false)
})

it('says where limits come from', () => {
  expect(sourceText({ class: 'team-*', override: true })).toContain('an entry of its own, then class team-*')
  expect(sourceText({ class: '', override: false })).toContain('says nothing of this tenant')
})

it('alerts tell what is full, silent or refused, the worst first', () => {
  const ha = (cluster: string, received: number) => ({ cluster, replica: 'r', elected_at: 1, received_at: now - received, failover_timeout: 30 })
  const alerts = alertsOf(
    status({
      limits: { max_global_series_per_user: 100, max_global_series_per_metric: 10 },
      usage: { max_global_series_per_user: 79, max_global_series_per_metric: 10 },
      ha: [ha('a', 29_000), ha('b', 31_000)],
      rejects: [
        { reason: 'err-x', count: 1, first: 1, last: now - 5 * 60_000, message: '' },
        { reason: 'err-old', count: 1, first: 1, last: now - 11 * 60_000, message: '' },
      ],
    }),
    now,
  )
  expect(alerts.map((a) => a.tone)).toEqual(['critical', 'warning', 'warning'])
  expect(alerts[1]!.text).toContain('cluster b')
  expect(alerts[2]!.text).toBe('Samples were refused in the last 10 minutes: err-x.')
  expect(alertsOf(status({}), now)).toEqual([])
})
