import { describe, expect, it } from 'vitest'
import { time } from '../../lib/format'
import { axisSteps, axisValues, farSplits, shortValue, unitOf, unitValue } from './units'

describe('unitOf', () => {
  it.each([
    ['process_resident_memory_bytes', 'bytes'],
    ['sum by (job) (process_resident_memory_bytes{job="a_seconds"})', 'bytes'],
    ['rate(net_received_bytes_total[5m])', 'bytes/s'],
    ['increase(net_received_bytes_total[5m])', 'bytes'],
    ['histogram_quantile(0.9, sum by (le) (rate(http_duration_seconds_bucket[5m])))', 'seconds'],
    ['rate(http_duration_seconds_sum[5m]) / rate(http_duration_seconds_count[5m])', 'seconds'],
    ['rate(http_duration_seconds_count[5m])', ''],
    ['rate(process_cpu_seconds_total[5m])', ''],
    ['cache_hit_ratio', 'ratio'],
    ['process_start_time_seconds', 'time'],
    ['time() - process_start_time_seconds', 'seconds'],
    ['a_used_bytes / a_size_bytes', ''],
    ['a_used_bytes / 1024', 'bytes'],
    ['count(a_used_bytes)', ''],
    ['count by (job) (a_used_bytes)', ''],
    ['a_bytes + b_seconds', ''],
    ['up', ''],
    ['{__name__="a_bytes"}', ''],
    ['', ''],
  ])('%s', (expr, want) => expect(unitOf(expr)).toBe(want))
})

describe('unitValue', () => {
  it.each([[1536, 'bytes', '1.50 KiB'], [2048, 'bytes/s', '2 KiB/s'], [0.25, 'seconds', '250 ms'], [2e-9, 'seconds', '2 ns'], [0.123, 'ratio', '12.3 %'], [1795294395, 'time', time(1795294395_000)], [2_500_000, '', '2.50 M'], [12.5, '', '12.5'], [Infinity, 'bytes', '+Inf'], [NaN, '', 'NaN']] as const)('%d as %s', (v, unit, want) => expect(unitValue(v, unit)).toBe(want))
})

describe('axisValues', () => {
  it.each([
    [[0, 5, 10], '', ['0', '5', '10']],
    [[100_000, 100_005, 100_010], '', ['100.000 k', '100.005 k', '100.010 k']],
    [[0, 0.25, 0.5], '', ['0', '0.25', '0.50']],
    [[0, 1024 ** 2, 2 * 1024 ** 2], 'bytes', ['0', '1 MiB', '2 MiB']],
    [[0, 0.1, 0.2], 'seconds', ['0', '100 ms', '200 ms']],
    [[0, 0.5, 1], 'ratio', ['0', '50 %', '100 %']],
    [[-1, 0, 1], '', ['-1', '0', '1']],
    [[1, 10, 100], '', ['1', '10', '100']],
    [[1, null, 10, null], '', ['1', null, '10', null]],
    [[0, 0.2 * 1024 ** 3, 0.4 * 1024 ** 3], 'bytes', ['0', '0.2 GiB', '0.4 GiB']],
    [[0, 50 * 1024 ** 2, 100 * 1024 ** 2], 'bytes', ['0', '50 MiB', '100 MiB']],
    [[0, 300, 600], 'seconds', ['0', '5 min', '10 min']],
    [[0, 86400, 172800], 'seconds', ['0', '1 d', '2 d']],
  ] as const)('%j %s', (splits, unit, want) => expect(axisValues(splits, unit)).toEqual(want))
  it('never writes the same for neighbours', () => {
    for (const top of [1e-9, 1e-3, 1, 7, 1e4, 123_456, 1e9, 1e14])
      for (const share of [1, 0.1, 0.001]) {
        const values = axisValues([0, 1, 2, 3].map((i) => top + i * top * share), '')
        expect(new Set(values).size, values.join()).toBe(4)
      }
  })
})

it.each(['bytes', 'bytes/s', 'seconds'] as const)('steps of %s grow, and have short numbers', (unit) => {
  const steps = axisSteps(unit)!
  steps.forEach((s, i) => {
    if (i > 0) expect(s).toBeGreaterThan(steps[i - 1]!)
    for (const text of axisValues([0, s, 2 * s, 3 * s, 4 * s], unit)) expect(text!.length, text!).toBeLessThan(12)
  })
})

describe('numbers that are far from all others', () => {
  it.each([[0, 1e-299], [1e300, 1e301], [-3e-30, 4e-30], [1e26, 9e26]])('an axis from %d to %d has some', (min, max) => {
    const splits = farSplits(min, max)!
    expect(splits.length).toBeGreaterThanOrEqual(3)
    expect(splits.length).toBeLessThanOrEqual(12)
    for (const v of splits) expect(v >= min && v <= max, `${v}`).toBe(true)
    expect(new Set(axisValues(splits, '')).size).toBe(splits.length)
  })
  it('leaves all others to the chart', () => {
    for (const [min, max] of [[0, 1], [5, 5], [1e15, 1e15 + 2], [-Infinity, 1], [-Number.MAX_VALUE, Number.MAX_VALUE]] as const) expect(farSplits(min, max)).toBeUndefined()
  })
  it('rounds none to infinity', () => expect(shortValue(Number.MAX_VALUE, '')).not.toContain('Inf'))
})
