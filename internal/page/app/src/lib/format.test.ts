import { expect, it } from 'vitest'
import { ago, agoBriefly, bytes, count, seconds, value } from './format'
import { formatDuration, parseDuration, parseTime } from './time'

it('writes numbers for people', () => {
  expect([0, 7, 1.5, 999, 1000, 12_345, 999_960, 1_200_000, -2500].map(count)).toEqual(['0', '7', '1.50', '999', '1 k', '12.3 k', '1 M', '1.20 M', '-2.50 k'])
  expect([0, 512, 1536, 1 << 20].map(bytes)).toEqual(['0 B', '512 B', '1.50 KiB', '1 MiB'])
  expect([undefined, null, Number.NaN].map(count)).toEqual(['–', '–', '–'])
  expect([Number.NaN, Infinity, 0.1 + 0.2, 1e-9, 12345678].map(value)).toEqual(['NaN', '+Inf', '0.3', '1.0000e-9', '12345678'])
})

it('writes how long something took or is ago', () => {
  expect([0, 0.000_5, 0.0123, 5, 65, 5400, 90_061].map(seconds)).toEqual(['0 s', '500 µs', '12.3 ms', '5 s', '1 min 5 s', '1 h 30 min', '1 d 1 h'])
  expect([ago(1000, 321_000), agoBriefly(1000, 321_000), agoBriefly(1000, 6000), agoBriefly(1000, 1000), agoBriefly(0)]).toEqual(['5 min 20 s ago', '5 min ago', '5 s ago', 'just now', '–'])
})

it('reads durations and times as people write them', () => {
  expect(['1h30m', '2d', '500ms', '0s', 'h', '5', ''].map(parseDuration)).toEqual([5_400_000, 172_800_000, 500, undefined, undefined, undefined, undefined])
  for (const text of ['15m', '1h30m', '2d', '500ms', '1w']) expect(formatDuration(parseDuration(text)!)).toBe(text)
  const now = 1_795_296_000_000
  expect(['now', '', 'now-1h', '1795296000', '1795296000000', '2026-11-21T21:20:00Z', 'soon', 'now-x'].map((t) => parseTime(t, now))).toEqual([now, now, now - 3_600_000, now, now, now, undefined, undefined])
})
