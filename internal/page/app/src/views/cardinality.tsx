import '../styles/cardinality.css'
import { Choice, Empty, Panel, SearchField } from '../ui'
import { time } from '../lib/format'
import { useLoad } from '../lib/hooks'
import { setParams, usePlace } from '../lib/route'
import { session } from '../lib/session'
import { labelsNow, overTime, valuesNow } from './cardinality/data'
import type { List } from './cardinality/data'
import { RulesDrawer } from './cardinality/drawer'
import { SeriesList } from './cardinality/list'
import { PartHead, SeriesSample } from './cardinality/part'
import { partHref, rangeMs, sentence, stateOf, subjectOf, trail } from './cardinality/state'
import type { By, Part, State } from './cardinality/state'
import { Heaviest, Pairs } from './cardinality/tops'
import { Unqueried } from './cardinality/unqueried'

const tabs: readonly (readonly [By, string])[] = [
  ['metrics', 'Metrics'],
  ['labels', 'Labels'],
  ['pairs', 'Label pairs'],
  ['unqueried', 'Unqueried'],
  ['tenants', 'Tenants'],
]

/** What the tenant's series consist of, what grew, and what is of no use. */
export function Cardinality() {
  const { params } = usePlace()
  const s = stateOf(params)
  const steps = trail(s)
  const at = steps.at(-1)
  if (!session.hasTenant && s.by !== 'tenants') return <Empty>Choose a tenant, at the top of the page.</Empty>
  return (
    <div class="cardinality">
      <h1 class="visually-hidden">Cardinality of {session.tenantName}</h1>
      <nav class="tabs" aria-label="Cardinality by">
        {tabs
          .filter(([by]) => by !== 'tenants' || (session.may('admin') && session.access?.tenancy !== 'off'))
          .map(([by, name]) => (
            <a key={by} href={partHref(by, {}, s)} aria-current={by === s.by ? 'page' : undefined}>
              {name}
            </a>
          ))}
      </nav>
      {at && <Trail state={s} />}
      {at && <PartHead part={at.part} state={s} key={JSON.stringify(at.part)} />}
      {s.by === 'unqueried' ? <Unqueried state={s} /> : <Listed state={s} />}
      {(s.series || (s.metric !== undefined && s.value !== undefined)) && at && <SeriesSample part={at.part} />}
      <Rules params={params} />
    </div>
  )
}

/** Where one is, and the way back. */
function Trail({ state }: { state: State }) {
  const steps = trail(state)
  return (
    <nav class="trail" aria-label="Where this is">
      <ol>
        <li>
          <a href={partHref(state.by, {}, state)}>{state.by === 'labels' ? 'All labels' : 'All metrics'}</a>
        </li>
        {steps.map(({ name, kind, part }, i) => (
          <li key={kind} class="mono">
            {i === steps.length - 1 ? <span aria-current="page">{name}</span> : <a href={partHref(state.by, part, state)}>{name}</a>}
          </li>
        ))}
      </ol>
    </nav>
  )
}

/** What the list at hand is of. `past`: blocks know it, too. */
function listOf(s: State): { what: 'metrics' | 'labels' | 'values'; title: string; past: boolean; partOf: (name: string) => Part } | undefined {
  const { metric, label, value } = s
  const part: Part = { ...(metric === undefined ? {} : { metric }), ...(label === undefined ? {} : { label }), ...(value === undefined ? {} : { value }) }
  if (s.by === 'metrics' || s.by === 'labels') {
    if (label !== undefined && value === undefined) return { what: 'values', title: `Values of ${label}${metric === undefined ? '' : ` in ${metric}`}`, past: metric === undefined, partOf: (v) => ({ ...part, value: v }) }
    if (metric !== undefined && label === undefined) return { what: 'labels', title: `Labels of ${metric}`, past: false, partOf: (l) => ({ ...part, label: l }) }
    if (label !== undefined && metric === undefined) return { what: 'metrics', title: `Metrics with ${sentence(part)}`, past: false, partOf: (m) => ({ ...part, metric: m }) }
    if (metric !== undefined) return undefined
  }
  if (s.by === 'labels') return { what: 'labels', title: 'Labels', past: true, partOf: (l) => (l === '__name__' ? {} : { label: l }) }
  return { what: 'metrics', title: 'Metrics', past: true, partOf: (m) => ({ metric: m }) }
}

const loadList = (s: State, what: 'metrics' | 'labels' | 'values', past: boolean, signal: AbortSignal): Promise<List> => {
  const part: Part = { ...(s.metric === undefined ? {} : { metric: s.metric }), ...(s.label === undefined ? {} : { label: s.label }), ...(s.value === undefined ? {} : { value: s.value }) }
  const label = what === 'labels' ? '' : what === 'metrics' ? '__name__' : s.label!
  if (past && rangeMs[s.range] > 0) return overTime(label, s, signal)
  return what === 'labels' ? labelsNow(part, s.counting, s.search, s.limit, signal) : valuesNow(label, what === 'values' && s.metric === undefined ? {} : part, s.counting, s.search, s.limit, signal)
}

function Listed({ state: s }: { state: State }) {
  const list = listOf(s)
  const own = s.by === 'pairs' || s.by === 'tenants'
  const past = !own && !!list?.past
  const found = useLoad<List>(
    (signal) => (own || !list ? Promise.resolve({ rows: [], total: 0, warnings: [], truncated: false }) : loadList(s, list.what, list.past, signal)),
    [own || !list ? '' : [list.what, list.title], s.metric, s.label, s.value, past ? s.range : '', s.counting, s.search, past ? s.sort : '', s.limit],
  )
  if (!list) return null
  const now = !own && (!past || s.range === 'now')
  const title = s.by === 'pairs' ? 'Label pairs with most series' : s.by === 'tenants' ? 'Heaviest tenants' : list.title
  return (
    <Panel
      title={title}
      actions={
        <>
          <SearchField label={`Search ${own ? s.by : list.what}`} value={s.search} onChange={(v) => setParams({ search: v })} placeholder="Part of a name" />
          {past && (
            <Choice
              label="Time"
              value={s.range}
              options={[
                ['now', 'Now'],
                ['24h', '24 h'],
                ['7d', '7 d'],
                ['30d', '30 d'],
              ]}
              onChange={(v) => setParams({ range: v === '24h' ? undefined : v })}
            />
          )}
          {now && (
            <select aria-label="Which series count" value={s.counting} onChange={(e) => setParams({ count: e.currentTarget.value === 'active' ? undefined : 'inmemory' })}>
              <option value="active">Active (20 min)</option>
              <option value="inmemory">All in heads</option>
            </select>
          )}
          {!own && (
            <button type="button" onClick={found.reload} disabled={found.loading} title={found.at ? `Counted ${time(found.at)}` : undefined}>
              {found.loading ? 'Counting…' : 'Count again'}
            </button>
          )}
        </>
      }
    >
      {s.by === 'pairs' ? <Pairs state={s} /> : s.by === 'tenants' ? <Heaviest state={s} /> : <SeriesList what={list.what} found={found} state={s} partOf={list.partOf} label={title} />}
      {!own && !past && <p class="hint">Counted in the heads of the consumers: of series with two properties, blocks do not tell how many there were.</p>}
    </Panel>
  )
}

/** The drawer, for the part that the URL names. */
function Rules({ params }: { params: URLSearchParams }) {
  if (params.get('rules') !== '1') return null
  const part: Part = {}
  for (const name of ['metric', 'label', 'value'] as const) {
    const value = params.get(`r.${name}`)
    if (value) part[name] = value
  }
  const subject = subjectOf(part)
  if (!subject) return null
  return <RulesDrawer key={JSON.stringify(part)} subject={subject} part={part} onClose={() => setParams({ rules: undefined, 'r.metric': undefined, 'r.label': undefined, 'r.value': undefined })} />
}
