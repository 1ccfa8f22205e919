// Durations and times as people write them and as URLs carry them.

import { now as serverNow } from './clock'

const unitMs: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000, y: 31_536_000_000 }

/** Prometheus' duration (1h30m, 2d) in ms; undefined if it is none. */
export function parseDuration(text: string): number | undefined {
  const t = text.trim()
  if (!/^(\d+(ms|[smhdwy]))+$/.test(t)) return undefined
  let sum = 0
  for (const [, n, unit] of t.matchAll(/(\d+)(ms|[smhdwy])/g)) sum += Number(n) * unitMs[unit!]!
  return sum > 0 ? sum : undefined
}

/** ms as Prometheus' duration: 5400000 → 1h30m. */
export function formatDuration(ms: number): string {
  if (ms <= 0) return '0s'
  let rest = Math.round(ms)
  let out = ''
  for (const unit of ['y', 'w', 'd', 'h', 'm', 's', 'ms']) {
    const size = unitMs[unit]!
    const n = Math.floor(rest / size)
    // Weeks and years only where nothing is left.
    if (n > 0 && ((unit !== 'w' && unit !== 'y') || rest % size === 0)) {
      out += `${n}${unit}`
      rest -= n * size
    }
  }
  return out
}

/** A time of a calendar: up to the year 9999, not before 1 AD. */
export const known = (ms: number): number | undefined => (ms >= -62_135_596_800_000 && ms < 253_402_300_800_000 ? ms : undefined)

/** A point in time: "now", "now-1h", seconds or ms since 1970, or a date (2026-11-21 20:17[:08], local; with Z or offset as told). */
export function parseTime(text: string, now = serverNow()): number | undefined {
  const t = text.trim()
  if (t === '' || t === 'now') return now
  const relative = /^now\s*-\s*(.+)$/.exec(t)
  if (relative) {
    const d = parseDuration(relative[1]!)
    return d === undefined ? undefined : known(now - d)
  }
  if (/^\d+(\.\d+)?$/.test(t)) return known(Number(t) > 1e11 ? Number(t) : Number(t) * 1000)
  const ms = Date.parse(t.replace(/^(\d{4}-\d{2}-\d{2}) /, '$1T'))
  return known(ms)
}

/** A time for an input field, which parseTime reads again. */
export function timeField(ms: number): string {
  const d = new Date(ms - new Date(ms).getTimezoneOffset() * 60_000)
  return d.toISOString().slice(0, 19).replace('T', ' ')
}
