// What opens beside the view: past queries, metrics, what runs now.

import { useMemo, useState } from 'preact/hooks'
import { ask, get, uncounted } from '../../lib/api'
import { ago, bytes, count, exact, seconds } from '../../lib/format'
import { useLoad, useSession } from '../../lib/hooks'
import { href } from '../../lib/route'
import { formatDuration } from '../../lib/time'
import { Choice, Drawer, Empty, Failure, SearchField, Table, Waiting } from '../../ui'
import { forget, star } from './history'
import type { Past } from './history'
import { suggestions } from './promql'
import { wordsOf } from './series'

/** A list of words and what matches them all. */
const fits = (text: string, filter: string) => wordsOf(filter).every((w) => text.toLowerCase().includes(w))

export function HistoryDrawer({ past, onChange, onUse, onClose }: { past: readonly Past[]; onChange: (past: Past[]) => void; onUse: (expr: string) => void; onClose: () => void }) {
  const [filter, setFilter] = useState('')
  const [starred, setStarred] = useState(false)
  const found = past.filter((p) => (!starred || p.starred) && fits(p.expr, filter))
  return (
    <Drawer title="History" onClose={onClose}>
      <div class="actions">
        <SearchField label="Search the history" value={filter} onChange={setFilter} />
        <label>
          <input type="checkbox" checked={starred} onChange={(e) => setStarred(e.currentTarget.checked)} /> Starred only
        </label>
        {past.some((p) => !p.starred) && (
          <button type="button" onClick={() => onChange(forget(past))}>
            Forget all but starred
          </button>
        )}
      </div>
      {found.length === 0 && <Empty>{past.length === 0 ? 'Queries that you run here are listed here, in this browser only.' : 'No query matches.'}</Empty>}
      <ul class="past">
        {found.map((p) => (
          <li key={p.expr}>
            <button type="button" class="star" aria-pressed={p.starred} aria-label="Star" title="Keep it" onClick={() => onChange(star(past, p.expr))}>
              {p.starred ? '★' : '☆'}
            </button>
            <button type="button" class="use mono" onClick={() => onUse(p.expr)}>
              {p.expr}
            </button>
            <small>{ago(p.at)}</small>
            <button type="button" class="plain" aria-label="Forget" title="Forget" onClick={() => onChange(forget(past, p.expr))}>
              ✕
            </button>
          </li>
        ))}
      </ul>
    </Drawer>
  )
}

interface Meta {
  type: string
  help: string
  unit: string
}

const maxNames = 10_000
const shownNames = 200

/** Searches metric names; a choice goes into the query. */
export function ExplorerDrawer({ window, onInsert, onClose }: { window: () => { start: number; end: number }; onInsert: (text: string) => void; onClose: () => void }) {
  const [filter, setFilter] = useState('')
  const [open, setOpen] = useState('')
  const range = useMemo(window, [])
  const times = { start: range.start / 1000, end: range.end / 1000 }
  const names = useLoad((signal) => get<string[]>('api/v1/label/__name__/values', { ...times, limit: maxNames }, { signal, headers: uncounted }), ['names'])
  const meta = useLoad((signal) => get<Record<string, Meta[]>>('api/v1/metadata', { limit: maxNames, limit_per_metric: 1 }, { signal, headers: uncounted }), ['meta'])
  // Where there are more names than fit, the server searches.
  const cut = (names.data?.length ?? 0) >= maxNames
  const words = wordsOf(filter)
  const server = useLoad(
    (signal) =>
      cut && words.length > 0
        ? get<string[]>('api/v1/label/__name__/values', { ...times, limit: shownNames + 1, 'match[]': `{__name__=~"(?i:.*${words.map((w) => w.replace(/[^a-z0-9_:]/g, '.')).join('.*')}.*)"}` }, { signal, headers: uncounted })
        : Promise.resolve(undefined),
    [cut, filter],
  )
  const about = (name: string): Meta | undefined => meta.data?.[name]?.[0] ?? meta.data?.[name.replace(/_(bucket|sum|count|total)$/, '')]?.[0]
  const all = server.data ?? names.data
  const found = useMemo(() => all?.filter((n) => fits(`${n} ${about(n)?.help ?? ''}`, filter)) ?? [], [all, meta.data, filter])
  return (
    <Drawer title="Metrics" onClose={onClose}>
      <div class="actions">
        <SearchField label="Search names and descriptions" value={filter} onChange={setFilter} />
        {names.data && (
          <span class="hint">
            {exact(found.length)} of {cut ? 'more than ' : ''}
            {exact(names.data.length)}
          </span>
        )}
      </div>
      {names.error && <Failure error={names.error} retry={names.reload} />}
      {names.loading && !names.data && <Waiting />}
      {names.data?.length === 0 && <Empty>There are no series in this time range. Look at another range, or send data first.</Empty>}
      {names.data && names.data.length > 0 && found.length === 0 && <Empty>No metric matches.</Empty>}
      <ul class="metrics">
        {found.slice(0, shownNames).map((n) => {
          const m = about(n)
          return (
            <li key={n}>
              <button type="button" class="metric" aria-expanded={open === n} onClick={() => setOpen(open === n ? '' : n)}>
                <span class="mono">{n}</span> {m && <small>{[m.type !== 'unknown' && m.type, m.unit].filter(Boolean).join(', ')}</small>}
                {m?.help && <span class="help">{m.help}</span>}
              </button>
              {open === n && (
                <div class="suggestions">
                  {suggestions(n, m?.type).map((s) => (
                    <button type="button" key={s.text} onClick={() => onInsert(s.text)}>
                      <code>{s.text}</code> <small>{s.why}</small>
                    </button>
                  ))}
                </div>
              )}
            </li>
          )
        })}
      </ul>
      {found.length > shownNames && <p class="hint">{exact(shownNames)} are listed. Search to see the others.</p>}
    </Drawer>
  )
}

interface Active {
  id: string
  tenant: string
  user?: string
  remote_addr: string
  endpoint: string
  query: string
  start?: string
  end?: string
  step?: string
  state: string
  duration: number
  counts: Record<string, number>
}

interface Top {
  tenant: string
  endpoint: string
  query: string
  timeRangeSeconds: number
  count: number
  avgDurationSeconds: number
  sumDurationSeconds: number
  sumFetchedBytes: number
  sumFetchedSeries: number
}

interface Tops {
  rememberedQueries: number
  topByCount: Top[]
  topByAvgDuration: Top[]
  topBySumDuration: Top[]
  topByFetchedBytes: Top[]
}

const orders = [['topBySumDuration', 'Time'], ['topByAvgDuration', 'Average'], ['topByCount', 'Count'], ['topByFetchedBytes', 'Bytes']] as const
type Order = (typeof orders)[number][0]

/** A link that runs a query which somebody has run. */
function runLink(query: string, endpoint: string, rangeSeconds: number, tenant: string): string {
  const range = /range$/.test(endpoint)
  return href('query', { 'g0.expr': query, 'g0.tab': range ? 'graph' : 'table', 'g0.range_input': range && rangeSeconds >= 1 ? formatDuration(Math.round(rangeSeconds) * 1000) : undefined, tenant: tenant.includes('|') ? undefined : tenant })
}

/** Only these two have a PromQL expression that the view can run. */
const runnable = (endpoint: string) => /(^|\/)query(_range)?$/.test(endpoint)

export function RunningDrawer({ onClose }: { onClose: () => void }) {
  const s = useSession()
  const [every, setEvery] = useState<'own' | 'all'>('own')
  const [order, setOrder] = useState<Order>('topBySumDuration')
  const [failed, setFailed] = useState<Error | undefined>()
  const at = every === 'all' ? '-' : 'api/v1/status'
  const active = useLoad((signal) => get<Active[]>(`${at}/active_queries`, {}, { signal }), [every], 2000)
  const top = useLoad((signal) => get<Tops>(`${at}/top_queries`, { topN: 20, maxLifetime: '1h' }, { signal }), [every], 15_000)
  const running = active.data ?? []
  const cancel = async (id: string) => {
    setFailed(undefined)
    try {
      await ask(`${at}/active_queries/cancel`, { id }, { post: true })
      active.reload()
    } catch (err) {
      setFailed(err as Error)
    }
  }
  return (
    <Drawer title="Running and heavy queries" onClose={onClose}>
      {s.may('admin') && <Choice label="Whose" value={every} options={[['own', `Tenant ${s.tenantName}`], ['all', 'All tenants']]} onChange={setEvery} />}
      <h3 class="part">What runs now</h3>
      {failed && <Failure error={failed} />}
      {active.error && <Failure error={active.error} retry={active.reload} />}
      {active.data && running.length === 0 && <p class="hint">Nothing.</p>}
      <ul class="running">
        {running.map((q) => (
          <li key={q.id}>
            <code>{q.query || q.endpoint}</code>
            <small>
              {q.endpoint}, {q.state} for {seconds(q.duration)}
              {every === 'all' && `, tenant ${q.tenant}`}
              {q.user && `, user ${q.user}`}, from {q.remote_addr}
              {q.counts.series ? `, ${count(q.counts.series)} series` : ''}
              {q.counts.memory_bytes ? `, ${bytes(q.counts.memory_bytes)} memory` : ''}
            </small>
            <button type="button" onClick={() => void cancel(q.id)}>
              Cancel
            </button>
          </li>
        ))}
      </ul>
      <h3 class="part">Heaviest of the last hour</h3>
      <Choice label="By" value={order} options={orders} onChange={setOrder} />
      {top.error && <Failure error={top.error} retry={top.reload} />}
      {!top.data && top.loading && <Waiting />}
      {top.data && (
        <Table
          label="Heaviest queries"
          rows={top.data[order]}
          id={(q) => `${q.tenant} ${q.endpoint} ${q.timeRangeSeconds} ${q.query}`}
          empty="Nothing was asked in the last hour."
          columns={[
            {
              name: 'query',
              title: 'Query',
              cell: (q) => (
                <>
                  {runnable(q.endpoint) ? (
                    <a class="mono" href={runLink(q.query, q.endpoint, q.timeRangeSeconds, q.tenant)}>
                      {q.query}
                    </a>
                  ) : (
                    <span class="mono">{q.query || '–'}</span>
                  )}
                  <br />
                  <small>
                    {q.endpoint}
                    {q.timeRangeSeconds > 0 && ` over ${formatDuration(Math.round(q.timeRangeSeconds) * 1000)}`}
                    {every === 'all' && `, tenant ${q.tenant}`}
                  </small>
                </>
              ),
            },
            { name: 'count', title: 'Count', number: true, cell: (q) => count(q.count) },
            { name: 'avg', title: 'Average', number: true, cell: (q) => seconds(q.avgDurationSeconds) },
            { name: 'sum', title: 'Sum', number: true, cell: (q) => seconds(q.sumDurationSeconds) },
            { name: 'bytes', title: 'Fetched', number: true, cell: (q) => bytes(q.sumFetchedBytes) },
          ]}
        />
      )}
      <p class="hint">As the reader that answers this page knows it; each reader knows its own.</p>
    </Drawer>
  )
}
