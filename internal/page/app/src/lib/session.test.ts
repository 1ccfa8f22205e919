import { beforeEach, expect, test, vi } from 'vitest'
import type { Access, Session } from './session'

const access = (more: Partial<Access> = {}): Access => ({
  users: false, user: '', rights: ['read'], tenancy: 'optional', federation: 0, default_tenant: 'anonymous', tenants: [], tenants_total: 0, patterns: [], stages: [], instance: '', version: '', self_monitoring_tenant: '', ...more,
})
const withUsers = (...tenants: string[]) => access({ users: true, tenancy: 'users', default_tenant: '', tenants, tenants_total: tenants.length })

const storage = () => {
  const all = new Map<string, string>()
  return { getItem: (k: string) => all.get(k) ?? null, setItem: (k: string, v: string) => all.set(k, v), removeItem: (k: string) => all.delete(k) }
}

/** A session of a tab that was opened with this address. */
async function opened(search: string): Promise<Session> {
  vi.stubGlobal('location', { search })
  return new (await import('./session')).Session()
}

/** What somebody leaves in this browser who has looked at a tenant. */
async function lookedAt(tenant: string, as = access()) {
  const before = await opened('')
  before.admit(as)
  before.choose(tenant)
}

beforeEach(() => {
  vi.stubGlobal('location', { search: '' })
  vi.stubGlobal('localStorage', storage())
  vi.stubGlobal('sessionStorage', storage())
})

test('the tenant looked at last is shown where the address says nothing', async () => {
  await lookedAt('team-a')
  const s = await opened('')
  s.admit(access())
  expect(s.tenant).toBe('team-a')
})

test('a link without a tenant shows what its sender saw: the default one', async () => {
  await lookedAt('team-a')
  const s = await opened('?g0.expr=up')
  s.admit(access())
  expect(s.tenant).toBe('')
  expect(s.tenantName).toBe('anonymous')
})

test('where there is no default tenant, such a link shows the one looked at last', async () => {
  await lookedAt('b', withUsers('a', 'b'))
  const s = await opened('?g0.expr=up')
  s.admit(withUsers('a', 'b'))
  expect(s.tenant).toBe('b')
})

test('a tenant that somebody else chose in this browser is forgotten, one that a link names is not', async () => {
  await lookedAt('team-a')
  const s = await opened('')
  s.admit(withUsers('mine'))
  expect(s.tenant).toBe('mine')
  const link = await opened('?tenant=theirs')
  link.admit(withUsers('mine'))
  expect(link.tenant).toBe('theirs') // the server says that it is not allowed
})

test('who signs in after somebody else gets a tenant of their own', async () => {
  const s = await opened('?tenant=theirs')
  s.admit(withUsers('theirs'))
  s.signOut()
  s.admit(withUsers('mine'))
  expect(s.tenant).toBe('mine')
})
