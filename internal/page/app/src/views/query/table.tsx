// The answer of an instant query as a table; labels are buttons.

import type { ComponentChildren } from 'preact'
import { useMemo, useState } from 'preact/hooks'
import { exact, time } from '../../lib/format'
import { formatDuration } from '../../lib/time'
import { Choice, Copy, Empty, SearchField } from '../../ui'
import { csvOf, labelNames, labelText, matches, numberOf, quoted, rowsOf, wordsOf } from './series'
import type { Histogram, Result, Row } from './series'
import { unitValue } from './units'
import type { Unit } from './units'

const shownRows = 500

export type OnLabel = (label: string, op: '=' | '!=', value: string, metric: string | undefined) => void

export function ResultTable({ result, unit, onLabel }: { result: Result; unit: Unit; onLabel: OnLabel }) {
  const [filter, setFilter] = useState('')
  const [way, setWay] = useState<'series' | 'columns'>('series')
  const [sort, setSort] = useState<{ by: string; down: boolean }>({ by: '', down: true })
  const [room, setRoom] = useState(shownRows)
  const [chosen, choose] = useState<{ row: Row; label: string } | undefined>()
  const all = useMemo(() => rowsOf(result), [result])
  const names = useMemo(() => [...new Set(all.flatMap((r) => Object.keys(r.labels)))].sort((a, b) => (a === '__name__' ? -1 : b === '__name__' ? 1 : a.localeCompare(b))), [all])
  const found = useMemo(() => {
    const words = wordsOf(filter)
    const list = all.filter((r) => matches(r.labels, words))
    if (!sort.by) return list
    const sign = sort.down ? -1 : 1
    const number = (r: Row) => (r.histogram ? numberOf(r.histogram.count) : numberOf(r.value))
    // NaN stands at the end whichever way.
    const order = (a: number, b: number) => (Number.isNaN(a) ? (Number.isNaN(b) ? 0 : 1) : Number.isNaN(b) ? -1 : sign * (a - b))
    return list.sort(sort.by === '-value' ? (a, b) => order(number(a), number(b)) : (a, b) => sign * (a.labels[sort.by] ?? '').localeCompare(b.labels[sort.by] ?? '', 'en', { numeric: true }))
  }, [all, filter, sort])

  if (result.resultType === 'scalar' || result.resultType === 'string') {
    return (
      <p class="single">
        <span class="hint">{result.resultType}</span> <strong class="mono">{result.resultType === 'string' ? quoted(result.result[1]) : result.result[1]}</strong>{' '}
        <span class="hint">at {time(result.result[0] * 1000)}</span>
      </p>
    )
  }
  if (all.length === 0) return <Nothing />
  const rows = found.slice(0, room)
  // One listener for thousands of labels.
  const click = (e: MouseEvent) => {
    const button = (e.target as Element).closest<HTMLElement>('button[data-row]')
    const row = button && rows[Number(button.dataset.row)]
    if (row) choose((c) => (c?.row.key === row.key && c.label === button.dataset.label ? undefined : { row, label: button.dataset.label! }))
  }
  const head = (by: string, text: ComponentChildren, number = false) => (
    <th scope="col" class={number ? 'number' : undefined} aria-sort={sort.by === by ? (sort.down ? 'descending' : 'ascending') : undefined}>
      <button type="button" onClick={() => setSort({ by, down: sort.by === by ? !sort.down : number })}>
        {text}
        <span aria-hidden="true">{sort.by === by ? (sort.down ? ' ↓' : ' ↑') : ''}</span>
      </button>
    </th>
  )
  const menu = (row: Row) => chosen?.row.key === row.key && <LabelMenu row={row} label={chosen.label} onLabel={(...a) => (choose(undefined), onLabel(...a))} onFilter={(text) => (choose(undefined), setFilter(text))} onClose={() => choose(undefined)} />
  return (
    <div class="result-table">
      <div class="actions">
        {all.length > 5 && <SearchField label="Filter the rows" value={filter} onChange={setFilter} />}
        <span class="hint">
          {filter ? `${exact(found.length)} of ` : ''}
          {exact(all.length)} {all.length === 1 ? 'row' : 'rows'}
        </span>
        <span class="gap" />
        <Choice label="Labels" value={way} options={[['series', 'Series'], ['columns', 'Columns']]} onChange={setWay} />
        <Copy text={() => JSON.stringify(found.map((r) => ({ metric: r.labels, ...(r.samples ? { values: r.samples } : r.histogram ? { histogram: [r.time, r.histogram] } : { value: [r.time, r.value] }) })), null, 1)} label="Copy JSON" />
        <Copy text={() => csvOf(found)} label="Copy CSV" />
      </div>
      <div class="scroll" tabIndex={0} role="region" aria-label="Result" onClick={click}>
        <table>
          <thead>
            <tr>
              {way === 'series' ? head('__name__', 'Series') : names.map((n) => head(n, n === '__name__' ? 'metric' : n))}
              {head('-value', 'Value', true)}
            </tr>
          </thead>
          <tbody>
            {rows.map((r, i) => (
              <tr key={r.key}>
                {way === 'series' ? (
                  <td class="labels">
                    <SeriesCell row={r} index={i} />
                    {menu(r)}
                  </td>
                ) : (
                  names.map((n) => (
                    <td key={n}>
                      {r.labels[n] !== undefined && (
                        <button type="button" class="label" data-row={i} data-label={n}>
                          {r.labels[n] || '""'}
                        </button>
                      )}
                      {chosen?.label === n && menu(r)}
                    </td>
                  ))
                )}
                <td class="number value">{r.histogram ? <HistogramValue histogram={r.histogram} unit={unit} /> : <Value row={r} unit={unit} />}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {found.length > rows.length && (
        <p class="actions">
          <button type="button" onClick={() => setRoom(room + shownRows)}>
            Show {exact(Math.min(shownRows, found.length - rows.length))} more
          </button>
          <span class="hint">
            {exact(rows.length)} of {exact(found.length)} are shown.
          </span>
        </p>
      )}
    </div>
  )
}

/** What to try when there is nothing. */
export const Nothing = ({ step = 0 }: { step?: number }) => (
  <Empty>
    No data. No series matches at this time: look at another time range, take matchers away, or search for the metric's name with “Metrics”.
    {step > lookBack && (
      <>
        <br />
        Each point looks back five minutes, and the points are {formatDuration(step)} apart: samples in between are not seen. A shorter range or step shows them, or{' '}
        <code>last_over_time(…[{formatDuration(step)}])</code>.
      </>
    )}
  </Empty>
)

/** How far a point looks back for a sample, ms: the server's default. */
const lookBack = 5 * 60_000

function SeriesCell({ row, index }: { row: Row; index: number }) {
  const names = labelNames(row.labels)
  return (
    <>
      {row.labels.__name__ !== undefined && (
        <button type="button" class="label metric" data-row={index} data-label="__name__">
          {row.labels.__name__}
        </button>
      )}
      {names.map((n) => (
        <button type="button" class="label" key={n} data-row={index} data-label={n}>
          <span>{n}</span>={quoted(row.labels[n]!)}
        </button>
      ))}
      {row.labels.__name__ === undefined && names.length === 0 && <span class="hint">no labels</span>}
    </>
  )
}

/** What can be done with a label of a row. */
function LabelMenu({ row, label, onLabel, onFilter, onClose }: { row: Row; label: string; onLabel: OnLabel; onFilter: (text: string) => void; onClose: () => void }) {
  const value = row.labels[label] ?? ''
  const metric = row.labels.__name__
  const matcher = (op: string) => `${labelText(label)}${op}${quoted(value)}`
  return (
    <div class="label-menu" role="group" aria-label={`What to do with ${label}`} onKeyDown={(e) => e.key === 'Escape' && onClose()} onClick={(e) => e.stopPropagation()}>
      {label !== '__name__' && (
        <>
          <button type="button" onClick={() => onLabel(label, '=', value, metric)}>
            Only <code>{matcher('=')}</code>
          </button>
          <button type="button" onClick={() => onLabel(label, '!=', value, metric)}>
            Without <code>{matcher('!=')}</code>
          </button>
        </>
      )}
      <button type="button" onClick={() => onFilter(label === '__name__' ? value : `${labelText(label)}=${quoted(value)}`)}>
        Filter the table
      </button>
      <Copy text={label === '__name__' ? value : matcher('=')} />
      <Copy text={row.key} label="Copy series" />
      <button type="button" onClick={onClose} aria-label="Close">
        ✕
      </button>
    </div>
  )
}

function Value({ row, unit }: { row: Row; unit: Unit }) {
  const readable = unit === '' ? '' : unitValue(numberOf(row.value), unit)
  if (row.samples && row.samples.length > 0) {
    return (
      <details>
        <summary>
          {row.value} <small>last of {exact(row.samples.length)}</small>
        </summary>
        <ul class="samples">
          {row.samples.slice(-200).map(([t, v]) => (
            <li key={t}>
              {v} <small>{time(t * 1000)}</small>
            </li>
          ))}
        </ul>
      </details>
    )
  }
  return (
    <>
      {row.value}
      {readable && readable !== row.value && <small> {readable}</small>}
    </>
  )
}

/** A native histogram: count, sum and mean, its buckets as bars. */
function HistogramValue({ histogram: h, unit }: { histogram: Histogram; unit: Unit }) {
  const buckets = h.buckets ?? []
  const top = Math.max(...buckets.map((b) => numberOf(b[3])), 1e-300)
  const mean = numberOf(h.sum) / numberOf(h.count)
  const edge = (v: string) => unitValue(numberOf(v), unit)
  return (
    <details class="histogram">
      <summary>
        histogram of {unitValue(numberOf(h.count), '')}, mean {unitValue(Number.isFinite(mean) ? Number(mean.toPrecision(4)) : mean, unit)}
        <svg viewBox={`0 0 ${Math.max(1, buckets.length)} 10`} preserveAspectRatio="none" role="img" aria-label={`${buckets.length} buckets`}>
          {buckets.map((b, i) => {
            const height = (numberOf(b[3]) / top) * 10
            return <rect key={i} x={i + 0.08} width={0.84} y={10 - height} height={height} />
          })}
        </svg>
      </summary>
      <table>
        <caption class="hint">
          Count {h.count}, sum {h.sum}
        </caption>
        <thead>
          <tr>
            <th scope="col">Bucket</th>
            <th scope="col" class="number">
              Count
            </th>
          </tr>
        </thead>
        <tbody>
          {buckets.map(([rule, low, high, n]) => (
            <tr key={low + high}>
              <td>
                {rule === 1 || rule === 3 ? '[' : '('}
                {edge(low)}, {edge(high)}
                {rule === 0 || rule === 3 ? ']' : ')'}
              </td>
              <td class="number">{n}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  )
}
