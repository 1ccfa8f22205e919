import { describe, expect, it } from 'vitest'
import { common, csvOf, linesOf, matches, quoted, rowsOf, seriesName, stack, valueText, wordsOf } from './series'
import type { Grid } from './range'

const grid: Grid = { start: 0, end: 40_000, step: 10_000, points: 5 }

describe('seriesName', () => {
  it.each([
    [{ __name__: 'up', job: 'a' }, 'up{job="a"}'],
    [{ __name__: 'up' }, 'up'],
    [{}, '{}'],
    [{ job: 'a"b\n' }, '{job="a\\"b\\n"}'],
    [{ __name__: 'http.requests', 'a.b': 'c' }, '{"http.requests", "a.b"="c"}'],
  ])('%j', (labels, want) => expect(seriesName(labels as Record<string, string>)).toBe(want))
})

describe('linesOf', () => {
  it('puts points onto the grid; what is not there or no number is a hole', () => {
    const [line] = linesOf([{ metric: { a: 'b' }, values: [[0, '1'], [10, 'NaN'], [20, '3'], [30, '+Inf'], [40, '5']] }], grid, 2)
    expect(line).toMatchObject({ key: '2 {a="b"}', values: [1, null, 3, null, 5], lonely: [0, 2, 4], last: 5, min: 1, max: 5, mean: 3, histogram: false, odd: 2 })
  })
  it('knows which points have no neighbour', () => {
    expect(linesOf([{ metric: {}, values: [[0, '1'], [10, '1'], [30, '1']] }], grid, 0)[0]!.lonely).toEqual([3])
  })
  it('draws the mean of histograms', () => {
    expect(linesOf([{ metric: {}, histograms: [[10, { count: '4', sum: '10' }], [20, { count: '0', sum: '0' }]] }], grid, 0)[0]).toMatchObject({ values: [null, 2.5, null, null, null], histogram: true })
  })
  it('leaves out what is beside the grid', () => {
    expect(linesOf([{ metric: {}, values: [[-10, '1'], [50, '1']] }], grid, 0)[0]).toMatchObject({ values: [null, null, null, null, null], last: undefined, mean: undefined })
  })
})

it('stacks, and takes holes for nothing', () => {
  const lines = linesOf([{ metric: { a: '1' }, values: [[0, '1'], [10, '1']] }, { metric: { a: '2' }, values: [[10, '2'], [20, '2']] }], grid, 0)
  expect(stack(lines, 5)).toEqual([[1, 1, 0, 0, 0], [1, 3, 2, 0, 0]])
})

it('finds the labels in common', () => {
  expect(common([{ a: '1', b: '2' }, { a: '1', b: '3' }])).toEqual({ a: '1' })
  expect(common([{ a: '1' }])).toEqual({})
})

describe('rowsOf', () => {
  it('reads every kind of answer', () => {
    expect(rowsOf({ resultType: 'vector', result: [{ metric: { __name__: 'a' }, value: [1, '2'] }, { metric: { __name__: 'b' }, histogram: [1, { count: '1', sum: '2' }] }] })).toEqual([
      { key: 'a', labels: { __name__: 'a' }, time: 1, value: '2' },
      { key: 'b', labels: { __name__: 'b' }, time: 1, value: '', histogram: { count: '1', sum: '2' } },
    ])
    expect(rowsOf({ resultType: 'matrix', result: [{ metric: {}, values: [[1, '2'], [3, '4']] }] })).toEqual([{ key: '{}', labels: {}, time: 3, value: '4', samples: [[1, '2'], [3, '4']] }])
    expect(rowsOf({ resultType: 'scalar', result: [1, '2'] })).toEqual([{ key: '', labels: {}, time: 1, value: '2' }])
  })
})

it('writes CSV that no spreadsheet runs', () => {
  const rows = rowsOf({ resultType: 'vector', result: [{ metric: { a: '=1+1', b: 'x,"y"' }, value: [1, '-2'] }, { metric: { c: 'z' }, value: [1, 'NaN'] }] })
  expect(csvOf(rows)).toBe(`a,b,c,time,value\n'=1+1,"x,""y""",,1,-2\n,,z,1,NaN\n`)
})

it('matches all words', () => {
  expect(matches({ __name__: 'Up', job: 'node' }, wordsOf('NODE up'))).toBe(true)
  expect(matches({ __name__: 'up', job: 'node' }, wordsOf('node down'))).toBe(false)
})

it('writes out what nobody sees in a value', () => {
  expect(quoted('abc\u202edef')).toBe('"abc\\u202edef"')
  expect(quoted('a\u200bb\ufeff')).toBe('"a\\u200bb\\ufeff"')
  expect(quoted('Zürich 東京 🚀 مرحبا')).toBe('"Zürich 東京 🚀 مرحبا"')
  expect(['a b', 'x="1"', '', ' a', 'l1\nl2', 'a\u202eb', 'שלום'].map(valueText)).toEqual(['a b', '"x=\\"1\\""', '""', '" a"', '"l1\\nl2"', '"a\\u202eb"', 'שלום'])
})
