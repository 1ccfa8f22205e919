// The frame of the page: navigation, tenant, theme, login, and the view that the URL names.

import 'uplot/dist/uPlot.min.css'
import './styles/base.css'
import './styles/frame.css'
import { render } from 'preact'
import type { ComponentType } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { loadAccess } from './lib/access'
import { useSession, useStored } from './lib/hooks'
import { followLinks, href, nameTenant, usePlace } from './lib/route'
import { Login } from './frame/login'
import { TenantChooser } from './frame/tenant'
import { Failure, Notice, Waiting } from './ui'
import { Start } from './views/start'

/** Views beside the first one are loaded when they are looked at. */
const later: Record<string, () => Promise<ComponentType>> = {
  query: () => import('./views/query').then((m) => m.Query),
  cardinality: () => import('./views/cardinality').then((m) => m.Cardinality),
  pipeline: () => import('./views/pipeline').then((m) => m.Pipeline),
  blocks: () => import('./views/blocks').then((m) => m.Blocks),
  tenants: () => import('./views/tenants').then((m) => m.Tenants),
}

/** What stands in the navigation: view, name, the right it needs, and the letter that opens it after "g". */
const entries = [
  ['', 'Start', undefined, 's'],
  ['query', 'Query', 'read', 'q'],
  ['cardinality', 'Cardinality', 'read', 'c'],
  ['pipeline', 'Pipeline', 'admin', 'p'],
  ['blocks', 'Blocks', 'read', 'b'],
  ['tenants', 'Tenants', 'read', 't'],
] as const

function App() {
  const s = useSession()
  const { view, params } = usePlace()
  useEffect(() => {
    void loadAccess()
  }, [])
  const search = params.toString()
  useEffect(() => {
    if (s.access) nameTenant()
  }, [s.access, s.tenant, search])
  // On a phone the navigation is wider than the window: where one is has to be seen.
  useEffect(() => document.querySelector('.top nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' }), [view, s.access])
  useShortcuts()
  const name = entries.find(([v]) => v === view)?.[1] ?? 'Not found'
  useEffect(() => {
    document.title = view ? `${name} – Sluice` : 'Sluice'
  }, [view, name])
  const shown = entries.filter(([, , right]) => !right || s.may(right))
  const right = entries.find(([v]) => v === view)?.[2]
  return (
    <div class="frame" onClick={followLinks}>
      <a class="skip" href="#main">
        Skip to the content
      </a>
      <header class="top">
        <a class="brand" href={href('')}>
          <img src="./icon.svg" alt="" width="26" height="26" /> Sluice
        </a>
        <nav aria-label="Views">
          {shown.map(([v, text, , letter]) => (
            <a key={v} href={href(v)} aria-current={v === view ? 'page' : undefined} title={`g ${letter}`}>
              {text}
            </a>
          ))}
        </nav>
        <div class="tools">
          <TenantChooser />
          <Theme />
          {s.access?.users && (
            <span class="user">
              {s.access.user}{' '}
              {s.signedIn && (
                <button type="button" onClick={() => s.signOut()}>
                  Sign out
                </button>
              )}
            </span>
          )}
        </div>
      </header>
      <main id="main" tabIndex={-1} class={`view-${view || 'start'}`}>
        {s.login !== undefined ? (
          <Login />
        ) : s.failure ? (
          <Failure error={s.failure} retry={() => void loadAccess()} />
        ) : !s.access ? (
          <Waiting />
        ) : right && !s.may(right) ? (
          <Notice tone="warning">
            User {s.access.user || 'anonymous'} does not have the right <code>{right}</code>, which this view needs.
          </Notice>
        ) : (
          <View key={`${view}/${s.tenant}`} name={view} />
        )}
      </main>
    </div>
  )
}

function View({ name }: { name: string }) {
  const [loaded, set] = useState<{ name: string; component: ComponentType } | undefined>()
  const [error, setError] = useState<Error>()
  useEffect(() => {
    const load = later[name]
    setError(undefined)
    load?.().then(
      (component) => set({ name, component }),
      () => setError(new Error('A part of the page could not be loaded. If Sluice was just updated, load the page again.')),
    )
  }, [name])
  if (name === '') return <Start />
  if (!later[name]) return <Notice tone="warning">There is no view {name}.</Notice>
  if (error) return <Failure error={error} retry={() => location.reload()} />
  if (loaded?.name !== name) return <Waiting />
  const Component = loaded.component
  return <Component />
}

/** Light, dark, or as the system has it. */
function Theme() {
  const [theme, set] = useStored('theme', 'system')
  useEffect(() => {
    if (theme === 'system') delete document.documentElement.dataset.theme
    else document.documentElement.dataset.theme = theme
    dispatchEvent(new Event('sluice-theme'))
  }, [theme])
  return (
    <select aria-label="Theme" value={theme} onChange={(e) => set(e.currentTarget.value)}>
      <option value="system">System</option>
      <option value="light">Light</option>
      <option value="dark">Dark</option>
    </select>
  )
}

/** "g" and a letter goes to a view, "/" to the first search or query field. */
function useShortcuts() {
  useEffect(() => {
    let leading = 0
    const key = (e: KeyboardEvent) => {
      const target = e.target as HTMLElement
      if (e.ctrlKey || e.metaKey || e.altKey || target.isContentEditable || /^(input|textarea|select)$/i.test(target.tagName)) return
      if (e.key === '/') {
        const field = document.querySelector<HTMLElement>('main .cm-content, main input[type=search]')
        if (field) {
          e.preventDefault()
          field.focus()
        }
        return
      }
      if (e.key === 'g') {
        leading = e.timeStamp
        return
      }
      const entry = entries.find(([, , , letter]) => letter === e.key)
      if (entry && leading && e.timeStamp - leading < 1500) {
        leading = 0
        document.querySelector<HTMLAnchorElement>(`nav a[title="g ${entry[3]}"]`)?.click()
      }
    }
    addEventListener('keydown', key)
    return () => removeEventListener('keydown', key)
  }, [])
}

render(<App />, document.getElementById('app')!)
