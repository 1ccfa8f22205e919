import { describe, expect, it } from 'vitest'
import { defaults, linkTime, paramsOf, stateOf } from './state'
import type { State } from './state'

const read = (text: string) => stateOf(new URLSearchParams(text))

describe('links to Prometheus', () => {
  it('reads those of its old page', () => {
    expect(read('g0.expr=up&g0.tab=0&g0.stacked=1&g0.range_input=1h30m&g0.end_input=2024-05-06%2007%3A08&g0.step_input=15')).toMatchObject({
      queries: [{ expr: 'up', hidden: false }], tab: 'graph', stacked: true, range: 5_400_000, end: Date.UTC(2024, 4, 6, 7, 8), step: 15_000,
    })
    expect(read('g0.expr=up&g0.tab=1&g0.moment_input=2024-05-06%2007%3A08%3A09')).toMatchObject({ tab: 'table', end: Date.UTC(2024, 4, 6, 7, 8, 9) })
  })
  it('reads those of its new page', () => {
    expect(read('g0.expr=up&g0.show_tree=1&g0.tab=graph&g0.range_input=2d&g0.res_type=fixed&g0.res_step=60&g0.display_mode=stacked&g0.show_exemplars=0')).toMatchObject({
      tab: 'graph', range: 172_800_000, step: 60_000, stacked: true, end: undefined,
    })
    expect(read('g0.expr=up&g0.tab=graph&g0.res_type=auto&g0.res_step=60').step).toBeUndefined()
  })
  it('takes the panels in their order, however they are numbered', () => {
    expect(read('g2.expr=c&g10.expr=d&g1.expr=b&g1.tab=graph').queries.map((q) => q.expr)).toEqual(['b', 'c', 'd'])
    expect(read('g2.expr=c&g1.expr=b&g1.tab=graph').tab).toBe('graph')
  })
  it('bounds how long, and writes years as years', () => {
    expect(read('g0.expr=a&g0.range_input=999999999999y').range).toBe(read('g0.expr=a&g0.range_input=100y').range)
    expect(paramsOf(read('g0.expr=a&g0.range_input=10y')).get('g0.range_input')).toBe('10y')
  })
  it('hides one of several, and never the only one', () => {
    expect(read('g0.expr=a&g0.hide=1&g1.expr=b').queries.map((q) => q.hidden)).toEqual([true, false])
    expect(read('g0.expr=a&g0.hide=1').queries[0]!.hidden).toBe(false)
  })
  it('bounds how many', () => {
    expect(read(Array.from({ length: 50 }, (_, i) => `g${i}.expr=a`).join('&')).queries).toHaveLength(20)
  })
  it('shows a graph to who brings nothing, and survives nonsense', () => {
    expect(read('').tab).toBe('graph')
    expect(read('g0.expr=a&g0.range_input=long&g0.end_input=soon&g0.step_input=-1&refresh=x&timeout=never')).toMatchObject({ range: defaults.range, end: undefined, step: undefined, refresh: 0, timeout: '' })
  })
})

describe('linkTime', () => {
  it.each([
    ['2024-05-06 07:08:09', Date.UTC(2024, 4, 6, 7, 8, 9)],
    ['2024-05-06T07:08:09Z', Date.UTC(2024, 4, 6, 7, 8, 9)],
    ['2024-05-06 07:08:09+02:00', Date.UTC(2024, 4, 6, 5, 8, 9)],
    ['1714979289', 1_714_979_289_000],
    ['1714979289.5', 1_714_979_289_500],
    ['1714979289000', 1_714_979_289_000],
    ['', undefined],
    ['yesterday', undefined],
    ['99999999999999999', undefined],
    ['+300000-01-01 00:00:00', undefined],
  ])('%s', (text, want) => expect(linkTime(text)).toBe(want))
})

describe('the URL', () => {
  const full: State = {
    queries: [{ expr: 'rate(a[5m])', hidden: false }, { expr: 'b{c="&"}', hidden: true }], tab: 'graph', range: 7_200_000, end: Date.UTC(2026, 10, 21, 20, 17, 8), step: 15_000,
    refresh: 15, apart: false, stacked: true, log: true, explain: true, strong: true, partial: true, fresh: true, timeout: '30s',
  }
  it.each([['everything', full], ['the defaults', { ...defaults, queries: [{ expr: 'up', hidden: false }] }], ['a chart each', { ...full, apart: true }]])('brings back %s', (_, s) => {
    expect(stateOf(new URLSearchParams(paramsOf(s).toString()))).toEqual(s)
  })
  it('has times in whole seconds, as Prometheus reads them', () => {
    expect(paramsOf({ ...full, end: 1_714_979_289_123 }).get('g0.end_input')).toBe('2024-05-06 07:08:09')
  })
  it('leaves the parameters of others alone, and takes away its own', () => {
    const out = paramsOf({ ...defaults, queries: [{ expr: 'up', hidden: false }] }, new URLSearchParams('tenant=a&g7.expr=old&explain=1&refresh=5s&apart=1'))
    expect(out.get('tenant')).toBe('a')
    for (const name of ['g7.expr', 'explain', 'refresh', 'apart']) expect(out.has(name)).toBe(false)
  })
})
