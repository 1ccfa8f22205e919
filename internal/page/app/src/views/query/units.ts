// What a number of a query is a number of, as far as the query tells, and how it is written.

import { bytes, count, seconds, time, value } from '../../lib/format'

export type Unit = '' | 'bytes' | 'seconds' | 'ratio' | 'time' | 'bytes/s'

/** Guesses by the suffix of the metrics' names, and by what is done with them. Different units make none. */
export function unitOf(expr: string): Unit {
  const text = expr.replace(/"(\\.|[^"\\])*"|'(\\.|[^'\\])*'|`[^`]*`/g, '""').replace(/#.*/g, '')
  const bare = text.replace(/\{[^}]*\}/g, '').replace(/\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)/g, '')
  if (/^\s*(count|group)\s*(by|without|\()|\b(count_over_time|changes|resets|absent|absent_over_time|count_values)\s*\(/.test(text)) return ''
  if (/_seconds_sum\b[^/]*\/[^/]*_seconds_count\b/.test(bare)) return 'seconds' // their mean
  if (/_bytes_sum\b[^/]*\/[^/]*_bytes_count\b/.test(bare)) return 'bytes'
  if (/\bhistogram_count\s*\(|_(count|bucket)\b/.test(bare) && !/histogram_quantile/.test(bare)) return ''
  const found = new Set<Unit>()
  for (const [, name] of bare.matchAll(/\b([a-zA-Z_:][\w:]*)\b(?!\s*\()/g)) {
    const base = name!.replace(/_(sum|bucket|total)$/, '').replace(/:.*$/, '')
    if (/_timestamp_seconds$|_time_seconds$/.test(name!)) found.add('time')
    else if (/_bytes$/.test(base)) found.add('bytes')
    else if (/_seconds$/.test(base)) found.add('seconds')
    else if (/_(ratio|percent)$/.test(base)) found.add(base.endsWith('ratio') ? 'ratio' : '')
    else if (/[a-z]_[a-z]/i.test(name!) || name!.length > 3) if (!keywords.has(name!)) found.add('')
  }
  if (found.size !== 1) return ''
  const unit = [...found][0]!
  // A division of like by like has no unit; a rate of bytes is bytes a second; a rate of seconds is a share of the time.
  if (/\/(?!\s*\d)/.test(bare)) return ''
  if (/\b(rate|irate|deriv)\s*\(/.test(bare) && !/histogram_(quantile|avg|fraction)/.test(bare)) return unit === 'bytes' ? 'bytes/s' : ''
  if (unit === 'time' && /\btime\s*\(|[-+]/.test(bare)) return 'seconds'
  if (/\bhistogram_fraction\s*\(/.test(bare)) return 'ratio'
  return unit
}

const keywords = new Set(['and', 'or', 'unless', 'offset', 'bool', 'start', 'end'])

/** One number for people. */
export function unitValue(v: number, unit: Unit): string {
  if (!Number.isFinite(v)) return value(v)
  switch (unit) {
    case 'bytes':
      return bytes(v)
    case 'bytes/s':
      return `${bytes(v)}/s`
    case 'seconds':
      return v !== 0 && Math.abs(v) < 1e-6 ? `${Number((v * 1e9).toPrecision(3))} ns` : seconds(v)
    case 'ratio':
      return `${Number((v * 100).toPrecision(4))} %`
    case 'time':
      return Math.abs(v) < 8e12 ? time(v * 1000) : value(v)
  }
  return Math.abs(v) >= 1e6 ? count(v) : value(v)
}

/** One number where there is little room. */
export const shortValue = (v: number, unit: Unit) => unitValue(unit === '' && Number.isFinite(Number(v.toPrecision(5))) ? Number(v.toPrecision(5)) : v, unit)

/** The numbers of an axis, with as many digits as tell neighbours apart; null where there is none to be written. */
export function axisValues(all: readonly (number | null)[], unit: Unit): (string | null)[] {
  const splits = all.filter((v) => v !== null)
  const texts = axisTexts(splits, unit)
  let n = 0
  return all.map((v) => (v === null ? null : texts[n++]!))
}

function axisTexts(splits: readonly number[], unit: Unit): string[] {
  const top = Math.max(...splits.map(Math.abs), 0)
  const gap = splits.length > 1 ? Math.abs(splits[1]! - splits[0]!) : top
  const [size, name] = scaleOf(top, gap, unit)
  const digits = decimals(gap / size)
  if (unit === 'time') return splits.map((v) => unitValue(v, unit).slice(0, 16))
  if (top >= 1e15 || (top > 0 && top < 1e-6 && unit === '')) return splits.map((v) => (v === 0 ? '0' : v.toExponential(Math.min(12, Math.max(0, Math.ceil(Math.log10(top / (gap || top)) + 0.5))))))
  // Where steps are not the same (a logarithmic axis), each number has its own unit.
  const even = splits.every((v, i) => i === 0 || Math.abs(v - splits[i - 1]! - gap) < gap * 0.01)
  if (!even) return splits.map((v) => unitValue(v, unit))
  return splits.map((v) => (v === 0 ? '0' : `${(v / size).toFixed(digits)}${name}`))
}

/** The numbers of an axis that is beyond what uPlot knows steps for; undefined = it knows some. */
export function farSplits(min: number, max: number): number[] | undefined {
  const span = max - min
  if (!(span > 0) || !Number.isFinite(span) || (span > 1e-25 && span < 1e25)) return undefined
  const size = 10 ** Math.floor(Math.log10(span))
  const step = span / size > 5 ? 2 * size : span / size > 2 ? size : size / 2
  const splits: number[] = []
  for (let n = Math.ceil(min / step); n * step <= max; n++) splits.push(n * step)
  return splits
}

/** How many decimals a step needs. */
function decimals(step: number): number {
  for (let n = 0; n < 9; n++) {
    const shifted = step * 10 ** n
    if (shifted > 0.5 && Math.abs(shifted - Math.round(shifted)) < 1e-3 * Math.min(1, shifted)) return n
  }
  return step > 0 ? Math.min(9, Math.max(0, Math.ceil(1 - Math.log10(step)))) : 0
}

/** Steps of an axis of a unit, so that its numbers are round ones; undefined = those of decimal numbers. */
export function axisSteps(unit: Unit): number[] | undefined {
  switch (unit) {
    case 'bytes':
    case 'bytes/s':
      return [1, 2, 5, 10, 20, 50].concat([1, 2, 3, 4, 5].flatMap((k) => [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].map((n) => n * 1024 ** k)))
    case 'time':
      return [1, 10, 60, 300, 600, 1800, 3600, 7200, 21600, 43200].concat([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].map((n) => n * 86400))
    case 'seconds':
      return [-9, -8, -7, -6, -5, -4, -3, -2, -1, 0].flatMap((e) => [1, 2, 5].map((n) => Number(`${n}e${e}`))).concat([10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600, 43200], [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].map((n) => n * 86400))
  }
  return undefined
}

/** The unit of an axis' numbers: the largest that its steps can be told in. */
function scaleOf(top: number, gap: number, unit: Unit): [number, string] {
  const pick = (list: readonly (readonly [number, string])[], by = top): [number, string] => {
    const found = list.find(([size]) => by >= size) ?? list.at(-1)!
    return [found[0], found[1]]
  }
  switch (unit) {
    case 'bytes':
    case 'bytes/s': {
      const [size, name] = pick([[1024 ** 4, ' TiB'], [1024 ** 3, ' GiB'], [1024 ** 2, ' MiB'], [1024, ' KiB'], [1, ' B']], gap * 10.001)
      return [size, unit === 'bytes' ? name : `${name}/s`]
    }
    case 'seconds':
      if (gap >= 60) return pick([[86400, ' d'], [3600, ' h'], [60, ' min']], gap)
      return pick([[1, ' s'], [1e-3, ' ms'], [1e-6, ' µs'], [1e-9, ' ns']])
    case 'ratio':
      return [0.01, ' %']
  }
  if (top < 10_000) return [1, '']
  return pick([[1e12, ' T'], [1e9, ' G'], [1e6, ' M'], [1e3, ' k']])
}
