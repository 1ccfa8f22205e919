import { describe, expect, it } from 'vitest'
import { autoStep, gridOf, maxPoints, moved, seriesLimit, zoomed } from './range'

const m = 60_000, h = 60 * m, d = 24 * h

describe('autoStep', () => {
  it.each([[5 * m, 1200, 1000], [h, 1200, 10_000], [6 * h, 1200, m], [30 * d, 1200, 2 * h], [h, 300, 30_000], [3650 * d, 1200, 7 * d]])('%d ms on %d pixels', (range, pixels, want) => expect(autoStep(range, pixels)).toBe(want))
})

describe('gridOf', () => {
  it('lies on multiples of the step, so that a refresh asks for the same points', () => {
    const a = gridOf(h, 1_000_000_007_000, undefined, 1200), b = gridOf(h, 1_000_000_009_999, undefined, 1200)
    expect(a.start % a.step).toBe(0)
    expect(a).toEqual(b)
  })
  it.each([[30 * d, 1000], [d, 1], [400 * d, 15_000], [h, undefined]])('has at most 11,000 points: %d ms by %s', (range, step) => {
    const g = gridOf(range, 1_763_756_228_000, step, 1200)
    expect(g.points).toBeLessThanOrEqual(maxPoints)
    expect(g.points).toBe((g.end - g.start) / g.step + 1)
  })
  it('leaves a fixed step as it is', () => expect(gridOf(h, 1_000_000_000_000, 7000, 1200).step).toBe(7000))
})

it('asks for fewer series when they have many points', () => {
  expect(seriesLimit(600)).toBe(1000)
  expect(seriesLimit(11_000)).toBe(181)
})

describe('moving and zooming', () => {
  const now = 1_000 * h
  it('goes by half of the range, and not beyond now', () => {
    expect(moved(h, undefined, -1, now)).toBe(now - h / 2)
    expect(moved(h, now - 2 * h, 1, now)).toBe(now - 1.5 * h)
    expect(moved(h, now - h / 4, 1, now)).toBeUndefined()
  })
  it('zooms around the middle', () => {
    expect(zoomed(2 * h, now - 10 * h, 0.5, now)).toEqual({ range: h, end: now - 10.5 * h })
    expect(zoomed(h, now - h / 8, 2, now)).toEqual({ range: 2 * h, end: undefined })
    expect(zoomed(h, undefined, 0.5, now)).toEqual({ range: h / 2, end: undefined })
    expect(zoomed(10_000, undefined, 0.5, now).range).toBe(10_000)
  })
})
