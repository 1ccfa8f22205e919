import { afterEach, expect, test } from 'vitest'
import { clockOff, heard, now } from './clock'

const date = (ms: number) => new Date(ms).toUTCString()
const hour = 3_600_000

afterEach(() => heard(date(Date.now())))

test('a clock that is right stays as it is', () => {
  heard(date(Date.now() - 3000))
  expect(clockOff()).toBe(0)
})

test('a clock that is wrong is put right, and stays so when answers take their time', () => {
  heard(date(Date.now() + hour))
  expect(Math.abs(now() - Date.now() - hour)).toBeLessThan(2000)
  const first = clockOff()
  heard(date(Date.now() + hour - 3000))
  expect(clockOff()).toBe(first)
})

test('a clock that was put right meanwhile is believed again', () => {
  heard(date(Date.now() - hour))
  expect(clockOff()).toBeGreaterThan(hour - 2000)
  heard(date(Date.now()))
  expect(clockOff()).toBe(0)
})

test('an answer without a date says nothing', () => {
  heard(date(Date.now() - hour))
  const off = clockOff()
  heard(null)
  heard('yesterday')
  expect(clockOff()).toBe(off)
})
