import '../styles/start.css'
import { ask, get, uncounted } from '../lib/api'
import { now } from '../lib/clock'
import { ago, count, exact, rate, seconds } from '../lib/format'
import { useLoad, useSession } from '../lib/hooks'
import { lastHour, mayLookBack, queryLink } from '../lib/own'
import { plural, sum } from '../lib/pipeline'
import type { Pipeline, Process } from '../lib/pipeline'
import { href, setParams, usePlace } from '../lib/route'
import type { Access } from '../lib/session'
import { Badge, Choice, Failure, Figure, Notice, Panel, Snippet, Sparkline } from '../ui'
import { kinds, urlOf } from './start/snippets'
import type { Target } from './start/snippets'

/** What is running, whether data arrives, and how to point senders and Grafana here. */
export function Start() {
  const s = useSession()
  const access = s.access!
  const admin = s.may('admin')
  const pipeline = useLoad(async (signal) => (admin ? get<Pipeline>('-/pipeline', {}, { signal }) : undefined), [admin], admin ? 5000 : 0)
  const ready = useLoad(async (signal) => (admin ? true : isReady(signal)), [admin], admin ? 0 : 10_000)
  return (
    <>
      <h1 class="visually-hidden">Start</h1>
      <HealthLine pipeline={pipeline.data} ready={ready.data} error={pipeline.error ?? ready.error} retry={admin ? pipeline.reload : ready.reload} access={access} />
      <div class="columns start-pair">
        {s.may('read') && s.hasTenant ? (
          <Data access={access} tenant={s.tenantName} />
        ) : (
          <Panel title="Is my data in?">
            <p>{s.may('read') ? 'Choose a tenant above: every question is about one.' : `User ${access.user} does not have the right read, so this page shows no data.`}</p>
          </Panel>
        )}
        <Running access={access} pipeline={pipeline.data} />
      </div>
      <Connect access={access} pipeline={pipeline.data} tenant={s.tenant} />
      <More may={(right) => s.may(right)} />
    </>
  )
}

/** Whether the process behind this page is ready; a 503 is an answer, too. */
async function isReady(signal: AbortSignal): Promise<boolean> {
  try {
    await ask('-/ready', {}, { signal })
    return true
  } catch (err) {
    if ((err as { status?: number }).status === 503) return false
    throw err
  }
}

function HealthLine({ pipeline, ready, error, retry, access }: { pipeline: Pipeline | undefined; ready: boolean | undefined; error: Error | undefined; retry: () => void; access: Access }) {
  if (error) return <Failure error={error} retry={retry} />
  const state = pipeline ? pipeline.health.state : ready === undefined ? undefined : ready ? 'ok' : 'warning'
  const word = state && { ok: pipeline ? 'Healthy' : 'Ready', warning: pipeline ? 'Attention' : 'Not ready', critical: 'Critical' }[state]
  const processes = pipeline?.processes.filter((p) => !p.silent) ?? []
  return (
    <div class={`health ${state ?? ''}`} role="status">
      {state ? <Badge tone={state}>{word}</Badge> : <span class="waiting">Asking…</span>}
      <span>{pipeline ? pipeline.health.summary : ready === false ? 'This process is starting or stopping.' : ready ? 'This process answers queries.' : ''}</span>
      <span class="beside">
        Sluice {access.version}
        {processes.length > 0 && <> · {plural(processes.length, 'process', 'processes')}</>}
        {processes.length > 0 && <> · up for {seconds(Math.max(0, Math.round((pipeline!.now - Math.min(...processes.map((p) => p.started))) / 1000)))}</>}
        {pipeline && (
          <>
            {' '}
            · <a href={href('pipeline')}>Pipeline</a>
          </>
        )}
      </span>
    </div>
  )
}

interface TenantStatus {
  newest?: number
  usage?: Record<string, number>
  rejects?: { reason: string; count: number; last: number }[]
}

/** What is known of the tenant's own data. */
interface Arrived {
  active: number | undefined
  perSecond: number | undefined
  newest: number | undefined
  /** Only Sluice's own metrics are there. */
  onlyOwn: boolean
  rejected: { reason: string; count: number; last: number } | undefined
}

const smallEnoughToCount = 20_000

async function arrivals(access: Access, tenant: string, signal: AbortSignal): Promise<Arrived> {
  const options = { signal, headers: uncounted }
  const status = await get<TenantStatus>('api/v1/status/tenant', {}, options)
  const series = status.usage?.max_global_series_per_user ?? 0
  let onlyOwn = false
  if (tenant === access.self_monitoring_tenant && series > 0 && series < smallEnoughToCount) {
    const others = await get<{ result: unknown[] }>('api/v1/query', { query: 'count({__name__=~".+",job!="sluice"})' }, options).catch(() => undefined)
    onlyOwn = others?.result.length === 0
  }
  return {
    active: status.usage?.max_global_series_per_user,
    perSecond: status.usage && (status.usage.ingestion_rate ?? 0) + (status.usage.native_histogram_ingestion_rate ?? 0),
    newest: status.newest,
    onlyOwn,
    rejected: (status.rejects ?? []).reduce<Arrived['rejected']>((last, r) => (!last || r.last > last.last ? r : last), undefined),
  }
}

function Data({ access, tenant }: { access: Access; tenant: string }) {
  const found = useLoad((signal) => arrivals(access, tenant, signal), [tenant], 5000)
  const d = found.data
  const empty = d && !d.active && !d.newest
  const waits = d && (empty || d.onlyOwn)
  return (
    <Panel title="Is my data in?" actions={<small>tenant {tenant}</small>}>
      {found.error && <Failure error={found.error} retry={found.reload} />}
      {waits && (
        <Notice tone="info">
          <p>
            <strong>{empty ? 'Nothing has arrived yet.' : 'Only Sluice’s own metrics so far.'}</strong> Point a Prometheus or another sender here, as below. This page notices when data
            comes.
          </p>
        </Notice>
      )}
      {d && !waits && !found.error && (
        <p class="verdict">
          <Badge tone={d.newest && now() - d.newest < 5 * 60_000 ? 'ok' : 'warning'}>{d.newest && now() - d.newest < 5 * 60_000 ? 'Yes, it is.' : 'It was, nothing came in the last minutes.'}</Badge>
        </p>
      )}
      <dl class="figures">
        <Figure name="Active series" value={count(d?.active)} hint={d?.active !== undefined && d.active >= 1000 ? exact(Math.round(d.active)) : undefined} />
        <Figure name="Samples" value={d?.perSecond === undefined ? '–' : rate(d.perSecond)} />
        <Figure name="Newest sample" value={d ? ago(d.newest) : '–'} />
        {d?.rejected && <Figure name="Refused" tone="warning" value={count(d.rejected.count)} hint={<a href={href('tenants')}>last {ago(d.rejected.last)}</a>} />}
      </dl>
    </Panel>
  )
}

const samplesIn = 'sum(rate(sluice_producer_samples_total{job="sluice"}[2m]))'

function OwnRate({ access }: { access: Access }) {
  const past = useLoad((signal) => lastHour(samplesIn, access, signal), [], 15_000)
  if (!past.data) return <div class="own-rate" />
  return (
    <div class="own-rate">
      <Sparkline label="Samples per second, all tenants" points={past.data.points} from={past.data.from} to={past.data.to} format={rate} />
      <small>
        samples of all tenants, last hour · <a href={queryLink(samplesIn, access.self_monitoring_tenant)}>Query</a>
      </small>
    </div>
  )
}

const stageNames = ['producer', 'consumer', 'compactor', 'reader'] as const

/** A process tells rates from its second announcement on. */
const speed = (v: number | undefined, what: string) => (v === undefined ? 'starting' : `${rate(v)} ${what}`)

/** What a stage does, in a few words. */
function says(stage: (typeof stageNames)[number], all: Process[]): string {
  switch (stage) {
    case 'producer':
      return speed(sum(all, (p) => p.producer?.samples_per_second), 'samples in')
    case 'consumer':
      return `${count(sum(all, (p) => p.consumer?.head_series))} series in memory`
    case 'compactor': {
      const due = Math.max(0, ...all.map((p) => p.compactor?.jobs_due ?? 0))
      return due === 0 ? 'nothing is due' : `${plural(due, 'merge')} due`
    }
    case 'reader':
      return speed(sum(all, (p) => p.reader?.queries_per_second), 'queries')
  }
}

function Running({ access, pipeline }: { access: Access; pipeline: Pipeline | undefined }) {
  const processes = pipeline?.processes.filter((p) => !p.silent)
  return (
    <Panel title="What is running">
      <table class="running">
        <tbody>
          {stageNames.map((stage) => {
            const all = processes?.filter((p) => p.stages.includes(stage))
            const here = access.stages.includes(stage)
            return (
              <tr key={stage}>
                <th scope="row">{stage}</th>
                <td class="number">{all ? all.length : here ? 1 : '?'}</td>
                <td>{all ? (all.length > 0 ? says(stage, all) : <Badge tone="warning">none</Badge>) : here ? 'in this process' : 'elsewhere'}</td>
              </tr>
            )
          })}
        </tbody>
      </table>
      <p class="hint">
        {processes && processes.length > 1 ? (
          <>
            {plural(processes.length, 'process', 'processes')}
            {pipeline!.zones.filter((z) => z.zone).length > 0 && <> in {plural(pipeline!.zones.length, 'zone')}</>}, {plural(pipeline!.partitions.length, 'partition')}; this page is served by{' '}
            <code>{access.instance}</code>.
          </>
        ) : (
          <>
            Served by <code>{access.instance}</code>, tenancy {access.tenancy}.
          </>
        )}
      </p>
      {mayLookBack(access) && <OwnRate access={access} />}
    </Panel>
  )
}

/** Where senders find a producer: here, or where one says that it is. */
function writeURL(access: Access, pipeline: Pipeline | undefined, here: string): { url: string; guessed: boolean } {
  if (access.stages.includes('producer')) return { url: here, guessed: false }
  const producer = pipeline?.processes.find((p) => p.producer && !p.silent)
  return producer ? { url: urlOf(producer.addr), guessed: false } : { url: 'http://PRODUCER:9009', guessed: true }
}

function Connect({ access, pipeline, tenant }: { access: Access; pipeline: Pipeline | undefined; tenant: string }) {
  const { params } = usePlace()
  const here = new URL('.', location.href).href.replace(/\/$/, '')
  const write = writeURL(access, pipeline, here)
  const kind = kinds.find((k) => k.name === params.get('to')) ?? kinds[0]!
  const target: Target = {
    write: write.url,
    read: here,
    tenant: access.tenancy === 'off' ? '' : tenant === '' ? (access.tenancy === 'required' ? 'YOUR-TENANT' : '') : tenant === access.default_tenant ? '' : tenant,
    user: access.users ? access.user : '',
  }
  const loopback = /^(localhost|127\.|\[::1\])/.test(location.hostname)
  return (
    <Panel title="Connect" id="connect" actions={<Choice label="What to connect" value={kind.name} options={kinds.map((k) => [k.name, k.label] as const)} onChange={(to) => setParams({ to })} />}>
      <div class="columns">
        {kind.snippets(target).map((one) => (
          <div key={one.title}>
            <Snippet title={one.title} text={one.text} />
            {one.note && <p class="hint">{one.note}</p>}
          </div>
        ))}
        <div class="notes">
          {write.guessed && (
            <p>
              <Badge tone="warning">No producer here</Badge> Put the address of one in place of <code>PRODUCER:9009</code>.
            </p>
          )}
          <p>
            Writing: <code>{write.url}</code>
            <br />
            Reading: <code>{here}/prometheus</code>
            <br />
            {target.tenant ? (
              <>
                Tenant: the header <code>X-Scope-OrgID: {target.tenant}</code>
              </>
            ) : target.user ? (
              <>Tenant: that of the user {target.user}</>
            ) : (
              <>
                Tenant: no header needed, it is <code>{access.default_tenant || 'anonymous'}</code>
                {access.tenancy === 'optional' && <>; X-Scope-OrgID names another</>}
              </>
            )}
          </p>
          {loopback && (
            <p class="hint">
              This is an address of this machine alone. Others reach Sluice once it listens for them: <code>--http.listen=0.0.0.0:9009</code>; read docs/gateway.md first.
            </p>
          )}
        </div>
      </div>
    </Panel>
  )
}

/** Where to go from here. */
function More({ may }: { may: (right: 'read' | 'admin') => boolean }) {
  const all = [
    ['query', 'Query', 'PromQL with completion, graphs, and why an answer took its time', 'read'],
    ['cardinality', 'Cardinality', 'which metrics and labels the series are, what grows, what nobody queries', 'read'],
    ['pipeline', 'Pipeline', 'lag, partitions, zones, compaction, caches, the last hour', 'admin'],
    ['blocks', 'Blocks', 'what is stored, from when to when, and what is merged next', 'read'],
    ['tenants', 'Tenants', 'limits beside their use, what was refused and why', 'read'],
  ] as const
  return (
    <nav class="more" aria-label="Where to go from here">
      {all
        .filter(([, , , right]) => may(right))
        .map(([view, name, what]) => (
          <a key={view} href={href(view)}>
            <strong>{name}</strong>
            <small>{what}</small>
          </a>
        ))}
    </nav>
  )
}
