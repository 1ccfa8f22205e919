import '../styles/query.css'
import { useCallback, useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { get, uncounted } from '../lib/api'
import { now } from '../lib/clock'
import { useStored } from '../lib/hooks'
import { go, usePlace } from '../lib/route'
import { parseDuration } from '../lib/time'
import { Choice, Copy, Empty, Failure, Notice, Panel } from '../ui'
import { ExplorerDrawer, HistoryDrawer, RunningDrawer } from './query/drawers'
import { QueryEditor } from './query/editor'
import type { Handle } from './query/editor'
import { parseHistory, remember } from './query/history'
import { positionOf, withMatcher } from './query/promql'
import { autoStep } from './query/range'
import { GraphPanel, RunDetails, TablePanel, letter } from './query/result'
import { idle, useRuns } from './query/run'
import type { Run } from './query/run'
import { paramsOf, stateOf } from './query/state'
import type { Asked, State } from './query/state'
import { TimeBar } from './query/timebar'
import { unitOf } from './query/units'
import { ExplainPanel } from './query/waterfall'

/** PromQL: graph, table, where the time went. The URL has what was run; what is typed and not yet run is here. */
export function Query() {
  const { params } = usePlace()
  const search = params.toString()
  const state = useMemo(() => stateOf(params), [search])
  const [drafts, setDrafts] = useState(() => state.queries.map((q) => q.expr))
  const [drawer, setDrawer] = useState<'history' | 'metrics' | 'running' | undefined>()
  const [stored, store] = useStored('history', '[]')
  const [formatError, setFormatError] = useState<Error | undefined>()
  const results = useRef<HTMLDivElement>(null)
  const editors = useRef(new Map<number, Handle>())
  const focused = useRef(0)
  const pixels = useCallback(() => results.current?.clientWidth || 1200, [])
  const { runs, again, cancel } = useRuns(state, pixels)

  // Back, forward and links bring other queries: they take the place of what was typed.
  const asked = JSON.stringify(state.queries.map((q) => q.expr))
  // Not so what this view has put there itself, by hiding or removing one: what is typed in the others stays.
  const own = useRef('')
  useEffect(() => {
    if (own.current !== asked) setDrafts(JSON.parse(asked) as string[])
    own.current = ''
  }, [asked])

  const change = useCallback(
    (next: Partial<State>) => {
      const before = paramsOf(state, params).toString()
      const after = paramsOf({ ...state, ...next }, params).toString()
      if (after === before) again()
      else go(`${location.pathname}?${after}`)
    },
    [state, search, again],
  )
  const past = useMemo(() => parseHistory(stored), [stored])
  const keep = (list: readonly string[]) => store(JSON.stringify(list.reduce((all, expr) => remember(all, expr, now()), past)))
  const run = (list: readonly string[] = drafts) => {
    keep(list.filter((e, i) => e.trim() !== '' && !state.queries[i]?.hidden))
    setDrafts([...list])
    change({ queries: list.map((expr, i) => ({ expr: expr.trim(), hidden: state.queries[i]?.hidden ?? false })) })
  }
  const draft = (i: number, expr: string) => {
    setFormatError(undefined)
    setDrafts((all) => all.map((d, n) => (n === i ? expr : d)))
  }
  const runAt = (i: number, expr: string) => run(drafts.map((d, n) => (n === i ? expr : d)))
  const remove = (i: number) => {
    const left = drafts.filter((_, n) => n !== i)
    setDrafts(left)
    changeQueries(left.map((_, n) => queryAt(n < i ? n : n + 1)))
  }
  const queryAt = (n: number) => state.queries[n] ?? { expr: '', hidden: false }
  const changeQueries = (queries: Asked[]) => {
    // Of one query there is no button that would show it again.
    const next = queries.map((q) => ({ ...q, hidden: q.hidden && queries.length > 1 }))
    const exprs = JSON.stringify(next.map((q) => q.expr))
    if (exprs !== asked) own.current = exprs
    change({ queries: next })
  }
  const window = () => {
    const end = state.end ?? now()
    return { start: end - Math.max(state.range, 3_600_000), end }
  }
  const format = async (i: number) => {
    setFormatError(undefined)
    try {
      draft(i, await get<string>('api/v1/format_query', { query: drafts[i] }, { post: true, headers: uncounted }))
    } catch (err) {
      setFormatError(err as Error)
    }
  }
  const label = async (i: number, name: string, op: '=' | '!=', value: string, metric: string | undefined) => {
    const { selectorsIn } = await import('./query/codemirror')
    const expr = state.queries[i]?.expr ?? ''
    runAt(i, withMatcher(expr, selectorsIn(expr), name, op, value, metric))
  }
  const use = (expr: string) => {
    setDrawer(undefined)
    runAt(Math.min(focused.current, drafts.length - 1), expr)
  }
  const insert = (text: string) => {
    setDrawer(undefined)
    const i = Math.min(focused.current, drafts.length - 1)
    if (drafts[i]?.trim() === '') draft(i, text)
    else editors.current.get(i)?.insert(text)
    editors.current.get(i)?.focus()
  }
  const apart = state.apart ?? new Set(state.queries.filter((q) => !q.hidden && q.expr.trim() !== '').map((q) => unitOf(q.expr))).size > 1
  const running = runs.some((r) => r.running)
  const shown = state.queries.flatMap((q, i) => (q.hidden || q.expr.trim() === '' ? [] : [[i, runs[i]?.expr === q.expr ? runs[i]! : { ...idle, expr: q.expr, running: true }] as const]))

  return (
    <div class="query-view">
      <h1 class="visually-hidden">Query</h1>
      <Panel>
        {drafts.map((d, i) => (
          <Row
            key={i}
            index={i}
            alone={drafts.length === 1}
            draft={d}
            dirty={d.trim() !== (state.queries[i]?.expr ?? '')}
            hidden={state.queries[i]?.hidden ?? false}
            run={runs[i]}
            window={window}
            onDraft={(v) => draft(i, v)}
            onRun={() => run()}
            onFormat={() => void format(i)}
            onHide={() => changeQueries(drafts.map((_, n) => ({ ...queryAt(n), hidden: queryAt(n).hidden !== (n === i) })))}
            onRemove={() => remove(i)}
            onFocus={() => (focused.current = i)}
            handle={(h) => (h ? editors.current.set(i, h) : editors.current.delete(i))}
          />
        ))}
        {formatError && <FormatError error={formatError} />}
        <div class="bar">
          <div class="actions">
            {running ? (
              <button type="button" class="primary" onClick={cancel}>
                Cancel
              </button>
            ) : (
              <button type="button" class="primary" onClick={() => run()} title="Enter">
                Run
              </button>
            )}
            <button type="button" onClick={() => setDrafts([...drafts, ''])}>
              Add query
            </button>
            <button type="button" onClick={() => setDrawer('metrics')}>
              Metrics
            </button>
            <button type="button" onClick={() => setDrawer('history')}>
              History
            </button>
            <button type="button" onClick={() => setDrawer('running')}>
              Running
            </button>
            <Options state={state} change={change} />
          </div>
          <TimeBar state={state} change={change} step={state.tab === 'graph' ? autoStep(state.range, pixels()) : undefined} />
        </div>
      </Panel>

      <Panel>
        <div class="bar result-bar">
          <Choice label="Result as" value={state.tab} options={[['graph', 'Graph'], ['table', 'Table']]} onChange={(tab) => change({ tab })} />
          {state.tab === 'graph' && (
            <div class="actions">
              <Toggle label="Stacked" on={state.stacked} onChange={(stacked) => change({ stacked, ...(stacked && { log: false }) })} />
              <Toggle label="Logarithmic" on={state.log} onChange={(log) => change({ log, ...(log && { stacked: false }) })} />
              {state.queries.length > 1 && <Toggle label="A chart for each query" on={apart} onChange={(apart) => change({ apart })} />}
            </div>
          )}
          <span class="gap" />
          <div class="actions">
            <Toggle label="Explain" on={state.explain} onChange={(explain) => change({ explain })} />
            <Copy text={() => location.href} label="Copy link" />
          </div>
        </div>
        <div ref={results} class="results" aria-busy={running}>
          {shown.length === 0 && <Empty>Type a PromQL query and press Enter. “Metrics” lists what there is; “History” has what you have run.</Empty>}
          {state.tab === 'graph' && !apart ? (
            <Together shown={shown} state={state} again={again} change={change} runAt={runAt} />
          ) : (
            shown.map(([i, r]) => (
              <section key={i} class="one" aria-label={`Result of query ${letter(i)}`}>
                {shown.length > 1 && <Heading index={i} expr={r.expr} />}
                <RunDetails run={r} retry={again} onExpr={(expr) => runAt(i, expr)} />
                {state.tab === 'graph' ? <GraphPanel runs={[[i, r]]} state={state} onZoom={(from, to) => change(zoomTo(from, to))} /> : <TablePanel run={r} onLabel={(...a) => void label(i, ...a)} />}
                {explainOf(r) && <ExplainPanel explain={explainOf(r)!} of={shown.length > 1 ? `, query ${letter(i)}` : ''} />}
              </section>
            ))
          )}
        </div>
      </Panel>
      {drawer === 'history' && <HistoryDrawer past={past} onChange={(list) => store(JSON.stringify(list))} onUse={use} onClose={() => setDrawer(undefined)} />}
      {drawer === 'metrics' && <ExplorerDrawer window={window} onInsert={insert} onClose={() => setDrawer(undefined)} />}
      {drawer === 'running' && <RunningDrawer onClose={() => setDrawer(undefined)} />}
    </div>
  )
}

/** A stretch of a chart as the range of the view; a few pixels are a second at least. */
function zoomTo(from: number, to: number): Partial<State> {
  const range = Math.max(1000, Math.round((to - from) / 1000) * 1000)
  return { range, end: Math.round(to / 1000) * 1000 }
}

/** Where the time went, of an answer or of what failed after it. */
const explainOf = (r: Run) => (r.error ? r.errorExplain : r.answer?.explain)

/** All queries in one chart. */
function Together({ shown, state, again, change, runAt }: { shown: readonly (readonly [number, Run])[]; state: State; again: () => void; change: (c: Partial<State>) => void; runAt: (i: number, expr: string) => void }) {
  return (
    <>
      {shown.map(([i, r]) => (
        <div key={i} class="one">
          {shown.length > 1 && <Heading index={i} expr={r.expr} />}
          <RunDetails run={r} retry={again} onExpr={(expr) => runAt(i, expr)} />
        </div>
      ))}
      {shown.length > 0 && <GraphPanel runs={shown} state={state} onZoom={(from, to) => change(zoomTo(from, to))} />}
      {shown.map(([i, r]) => explainOf(r) && (
        <section key={i} class="one">
          {shown.length > 1 && <Heading index={i} expr={r.expr} />}
          <ExplainPanel explain={explainOf(r)!} of={shown.length > 1 ? `, query ${letter(i)}` : ''} />
        </section>
      ))}
    </>
  )
}

const Heading = ({ index, expr }: { index: number; expr: string }) => (
  <h2 class="of-query">
    {letter(index)} <code>{expr}</code>
  </h2>
)

function Row(props: {
  index: number
  alone: boolean
  draft: string
  dirty: boolean
  hidden: boolean
  run: Run | undefined
  window: () => { start: number; end: number }
  onDraft: (v: string) => void
  onRun: () => void
  onFormat: () => void
  onHide: () => void
  onRemove: () => void
  onFocus: () => void
  handle: (h: Handle | undefined) => void
}) {
  const name = letter(props.index)
  return (
    <div class={props.hidden ? 'query-row off' : 'query-row'}>
      {!props.alone && (
        <button type="button" class="letter" aria-pressed={!props.hidden} title={props.hidden ? 'Show its result' : 'Hide its result'} aria-label={`Query ${name}, ${props.hidden ? 'hidden' : 'shown'}`} onClick={props.onHide}>
          {name}
        </button>
      )}
      <QueryEditor
        value={props.draft}
        label={`Query ${name}`}
        error={props.run?.expr === props.draft.trim() ? props.run.error : undefined}
        window={props.window}
        onChange={props.onDraft}
        onRun={props.onRun}
        onFocus={props.onFocus}
        handle={props.handle}
        focus={props.alone && props.draft === ''}
      />
      <div class="row-actions">
        <button type="button" onClick={props.onFormat} disabled={props.draft.trim() === ''} title="Lay the query out in lines">
          Format
        </button>
        {!props.alone && (
          <button type="button" onClick={props.onRemove} aria-label={`Remove query ${name}`} title="Remove">
            ✕
          </button>
        )}
      </div>
    </div>
  )
}

/** Why a query cannot be laid out: where it is wrong, if the server says. */
function FormatError({ error }: { error: Error }) {
  const at = positionOf(error.message)
  if (!at) return <Failure error={error} />
  return (
    <Notice tone="warning">
      <p class="said">
        It cannot be laid out. Line {at.line}, column {at.column}: {at.text}
      </p>
    </Notice>
  )
}

function Toggle({ label, on, onChange }: { label: string; on: boolean; onChange: (on: boolean) => void }) {
  return (
    <label>
      <input type="checkbox" checked={on} onChange={(e) => onChange(e.currentTarget.checked)} /> {label}
    </label>
  )
}

/** How the server shall answer. */
function Options({ state, change }: { state: State; change: (c: Partial<State>) => void }) {
  const [timeout, set] = useState(state.timeout)
  useEffect(() => set(state.timeout), [state.timeout])
  const wrong = timeout.trim() !== '' && parseDuration(timeout) === undefined
  const done = () => !wrong && timeout.trim() !== state.timeout && change({ timeout: timeout.trim() })
  const n = [state.strong, state.partial, state.fresh, state.timeout !== ''].filter(Boolean).length
  const box = useRef<HTMLDetailsElement>(null)
  useEffect(() => {
    const out = (e: Event) => {
      if (box.current && !box.current.contains(e.target as Node)) box.current.open = false
    }
    addEventListener('pointerdown', out)
    addEventListener('focusin', out)
    return () => {
      removeEventListener('pointerdown', out)
      removeEventListener('focusin', out)
    }
  }, [])
  const close = (e: KeyboardEvent) => {
    if (e.key !== 'Escape' || !box.current?.open) return
    box.current.open = false
    box.current.querySelector('summary')?.focus()
  }
  return (
    <details class="options" ref={box} onKeyDown={close}>
      <summary>Options{n > 0 && ` (${n})`}</summary>
      <div>
        <Toggle label="Strong read: with everything acknowledged before now" on={state.strong} onChange={(strong) => change({ strong })} />
        <Toggle label="Partial answer rather than none" on={state.partial} onChange={(partial) => change({ partial })} />
        <Toggle label="Nothing out of the results cache" on={state.fresh} onChange={(fresh) => change({ fresh })} />
        <label>
          Timeout <input class="short" placeholder="the server's" aria-invalid={wrong} value={timeout} onInput={(e) => set(e.currentTarget.value)} onBlur={done} onKeyDown={(e) => e.key === 'Enter' && done()} />
        </label>
      </div>
    </details>
  )
}
