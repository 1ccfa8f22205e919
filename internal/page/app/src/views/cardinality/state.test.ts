import { beforeAll, describe, expect, it, vi } from 'vitest'
import type * as Module from './state'

// state.ts imports the session, which looks at what a browser has.
let m: typeof Module
beforeAll(async () => {
  vi.stubGlobal('sessionStorage', undefined)
  vi.stubGlobal('localStorage', undefined)
  vi.stubGlobal('location', { search: '', href: 'http://h/cardinality', pathname: '/cardinality' })
  m = await import('./state')
})

const of = (text: string) => m.stateOf(new URLSearchParams(text))

it('reads nonsense as the defaults', () => {
  expect(of('by=x&range=1y&sort=&n=7&value=v')).toEqual({ by: 'metrics', range: '24h', sort: 'max', counting: 'active', search: '', limit: 50, series: false })
})

it('a value without its label says nothing', () => {
  expect(of('value=v').value).toBeUndefined()
  expect(of('label=l&value=v').value).toBe('v')
})

it('steps lie in the order in which one took them', () => {
  expect(m.trail(of('metric=m&label=l&value=v')).map((t) => t.kind)).toEqual(['metric', 'label', 'value'])
  expect(m.trail(of('by=labels&metric=m&label=l&value=v')).map((t) => t.kind)).toEqual(['label', 'value', 'metric'])
  expect(m.trail(of('metric=m&label=l')).at(-1)!.part).toEqual({ metric: 'm', label: 'l' })
})

describe('selectors and expressions', () => {
  it.each([
    [{}, undefined, 'topk(20, count by (__name__) ({__name__!=""}))'],
    [{ metric: 'm' }, '{__name__="m"}', 'count({__name__="m"})'],
    [{ label: 'a.b' }, '{"a.b"!=""}', 'topk(20, count by ("a.b") ({"a.b"!=""}))'],
    [{ metric: 'm}', label: 'l' }, '{__name__="m}", l!=""}', 'topk(20, count by (l) ({__name__="m}", l!=""}))'],
    [{ label: 'l', value: '"' }, '{l="\\""}', 'topk(20, count by (__name__) ({l="\\""}))'],
    [{ metric: 'm', label: 'l', value: 'v' }, '{__name__="m", l="v"}', 'count({__name__="m", l="v"})'],
  ])('%j', (part, selector, expression) => {
    expect(m.selectorOf(part)).toBe(selector)
    expect(m.expressionOf(part)).toBe(expression)
  })
})
