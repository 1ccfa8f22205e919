// The answer of /-/pipeline: every process of the cluster and what it does. Times in ms, sizes in bytes, rates per second.

export type Severity = 'warning' | 'critical'

export interface Problem {
  severity: Severity
  what: string
  partition?: number
  process?: string
}

export interface Health {
  state: 'ok' | Severity
  summary: string
  problems: Problem[]
}

export interface ProducerState {
  samples_per_second?: number
  requests_per_second?: number
  rejected_per_second?: number
  inflight_bytes: number
  known_series: number
  tenants: number
}

export interface ConsumerState {
  ready: boolean
  notes?: string[]
  head_series: number
  head_bytes: number
  samples_per_second?: number
}

export interface RunningJob {
  tenant: string
  start: number
  end: number
  blocks: number
  bytes: number
  since: number
}

export interface CompactorState {
  jobs_due: number
  running?: RunningJob[]
  done: number
  failed: number
  looked?: number
  settle: number
  ranges: number[]
  max_job_bytes: number
  max_job_series: number
}

export interface ReaderState {
  queries_per_second?: number
  running: number
  queued: number
  cache_bytes: number
  cache_hits: number
  cache_misses: number
  results_cache_bytes: number
  results_cache_hits: number
  results_cache_misses: number
  bucket_requests_per_second?: number
  bucket_bytes_per_second?: number
  bucket_errors_per_second?: number
}

export interface Process {
  id: string
  addr: string
  zone?: string
  version: string
  started: number
  told: number
  silent: boolean
  stages: string[]
  producer?: ProducerState
  consumer?: ConsumerState
  compactor?: CompactorState
  reader?: ReaderState
}

export interface Generation {
  from: number
  began?: number
  bytes: number
  series: number
  samples: number
  /** After which it ends at the latest. */
  length?: number
  /** What ended the one before it. */
  end_reason?: string
}

export interface Holder {
  id: string
  zone?: string
  from: number
  applied: number
  lag_records?: number
  lag_seconds?: number
  doubtful: boolean
  state?: 'live' | 'replaying' | 'failed'
  replayed?: number
  failure?: string
  held_up?: string
  leaving?: boolean
  generation?: Generation
  waiting: number
  sealing: number
  shipping: number
  unshipped_since?: number
  last_shipped?: number
}

export interface Gap {
  from: number
  to: number
  from_time?: number
  to_time?: number
  reason: string
  accepted: boolean
}

export interface Partition {
  partition: number
  start?: number
  end?: number
  committed?: number
  blocks_to?: number
  blocks_time?: number
  holders: Holder[]
  gaps: Gap[]
}

export interface Zone {
  zone: string
  partitions_held: number
  partitions: number
  silent: boolean
}

export interface Compaction {
  jobs: number
  bytes: number
  too_large: number
  quarantined: number
  waiting: number
}

export interface Pipeline {
  now: number
  health: Health
  processes: Process[]
  partitions: Partition[]
  zones: Zone[]
  compaction?: Compaction
}

/** The sum of a figure over those who tell it; undefined if nobody does. */
export function sum<T>(all: readonly T[], figure: (one: T) => number | undefined): number | undefined {
  let total: number | undefined
  for (const one of all) {
    const v = figure(one)
    if (v !== undefined) total = (total ?? 0) + v
  }
  return total
}

/** The share of hits; undefined before the first question. */
export function ratio(hits: number | undefined, misses: number | undefined): number | undefined {
  const all = (hits ?? 0) + (misses ?? 0)
  return all > 0 ? (hits ?? 0) / all : undefined
}

/** How many records of a partition are in no block yet: those behind what is committed, or all if nothing is. */
export function notInBlocks(p: Partition): number | undefined {
  if (p.end === undefined || p.start === undefined) return undefined
  return Math.max(0, p.end - Math.max(p.committed ?? 0, p.start))
}

/** 0.914 → 91.4 % */
export const percent = (v: number | undefined): string => (v === undefined || Number.isNaN(v) ? '–' : `${(v * 100).toFixed(v >= 0.9995 || v === 0 ? 0 : 1)} %`)

/** 1 → "1 process", 2 → "2 processes" */
export const plural = (n: number, one: string, many = `${one}s`): string => `${n.toLocaleString('en-US')} ${n === 1 ? one : many}`
