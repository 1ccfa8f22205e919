import { expect, test } from 'vitest'
import { added, onGrid } from './grid'

test('values stand on the grid, with holes where there are none', () => {
  expect(onGrid([[10, '1'], [30, '3']], 10_000, 40_000, 10_000)).toEqual([[10_000, 1], [20_000, NaN], [30_000, 3], [40_000, NaN]])
})

test('series add up, and a hole is where none has a value', () => {
  const a = onGrid([[10, '1'], [20, '2']], 10_000, 30_000, 10_000)
  const b = onGrid([[20, '5']], 10_000, 30_000, 10_000)
  expect(added([a, b], 10_000, 30_000, 10_000)).toEqual([[10_000, 1], [20_000, 7], [30_000, NaN]])
  expect(added([], 10_000, 20_000, 10_000)).toEqual([[10_000, NaN], [20_000, NaN]])
})
