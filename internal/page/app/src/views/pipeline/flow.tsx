// The way of a sample as a picture: producers, log, consumers, bucket, compactors, readers, with today's figures on it.

import type { ComponentChildren } from 'preact'
import { agoBriefly, bytes, count, rate, seconds } from '../../lib/format'
import { notInBlocks, percent, plural, ratio, sum } from '../../lib/pipeline'
import type { Pipeline, Process } from '../../lib/pipeline'
import { Badge, Meter } from '../../ui'
import type { Tone } from '../../ui'
import { toneOf } from './states'

export function Flow({ pipeline }: { pipeline: Pipeline }) {
  const alive = pipeline.processes.filter((p) => !p.silent)
  const of = (stage: string) => alive.filter((p) => p.stages.includes(stage))
  return (
    <div class="flow" role="group" aria-label="The way of a sample">
      <Producers all={of('producer')} />
      <Arrow label={rate(sum(of('producer'), (p) => p.producer?.samples_per_second))} what="samples" />
      <TheLog pipeline={pipeline} />
      <Arrow label={lag(pipeline)} what="lag" />
      <Consumers all={of('consumer')} pipeline={pipeline} />
      <Arrow label={String(sealing(pipeline))} what="on the way" />
      <Bucket pipeline={pipeline} />
      <Arrow label={speed(sum(of('reader'), (p) => p.reader?.bucket_bytes_per_second))} what="read" />
      <Readers all={of('reader')} />
      <Bypass />
      <Turn />
      <Compactors all={of('compactor')} pipeline={pipeline} />
    </div>
  )
}

const speed = (v: number | undefined) => (v === undefined ? '–' : `${bytes(v)}/s`)

function worstLag(p: Pipeline): number | undefined {
  const known = p.partitions.map((part) => {
    const lags = part.holders.filter((h) => !h.doubtful && h.lag_seconds !== undefined).map((h) => h.lag_seconds!)
    return lags.length > 0 ? Math.min(...lags) : undefined // the one that queries ask
  })
  const all = known.filter((v) => v !== undefined)
  return all.length > 0 ? Math.max(...all) : undefined
}

const lag = (p: Pipeline) => seconds(worstLag(p))

const sealing = (p: Pipeline) => p.partitions.reduce((n, part) => n + part.holders.reduce((m, h) => m + h.waiting + h.sealing + h.shipping, 0), 0)

function Box({ name, n, children, area, tone, says }: { name: string; n?: string; children: ComponentChildren; area: string; tone?: Tone; says?: string }) {
  return (
    <div class={`box at-${area} ${tone ?? ''}`} role="group" aria-label={name}>
      <h3>
        {name} {n !== undefined && <small>{n}</small>}
      </h3>
      {says && tone && <Badge tone={tone}>{says}</Badge>}
      <dl>{children}</dl>
    </div>
  )
}

function Line({ name, value }: { name: string; value: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  )
}

/** An arrow to the right, on a phone down, with what runs along it. */
function Arrow({ label, what }: { label: string; what: string }) {
  return (
    <div class="arrow">
      <strong>{label}</strong>
      <svg viewBox="0 0 60 12" preserveAspectRatio="xMaxYMid slice" aria-hidden="true">
        <path d="M-200 6H56M50 1L57 6L50 11" />
      </svg>
      <small>{what}</small>
    </div>
  )
}

/** From consumers to readers: what no block has yet. */
function Bypass() {
  return (
    <div class="bypass">
      <small>readers ask consumers for what is not in blocks yet</small>
    </div>
  )
}

/** Between bucket and compactors, both ways. */
function Turn() {
  return (
    <div class="turn" aria-hidden="true">
      <svg viewBox="0 0 30 26" width="30" height="26">
        <path d="M10 0V22M6 18L10 23L14 18" />
        <path d="M20 26V4M16 8L20 3L24 8" />
      </svg>
    </div>
  )
}

function Producers({ all }: { all: Process[] }) {
  const rejected = sum(all, (p) => p.producer?.rejected_per_second)
  return (
    <Box name="Producers" n={String(all.length)} area="producers" {...(all.length === 0 && { tone: 'critical' as const, says: 'none' })}>
      <Line name="requests" value={rate(sum(all, (p) => p.producer?.requests_per_second))} />
      <Line name="refused" value={rate(rejected)} />
      <Line name="in flight" value={bytes(sum(all, (p) => p.producer?.inflight_bytes))} />
    </Box>
  )
}

function TheLog({ pipeline }: { pipeline: Pipeline }) {
  const bad = pipeline.partitions.filter((p) => toneOf(p) !== 'ok').length
  const uncommitted = sum(pipeline.partitions, notInBlocks)
  return (
    <Box name="Log" n={plural(pipeline.partitions.length, 'partition')} area="log" {...(bad > 0 && { tone: 'warning' as const, says: `${bad} to look at` })}>
      <Line name="records" value={count(sum(pipeline.partitions, (p) => (p.end !== undefined && p.start !== undefined ? p.end - p.start : undefined)))} />
      <Line name="not in blocks" value={count(uncommitted)} />
    </Box>
  )
}

function Consumers({ all, pipeline }: { all: Process[]; pipeline: Pipeline }) {
  const notReady = all.filter((p) => p.consumer && !p.consumer.ready).length
  return (
    <Box name="Consumers" n={String(all.length)} area="consumers" {...(all.length === 0 ? { tone: 'critical' as const, says: 'none' } : notReady > 0 && { tone: 'warning' as const, says: `${notReady} not ready` })}>
      <Line name="series in heads" value={count(sum(all, (p) => p.consumer?.head_series))} />
      <Line name="records in heads" value={bytes(sum(all, (p) => p.consumer?.head_bytes))} />
      {pipeline.zones.map((z) => (
        <div key={z.zone} class="zone">
          <dt>{z.zone ? `zone ${z.zone}` : 'held'}</dt>
          <dd>
            {z.silent ? <Badge tone="critical">silent</Badge> : `${z.partitions_held} of ${z.partitions}`}
            <Meter value={z.partitions_held} max={z.partitions} label={`${z.partitions_held} of ${z.partitions} partitions are held${z.zone ? ` in zone ${z.zone}` : ''}`} plain />
          </dd>
        </div>
      ))}
    </Box>
  )
}

function Bucket({ pipeline }: { pipeline: Pipeline }) {
  const to = pipeline.partitions.map((p) => p.blocks_time).filter((t) => t !== undefined && t > 0)
  const shipped = pipeline.partitions.flatMap((p) => p.holders.map((h) => h.last_shipped ?? 0))
  const last = Math.max(0, ...shipped)
  return (
    <Box name="Bucket" area="bucket">
      <Line name="blocks until" value={to.length === pipeline.partitions.length && to.length > 0 ? agoBriefly(Math.min(...(to as number[])), pipeline.now) : 'not all yet'} />
      <Line name="last shipped" value={agoBriefly(last, pipeline.now)} />
    </Box>
  )
}

function Compactors({ all, pipeline }: { all: Process[]; pipeline: Pipeline }) {
  const c = pipeline.compaction
  return (
    <Box name="Compactors" n={String(all.length)} area="compactors" {...(all.length === 0 ? { tone: 'warning' as const, says: 'none' } : (c?.quarantined ?? 0) > 0 && { tone: 'warning' as const, says: `${c!.quarantined} set aside` })}>
      <Line name="due" value={c ? `${plural(c.jobs, 'merge')}${c.bytes > 0 ? `, ${bytes(c.bytes)}` : ''}` : '–'} />
      <Line name="running" value={sum(all, (p) => (p.compactor ? (p.compactor.running?.length ?? 0) : undefined)) ?? '–'} />
    </Box>
  )
}

function Readers({ all }: { all: Process[] }) {
  const queued = sum(all, (p) => p.reader?.queued) ?? 0
  return (
    <Box name="Readers" n={String(all.length)} area="readers" {...(queued > 0 && { tone: 'warning' as const, says: `${plural(queued, 'query', 'queries')} waiting` })}>
      <Line name="queries" value={rate(sum(all, (p) => p.reader?.queries_per_second))} />
      <Line name="running" value={sum(all, (p) => p.reader?.running) ?? '–'} />
      <Line name="page cache hits" value={percent(ratio(sum(all, (p) => p.reader?.cache_hits), sum(all, (p) => p.reader?.cache_misses)))} />
      <Line name="results cache hits" value={percent(ratio(sum(all, (p) => p.reader?.results_cache_hits), sum(all, (p) => p.reader?.results_cache_misses)))} />
    </Box>
  )
}
