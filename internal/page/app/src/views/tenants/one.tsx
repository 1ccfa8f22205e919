import { useState } from 'preact/hooks'
import { Badge, Copy, Empty, Failure, Figure, Meter, Notice, Panel, SearchField, Table, Waiting } from '../../ui'
import { now } from '../../lib/clock'
import { ago, bytes, count, exact, seconds, time } from '../../lib/format'
import { useLoad } from '../../lib/hooks'
import { href, setParams, usePlace } from '../../lib/route'
import { session } from '../../lib/session'
import { PartActions } from '../cardinality/list'
import { RulesDrawer } from '../cardinality/drawer'
import { Measured, Name, percent } from '../cardinality/trend'
import { blocksSummary, cancelQuery, queriesOf, tenantStatus } from './data'
import type { HACluster, Reject, TenantStatus } from './data'
import { alertsOf, isBurst, isQuiet, isSilent, limitText, limitsLike, sourceText, usesOf } from './limits'
import type { Use } from './limits'

const every = 10_000

/** One tenant: what it may do and what of that it does. */
export function TenantPage({ back }: { back: boolean }) {
  const found = useLoad(tenantStatus, [session.tenant], every)
  const status = found.data
  const { params } = usePlace()
  return (
    <div class="tenant-page">
      <div class="tenant-head">
        {back && <a href={href('tenants')}>← All tenants</a>}
        <h1 class="mono">{status?.tenant ?? session.tenantName}</h1>
        <span class="links">
          <a href={href('query')}>Query</a>
          <a href={href('cardinality')}>Cardinality</a>
          <a href={href('blocks')}>Blocks</a>
        </span>
      </div>
      {found.error && <Failure error={found.error} retry={found.reload} />}
      {!status && !found.error && <Waiting />}
      {status && (
        <>
          <Alerts status={status} now={found.at || now()} />
          {isQuiet(status) && <Notice>Nothing was received for this tenant lately. If that is a surprise, look at the name and at the sender’s <code>X-Scope-OrgID</code>.</Notice>}
          <div class="halves">
            <div>
              <Usage status={status} />
              <Rejects list={status.rejects ?? []} />
              <TopMetrics status={status} />
            </div>
            <div>
              <BlocksPanel />
              <HA status={status} now={found.at} />
              <Queries />
              <Limits status={status} search={params.get('limit') ?? ''} />
            </div>
          </div>
          <MetricRules metric={params.get('rules') === '1' ? params.get('r.metric') : null} />
        </>
      )}
    </div>
  )
}

/** What somebody should know, in one place. */
function Alerts({ status, now }: { status: TenantStatus; now: number }) {
  const alerts = alertsOf(status, now)
  if (alerts.length === 0) return null
  return (
    <Notice tone={alerts[0]!.tone}>
      <ul class="alerts">
        {alerts.map((a) => (
          <li key={a.text}>
            <span class={`sign ${a.tone}`} aria-hidden="true">
              {a.tone === 'critical' ? '■' : '▲'}
            </span>
            {a.text}
          </li>
        ))}
      </ul>
    </Notice>
  )
}

function MetricRules({ metric }: { metric: string | null }) {
  if (!metric) return null
  return <RulesDrawer key={metric} subject={{ kind: 'metrics', names: [metric] }} part={{ metric }} onClose={() => setParams({ rules: undefined, 'r.metric': undefined })} />
}

function Usage({ status }: { status: TenantStatus }) {
  const uses = usesOf(status)
  return (
    <Panel title="Limits and their use">
      {uses.length === 0 ? (
        <Empty>Nothing is in use: no producer has told of this tenant lately.</Empty>
      ) : (
        <ul class="uses">
          {uses.map((u) => (
            <UseLine key={u.name} use={u} />
          ))}
        </ul>
      )}
    </Panel>
  )
}

function UseLine({ use: u }: { use: Use }) {
  const of = u.limit === 0 ? 'no limit' : `of ${u.format(u.limit)}${u.each ? ' for each producer' : ''}`
  return (
    <li>
      <span class="what">
        {u.what} <code>{u.name}</code>
      </span>
      <span class="how-much" title={`${exact(Math.round(u.used))} of ${u.limit === 0 ? 'any number' : exact(u.limit)}`}>
        <strong>{u.format(u.used)}</strong> {of}
        <span class={u.share === undefined ? 'percent' : u.share >= 1 ? 'percent critical' : u.share >= 0.8 ? 'percent warning' : 'percent'}>{u.share !== undefined && percent(u.used, u.limit)}</span>
      </span>
      {u.share !== undefined && <Meter value={u.used} max={u.limit} label={`${u.what}: ${percent(u.used, u.limit)} of the limit`} />}
    </li>
  )
}

/** All limits. They are many, and most are what they are for everybody. */
function Limits({ status, search }: { status: TenantStatus; search: string }) {
  const all = limitsLike(status.limits, search)
  return (
    <Panel title="All limits" actions={<SearchField label="Search limits" placeholder="Name or value" value={search} onChange={(v) => setParams({ limit: v })} />}>
      <p class="hint">{sourceText(status.source)}</p>
      {all.length === 0 ? (
        <Empty>No limit contains “{search}”.</Empty>
      ) : (
        <div class="all-limits">
          <Table
            label="All limits"
            rows={all}
            id={([name]) => name}
            columns={[
              { name: 'limit', title: 'Limit', cell: ([name]) => <code class="limit-name"><Name text={name} /></code> },
              {
                name: 'value',
                title: 'Value',
                cell: ([name, value]) => (
                  <span class="limit-value">
                    {limitText(name, value)}
                    {isBurst(name) && status.usage[name] !== undefined && <small> {count(Math.max(0, status.usage[name]!))} free now</small>}
                  </span>
                ),
              },
            ]}
          />
        </div>
      )}
    </Panel>
  )
}

function TopMetrics({ status }: { status: TenantStatus }) {
  const list = status.top_metrics ?? []
  const total = status.usage.max_global_series_per_user ?? 0
  const top = Math.max(0, ...list.map((m) => m.series))
  return (
    <Panel title="Metrics with most series" actions={<a href={href('cardinality')}>All metrics</a>}>
      {list.length === 0 ? (
        <Empty>There are no active series.</Empty>
      ) : (
        <Table
          label="Metrics with most series"
          rows={list}
          id={(m) => m.name}
          columns={[
            { name: 'metric', title: 'Metric', cell: (m) => <a class="name mono" href={href('cardinality', { metric: m.name })}><Name text={m.name} /></a> },
            {
              name: 'series',
              title: 'Series',
              number: true,
              cell: (m) => <Measured value={m.series} of={top} />,
            },
            { name: 'share', title: 'Share', number: true, cell: (m) => percent(m.series, total) },
            { name: 'actions', title: <span class="visually-hidden">What to do</span>, cell: (m) => <PartActions part={{ metric: m.name }} name={m.name} /> },
          ]}
        />
      )}
    </Panel>
  )
}

function Rejects({ list }: { list: readonly Reject[] }) {
  return (
    <Panel title="Refused samples">
      {list.length === 0 ? (
        <p class="hint">Nothing was refused since the producers started.</p>
      ) : (
        <ul class="rejects">
          {[...list].sort((a, b) => b.last - a.last).map((r) => (
            <li key={r.reason}>
              <div class="first">
                <code>{r.reason}</code>
                <strong>{exact(r.count)} samples</strong>
              </div>
              <p class="hint">
                <span title={time(r.last)}>Last {ago(r.last)}</span>, <span title={time(r.first)}>first {ago(r.first)}</span>
                {r.processes !== undefined && r.processes > 1 && `, at ${r.processes} producers`}
              </p>
              <p>{r.message}</p>
              {r.series && <LongText text={r.series} />}
              <p class="hint">
                <code>sluice explain {r.reason}</code> tells what to do. <Copy text={`sluice explain ${r.reason}`} label="Copy command" />
              </p>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  )
}

const shortText = 240

/** A series as an example, cut if it is very long; what is copied is whole. */
function LongText({ text }: { text: string }) {
  const [whole, show] = useState(false)
  return (
    <p class="example mono">
      {whole || text.length <= shortText ? text : `${text.slice(0, shortText)}…`}{' '}
      {!whole && text.length > shortText && (
        <button type="button" class="link" onClick={() => show(true)}>
          Show all
        </button>
      )}{' '}
      <Copy text={text} label="Copy series" />
    </p>
  )
}

function HA({ status, now }: { status: TenantStatus; now: number }) {
  const list = status.ha ?? []
  if (list.length === 0 && status.limits.accept_ha_samples !== true) return null
  return (
    <Panel title="HA clusters">
      {list.length === 0 ? (
        <Empty>
          No cluster has sent yet: series need the labels <code>{String(status.limits.ha_cluster_label)}</code> and <code>{String(status.limits.ha_replica_label)}</code>. <code>docs/ha.md</code> says more.
        </Empty>
      ) : (
        <Table<HACluster>
          label="HA clusters"
          rows={list}
          id={(c) => c.cluster}
          sort="cluster"
          descending={false}
          columns={[
            { name: 'cluster', title: 'Cluster', by: (c) => c.cluster, cell: (c) => <span class="mono">{c.cluster}</span> },
            {
              name: 'received',
              title: 'Last received',
              by: (c) => c.received_at,
              cell: (c) => (isSilent(c, now) ? <Badge tone="warning" title={time(c.received_at)}>{`silent, ${ago(c.received_at)}`}</Badge> : <Badge tone="ok" title={time(c.received_at)}>{ago(c.received_at)}</Badge>),
            },
            { name: 'replica', title: 'Elected replica', by: (c) => c.replica, cell: (c) => <span class="mono">{c.replica}</span> },
            { name: 'elected', title: 'Since', by: (c) => c.elected_at, cell: (c) => <span title={`${time(c.elected_at)}${c.epoch === undefined ? '' : `, election ${c.epoch}`}`}>{ago(c.elected_at)}</span> },
            { name: 'timeout', title: 'Failover after', number: true, cell: (c) => seconds(c.failover_timeout) },
          ]}
        />
      )}
    </Panel>
  )
}

function BlocksPanel() {
  const found = useLoad(blocksSummary, [session.tenant], 6 * every)
  const b = found.data
  return (
    <Panel title="Blocks" actions={<a href={href('blocks')}>All blocks</a>}>
      {found.error && <Failure error={found.error} retry={found.reload} />}
      {!b && !found.error && <Waiting />}
      {b && b.total === 0 && <Empty>No block yet. The first one is shipped when its generation is over, some two hours after the first sample.</Empty>}
      {b && b.total > 0 && (
        <>
          <dl class="figures">
            <Figure name="Blocks" value={exact(b.total)} hint={b.jobs > 0 ? `${exact(b.jobs)} ${b.jobs === 1 ? 'merge' : 'merges'} to do` : 'nothing to merge'} />
            <Figure name="Size" value={bytes(b.bytes)} hint={b.samples > 0 ? `${count(b.samples)} samples, ${Number((b.bytes / b.samples).toFixed(2))} B each` : undefined} />
            <Figure name="From" value={ago(b.oldest).replace(/ ago$/, '')} hint={`to ${ago(b.newest)}`} />
          </dl>
          {(b.quarantined > 0 || b.tooLarge > 0) && (
            <p>
              {b.quarantined > 0 && <Badge tone="warning">{`${exact(b.quarantined)} quarantined`}</Badge>} {b.tooLarge > 0 && <Badge tone="warning">{`${exact(b.tooLarge)} too large to merge`}</Badge>}
            </p>
          )}
        </>
      )}
    </Panel>
  )
}

function Queries() {
  const found = useLoad(queriesOf, [session.tenant], every)
  const [failure, fail] = useState<Error | undefined>()
  const q = found.data
  const end = (id: string) => cancelQuery(id).then(found.reload, fail)
  const link = (query: string) => (
    <a class="name mono query" href={href('query', { 'g0.expr': query })} title={query}>
      {query}
    </a>
  )
  return (
    <Panel title="Queries">
      {(failure ?? found.error) && <Failure error={(failure ?? found.error)!} retry={found.reload} />}
      {!q && !found.error && <Waiting />}
      {q && q.active.length > 0 && (
        <>
          <h3>Under way</h3>
          <Table
            label="Queries under way"
            rows={q.active}
            id={(a) => a.id}
            columns={[
              { name: 'query', title: 'Query', cell: (a) => link(a.query) },
              { name: 'user', title: 'User', cell: (a) => a.user || '–' },
              { name: 'for', title: 'For', number: true, cell: (a) => `${seconds(a.duration)}${a.state === 'queued' ? ', queued' : ''}` },
              {
                name: 'end',
                title: <span class="visually-hidden">What to do</span>,
                cell: (a) => (
                  <button type="button" class="link" onClick={() => void end(a.id)}>
                    Cancel
                  </button>
                ),
              },
            ]}
          />
        </>
      )}
      {q && (
        <>
          <h3>Most time in the last hour</h3>
          <Table
            label="Queries that took most time in the last hour"
            rows={q.top}
            id={(t) => `${t.endpoint} ${t.query} ${t.sumDurationSeconds}`}
            empty="No query in the last hour."
            columns={[
              { name: 'query', title: 'Query', cell: (t) => link(t.query) },
              { name: 'count', title: 'Times', number: true, cell: (t) => exact(t.count) },
              { name: 'average', title: 'Average', number: true, cell: (t) => seconds(t.avgDurationSeconds) },
              { name: 'sum', title: 'Sum', number: true, cell: (t) => seconds(t.sumDurationSeconds) },
            ]}
          />
          <p class="hint">Of the reader that answers this page.</p>
        </>
      )}
    </Panel>
  )
}
