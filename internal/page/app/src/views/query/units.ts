// What a number of a query is a number of, as far as the query tells, and how it is written.

import { bytes, count, seconds, value } from '../../lib/format'

export type Unit = '' | 'bytes' | 'seconds' | 'ratio' | 'time' | 'bytes/s'

/** Guesses by the suffix of the metrics' names, and by what is done with them. Different units make none. */
export function unitOf(expr: string): Unit {
  const text = expr.replace(/"(\\.|[^"\\])*"|'(\\.|[^'\\])*'|`[^`]*`/g, '""').replace(/#.*/g, '')
  const bare = text.replace(/\{[^}]*\}/g, '').replace(/\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)/g, '')
  if (/^\s*(count|group)\s*(by|without|\()|\b(count_over_time|changes|resets|absent|absent_over_time|count_values)\s*\(/.test(text)) return ''
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
  if (/\/(?!\s*\d)/.test(bare)) return unit === 'seconds' && /_sum\b[^/]*\/[^/]*_count\b/.test(text) ? 'seconds' : ''
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
      return seconds(v)
    case 'ratio':
      return `${Number((v * 100).toPrecision(4))} %`
    case 'time':
      return new Date(v * 1000).toISOString().slice(0, 19).replace('T', ' ')
  }
  return Math.abs(v) >= 1e6 ? count(v) : value(v)
}

/** The numbers of an axis, with as many digits as tell neighbours apart. */
export function axisValues(splits: readonly number[], unit: Unit): string[] {
  const top = Math.max(...splits.map(Math.abs), 0)
  const gap = splits.length > 1 ? Math.abs(splits[1]! - splits[0]!) : top
  const [size, name] = scaleOf(top, unit)
  const digits = Math.max(0, Math.min(8, Math.ceil(-Math.log10(gap / size || 1) - 1e-9)))
  if (unit === 'time') return splits.map((v) => unitValue(v, unit).slice(0, 16))
  if (top >= 1e15 || (top > 0 && top < 1e-6 && unit === '')) return splits.map((v) => v.toExponential(1))
  // Where steps are not the same (a logarithmic axis), each number has its own unit.
  const even = splits.every((v, i) => i === 0 || Math.abs(v - splits[i - 1]! - gap) < gap * 0.01)
  if (!even) return splits.map((v) => unitValue(v, unit))
  return splits.map((v) => (v === 0 ? '0' : `${(v / size).toFixed(digits)}${name}`))
}

function scaleOf(top: number, unit: Unit): [number, string] {
  const pick = (list: readonly (readonly [number, string])[]): [number, string] => {
    const found = list.find(([size]) => top >= size) ?? list.at(-1)!
    return [found[0], found[1]]
  }
  switch (unit) {
    case 'bytes':
    case 'bytes/s': {
      const [size, name] = pick([[1024 ** 4, ' TiB'], [1024 ** 3, ' GiB'], [1024 ** 2, ' MiB'], [1024, ' KiB'], [1, ' B']])
      return [size, unit === 'bytes' ? name : `${name}/s`]
    }
    case 'seconds':
      return pick([[86400 * 2, ' d'], [7200, ' h'], [120, ' min'], [1, ' s'], [1e-3, ' ms'], [1e-6, ' µs'], [1e-9, ' ns']])
    case 'ratio':
      return [0.01, ' %']
  }
  return pick([[1e12, ' T'], [1e9, ' G'], [1e6, ' M'], [1e4, ' k'], [0, '']].map(([size, name]) => [size || 1, name] as [number, string]))
}
