// What stands in a row of the partitions' table, and which rows need somebody to look.

import type { Holder, Partition } from '../../lib/pipeline'
import type { Tone } from '../../ui'

/** A partition as one of its holders has it; holder undefined = nobody has it. */
export interface Row {
  id: string
  partition: Partition
  holder: Holder | undefined
  state: State
}

export interface State {
  tone: Tone
  word: string
  /** Why, if there is something to say. */
  why: string
}

/** From how many seconds on a holder counts as behind, for the health of the pipeline too (reader/health.go). */
export const behind = 60

export function stateOf(h: Holder | undefined): State {
  if (!h) return { tone: 'critical', word: 'unheld', why: 'No consumer holds it: what is not in blocks yet cannot be queried.' }
  if (h.state === 'failed') return { tone: 'critical', word: 'failed', why: h.failure ?? '' }
  if (h.state === 'replaying') return { tone: 'warning', word: 'replaying', why: h.failure ?? '' }
  if (h.doubtful) return { tone: 'warning', word: 'silent', why: 'Its consumer has not been heard of lately.' }
  if (h.held_up) return { tone: 'warning', word: 'held up', why: h.held_up }
  if ((h.lag_seconds ?? 0) >= behind) return { tone: 'warning', word: 'behind', why: '' }
  if (h.leaving) return { tone: 'info', word: 'moving', why: 'It goes to another consumer.' }
  return { tone: 'ok', word: 'live', why: '' }
}

export function rowsOf(partitions: readonly Partition[]): Row[] {
  return partitions.flatMap((partition): Row[] =>
    partition.holders.length === 0
      ? [{ id: `${partition.partition}/`, partition, holder: undefined, state: stateOf(undefined) }]
      : partition.holders.map((holder) => ({ id: `${partition.partition}/${holder.id}`, partition, holder, state: stateOf(holder) })),
  )
}

/** Gaps that nobody has accepted fail queries. */
export const openGaps = (p: Partition): number => p.gaps.filter((g) => !g.accepted).length

const rank: Record<Tone, number> = { ok: 0, info: 1, warning: 2, critical: 3 }

/** The state of the best of some holders. */
export const bestOf = (holders: readonly Holder[]): State => holders.map(stateOf).sort((a, b) => rank[a.tone] - rank[b.tone])[0] ?? stateOf(undefined)

/** How bad a partition is: that of its best holder, as queries need one, but a silent or failing one is never unseen. */
export function toneOf(p: Partition): Tone {
  if (openGaps(p) > 0) return 'critical'
  const best = bestOf(p.holders).tone
  if (rank[best] >= rank.warning) return best
  return p.holders.some((h) => rank[stateOf(h).tone] >= rank.warning) ? 'warning' : 'ok'
}

/** Whether the row is one to look at. */
export const remarkable = (r: Row): boolean => rank[r.state.tone] > 0 || openGaps(r.partition) > 0

export const badness = (r: Row): number => rank[r.state.tone]

/** The worst rows first: by state, then by lag, then by partition. */
export function worstFirst(rows: readonly Row[]): Row[] {
  return [...rows].sort(
    (a, b) =>
      rank[b.state.tone] - rank[a.state.tone] ||
      openGaps(b.partition) - openGaps(a.partition) ||
      (b.holder?.lag_seconds ?? 0) - (a.holder?.lag_seconds ?? 0) ||
      a.partition.partition - b.partition.partition ||
      a.id.localeCompare(b.id),
  )
}
