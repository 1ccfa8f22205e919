// The member "explain" of an answer (docs/query.md, "Where the time went"), laid out for people.

import { bytes, count, exact, time } from '../../lib/format'

export interface PartitionCoverage {
  partition: number
  to: number
  blocks_to: number
  member?: string
  zone?: string
}

export interface Coverage {
  consistency: string
  whole: boolean
  blocks: number
  partitions: PartitionCoverage[] | null
  cached_parts?: number
  missing?: string[]
  lost?: string[]
}

export interface Span {
  name: string
  start: number
  seconds: number
  busy?: number
  counts?: Record<string, number>
  error?: string
  running?: boolean
  values?: Record<string, unknown>
  children?: Span[]
  dropped?: number
}

export interface Explained extends Span {
  total?: Record<string, number>
  coverage?: Coverage
}

export type Kind = 'query' | 'parse' | 'work' | 'plan' | 'cache' | 'consumer' | 'block' | 'reader' | 'encode' | 'other'

export const kinds: Record<Kind, string> = {
  query: 'Whole query',
  parse: 'Queue and parsing',
  plan: 'Planning',
  cache: 'Results cache and shards',
  work: 'Evaluation',
  consumer: 'Consumers',
  block: 'Blocks',
  reader: 'Other readers',
  encode: 'Encoding and sending',
  other: 'Other',
}

const kindOf: Record<string, Kind> = {
  query: 'query', queue: 'parse', parse: 'parse', plan: 'plan', cover: 'cache', part: 'cache', evaluate: 'work', subtree: 'work', select: 'work', labels: 'work',
  member: 'consumer', block: 'block', reader: 'reader', encode: 'encode', send: 'encode',
}

const text = (v: unknown): string => (v === undefined || v === null ? '' : typeof v === 'object' ? JSON.stringify(v) : String(v))

/** A span's name for people. */
export function spanName(span: Span): string {
  const v = span.values ?? {}
  switch (span.name) {
    case 'queue': return 'Wait for a turn'
    case 'parse': return 'Parse the query'
    case 'evaluate': return 'Evaluate'
    case 'encode': return 'Write the answer'
    case 'send': return 'Send the rest'
    case 'cover': return 'Look at the results cache'
    case 'part': return `Part ${short(v.start)} to ${short(v.end)}`
    case 'subtree': return `Evaluate over ${text(v.selector)}`
    case 'plan': return 'Plan: which blocks and partitions'
    case 'select': return `Select {${text(v.matchers)}}`
    case 'labels': return 'Labels'
    case 'member': return `Consumer ${text(v.member)}${v.zone ? ` (zone ${text(v.zone)})` : ''}`
    case 'block': return `Block ${text(v.block)}`
    case 'reader': return `Reader ${text(v.reader)}`
    case 'there': return 'In the other process'
  }
  return span.name
}

const short = (v: unknown) => (typeof v === 'number' ? time(v) : text(v))

/** The counts of a span in words. */
export function countsText(counts: Record<string, number> | undefined): string {
  if (!counts) return ''
  const words: Record<string, (n: number) => string> = {
    series: (n) => `${count(n)} series`,
    chunks: (n) => `${count(n)} chunks`,
    chunk_bytes: (n) => bytes(n),
    samples: (n) => `${count(n)} samples`,
    memory_bytes: (n) => `${bytes(n)} memory`,
    bucket_requests: (n) => `${exact(n)} bucket GETs`,
    bucket_bytes: (n) => `${bytes(n)} from the bucket`,
    page_hits: (n) => `${count(n)} pages in memory`,
    page_misses: (n) => `${count(n)} pages not in memory`,
    disk_hits: (n) => `${count(n)} pages on disk`,
    cache_hits: (n) => `${count(n)} cached`,
    cache_misses: (n) => `${count(n)} not cached`,
  }
  return Object.entries(counts).map(([name, n]) => words[name]?.(n) ?? `${name} ${count(n)}`).join(', ')
}

/** A line of the waterfall. */
export interface Bar {
  id: string
  depth: number
  name: string
  kind: Kind
  span: Span
  /** Shares of the whole query's time, 0 to 1. */
  left: number
  width: number
  /** How many lines below this one are not shown. */
  more: number
}

/** How many children of a span are shown before "more". */
export const shownChildren = 30

/** Lays the tree out in lines; `open` are those whose children are all shown. Of many children the longest are shown, in their order. */
export function barsOf(root: Span, open: ReadonlySet<string>): Bar[] {
  const out: Bar[] = []
  const whole = Math.max(root.seconds, ...(root.children ?? []).map((c) => c.start + c.seconds), 1e-9)
  const walk = (span: Span, depth: number, id: string) => {
    const children = span.children ?? []
    let shown = children
    if (children.length > shownChildren && !open.has(id)) {
      const longest = new Set([...children].sort((a, b) => b.seconds - a.seconds).slice(0, shownChildren))
      shown = children.filter((c) => longest.has(c))
    }
    const left = Math.min(1, Math.max(0, span.start / whole))
    out.push({ id, depth, name: spanName(span), kind: depth === 0 ? 'query' : (kindOf[span.name] ?? 'other'), span, left, width: Math.min(1 - left, span.seconds / whole), more: children.length - shown.length })
    for (const child of shown) walk(child, depth + 1, `${id}/${children.indexOf(child)}`)
  }
  walk(root, 0, '0')
  return out
}

export interface Group {
  kind: Kind
  parts: number
  /** Sum of the parts, which may have run side by side. */
  seconds: number
  longest: number
  counts: Record<string, number>
  failed: number
}

/** What each kind of part took together. A part inside of another one of its kind is not counted twice in time. */
export function groupsOf(root: Span): Group[] {
  const groups = new Map<Kind, Group>()
  const walk = (span: Span, above: ReadonlySet<Kind>) => {
    const kind = kindOf[span.name] ?? 'other'
    let inside = above
    if (kind !== 'query') {
      const g = groups.get(kind) ?? { kind, parts: 0, seconds: 0, longest: 0, counts: {}, failed: 0 }
      groups.set(kind, g)
      g.parts++
      if (!above.has(kind)) g.seconds += span.seconds
      g.longest = Math.max(g.longest, span.seconds)
      if (span.error) g.failed++
      for (const [name, n] of Object.entries(span.counts ?? {})) g.counts[name] = (g.counts[name] ?? 0) + n
      inside = new Set(above).add(kind)
    }
    span.children?.forEach((c) => walk(c, inside))
  }
  walk(root, new Set())
  return [...groups.values()].sort((a, b) => b.seconds - a.seconds)
}

/** Hits of all, 0 to 1; undefined if nothing was looked for. */
export function hitRatio(total: Record<string, number> | undefined, hits: string, misses: string): number | undefined {
  const h = total?.[hits] ?? 0, m = total?.[misses] ?? 0
  return h + m > 0 ? h / (h + m) : undefined
}

/** What an answer is made of, in a sentence or two. */
export function coverageText(c: Coverage): string {
  const partitions = c.partitions ?? []
  const asked = new Set(partitions.flatMap((p) => (p.member ? [p.zone ? `${p.member} (zone ${p.zone})` : p.member] : [])))
  const from = [
    c.blocks > 0 ? `${exact(c.blocks)} ${c.blocks === 1 ? 'block' : 'blocks'}` : '',
    asked.size > 0 ? `the memory of ${[...asked].slice(0, 4).join(', ')}${asked.size > 4 ? ` and ${asked.size - 4} more` : ''}` : '',
    c.cached_parts ? `${exact(c.cached_parts)} cached ${c.cached_parts === 1 ? 'part' : 'parts'}` : '',
  ].filter(Boolean)
  const whole = c.missing?.length ? `Partial: ${exact(c.missing.length)} ${c.missing.length === 1 ? 'part is' : 'parts are'} missing.` : c.whole ? 'Whole.' : 'A gap of the log touches this time.'
  const read = c.consistency === 'strong' ? 'Strong read: it has everything that was acknowledged before the question.' : ''
  return [whole, from.length > 0 ? `Out of ${from.join(', ')}${partitions.length > 0 ? `, for ${exact(partitions.length)} ${partitions.length === 1 ? 'partition' : 'partitions'}` : ''}.` : '', read].filter(Boolean).join(' ')
}
