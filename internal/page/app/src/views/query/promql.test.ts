import { describe, expect, it } from 'vitest'
import { parser } from '@prometheus-io/lezer-promql'
import { beganWord, escapeLabel, positionOf, suggestions, withMatcher } from './promql'
import { selectorsIn } from './grammar'

describe('withMatcher', () => {
  it.each([
    ['up', 'up{job="a"}'],
    ['up{}', 'up{job="a"}'],
    ['up{zone="z"}', 'up{zone="z", job="a"}'],
    ['up{job="b", zone=~"a,b"}', 'up{job="a", zone=~"a,b"}'],
    ['up{job=~"b.*"}', 'up{job=~"b.*", job="a"}'],
    ['{zone="}"}', '{zone="}", job="a"}'],
    ['sum by (job) (rate(x_total[5m])) / sum(up)', 'sum by (job) (rate(x_total{job="a"}[5m])) / sum(up{job="a"})'],
    ['up{job="a"}', 'up{job="a"}'],
  ])('%s', (expr, want) => expect(withMatcher(expr, selectorsIn(expr), 'job', '=', 'a')).toBe(want))
  it('adds to the selectors of the metric only, if there are some', () => {
    const expr = 'a / on (job) b'
    expect(withMatcher(expr, selectorsIn(expr), 'job', '!=', 'x"y', 'a')).toBe('a{job!="x\\"y"} / on (job) b')
    expect(withMatcher(expr, selectorsIn(expr), 'job', '=', 'x', 'c')).toBe('a{job="x"} / on (job) b{job="x"}')
  })
  it('quotes names that need it', () => expect(withMatcher('up', selectorsIn('up'), 'a.b', '=', 'c')).toBe('up{"a.b"="c"}'))
  it('makes expressions that parse', () => {
    for (const expr of ['up', 'rate(a{b="c",}[5m])', '{__name__="x"}', 'a offset 5m', 'a @ end()']) {
      let errors = 0
      parser.parse(withMatcher(expr, selectorsIn(expr), 'job', '=', 'a')).iterate({ enter: (n) => void (n.type.isError && errors++) })
      expect(errors, expr).toBe(0)
    }
  })
})

describe('escapeLabel', () => {
  it.each([['job', 'job'], ['a_b', 'a_b'], ['a.b', 'U__a_2e_b'], ['a_b.c', 'U__a__b_2e_c'], ['1a', 'U___31_a'], ['ä', 'U___e4_']])('%s', (name, want) => expect(escapeLabel(name)).toBe(want))
})

describe('positionOf', () => {
  it('finds the place of a parse error', () => {
    expect(positionOf('invalid parameter "query": 2:5: parse error: unexpected end of input')).toEqual({ line: 2, column: 5, text: 'unexpected end of input' })
    expect(positionOf('query needs 10 series (err-sluice-x)')).toBeUndefined()
  })
})

it('suggests what the type of a metric calls for', () => {
  const texts = (metric: string, type?: string) => suggestions(metric, type).map((s) => s.text)
  expect(texts('a_total', 'counter')).toContain('rate(a_total[5m])')
  expect(texts('a_bucket', 'histogram')).toContain('histogram_quantile(0.9, sum by (le) (rate(a_bucket[5m])))')
  expect(texts('a', 'histogram')).toContain('histogram_quantile(0.9, sum(rate(a[5m])))')
  expect(texts('a', 'gauge')).toEqual(['a', 'avg(a)'])
  expect(texts('a.b', 'gauge')[0]).toBe('{"a.b"}')
})

it('takes a completion for what was begun, and not behind the end of something', () => {
  for (const text of ['ra', 'up{', 'up{job="', 'sum(', 'up{job=', 'my:rule', 'up[5']) expect(beganWord(text.slice(-1)), text).toBe(true)
  for (const text of ['', 'vector(1)', 'up[5m]', 'up{job="a"}', 'up ', 'up\n']) expect(beganWord(text.slice(-1)), text).toBe(false)
})
