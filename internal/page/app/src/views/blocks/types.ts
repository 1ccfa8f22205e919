// The answers of /api/v1/status/blocks. Times in ms, sizes in bytes.

export interface LogRange {
  topic_id?: string
  partition: number
  from: number
  to: number
}

export interface Quarantine {
  at: number
  reason: string
  by: string
}

export interface Block {
  id: string
  min_time: number
  /** Exclusive. */
  max_time: number
  level: number
  /** ms; 0 = the samples as they came. */
  resolution: number
  series: number
  samples: number
  bytes: number
  log_time: number
  /** When its entry was written. */
  at: number
  partitions?: number[]
  ranges?: LogRange[]
  sources: number
  replaces: number
  quarantined?: Quarantine
}

export interface Job {
  start: number
  end: number
  blocks: string[]
  bytes: number
  series: number
  why: string
  state: 'ready' | 'running' | 'waiting' | 'too_large'
  due?: number
  by?: string
}

export interface Blocks {
  tenant: string
  now: number
  /** Of all blocks, also of those that are not listed. */
  total: number
  bytes: number
  samples: number
  oldest: number
  newest: number
  blocks: Block[]
  jobs: Job[]
  too_large: Job[]
}

export interface File {
  rel_path: string
  size_bytes?: number
  hash?: { hashFunc: string; value: string }
}

export interface Details extends Omit<Block, 'sources' | 'replaces'> {
  tenant: string
  state: string
  reason?: string
  log_from?: number
  files?: File[]
  sources?: string[]
  replaces?: string[]
  replaced_by?: string
  /** In the bucket. */
  folder?: string
  gaps?: (LogRange & { from_time?: number; to_time?: number; reason: string })[]
}
