// Running the queries of the view: one request for each, which are ended together when others take their place.

import { useCallback, useEffect, useRef, useState } from 'preact/hooks'
import { ApiError, ask, brokenOff } from '../../lib/api'
import { now } from '../../lib/clock'
import { gridOf, seriesLimit } from './range'
import type { Grid } from './range'
import type { Result } from './series'
import type { Explained, Coverage } from './explain'
import type { State } from './state'

export interface Stats {
  samples?: { totalQueryableSamples?: number; peakSamples?: number }
  coverage?: Coverage
}

export interface Answer {
  result: Result | undefined
  /** What was asked of a range query; undefined = an instant query. */
  grid: Grid | undefined
  /** The moment of an instant query, ms. */
  at: number
  /** Most series that were asked for. */
  limit: number
  stats: Stats | undefined
  explain: Explained | undefined
  warnings: string[]
  infos: string[]
  /** ms from question to answer, and the bytes of the answer. */
  took: number
  bytes: number
}

/** One query on its way, or answered. What was answered before stays while the next is on its way. */
export interface Run {
  expr: string
  running: boolean
  error: Error | undefined
  /** The explanation of an error. */
  errorExplain: Explained | undefined
  answer: Answer | undefined
}

export const idle: Run = { expr: '', running: false, error: undefined, errorExplain: undefined, answer: undefined }

/** Most rows of an instant query. */
export const maxRows = 20_000

/** The user has ended a query. */
export class Cancelled extends Error {
  constructor() {
    super('You have cancelled this query.')
  }
}

/** Asks one query. */
async function once(expr: string, state: State, now: number, pixels: number, signal: AbortSignal): Promise<Answer> {
  const end = state.end ?? now
  const grid = state.tab === 'graph' ? gridOf(state.range, end, state.step, pixels) : undefined
  const limit = grid ? seriesLimit(grid.points) : maxRows
  const began = performance.now()
  const answer = await ask(
    grid ? 'api/v1/query_range' : 'api/v1/query',
    {
      query: expr,
      ...(grid ? { start: grid.start / 1000, end: grid.end / 1000, step: grid.step / 1000 } : { time: end / 1000 }),
      limit,
      stats: true,
      timeout: state.timeout,
      explain: state.explain || undefined,
      partial_response: state.partial || undefined,
    },
    { post: true, signal, headers: { ...(state.strong && { 'X-Read-Consistency': 'strong' }), ...(state.fresh && { 'Cache-Control': 'no-store' }) } },
  )
  const text = await answer.text()
  const took = performance.now() - began
  let body: { data?: Result & { stats?: Stats }; warnings?: string[]; infos?: string[]; explain?: Explained }
  try {
    body = JSON.parse(text) as typeof body
  } catch {
    throw brokenOff(answer)
  }
  return { result: body.data, grid, at: end, limit, stats: body.data?.stats, explain: body.explain, warnings: body.warnings ?? [], infos: body.infos ?? [], took, bytes: text.length }
}

/** What makes an answer another one. */
const keyOf = (s: State) => JSON.stringify([s.queries, s.tab, s.range, s.end, s.step, s.explain, s.strong, s.partial, s.fresh, s.timeout])

/**
 * Runs the queries of a state when it changes, when `again` is called, and every `refresh` seconds while it ends now and the tab is
 * looked at. pixels is the width of the chart.
 */
export function useRuns(state: State, pixels: () => number) {
  const [runs, set] = useState<Run[]>([])
  const [round, setRound] = useState(0)
  const abort = useRef<AbortController>(undefined)
  const latest = useRef(state)
  latest.current = state
  const key = keyOf(state)

  const start = useCallback(async () => {
    abort.current?.abort()
    const mine = new AbortController()
    abort.current = mine
    const at = now()
    const asked = latest.current
    const update = (i: number, change: Partial<Run>) => {
      if (!mine.signal.aborted) set((all) => all.map((r, n) => (n === i ? { ...r, ...change } : r)))
    }
    set((before) =>
      asked.queries.map(({ expr, hidden }, i) => {
        const known = before[i]?.expr === expr ? before[i]! : before.find((r) => r.expr === expr)
        const fits = known?.answer && (known.answer.grid !== undefined) === (asked.tab === 'graph')
        const running = !hidden && expr.trim() !== ''
        return { ...idle, expr, running, answer: fits && running ? known.answer : undefined }
      }),
    )
    await Promise.all(
      asked.queries.map(async ({ expr, hidden }, i) => {
        if (hidden || expr.trim() === '') return
        try {
          update(i, { answer: await once(expr, asked, at, pixels(), mine.signal), running: false })
        } catch (err) {
          const explain = err instanceof ApiError ? (err.body?.explain as Explained | undefined) : undefined
          update(i, { error: err as Error, errorExplain: explain, running: false })
        }
      }),
    )
  }, [pixels])

  useEffect(() => {
    void start()
    return () => abort.current?.abort()
  }, [key, round, start])

  useEffect(() => {
    if (state.refresh <= 0 || state.end !== undefined) return
    let over = false
    let timer: ReturnType<typeof setTimeout>
    const later = () => {
      timer = setTimeout(() => {
        if (document.hidden) later()
        else void start().then(() => !over && later())
      }, state.refresh * 1000)
    }
    later()
    return () => {
      over = true
      clearTimeout(timer)
    }
  }, [state.refresh, state.end === undefined, key, start])

  const again = useCallback(() => setRound((n) => n + 1), [])
  const cancel = useCallback(() => {
    abort.current?.abort()
    set((all) => all.map((r) => (r.running ? { ...r, running: false, error: new Cancelled() } : r)))
  }, [])
  return { runs, again, cancel }
}
