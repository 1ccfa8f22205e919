// Where the page is: a path of one level below its base, and parameters. Everything that makes a view what it is stands in the URL.

import { useEffect, useState } from 'preact/hooks'
import { session } from './session'

const event = 'sluice-moved'

export interface Place {
  view: string
  params: URLSearchParams
}

export function place(): Place {
  const view = location.pathname.split('/').pop() ?? ''
  return { view: view === 'graph' ? 'query' : view, params: new URLSearchParams(location.search) }
}

/** The address of a view, relative to the page. The tenant goes along, so that a link shows others the same. */
export function href(view: string, params: Record<string, string | undefined> | URLSearchParams = {}): string {
  const search = new URLSearchParams()
  const entries = params instanceof URLSearchParams ? [...params.entries()] : Object.entries(params)
  for (const [name, value] of entries) if (value && name !== 'tenant') search.append(name, value)
  const tenant = params instanceof URLSearchParams ? params.get('tenant') : params.tenant
  if (tenant || session.tenant) search.set('tenant', tenant || session.tenant)
  const text = search.toString()
  return `./${view}${text ? `?${text}` : ''}`
}

/** Goes to an address. */
export function go(to: string, replace = false) {
  history[replace ? 'replaceState' : 'pushState'](null, '', to)
  takeTenant()
  dispatchEvent(new Event(event))
}

/** Looks at the tenant that the address names, if it names one. */
function takeTenant() {
  const tenant = place().params.get('tenant')
  if (tenant !== null && tenant !== session.tenant) session.choose(tenant)
}

/** Puts the tenant that is looked at into the address, so that this is a link to what is seen. Only the default one needs no name. */
export function nameTenant() {
  if (session.tenant && place().params.get('tenant') !== session.tenant) setParams({ tenant: session.tenant })
}

/** Sets parameters of the view at hand; '' takes one away. */
export function setParams(changes: Record<string, string | undefined>, replace = true) {
  const { params } = place()
  for (const [name, value] of Object.entries(changes)) {
    if (value) params.set(name, value)
    else params.delete(name)
  }
  const text = params.toString()
  go(`${location.pathname}${text ? `?${text}` : ''}`, replace)
}

/** The place, followed. */
export function usePlace(): Place {
  const [at, set] = useState(place)
  useEffect(() => {
    const moved = () => set(place())
    const back = () => {
      // An address without a name was left while the default tenant was looked at.
      if (!place().params.has('tenant') && session.tenant) session.choose('')
      takeTenant()
      moved()
    }
    addEventListener('popstate', back)
    addEventListener(event, moved)
    return () => {
      removeEventListener('popstate', back)
      removeEventListener(event, moved)
    }
  }, [])
  return at
}

/** Turns clicks on links of the page into moves without a reload. */
export function followLinks(e: MouseEvent) {
  if (e.defaultPrevented || e.button !== 0 || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey) return
  const link = (e.target as Element | null)?.closest?.('a')
  if (!link || link.target || link.hasAttribute('download') || link.dataset.external !== undefined) return
  const url = new URL(link.href, location.href)
  if (url.origin !== location.origin || !views.has(url.pathname.split('/').pop() ?? '-')) return
  if (url.pathname.replace(/[^/]*$/, '') !== location.pathname.replace(/[^/]*$/, '')) return
  e.preventDefault()
  go(url.pathname + url.search)
  scrollTo(0, 0)
}

/** The views that the server serves the page for. */
export const views = new Set(['', 'query', 'graph', 'cardinality', 'pipeline', 'blocks', 'tenants'])
