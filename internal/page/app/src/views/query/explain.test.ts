import { describe, expect, it } from 'vitest'
import { barsOf, coverageText, countsText, groupsOf, hitRatio, shownChildren } from './explain'
import type { Explained, Span } from './explain'

const tree: Explained = {
  name: 'query', start: 0, seconds: 2,
  children: [
    { name: 'parse', start: 0, seconds: 0.1 },
    {
      name: 'evaluate', start: 0.5, seconds: 1, counts: { samples: 7 },
      children: [
        { name: 'select', start: 0.5, seconds: 0.5, values: { matchers: 'a="b"' }, children: [{ name: 'member', start: 0.6, seconds: 0.2, values: { member: 'm', zone: 'z' }, counts: { series: 3 }, error: 'gone' }] },
        { name: 'new thing', start: 3, seconds: 1 },
      ],
    },
  ],
}

describe('barsOf', () => {
  it('lays the tree out over the time of the whole', () => {
    const bars = barsOf(tree, new Set())
    expect(bars.map((b) => [b.depth, b.name, b.kind])).toEqual([
      [0, 'query', 'query'], [1, 'Parse the query', 'parse'], [1, 'Evaluate', 'work'], [2, 'Select {a="b"}', 'work'], [3, 'Consumer m (zone z)', 'consumer'], [2, 'new thing', 'other'],
    ])
    expect(bars[2]).toMatchObject({ left: 0.25, width: 0.5 })
  })
  it('never leaves the lane', () => {
    for (const b of barsOf(tree, new Set())) {
      expect(b.left).toBeGreaterThanOrEqual(0)
      expect(b.left + b.width).toBeLessThanOrEqual(1)
    }
    expect(barsOf({ name: 'query', start: 0, seconds: 0 }, new Set())[0]).toMatchObject({ left: 0, width: 0 })
  })
  it('shows the longest of many, and all when they are asked for', () => {
    const children: Span[] = Array.from({ length: 100 }, (_, i) => ({ name: 'block', start: 0, seconds: i, values: { block: String(i) } }))
    const root: Span = { name: 'query', start: 0, seconds: 100, children }
    const bars = barsOf(root, new Set())
    expect(bars).toHaveLength(1 + shownChildren)
    expect(bars[0]!.more).toBe(70)
    expect(bars[1]!.name).toBe('Block 70')
    expect(barsOf(root, new Set(['0']))).toHaveLength(101)
    expect(new Set(bars.map((b) => b.id)).size).toBe(bars.length)
  })
})

it('sums up by kind, without counting time twice', () => {
  const groups = groupsOf(tree)
  expect(groups.find((g) => g.kind === 'work')).toMatchObject({ parts: 2, seconds: 1, longest: 1, counts: { samples: 7 } })
  expect(groupsOf({ ...tree, name: '/query_range' }).some((g) => g.kind === 'query' || g.seconds === tree.seconds)).toBe(false) // the whole is no part
  expect(groups.find((g) => g.kind === 'consumer')).toMatchObject({ parts: 1, seconds: 0.2, counts: { series: 3 }, failed: 1 })
})

it('writes counts in words', () => {
  expect(countsText({ series: 1500, chunk_bytes: 2048, bucket_requests: 2, other: 1 })).toBe('1.50 k series, 2 KiB, 2 bucket GETs, other 1')
  expect(countsText(undefined)).toBe('')
})

it('knows no ratio of nothing', () => {
  expect(hitRatio({ page_hits: 3, page_misses: 1 }, 'page_hits', 'page_misses')).toBe(0.75)
  expect(hitRatio({}, 'page_hits', 'page_misses')).toBeUndefined()
})

describe('coverageText', () => {
  it.each([
    [{ consistency: 'eventual', whole: true, blocks: 2, partitions: [{ partition: 0, to: 1, blocks_to: 1, member: 'm', zone: 'a' }, { partition: 1, to: 1, blocks_to: 1 }] }, 'Whole. Out of 2 blocks, the memory of m (zone a), for 2 partitions.'],
    [{ consistency: 'eventual', whole: false, blocks: 0, partitions: null, missing: ['x'] }, 'Partial: 1 part is missing.'],
    [{ consistency: 'strong', whole: false, blocks: 1, partitions: [] }, 'A gap of the log touches this time. Out of 1 block. Strong read: it has everything that was acknowledged before the question.'],
    [{ consistency: 'eventual', whole: true, blocks: 0, partitions: [], cached_parts: 3 }, 'Whole. Out of 3 cached parts.'],
  ])('%#', (c, want) => expect(coverageText(c)).toBe(want))
})
