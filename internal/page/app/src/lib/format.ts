// Numbers and times for people.

import { now as serverNow } from './clock'

const digits = (v: number) => (Math.abs(v) >= 100 ? 0 : Math.abs(v) >= 10 ? 1 : 2)
const trim = (v: number) => v.toFixed(digits(v)).replace(/\.?0+$/, (zeros) => (zeros.includes('.') ? '' : zeros))

/** 12345 → 12.3 k */
export function count(v: number | undefined | null): string {
  if (v === undefined || v === null || Number.isNaN(v)) return '–'
  const abs = Math.abs(v)
  if (abs < 1000) return Number.isInteger(v) ? String(v) : trim(v)
  for (const [unit, size] of [['k', 1e3], ['M', 1e6], ['G', 1e9], ['T', 1e12]] as const) {
    if (abs < size * 999.5) return `${trim(v / size)} ${unit}`
  }
  return v.toExponential(2)
}

/** 12345 → 12,345 */
export const exact = (v: number | undefined | null): string => (v === undefined || v === null ? '–' : v.toLocaleString('en-US'))

/** Bytes in powers of 1024. */
export function bytes(v: number | undefined | null): string {
  if (v === undefined || v === null || Number.isNaN(v)) return '–'
  let n = v
  for (const unit of ['B', 'KiB', 'MiB', 'GiB', 'TiB']) {
    if (Math.abs(n) < 1023.5 || unit === 'TiB') return `${unit === 'B' ? Math.round(n) : trim(n)} ${unit}`
    n /= 1024
  }
  return '–'
}

/** A rate per second. */
export const rate = (v: number | undefined | null): string => (v === undefined || v === null ? '–' : `${count(v)}/s`)

/** Seconds as the two largest units: 0.0123 → 12.3 ms, 5400 → 1 h 30 min. */
export function seconds(v: number | undefined | null): string {
  if (v === undefined || v === null || Number.isNaN(v)) return '–'
  const abs = Math.abs(v)
  if (abs === 0) return '0 s'
  if (abs < 1e-3) return `${trim(v * 1e6)} µs`
  if (abs < 1) return `${trim(v * 1e3)} ms`
  if (abs < 60) return `${trim(v)} s`
  const parts: [string, number][] = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]]
  let rest = Math.round(abs)
  const out: string[] = []
  for (const [unit, size] of parts) {
    const n = Math.floor(rest / size)
    rest -= n * size
    if (n > 0) out.push(`${n} ${unit}`)
    if (out.length === 2 || (out.length === 1 && n === 0)) break
  }
  return (v < 0 ? '−' : '') + out.join(' ')
}

const two = (n: number) => String(n).padStart(2, '0')

/** A time of day in the browser's zone: 2026-11-21 20:17:08. */
export function time(ms: number | undefined | null): string {
  if (!ms) return '–'
  const d = new Date(ms)
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`
}

/** How long ago a time was: 5 s ago. */
export function ago(ms: number | undefined | null, now = serverNow()): string {
  if (!ms) return '–'
  const s = (now - ms) / 1000
  return s < 1 ? 'just now' : `${seconds(Math.round(s))} ago`
}

/** A sample's value as Prometheus would write it, short. */
export function value(v: number): string {
  if (!Number.isFinite(v)) return Number.isNaN(v) ? 'NaN' : v > 0 ? '+Inf' : '-Inf'
  const abs = Math.abs(v)
  if (abs !== 0 && (abs >= 1e15 || abs < 1e-6)) return v.toExponential(4)
  return String(Number(v.toPrecision(8)))
}

/** How long ago, in one unit, for where there is little room: 5 min ago. */
export const agoBriefly = (ms: number | undefined | null, now = serverNow()): string => ago(ms, now).replace(/^(\S+ \S+) \S+ \S+ ago$/, '$1 ago')
