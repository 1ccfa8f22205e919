// The last hour of the pipeline, as small graphs out of Sluice's own metrics.

import { now } from '../../lib/clock'
import { bytes, count, rate, seconds } from '../../lib/format'
import { useLoad } from '../../lib/hooks'
import { lastHour, mayLookBack, queryLink } from '../../lib/own'
import type { Past } from '../../lib/own'
import { percent } from '../../lib/pipeline'
import type { Access } from '../../lib/session'
import { Empty, Failure, Panel, Sparkline, Waiting } from '../../ui'

interface Graph {
  name: string
  query: string
  format: (v: number) => string
}

const own = '{job="sluice"}'
const quantile = (q: number, metric: string) => `histogram_quantile(${q}, sum by (le) (rate(${metric}_bucket${own}[5m])))`

const graphs: readonly Graph[] = [
  { name: 'Samples in', query: `sum(rate(sluice_producer_samples_total${own}[2m]))`, format: rate },
  { name: 'Write requests by status', query: `sum by (code) (rate(sluice_producer_requests_total${own}[2m]))`, format: rate },
  { name: 'Append to ack, p99', query: quantile(0.99, 'sluice_log_append_seconds'), format: seconds },
  { name: 'Lag, worst partition', query: `max(sluice_consumer_lag_seconds${own})`, format: seconds },
  { name: 'Series in heads, all zones', query: `sum(sluice_consumer_head_series${own})`, format: count },
  { name: 'Shipped to the bucket', query: `sum(rate(sluice_consumer_shipped_bytes_total${own}[5m]))`, format: (v) => `${bytes(v)}/s` },
  { name: 'Merges due', query: `max(sluice_compactor_backlog_jobs${own})`, format: count },
  { name: 'Queries', query: `sum(rate(sluice_reader_queries_total${own}[2m]))`, format: rate },
  { name: 'Queries, p99', query: quantile(0.99, 'sluice_reader_query_duration_seconds'), format: seconds },
  {
    name: 'Page cache hits',
    query: `sum(rate(sluice_store_cache_hits_total${own}[5m])) / (sum(rate(sluice_store_cache_hits_total${own}[5m])) + sum(rate(sluice_store_cache_misses_total${own}[5m])))`,
    format: percent,
  },
  { name: 'Memory, all processes', query: `sum(process_resident_memory_bytes${own})`, format: bytes },
  { name: 'CPU, all processes', query: `sum(rate(process_cpu_seconds_total${own}[2m]))`, format: (v) => `${count(v)} cores` },
]

async function load(access: Access, signal: AbortSignal): Promise<(Past | Error)[]> {
  const at = now()
  const all = await Promise.allSettled(graphs.map((g) => lastHour(g.query, access, signal, at)))
  const errors = all.filter((r) => r.status === 'rejected')
  if (errors.length === all.length) throw errors[0]!.reason
  return all.map((r) => (r.status === 'fulfilled' ? r.value : (r.reason as Error)))
}

export function LastHour({ access }: { access: Access }) {
  const may = mayLookBack(access)
  const past = useLoad(async (signal) => (may ? load(access, signal) : undefined), [may], may ? 30_000 : 0)
  const tenant = access.self_monitoring_tenant
  const empty = past.data?.every((p) => !(p instanceof Error) && p.points.every(([, v]) => Number.isNaN(v)))
  return (
    <Panel title="The last hour" actions={tenant && <small>Sluice’s own metrics, tenant {tenant}</small>}>
      {past.error && <Failure error={past.error} retry={past.reload} />}
      {!may || empty ? (
        <Empty>{tenant ? <NoOwn tenant={tenant} may={may} /> : <HowToKeep />}</Empty>
      ) : !past.data ? (
        !past.error && <Waiting />
      ) : (
        <div class="graphs">
          {graphs.map((g, i) => (
            <OneGraph key={g.name} graph={g} past={past.data![i]!} tenant={tenant} />
          ))}
        </div>
      )}
    </Panel>
  )
}

function OneGraph({ graph, past, tenant }: { graph: Graph; past: Past | Error; tenant: string }) {
  return (
    <section class="graph" aria-label={graph.name}>
      <h3>
        <a href={queryLink(graph.query, tenant)} title="Open in Query">
          {graph.name}
        </a>
      </h3>
      {past instanceof Error ? (
        <p class="nothing" title={past.message}>
          cannot be had now
        </p>
      ) : past.points.every(([, v]) => Number.isNaN(v)) ? (
        <p class="nothing">none in this hour</p>
      ) : (
        <>
          <Sparkline label={graph.name} points={past.points} from={past.from} to={past.to} format={graph.format} />
          {past.last.length > 0 && past.last[0]![0] !== '' && <small class="split">{past.last.map(([of, v]) => `${of}: ${graph.format(v)}`).join(' · ')}</small>}
        </>
      )}
    </section>
  )
}

function NoOwn({ tenant, may }: { tenant: string; may: boolean }) {
  return may ? (
    <p>
      Tenant {tenant} has none of Sluice’s metrics of the last hour. If Sluice has just started, the first come within 15 s. Else start every process with{' '}
      <code>--self-monitoring.tenant={tenant}</code>, or let a Prometheus scrape <code>/metrics</code> of each as the job <code>sluice</code> and write here.
    </p>
  ) : (
    <p>
      Sluice’s own metrics are kept by the tenant {tenant}, which you may not read. A user with this tenant sees the graphs.
    </p>
  )
}

function HowToKeep() {
  return (
    <p>
      Nothing keeps Sluice’s own metrics. Start every process with <code>--self-monitoring.tenant=NAME</code>, and each writes its own there; this reader needs the flag too, to know where
      they are.
    </p>
  )
}
