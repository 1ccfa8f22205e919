import { useMemo } from 'preact/hooks'
import { Copy, Empty, Failure, Figure, Panel, Waiting } from '../../ui'
import { useLoad } from '../../lib/hooks'
import { exact } from '../../lib/format'
import { href, setParams } from '../../lib/route'
import { overTime, seriesNow, someSeries } from './data'
import { askRules } from './list'
import { expressionOf, rangeMs, selectorOf, sentence } from './state'
import type { Part, State } from './state'
import { selector } from './rules'
import { Growth, Trend, percent, windowName } from './trend'

/** The part that is looked at: how much of the whole it is, what became of it, and what can be done about it. */
export function PartHead({ part, state }: { part: Part; state: State }) {
  const now = useLoad((signal) => seriesNow(part, state.counting, signal), [part, state.counting])
  return (
    <Panel
      title={<span class="mono part-name">{sentence(part)}</span>}
      actions={
        <>
          <a class="button" href={href('query', { 'g0.expr': expressionOf(part), 'g0.tab': 'graph' })}>
            Query
          </a>
          <Copy text={selectorOf(part) ?? ''} label="Copy selector" />
          {!state.series && part.value === undefined && (
            <button type="button" onClick={() => setParams({ series: '1' })}>
              Sample of series
            </button>
          )}
          <button type="button" class="primary" onClick={() => askRules(part)}>
            Drop or relabel
          </button>
        </>
      }
    >
      {now.error && <Failure error={now.error} retry={now.reload} />}
      <div class="part-head">
        <dl class="figures">
          <Figure name={state.counting === 'active' ? 'Active series now' : 'Series in heads now'} value={now.data ? exact(now.data.series) : '…'} hint={state.counting === 'active' ? 'with a sample in the last 20 minutes' : undefined} />
          <Figure name="Share of the tenant" value={now.data ? percent(now.data.series, now.data.all) : '…'} hint={now.data && `of ${exact(now.data.all)} series`} />
        </dl>
        {rangeMs[state.range] > 0 && <Past part={part} state={state} />}
      </div>
    </Panel>
  )
}

/** How many series the part had over time. Blocks tell it of one label at a time, so not of a metric's label. */
function Past({ part, state }: { part: Part; state: State }) {
  const asked = part.metric !== undefined && part.label === undefined ? (['__name__', part.metric] as const) : part.metric === undefined && part.label !== undefined ? (part.value === undefined ? (['', part.label] as const) : ([part.label, part.value] as const)) : undefined
  if (!asked) return null
  return <PastOf label={asked[0]} name={asked[1]} state={state} />
}

function PastOf({ label, name, state }: { label: string; name: string; state: State }) {
  const past = useLoad((signal) => overTime(label, { range: state.range, sort: 'max', search: name, limit: 500 }, signal), [label, name, state.range])
  const row = past.data?.rows.find((r) => r.name === name)
  const windows = past.data?.windows
  if (!row?.trend || !windows) return past.error ? <p class="hint">How it was before is not known: {past.error.message}</p> : null
  return (
    <figure class="past">
      <Trend values={row.trend} windows={windows} label={name} large />
      <figcaption>
        <span>{windows[0] && windowName(windows[0])}</span>
        <span>
          {exact(row.first)} → {exact(row.last)} series, <Growth first={row.first ?? 0} last={row.last ?? 0} />
        </span>
        <span>now</span>
      </figcaption>
    </figure>
  )
}

const sampleSize = 50

/** Some of the part's series, with what is the same in all of them told once. */
export function SeriesSample({ part }: { part: Part }) {
  const found = useLoad((signal) => someSeries(part, sampleSize, signal), [part])
  const same = useMemo(() => commonLabels(found.data ?? []), [found.data])
  const list = found.data
  return (
    <Panel title="Sample of active series" actions={list && list.length > 0 && <Copy text={list.map((l) => selector(l)).join('\n')} label="Copy all" />}>
      {found.error && <Failure error={found.error} retry={found.reload} />}
      {!list && !found.error && <Waiting />}
      {list?.length === 0 && <Empty>No series has a sample in the last 20 minutes.</Empty>}
      {list && list.length > 1 && Object.keys(same).length > 0 && (
        <p class="hint">
          The same in all: <code>{selector(same)}</code>
        </p>
      )}
      {list && list.length > 0 && (
        <ul class="series-list">
          {list.map((labels) => (
            <li key={JSON.stringify(labels)} class="mono">
              {Object.entries(labels)
                .filter(([l]) => list.length === 1 || same[l] === undefined)
                .map(([l, v]) => (
                  <span key={l}>
                    <span class="label">{l}=</span>
                    {JSON.stringify(v)}
                  </span>
                ))}
              <Copy text={selector(labels)} />
            </li>
          ))}
        </ul>
      )}
      {list && list.length >= sampleSize && <p class="hint">The first {sampleSize}. The query page shows others.</p>}
    </Panel>
  )
}

/** The labels that all series have alike. */
export function commonLabels(list: readonly Record<string, string>[]): Record<string, string> {
  const [first, ...others] = list
  if (!first) return {}
  return Object.fromEntries(Object.entries(first).filter(([l, v]) => others.every((o) => o[l] === v)))
}
