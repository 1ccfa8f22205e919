// What came of the queries: charts, tables, and what is to be said about them.

import { useCallback, useMemo, useRef, useState } from 'preact/hooks'
import { ApiError } from '../../lib/api'
import { bytes, exact, seconds, time } from '../../lib/format'
import { formatDuration } from '../../lib/time'
import { Failure, Notice, Waiting } from '../../ui'
import { Chart } from './chart'
import { Colours, colourOf, dark, useTheme } from './colours'
import { Legend } from './legend'
import { positionOf } from './promql'
import { linesOf } from './series'
import type { Line } from './series'
import { maxSeries } from './range'
import type { Run } from './run'
import { Cancelled, maxRows } from './run'
import type { State } from './state'
import { Nothing, ResultTable } from './table'
import type { OnLabel } from './table'
import { unitOf, unitValue } from './units'
import { CoverageLine } from './waterfall'

export const letter = (i: number) => String.fromCharCode(65 + (i % 26)) + (i >= 26 ? String(Math.floor(i / 26)) : '')

/** What the server says beside an answer, and what we had to leave out. */
export function Remarks({ run, onExpr }: { run: Run; onExpr: (expr: string) => void }) {
  const a = run.answer
  const cut = a?.warnings.some((w) => /truncated due to limit/.test(w))
  const warnings = a?.warnings.filter((w) => !/truncated due to limit/.test(w)) ?? []
  const native = a?.grid && a.result?.resultType === 'matrix' && a.result.result.some((s) => (s.histograms?.length ?? 0) > 0)
  return (
    <>
      {cut && (
        <Notice tone="warning">
          <p class="said">
            There are more than {exact(a!.limit)} series; the others were not fetched.{' '}
            {a!.grid ? `A chart has at most ${exact(maxSeries)} series, and fewer when it has very many points.` : `A table has at most ${exact(maxRows)} rows.`} Add matchers, sum up with <code>sum by (…)</code>, or take the largest with{' '}
            <code>topk(20, …)</code>.
          </p>
          <button type="button" onClick={() => onExpr(`topk(20, ${run.expr})`)}>
            Take the 20 largest
          </button>
        </Notice>
      )}
      {native && (
        <Notice>
          <p class="said">This answer has native histograms. What is drawn is the mean of each one.</p>
          <button type="button" onClick={() => onExpr(`histogram_quantile(0.9, ${run.expr})`)}>
            Draw the 90th percentile
          </button>
        </Notice>
      )}
      {warnings.length > 0 && <Said tone="warning" all={warnings} />}
      {a && a.infos.length > 0 && <Said tone="info" all={a.infos} />}
    </>
  )
}

/** Sentences of the server, the first few. */
function Said({ tone, all }: { tone: 'warning' | 'info'; all: string[] }) {
  const first = all.slice(0, 3), rest = all.slice(3)
  const p = (text: string) => (
    <p key={text} class="said">
      {text}
    </p>
  )
  return (
    <Notice tone={tone}>
      {first.map(p)}
      {rest.length > 0 && (
        <details>
          <summary>{exact(rest.length)} more</summary>
          {rest.map(p)}
        </details>
      )}
    </Notice>
  )
}

/** An error, in words for who typed the query. */
export function RunError({ run, retry }: { run: Run; retry: () => void }) {
  if (run.error instanceof Cancelled) {
    return (
      <Notice>
        <p class="said">{run.error.message}</p>
        <button type="button" onClick={retry}>
          Run it again
        </button>
      </Notice>
    )
  }
  const at = positionOf(run.error!.message)
  const refused = run.error instanceof ApiError && run.error.status >= 400 && run.error.status < 500 && run.error.status !== 429
  if (!at) return <Failure error={run.error!} {...(!refused && { retry })} />
  return (
    <Notice tone="warning">
      <p class="said">
        Line {at.line}, column {at.column}: {at.text}
      </p>
      <Place expr={run.expr} line={at.line} column={at.column} />
    </Notice>
  )
}

/** The line with a mark below the place that is wrong. */
function Place({ expr, line, column }: { expr: string; line: number; column: number }) {
  const text = expr.split('\n')[line - 1]
  if (text === undefined || text.length > 500) return null
  return (
    <pre class="place" aria-hidden="true">
      {text}
      {'\n'}
      {' '.repeat(Math.max(0, column - 1))}^
    </pre>
  )
}

/** What an answer was, in one line. */
export function Summary({ run }: { run: Run }) {
  const a = run.answer
  if (!a) return null
  const n = Array.isArray(a.result?.result) && a.result.resultType !== 'scalar' && a.result.resultType !== 'string' ? a.result.result.length : undefined
  const read = a.stats?.samples?.totalQueryableSamples
  return (
    <p class="hint summary">
      {[
        n !== undefined ? `${exact(n)} series` : '',
        a.grid ? `step ${formatDuration(a.grid.step)}, ${exact(a.grid.points)} points each` : `at ${time(a.at)}`,
        `${seconds(a.took / 1000)}`,
        read !== undefined ? `${exact(read)} samples read` : '',
        bytes(a.bytes),
      ]
        .filter(Boolean)
        .join(' · ')}
    </p>
  )
}

/** The answer of one query, but for its chart: remarks, error, explanation, what it covers. */
export function RunDetails({ run, retry, onExpr }: { run: Run; retry: () => void; onExpr: (expr: string) => void }) {
  const coverage = run.answer?.stats?.coverage ?? run.answer?.explain?.coverage
  return (
    <>
      {run.error && <RunError run={run} retry={retry} />}
      {!run.error && <Remarks run={run} onExpr={onExpr} />}
      {run.answer && (
        <div class="about">
          <Summary run={run} />
          {coverage && <CoverageLine coverage={coverage} />}
        </div>
      )}
    </>
  )
}

/** One chart of one or several queries, with its legend. */
export function GraphPanel({ runs, state, onZoom }: { runs: readonly (readonly [number, Run])[]; state: State; onZoom: (from: number, to: number) => void }) {
  const theme = useTheme()
  const colours = useRef(new Colours())
  const [hidden, setHidden] = useState<ReadonlySet<string>>(new Set())
  const [pointed, setPointed] = useState<string | undefined>()
  const answers = runs.map(([, r]) => r.answer)
  const { lines, grid, rest } = useMemo(() => {
    const grid = answers.find((a) => a?.grid)?.grid
    // Queries that were asked at different times (one failed, one was refreshed) are not put on one time axis.
    const all = runs.flatMap(([i, r]) => {
      const a = r.answer
      return a?.grid && grid && a.grid.start === grid.start && a.grid.step === grid.step && a.grid.points === grid.points && a.result?.resultType === 'matrix' ? linesOf(a.result.result, grid, i) : []
    })
    colours.current.keep(new Set(all.map((l) => l.key)))
    return { lines: all.slice(0, maxSeries), grid, rest: all.length - Math.min(all.length, maxSeries) }
  }, answers)
  const units = new Set(runs.map(([, r]) => unitOf(r.expr)))
  const unit = units.size === 1 ? [...units][0]! : ''
  const colour = useCallback((l: Line) => colourOf(colours.current.of(l.key), dark()), [theme])
  const several = runs.length > 1
  const prefix = useCallback((l: Line) => (several ? `${letter(l.query)}: ` : ''), [several])
  const gone = useMemo(() => new Set([...hidden].filter((k) => lines.some((l) => l.key === k))), [hidden, lines])
  if (!grid) return runs.some(([, r]) => r.running) ? <Waiting what="The query runs" /> : null
  if (lines.length === 0) return <Nothing step={grid.step} />
  const odd = lines.filter((l) => l.odd > 0).length
  const low = Math.min(...lines.map((l) => l.min ?? Infinity)), high = Math.max(...lines.map((l) => l.max ?? -Infinity))
  const said = `Chart of ${exact(lines.length)} series from ${time(grid.start)} to ${time(grid.end)}, between ${unitValue(low, unit)} and ${unitValue(high, unit)}. The table below has the figures of each series.`
  return (
    <div class={runs.some(([, r]) => r.running) ? 'graph running' : 'graph'}>
      {rest > 0 && <Notice tone="warning">{exact(lines.length)} series are drawn, {exact(rest)} more are not. Narrow the queries, or hide one.</Notice>}
      {odd > 0 && (
        <p class="hint">
          {lines.length === 1 ? 'The series has' : `${exact(odd)} of ${exact(lines.length)} series ${odd === 1 ? 'has' : 'have'}`} values that are NaN or infinite. They are left out; the table shows them.
        </p>
      )}
      {state.log && low <= 0 && <p class="hint">A logarithmic axis has no room for values of 0 and less; they are left out.</p>}
      <Chart lines={lines} grid={grid} unit={unit} log={state.log && !state.stacked} stacked={state.stacked} colour={colour} prefix={prefix} hidden={gone} pointed={pointed} onZoom={onZoom} label={said} theme={theme} />
      <Legend lines={lines} unit={unit} colour={colour} hidden={gone} onHide={setHidden} onPoint={setPointed} prefix={prefix} />
    </div>
  )
}

/** One table of one query. */
export function TablePanel({ run, onLabel }: { run: Run; onLabel: OnLabel }) {
  if (run.answer?.result) return <ResultTable result={run.answer.result} unit={unitOf(run.expr)} onLabel={onLabel} />
  return run.running ? <Waiting what="The query runs" /> : null
}
