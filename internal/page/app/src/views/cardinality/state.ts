// What the cardinality view looks at, as the URL has it.

import { href } from '../../lib/route'
import { labelName, selector } from './rules'
import type { Subject } from './rules'

export type By = 'metrics' | 'labels' | 'pairs' | 'unqueried' | 'tenants'
export type Range = 'now' | '24h' | '7d' | '30d'
export type Sort = 'max' | 'growth' | 'name'
export type Counting = 'active' | 'inmemory'

/** A part of the tenant's series: those with all that is named. */
export interface Part {
  metric?: string
  label?: string
  value?: string
}

export interface State extends Part {
  by: By
  range: Range
  sort: Sort
  counting: Counting
  search: string
  limit: number
  /** Whether a sample of the series is shown. */
  series: boolean
}

const oneOf = <T extends string>(text: string | null, all: readonly T[]): T => all.find((x) => x === text) ?? all[0]!

export const rangeMs: Record<Range, number> = { now: 0, '24h': 86_400_000, '7d': 7 * 86_400_000, '30d': 30 * 86_400_000 }
export const limits = [50, 200, 500]

export function stateOf(params: URLSearchParams): State {
  const text = (name: string) => params.get(name) || undefined
  const state: State = {
    by: oneOf(params.get('by'), ['metrics', 'labels', 'pairs', 'unqueried', 'tenants']),
    range: oneOf(params.get('range'), ['24h', 'now', '7d', '30d']),
    sort: oneOf(params.get('sort'), ['max', 'growth', 'name']),
    counting: oneOf(params.get('count'), ['active', 'inmemory']),
    search: params.get('search') ?? '',
    limit: limits.find((n) => String(n) === params.get('n')) ?? limits[0]!,
    series: params.get('series') === '1',
  }
  const metric = text('metric'), label = text('label'), value = label ? text('value') : undefined
  if (metric !== undefined) state.metric = metric
  if (label !== undefined) state.label = label
  if (value !== undefined) state.value = value
  return state
}

/** The address of a part, in the way (metrics first, labels first) that leads there. What was searched for is left behind. */
export function partHref(by: By, part: Part, now: State): string {
  const params: Record<string, string | undefined> = { by: by === 'metrics' ? undefined : by, range: now.range === '24h' ? undefined : now.range, count: now.counting === 'active' ? undefined : now.counting }
  return href('cardinality', { ...params, metric: part.metric, label: part.label, value: part.value })
}

/** The steps that led to the part: a name, and where it was. */
export function trail(s: State): { name: string; kind: string; part: Part }[] {
  const out: { name: string; kind: string; part: Part }[] = []
  let part: Part = {}
  const order = s.by === 'labels' ? (['label', 'value', 'metric'] as const) : (['metric', 'label', 'value'] as const)
  for (const kind of order) {
    const name = s[kind]
    if (name === undefined) break
    part = { ...part, [kind]: name }
    out.push({ name, kind, part })
  }
  return out
}

/** The selector of a part; undefined = everything. A label without a value: all series that have it. */
export function selectorOf(p: Part): string | undefined {
  if (p.metric === undefined && p.label === undefined) return undefined
  const labels: Record<string, string> = {}
  if (p.metric !== undefined) labels.__name__ = p.metric
  if (p.label !== undefined && p.value !== undefined) labels[p.label] = p.value
  const exact = selector(labels)
  if (p.label === undefined || p.value !== undefined) return exact
  return exact === '{}' ? `{${labelName(p.label)}!=""}` : exact.replace(/\}$/, `, ${labelName(p.label)}!=""}`)
}

/** A query that tells more of the part, and answers with few series whatever the part is. */
export function expressionOf(p: Part): string {
  const all = selectorOf(p) ?? '{__name__!=""}'
  if (p.label !== undefined && p.value === undefined) return `topk(20, count by (${labelName(p.label)}) (${all}))`
  if (p.metric === undefined) return `topk(20, count by (__name__) (${all}))`
  return `count(${all})`
}

/** What rules about the part are about. */
export function subjectOf(p: Part): Subject | undefined {
  if (p.label !== undefined) {
    const metric = p.metric === undefined ? {} : { metric: p.metric }
    if (p.value === undefined) return { kind: 'label', label: p.label, ...metric }
    return { kind: 'value', label: p.label, value: p.value, ...metric }
  }
  return p.metric === undefined ? undefined : { kind: 'metrics', names: [p.metric] }
}

/** A part in words. */
export function sentence(p: Part): string {
  const of = p.metric === undefined ? '' : ` of ${p.metric}`
  if (p.label === undefined) return p.metric ?? 'all series'
  return p.value === undefined ? `label ${p.label}${of}` : `${p.label}="${p.value}"${of}`
}
