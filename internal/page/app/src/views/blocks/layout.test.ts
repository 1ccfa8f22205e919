import { expect, test } from 'vitest'
import { extent, layout, maxLanes, ticks, zoom } from './layout'
import type { Block } from './types'

let n = 0
const block = (min: number, max: number, more: Partial<Block> = {}): Block => ({ id: `b${String(n++).padStart(5, '0')}`, min_time: min, max_time: max, level: 1, resolution: 0, series: 1, samples: 1, bytes: 1, log_time: max, at: max, sources: 1, replaces: 0, ...more })

test('what overlaps stands in lanes, what follows stands beside', () => {
  const [band] = layout([block(0, 50), block(50, 100), block(10, 60)], 0, 100, 1000)
  expect(band!.lanes).toBe(2)
  expect(band!.marks.map((m) => [m.x, m.width, m.lane])).toEqual([[0, 500, 0], [100, 500, 1], [500, 500, 0]])
})

test('bands are by resolution and level, and only of what is in sight', () => {
  const bands = layout([block(0, 10), block(0, 10, { level: 3 }), block(0, 10, { level: 3, resolution: 300_000 }), block(200, 300, { level: 2 })], 0, 100, 100)
  expect(bands.map((b) => [b.resolution, b.level])).toEqual([[300_000, 3], [0, 3], [0, 1]])
})

test('thousands of blocks become as many marks as there are pixels, and none is lost', () => {
  const all = Array.from({ length: 5000 }, (_, i) => block(i * 10, i * 10 + 10))
  const [band] = layout(all, 0, 50_000, 500)
  expect(band!.marks.length).toBeLessThanOrEqual(500)
  expect(band!.marks.reduce((sum, m) => sum + m.blocks.length, 0)).toBe(5000)
  for (const m of band!.marks) expect(m.width).toBeGreaterThanOrEqual(1)
})

test('an overlap of less than a pixel needs no lane of its own', () => {
  expect(layout([block(0, 5001), block(5000, 10_000)], 0, 10_000, 100)[0]!.lanes).toBe(1)
  expect(layout([block(0, 5001), block(5000, 10_000)], 4990, 5010, 100)[0]!.lanes).toBe(2)
})

test('what is drawn as one stays small enough to tell where it is', () => {
  const [band] = layout(Array.from({ length: 5000 }, (_, i) => block(i * 10, i * 10 + 10)), 0, 50_000, 500)
  for (const m of band!.marks) expect(m.width).toBeLessThan(12)
})

test('a narrow block far from others is a mark of its own', () => {
  const [band] = layout([block(0, 1), block(900_000, 900_001)], 0, 1_000_000, 100)
  expect(band!.marks).toHaveLength(2)
})

test('lanes are bounded', () => {
  const [band] = layout(Array.from({ length: 100 }, () => block(0, 100)), 0, 100, 100)
  expect([band!.lanes, band!.hidden]).toEqual([maxLanes, 100 - maxLanes])
  expect(band!.marks.reduce((sum, m) => sum + m.blocks.length, 0)).toBe(100)
})

test('a block that reaches out of sight is cut off', () => {
  const [band] = layout([block(-100, 200)], 0, 100, 100)
  expect([band!.marks[0]!.x, band!.marks[0]!.width]).toEqual([0, 100])
})

test('ticks are round local times with room between them', () => {
  const h = 3_600_000
  expect(ticks(0, 24 * h, 500, 110, () => 0).map((t) => t.label)).toEqual(['01-01', '06:00', '12:00', '18:00', '01-02'].slice(0, 5))
  expect(ticks(0, 24 * h, 500, 110, () => h).map((t) => t.time / h)).toEqual([5, 11, 17, 23])
  expect(ticks(0, 20 * 365 * 24 * h, 300, 110, () => 0).length).toBeLessThanOrEqual(3)
})

test('the extent has room, also without blocks', () => {
  expect(extent([], 1e12)[1]).toBeGreaterThan(1e12)
  const [from, to] = extent([block(5e11, 6e11)], 1e12)
  expect(from).toBeLessThan(5e11)
  expect(to).toBeGreaterThan(1e12)
})

test('zooming keeps what it is around', () => {
  expect(zoom([0, 1_000_000], 0.5)).toEqual([250_000, 750_000])
  expect(zoom([0, 1_000_000], 0.5, 0)).toEqual([0, 500_000])
  expect(zoom([0, 100], 0.5)).toEqual([-29950, 30050])
})
