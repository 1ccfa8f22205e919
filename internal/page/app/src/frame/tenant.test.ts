import { beforeAll, expect, it, vi } from 'vitest'
import type * as Module from './tenant'

// The module imports the session, which looks at what a browser has.
let m: typeof Module
beforeAll(async () => {
  for (const name of ['sessionStorage', 'localStorage']) vi.stubGlobal(name, undefined)
  vi.stubGlobal('location', { search: '', href: 'http://h/', pathname: '/' })
  m = await import('./tenant')
})

it.each([
  ['new', { users: false, patterns: [], federation: 0 }, true],
  ['', { users: false, patterns: [], federation: 0 }, false],
  ['dev-7', { users: true, patterns: ['dev-*'], federation: 0 }, true],
  ['other', { users: true, patterns: [], federation: 0 }, false],
  ['a|b', { users: true, patterns: [], federation: 50 }, true],
  ['a|b', { users: false, patterns: [], federation: 0 }, false],
  ['a|', { users: false, patterns: [], federation: 50 }, false],
])('%s may be typed by %j: %s', (name, access, want) => expect(m.mayType(name, access)).toBe(want))
