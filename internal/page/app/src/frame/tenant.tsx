import { useEffect, useRef, useState } from 'preact/hooks'
import { get } from '../lib/api'
import type { Access } from '../lib/session'
import { useSession } from '../lib/hooks'
import { setParams } from '../lib/route'

const shownAtOnce = 50

/** The names of tenants that contain the text, and how many there are in all. */
async function tenantsLike(text: string, access: Access, signal: AbortSignal): Promise<{ names: string[]; total: number }> {
  if (access.users) {
    const found = await get<Access>('api/v1/status/access', { search: text, limit: shownAtOnce }, { signal })
    return { names: found.tenants, total: found.tenants_total }
  }
  const found = await get<{ total: number; tenants: { tenant: string }[] }>('-/tenants', { search: text, limit: shownAtOnce, sort: 'tenant' }, { signal })
  return { names: found.tenants.map((t) => t.tenant), total: found.total }
}

/** Shows whose data is looked at, and lets another tenant be chosen, out of thousands if need be. */
export function TenantChooser() {
  const s = useSession()
  const [open, setOpen] = useState(false)
  const [text, setText] = useState('')
  const [found, setFound] = useState<{ names: string[]; total: number }>({ names: [], total: 0 })
  const [at, setAt] = useState(0)
  const box = useRef<HTMLDivElement>(null)
  const access = s.access
  useEffect(() => {
    if (!open || !access) return
    const abort = new AbortController()
    const timer = setTimeout(() => {
      tenantsLike(text, access, abort.signal).then(
        (f) => {
          setFound(f)
          setAt(0)
        },
        () => setFound({ names: [], total: 0 }), // a proxy may keep the list from us: a name can be typed
      )
    }, text ? 150 : 0)
    return () => {
      clearTimeout(timer)
      abort.abort()
    }
  }, [open, text, access])
  useEffect(() => {
    if (!open) return
    const outside = (e: PointerEvent) => !box.current?.contains(e.target as Node) && setOpen(false)
    addEventListener('pointerdown', outside)
    return () => removeEventListener('pointerdown', outside)
  }, [open])
  if (!access || access.tenancy === 'off' || (access.users && access.tenants_total <= 1 && access.patterns.length === 0)) return null
  const typed = text.trim()
  const names = typed && !found.names.includes(typed) && (!typed.includes('|') || access.federation > 0) ? [...found.names, typed] : found.names
  const choose = (name: string) => {
    setOpen(false)
    setText('')
    setParams({ tenant: name }, false)
  }
  const key = (e: KeyboardEvent) => {
    if (e.key === 'Escape') setOpen(false)
    else if (e.key === 'ArrowDown') setAt((i) => Math.min(names.length - 1, i + 1))
    else if (e.key === 'ArrowUp') setAt((i) => Math.max(0, i - 1))
    else if (e.key === 'Enter' && names[at]) choose(names[at])
    else return
    e.preventDefault()
  }
  return (
    <div class="tenant" ref={box}>
      <button type="button" aria-haspopup="listbox" aria-expanded={open} onClick={() => setOpen(!open)}>
        <span class="visually-hidden">Tenant </span>
        {s.hasTenant ? s.tenantName : 'Choose a tenant'} <span aria-hidden="true">▾</span>
      </button>
      {open && (
        <div class="popover">
          <input
            type="text"
            role="combobox"
            aria-label="Search tenants"
            aria-expanded="true"
            aria-controls="tenant-list"
            aria-activedescendant={names[at] ? `tenant-${at}` : undefined}
            placeholder={access.federation > 0 ? 'Name, or a|b for several' : 'Name'}
            value={text}
            onInput={(e) => setText(e.currentTarget.value)}
            onKeyDown={key}
            ref={(input) => input?.focus()}
          />
          <ul id="tenant-list" role="listbox" aria-label="Tenants">
            {names.map((name, i) => (
              <li key={name} id={`tenant-${i}`} role="option" aria-selected={i === at} onClick={() => choose(name)}>
                {name}
              </li>
            ))}
          </ul>
          {found.total > found.names.length && <p class="hint">{found.total - found.names.length} more: type a part of the name.</p>}
          {names.length === 0 && <p class="hint">No tenant of that name.</p>}
        </div>
      )}
    </div>
  )
}
