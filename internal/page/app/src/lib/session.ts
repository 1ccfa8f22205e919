// Who looks, at which tenant, and what the page may show them. What outlives a reload: the tenant and the theme in localStorage,
// the credentials in sessionStorage, for this tab alone.

/** The answer of /api/v1/status/access. */
export interface Access {
  users: boolean
  user: string
  rights: string[]
  tenancy: 'off' | 'optional' | 'required' | 'users'
  federation: number
  default_tenant: string
  tenants: string[]
  tenants_total: number
  patterns: string[]
  stages: string[]
  instance: string
  version: string
  self_monitoring_tenant: string
}

const credentialsKey = 'sluice.credentials'
const tenantKey = 'sluice.tenant'

/** Session tells its listeners when anything in it changes. */
export class Session {
  /** Undefined until the server has answered. */
  access: Access | undefined
  /** Why there is no access, if the server has failed. */
  failure: Error | undefined
  /** What the login form says; undefined = no login is asked for. */
  login: string | undefined
  private chosen = ''
  /** The tenant looked at last in this browser. */
  private remembered = ''
  /** Whether the address has named the tenant. */
  private named = false
  private credentials: string | null = null
  private listeners = new Set<() => void>()

  constructor() {
    this.credentials = read(sessionStorage, credentialsKey)
    this.remembered = read(localStorage, tenantKey) ?? ''
    const params = new URLSearchParams(location.search)
    const tenant = params.get('tenant')
    this.named = !!tenant
    // An address that says what to show but not whose is a link to what its sender saw: the default tenant's.
    this.chosen = tenant || (params.size > 0 ? '' : this.remembered)
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  private changed() {
    this.listeners.forEach((l) => l())
  }

  /** The tenant of requests; '' = the server's default. */
  get tenant(): string {
    return this.access?.tenancy === 'off' ? '' : this.chosen
  }

  /** The name of the tenant that is looked at, for people. */
  get tenantName(): string {
    return this.tenant || this.access?.default_tenant || 'anonymous'
  }

  /** Whether there is a tenant to look at. */
  get hasTenant(): boolean {
    const a = this.access
    return !!a && (this.tenant !== '' || a.default_tenant !== '' || a.tenancy === 'off' || a.tenancy === 'optional')
  }

  choose(tenant: string) {
    this.chosen = this.remembered = tenant
    this.named = true
    write(localStorage, tenantKey, tenant)
    this.changed()
  }

  /** Whether the user has the right. */
  may(right: 'read' | 'admin' | 'metrics' | 'write'): boolean {
    return this.access?.rights.includes(right) ?? false
  }

  headers(tenant?: string): Record<string, string> {
    const headers: Record<string, string> = { 'X-Requested-With': 'XMLHttpRequest' } // a 401 must not open the browser's own dialogue
    const whose = tenant ?? this.tenant
    if (whose && this.access?.tenancy !== 'off') headers['X-Scope-OrgID'] = whose
    if (this.credentials) headers.Authorization = this.credentials
    return headers
  }

  /** Somebody has been refused: the page asks for credentials. */
  loginNeeded(why: string) {
    this.login = this.credentials ? why : ''
    this.changed()
  }

  /** Takes credentials over. What they are worth the server has to be asked. */
  signIn(user: string, secret: string) {
    const bytes = new TextEncoder().encode(`${user}:${secret}`)
    this.credentials = user ? `Basic ${btoa(String.fromCharCode(...bytes))}` : `Bearer ${secret}`
    write(sessionStorage, credentialsKey, this.credentials)
    this.login = undefined
  }

  signOut() {
    this.credentials = null
    write(sessionStorage, credentialsKey, '')
    this.access = undefined
    this.named = false // whoever comes next may have other tenants
    this.login = ''
    this.changed()
  }

  get signedIn(): boolean {
    return this.credentials !== null
  }

  /** Takes over what the server says of who this is. */
  admit(a: Access) {
    this.access = a
    this.failure = undefined
    if (!this.chosen && !a.default_tenant) this.chosen = this.remembered
    // A tenant chosen earlier, by somebody else in this browser, may not be this user's. The list may be cut. Who opens a link to one that is
    // not theirs is told so, and not shown another.
    const whole = a.tenants.length >= a.tenants_total && a.patterns.length === 0
    if (a.users && this.chosen && !this.named && whole && !a.tenants.includes(this.chosen) && !this.chosen.includes('|')) this.chosen = ''
    if (a.users && !this.chosen && !a.default_tenant) this.chosen = a.tenants[0] ?? ''
    this.changed()
  }

  /** The server could not say who this is. */
  failed(err: Error) {
    this.failure = err
    this.changed()
  }
}

// Storage may be forbidden by the browser; the page works without.
function read(storage: Storage, key: string): string | null {
  try {
    return storage.getItem(key) || null
  } catch {
    return null
  }
}

function write(storage: Storage, key: string, value: string) {
  try {
    if (value) storage.setItem(key, value)
    else storage.removeItem(key)
  } catch {
    // see above
  }
}

export const session = new Session()
