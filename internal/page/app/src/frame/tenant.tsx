import { useEffect, useRef, useState } from 'preact/hooks'
import { get } from '../lib/api'
import type { Access } from '../lib/session'
import { useSession } from '../lib/hooks'
import { setParams } from '../lib/route'

const shownAtOnce = 100

interface Found {
  names: string[]
  total: number
}

/** The names of tenants that contain the text, and how many there are in all. */
async function tenantsLike(text: string, access: Access, signal: AbortSignal): Promise<Found> {
  if (access.users) {
    const found = await get<Access>('api/v1/status/access', { search: text, limit: shownAtOnce }, { signal })
    return { names: found.tenants, total: found.tenants_total }
  }
  const found = await get<{ total: number; tenants: { tenant: string }[] }>('-/tenants', { search: text, limit: shownAtOnce, sort: 'tenant' }, { signal })
  return { names: found.tenants.map((t) => t.tenant), total: found.total }
}

/** Whether a name that is not in the list may be asked for all the same: it may be new, match a pattern, or name several. */
export function mayType(name: string, access: Pick<Access, 'users' | 'patterns' | 'federation'>): boolean {
  if (name.includes('|')) return access.federation > 0 && name.split('|').every((part) => part.trim() !== '')
  return name !== '' && (!access.users || access.patterns.length > 0)
}

/** Shows whose data is looked at, and lets another tenant be chosen, out of thousands if need be. */
export function TenantChooser() {
  const s = useSession()
  const [open, setOpen] = useState(false)
  const box = useRef<HTMLDivElement>(null)
  const button = useRef<HTMLButtonElement>(null)
  useEffect(() => {
    if (!open) return
    const outside = (e: Event) => !box.current?.contains(e.target as Node) && setOpen(false)
    addEventListener('pointerdown', outside)
    addEventListener('focusin', outside)
    return () => {
      removeEventListener('pointerdown', outside)
      removeEventListener('focusin', outside)
    }
  }, [open])
  const access = s.access
  // Whoever has one tenant has nothing to choose, unless a link has brought them to another one.
  const only = !!access?.users && access.tenants_total <= 1 && access.patterns.length === 0 && (s.tenant === '' || access.tenants.includes(s.tenant))
  if (!access || access.tenancy === 'off' || only) return null
  const close = () => {
    setOpen(false)
    button.current?.focus()
  }
  return (
    <div class="tenant" ref={box} onKeyDown={(e) => open && e.key === 'Escape' && close()}>
      <button type="button" ref={button} aria-haspopup="dialog" aria-expanded={open} onClick={() => setOpen(!open)} title={s.hasTenant ? s.tenantName : undefined}>
        <span class="visually-hidden">Tenant </span>
        <span class="chosen-tenant">{s.hasTenant ? s.tenantName : 'Choose a tenant'}</span> <span aria-hidden="true">▾</span>
      </button>
      {open && <TenantList access={access} current={s.hasTenant ? s.tenantName : ''} onClose={close} />}
    </div>
  )
}

/** The field and the list below it: arrows move, Enter takes, Escape leaves. */
function TenantList({ access, current, onClose }: { access: Access; current: string; onClose: () => void }) {
  const [text, setText] = useState('')
  const [found, setFound] = useState<Found | undefined>()
  const [failed, fail] = useState(false)
  const [at, setAt] = useState(0)
  const input = useRef<HTMLInputElement>(null)
  const list = useRef<HTMLUListElement>(null)
  const typed = text.trim()
  useEffect(() => input.current?.focus(), [])
  useEffect(() => {
    const abort = new AbortController()
    const timer = setTimeout(
      () => {
        tenantsLike(typed, access, abort.signal).then(
          (f) => {
            setFound(f)
            fail(false)
            setAt(typed ? 0 : Math.max(0, f.names.indexOf(current)))
          },
          () => {
            if (abort.signal.aborted) return
            setFound({ names: [], total: 0 })
            fail(true) // a proxy may keep the list from us: a name can be typed
          },
        )
      },
      typed ? 150 : 0,
    )
    return () => {
      clearTimeout(timer)
      abort.abort()
    }
  }, [typed, access, current])
  const known = found?.names ?? []
  const names = typed && !known.includes(typed) && mayType(typed, access) ? [...known, typed] : known
  useEffect(() => list.current?.children[at]?.scrollIntoView({ block: 'nearest' }), [at, found])
  const choose = (name: string) => {
    onClose()
    setParams({ tenant: name }, false)
  }
  const key = (e: KeyboardEvent) => {
    const last = names.length - 1
    const to: Record<string, number> = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 8, PageUp: at - 8 }
    if (e.key in to) setAt(Math.max(0, Math.min(last, to[e.key]!)))
    else if (e.key === 'Enter' && names[at] !== undefined) choose(names[at]!)
    else return
    e.preventDefault()
  }
  return (
    <div class="popover" role="dialog" aria-label="Choose a tenant">
      <input
        type="text"
        role="combobox"
        aria-label="Search tenants"
        aria-expanded="true"
        aria-controls="tenant-list"
        aria-autocomplete="list"
        aria-activedescendant={names[at] === undefined ? undefined : `tenant-${at}`}
        placeholder={access.federation > 0 ? 'Name, or a|b for several' : 'Part of a name'}
        autocomplete="off"
        spellcheck={false}
        value={text}
        onInput={(e) => setText(e.currentTarget.value)}
        onKeyDown={key}
        ref={input}
      />
      <ul id="tenant-list" role="listbox" aria-label="Tenants" ref={list}>
        {names.map((name, i) => (
          <li key={name} id={`tenant-${i}`} role="option" aria-selected={i === at} class={name === current ? 'current' : undefined} onClick={() => choose(name)}>
            {name}
            {i >= known.length && <small> as typed</small>}
            {name === current && <small> shown now</small>}
          </li>
        ))}
      </ul>
      <p class="hint" role="status">
        {!found ? 'Loading…' : failed ? 'The list of tenants cannot be had; type a whole name.' : names.length === 0 ? 'No tenant of that name.' : found.total > known.length ? `${(found.total - known.length).toLocaleString('en-US')} more: type a part of the name.` : ''}
      </p>
    </div>
  )
}
