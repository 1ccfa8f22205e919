import { expect, test } from 'vitest'
import { kinds, urlOf } from './snippets'

const text = (name: string, tenant: string, user: string) =>
  kinds
    .find((k) => k.name === name)!
    .snippets({ write: 'http://w:9009', read: 'http://r:9009', tenant, user })
    .map((s) => s.text)
    .join('\n')

test('every kind points at the right side, and names tenant and user only where they are needed', () => {
  for (const { name } of kinds) {
    const plain = text(name, '', '')
    expect(plain).toContain(name === 'grafana' || name === 'curl' ? 'http://r:9009/prometheus' : 'http://w:9009/')
    expect(plain).not.toMatch(/scope|auth|password/i)
    expect(text(name, 'team-a', '')).toMatch(/X-Scope-OrgID/)
    expect(text(name, 'team-a', '')).toMatch(/team-a/)
    expect(text(name, '', 'anna')).toMatch(/anna/)
  }
})

test('names that mean something to YAML or a shell are quoted', () => {
  expect(text('prometheus', 'no: "x"', '')).toContain('X-Scope-OrgID: "no: \\"x\\""')
  expect(text('curl', "it's", '')).toContain(`'X-Scope-OrgID: it'\\''s'`)
})

test('an address has a scheme', () => {
  expect(urlOf('p:9009')).toBe('http://p:9009')
  expect(urlOf('https://p:9009/')).toBe('https://p:9009')
})
