import { expect, test } from 'vitest'
import type { Holder, Partition } from '../../lib/pipeline'
import { remarkable, rowsOf, stateOf, toneOf, worstFirst } from './states'

const holder = (more: Partial<Holder> = {}): Holder => ({ id: 'c', zone: 'a', from: 0, applied: 10, lag_records: 0, lag_seconds: 0, doubtful: false, state: 'live', waiting: 0, sealing: 0, shipping: 0, ...more })
const partition = (n: number, holders: Holder[], more: Partial<Partition> = {}): Partition => ({ partition: n, holders, gaps: [], ...more })

test.each([
  [undefined, 'unheld'],
  [holder(), 'live'],
  [holder({ state: 'failed', failure: 'x' }), 'failed'],
  [holder({ state: 'replaying', doubtful: true }), 'replaying'],
  [holder({ doubtful: true }), 'silent'],
  [holder({ held_up: 'ship: x' }), 'held up'],
  [holder({ lag_seconds: 59.9 }), 'live'],
  [holder({ lag_seconds: 60 }), 'behind'],
  [holder({ leaving: true }), 'moving'],
])('a holder has one state %#', (h, word) => expect(stateOf(h).word).toBe(word))

test('a partition without a holder has a row', () => {
  const rows = rowsOf([partition(0, []), partition(1, [holder({ id: 'a' }), holder({ id: 'b' })])])
  expect(rows.map((r) => r.id)).toEqual(['0/', '1/a', '1/b'])
  expect(rows.filter(remarkable).map((r) => r.id)).toEqual(['0/'])
})

test('a partition is as good as its best holder, and a bad one beside it shows', () => {
  expect(toneOf(partition(0, [holder(), holder()]))).toBe('ok')
  expect(toneOf(partition(0, [holder(), holder({ state: 'failed' })]))).toBe('warning')
  expect(toneOf(partition(0, [holder({ doubtful: true }), holder({ state: 'failed' })]))).toBe('warning')
  expect(toneOf(partition(0, [holder({ state: 'failed' })]))).toBe('critical')
  expect(toneOf(partition(0, []))).toBe('critical')
  const gap = { from: 1, to: 2, reason: 'retention', accepted: false }
  expect(toneOf(partition(0, [holder()], { gaps: [gap] }))).toBe('critical')
  expect(toneOf(partition(0, [holder()], { gaps: [{ ...gap, accepted: true }] }))).toBe('ok')
})

test('the worst come first', () => {
  const rows = rowsOf([partition(0, [holder()]), partition(1, [holder({ lag_seconds: 20 })]), partition(2, [holder({ lag_seconds: 99 })]), partition(3, [])])
  expect(worstFirst(rows).map((r) => r.partition.partition)).toEqual([3, 2, 1, 0])
})
