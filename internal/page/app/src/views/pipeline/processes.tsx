// The processes of the cluster by stage, each with what its stage does.

import { ago, bytes, count, rate, seconds } from '../../lib/format'
import { percent, ratio } from '../../lib/pipeline'
import type { Pipeline, Process } from '../../lib/pipeline'
import { href } from '../../lib/route'
import { Badge, Meter, Panel, Table } from '../../ui'
import type { Column } from '../../ui'

/** The versions that run, most frequent first. */
export function versionsOf(all: readonly Process[]): [string, number][] {
  const n = new Map<string, number>()
  for (const p of all) n.set(p.version, (n.get(p.version) ?? 0) + 1)
  return [...n].sort((a, b) => b[1] - a[1])
}

export function Processes({ pipeline }: { pipeline: Pipeline }) {
  const versions = versionsOf(pipeline.processes)
  const usual = versions[0]?.[0] ?? ''
  const zones = pipeline.processes.some((p) => p.zone)
  const common: Column<Process>[] = [
    {
      name: 'id',
      title: 'Process',
      by: (p) => p.id,
      cell: (p) => (
        <>
          <code title={p.addr}>{p.id}</code> {p.silent ? <Badge tone="critical">silent</Badge> : !p.addr.startsWith(p.id) && <small class="addr">{p.addr}</small>}
        </>
      ),
    },
    ...(zones ? [{ name: 'zone', title: 'Zone', by: (p: Process) => p.zone ?? '', cell: (p: Process) => p.zone || '–' }] : []),
    { name: 'version', title: 'Version', by: (p) => p.version, cell: (p) => (p.version === usual ? p.version : <Badge tone="warning" title={`most have ${usual}`}>{p.version}</Badge>) },
    { name: 'up', title: 'Up for', number: true, by: (p) => -p.started, cell: (p) => seconds(Math.max(0, Math.round((pipeline.now - p.started) / 1000))) },
    { name: 'told', title: 'Last sign', number: true, by: (p) => p.told, cell: (p) => ago(p.told, pipeline.now) },
  ]
  return (
    <Panel title="Processes" id="processes" actions={versions.length > 1 && <Badge tone="warning">{versions.map(([v, n]) => `${n} × ${v}`).join(', ')}</Badge>}>
      {stages.map((stage) => {
        const rows = pipeline.processes.filter((p) => p.stages.includes(stage.name))
        return (
          <section class="stage" key={stage.name}>
            <h3>{stage.title}</h3>
            <Table label={stage.title} columns={[...common, ...stage.columns(pipeline)]} rows={rows} id={(p) => p.id} sort="id" descending={false} empty={`No process with the stage ${stage.name} has said anything.`} />
          </section>
        )
      })}
      <Running pipeline={pipeline} />
    </Panel>
  )
}

interface Stage {
  name: string
  title: string
  columns: (pipeline: Pipeline) => Column<Process>[]
}

const number = (name: string, title: string, value: (p: Process) => number | undefined, format: (v: number | undefined) => string, hint?: string): Column<Process> => ({
  name,
  title,
  number: true,
  by: (p) => value(p) ?? -1,
  cell: (p) => format(value(p)),
  ...(hint !== undefined && { hint }),
})

const speed = (v: number | undefined) => (v === undefined ? '–' : `${bytes(v)}/s`)

const stages: readonly Stage[] = [
  {
    name: 'producer',
    title: 'Producers',
    columns: () => [
      number('samples', 'Samples', (p) => p.producer?.samples_per_second, rate),
      number('requests', 'Requests', (p) => p.producer?.requests_per_second, rate),
      number('rejected', 'Refused', (p) => p.producer?.rejected_per_second, rate),
      number('inflight', 'In flight', (p) => p.producer?.inflight_bytes, bytes, 'Memory that requests under way have reserved'),
      number('known', 'Known series', (p) => p.producer?.known_series, count, 'Series whose labels are remembered'),
      number('tenants', 'Tenants', (p) => p.producer?.tenants, count, 'Seen lately'),
    ],
  },
  {
    name: 'consumer',
    title: 'Consumers',
    columns: (pipeline) => [
      {
        name: 'ready',
        title: 'State',
        by: (p) => (p.consumer?.ready ? 0 : 1),
        cell: (p) => <ConsumerState process={p} pipeline={pipeline} />,
      },
      number('partitions', 'Partitions', (p) => held(p, pipeline).length, count),
      number('series', 'Series in heads', (p) => p.consumer?.head_series, count),
      number('bytes', 'Records in heads', (p) => p.consumer?.head_bytes, bytes),
      number('applied', 'Applied', (p) => p.consumer?.samples_per_second, rate, 'Samples per second'),
    ],
  },
  {
    name: 'compactor',
    title: 'Compactors',
    columns: (pipeline) => [
      number('running', 'Running', (p) => p.compactor?.running?.length ?? 0, count),
      number('due', 'Due', (p) => p.compactor?.jobs_due, count, 'Merges due, by whichever compactor, at its last look'),
      number('done', 'Done', (p) => p.compactor?.done, count, 'Since it started'),
      number('failed', 'Failed', (p) => p.compactor?.failed, count, 'Since it started; they are tried again'),
      { name: 'looked', title: 'Last look', number: true, by: (p) => p.compactor?.looked ?? 0, cell: (p) => ago(p.compactor?.looked, pipeline.now) },
    ],
  },
  {
    name: 'reader',
    title: 'Readers',
    columns: () => [
      number('queries', 'Queries', (p) => p.reader?.queries_per_second, rate),
      number('active', 'Running', (p) => p.reader?.running, count),
      number('queued', 'Waiting', (p) => p.reader?.queued, count),
      cache('page', 'Page cache', (p) => p.reader && [p.reader.cache_bytes, p.reader.cache_hits, p.reader.cache_misses]),
      cache('results', 'Results cache', (p) => p.reader && [p.reader.results_cache_bytes, p.reader.results_cache_hits, p.reader.results_cache_misses]),
      number('gets', 'Bucket', (p) => p.reader?.bucket_requests_per_second, rate, 'Requests per second'),
      number('read', 'Read', (p) => p.reader?.bucket_bytes_per_second, speed, 'Bytes per second from the bucket'),
      number('errors', 'Errors', (p) => p.reader?.bucket_errors_per_second, rate, 'Of the bucket, per second'),
    ],
  },
]

function cache(name: string, title: string, of: (p: Process) => [number, number, number] | undefined): Column<Process> {
  const hits = (p: Process) => {
    const c = of(p)
    return c && ratio(c[1], c[2])
  }
  return {
    name,
    title,
    number: true,
    by: (p) => hits(p) ?? -1,
    cell: (p) => (of(p) ? `${bytes(of(p)![0])} · ${percent(hits(p))}` : '–'),
    hint: 'Size, and share of hits since the process started',
  }
}

const held = (p: Process, pipeline: Pipeline) => pipeline.partitions.flatMap((part) => part.holders.filter((h) => h.id === p.id))

function ConsumerState({ process, pipeline }: { process: Process; pipeline: Pipeline }) {
  const replaying = held(process, pipeline).filter((h) => h.state === 'replaying')
  const done = replaying.length > 0 ? replaying.reduce((n, h) => n + (h.replayed ?? 0), 0) / replaying.length : 1
  const notes = process.consumer?.notes ?? []
  if (process.silent) return <small>unknown</small>
  return (
    <>
      <Badge tone={process.consumer?.ready ? 'ok' : 'warning'}>{process.consumer?.ready ? 'ready' : replaying.length > 0 ? 'replaying' : 'not ready'}</Badge>
      {replaying.length > 0 && (
        <span class="progress">
          <Meter plain value={done} max={1} label={`${Math.floor(done * 100)} % of the log replayed`} />
          <small>
            {Math.floor(done * 100)} % of {replaying.length}
          </small>
        </span>
      )}
      {notes.map((n) => (
        <small class="note" key={n}>
          {n}
        </small>
      ))}
    </>
  )
}

/** The merges under way. */
function Running({ pipeline }: { pipeline: Pipeline }) {
  const jobs = pipeline.processes.flatMap((p) => (p.compactor?.running ?? []).map((job) => ({ by: p.id, ...job })))
  if (jobs.length === 0) return null
  return (
    <section class="stage">
      <h3>Merges under way</h3>
      <Table
        label="Merges under way"
        rows={jobs}
        id={(j) => `${j.by}/${j.tenant}/${j.start}/${j.since}`}
        columns={[
          { name: 'tenant', title: 'Tenant', by: (j) => j.tenant, cell: (j) => <a href={href('blocks', { tenant: j.tenant, from: String(j.start), to: String(j.end) })}>{j.tenant}</a> },
          { name: 'window', title: 'Window', number: true, by: (j) => j.end - j.start, cell: (j) => seconds((j.end - j.start) / 1000) },
          { name: 'age', title: 'Ends', number: true, by: (j) => j.end, cell: (j) => ago(j.end, pipeline.now) },
          { name: 'blocks', title: 'Blocks', number: true, by: (j) => j.blocks, cell: (j) => j.blocks },
          { name: 'bytes', title: 'Size', number: true, by: (j) => j.bytes, cell: (j) => bytes(j.bytes) },
          { name: 'since', title: 'For', number: true, by: (j) => -j.since, cell: (j) => seconds(Math.max(0, Math.round((pipeline.now - j.since) / 1000))) },
          { name: 'by', title: 'Compactor', by: (j) => j.by, cell: (j) => <code>{j.by}</code> },
        ]}
      />
    </section>
  )
}
