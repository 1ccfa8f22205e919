import { describe, expect, it } from 'vitest'
import { forget, kept, parseHistory, remember, star } from './history'
import type { Past } from './history'

const many = (n: number) => Array.from({ length: n }, (_, i) => i).reduce<Past[]>((all, i) => remember(all, `q${i}`, i), [])

describe('history', () => {
  it('has the newest first, each once', () => {
    const all = remember(remember(remember([], 'a', 1), 'b', 2), ' a ', 3)
    expect(all.map((p) => [p.expr, p.at])).toEqual([['a', 3], ['b', 2]])
  })
  it('keeps the last 100 and those with a star', () => {
    let all = star(many(kept), 'q0')
    for (let i = 0; i < kept; i++) all = remember(all, `r${i}`, 1000 + i)
    expect(all).toHaveLength(kept + 1)
    expect(all.at(-1)).toMatchObject({ expr: 'q0', starred: true })
    expect(remember(all, 'q0', 9).find((p) => p.expr === 'q0')!.starred).toBe(true)
  })
  it('forgets one, or all without a star', () => {
    const all = star(many(3), 'q1')
    expect(forget(all, 'q1').map((p) => p.expr)).toEqual(['q2', 'q0'])
    expect(forget(all).map((p) => p.expr)).toEqual(['q1'])
  })
  it('leaves out what is empty or very long', () => {
    expect(remember([], '  ', 1)).toEqual([])
    expect(remember([], 'a'.repeat(20_000), 1)).toEqual([])
  })
  it('survives what somebody else has stored', () => {
    for (const text of ['', '{', 'null', '3', '[null,{"expr":1},{"at":2}]']) expect(parseHistory(text)).toEqual([])
    expect(parseHistory('[{"expr":"a","at":1}]')).toEqual([{ expr: 'a', at: 1, starred: false }])
  })
})
