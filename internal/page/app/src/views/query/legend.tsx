// The legend: a table of the lines with their figures. A click shows one line alone, with Ctrl or Cmd it is put in or out.

import { useMemo, useState } from 'preact/hooks'
import { SearchField } from '../../ui'
import { exact } from '../../lib/format'
import { common, labelNames, matches, seriesName, valueText, wordsOf } from './series'
import type { Line } from './series'
import { shortValue } from './units'
import type { Unit } from './units'

const shownRows = 100

const figures = ['last', 'min', 'max', 'mean'] as const

export function Legend({ lines, unit, colour, hidden, onHide, onPoint, prefix }: {
  lines: readonly Line[]
  unit: Unit
  colour: (line: Line) => string
  hidden: ReadonlySet<string>
  onHide: (hidden: ReadonlySet<string>) => void
  onPoint: (key: string | undefined) => void
  prefix: (line: Line) => string
}) {
  const [filter, setFilter] = useState('')
  const [sort, setSort] = useState<{ by: (typeof figures)[number] | 'series'; down: boolean }>({ by: 'series', down: false })
  const shared = useMemo(() => common(lines.map((l) => l.labels)), [lines])
  const without = useMemo(() => new Set(Object.keys(shared)), [shared])
  const found = useMemo(() => {
    const words = wordsOf(filter)
    const list = lines.filter((l) => matches(l.labels, words))
    const { by, down } = sort
    if (by !== 'series') list.sort((a, b) => (down ? -1 : 1) * ((a[by] ?? -Infinity) - (b[by] ?? -Infinity)))
    else if (down) list.reverse()
    return list
  }, [lines, filter, sort])
  const rows = found.slice(0, shownRows)
  const alone = lines.length > 1 && lines.filter((l) => !hidden.has(l.key)).length === 1

  const choose = (line: Line, toggle: boolean) => {
    if (toggle) {
      const next = new Set(hidden)
      if (!next.delete(line.key)) next.add(line.key)
      onHide(next)
    } else if (alone && !hidden.has(line.key)) onHide(new Set())
    else onHide(new Set(lines.filter((l) => l.key !== line.key).map((l) => l.key)))
  }
  const head = (by: typeof sort.by, text: string) => (
    <th scope="col" class={by === 'series' ? undefined : 'number'} aria-sort={sort.by === by ? (sort.down ? 'descending' : 'ascending') : undefined}>
      <button type="button" onClick={() => setSort({ by, down: sort.by === by ? !sort.down : by !== 'series' })}>
        {text}
        <span aria-hidden="true">{sort.by === by ? (sort.down ? ' ↓' : ' ↑') : ''}</span>
      </button>
    </th>
  )
  return (
    <div class="legend">
      <div class="actions">
        {lines.length > 5 && <SearchField label="Filter the legend" value={filter} onChange={setFilter} />}
        <span class="hint">
          {exact(found.length)} {found.length === 1 ? 'series' : 'series'}
          {hidden.size > 0 && `, ${exact(lines.filter((l) => hidden.has(l.key)).length)} hidden`}
        </span>
        {hidden.size > 0 && (
          <button type="button" onClick={() => onHide(new Set())}>
            Show all
          </button>
        )}
        {filter && found.length < lines.length && found.length > 0 && (
          <button type="button" onClick={() => onHide(new Set(lines.filter((l) => !found.includes(l)).map((l) => l.key)))}>
            Draw only these
          </button>
        )}
      </div>
      {without.size > 0 && (
        <p class="hint shared">
          All: <code>{seriesName(shared)}</code>
        </p>
      )}
      <div class="scroll" tabIndex={0} role="region" aria-label="Legend">
        <table onMouseLeave={() => onPoint(undefined)}>
          <thead>
            <tr>
              {head('series', 'Series')}
              {figures.map((f) => head(f, f))}
            </tr>
          </thead>
          <tbody>
            {rows.map((l) => {
              const off = hidden.has(l.key)
              return (
                <tr key={l.key} class={off ? 'off' : undefined} onMouseEnter={() => onPoint(l.key)}>
                  <td>
                    <button type="button" class="series" aria-pressed={!off} title="Click: only this one. Ctrl-click: in or out." onClick={(e) => choose(l, e.ctrlKey || e.metaKey)} onKeyDown={(e) => toggleKey(e, () => choose(l, true))}>
                      <span class="swatch" style={{ background: off ? 'transparent' : colour(l), borderColor: colour(l) }} />
                      <span class="name" title={long(l) ? seriesName(l.labels) : undefined}>
                        {prefix(l)}
                        <Name line={l} without={without} />
                      </span>
                    </button>
                  </td>
                  {figures.map((f) => (
                    <td key={f} class="number">
                      {l[f] === undefined ? '–' : shortValue(l[f], unit)}
                    </td>
                  ))}
                </tr>
              )
            })}
          </tbody>
        </table>
      </div>
      {found.length > rows.length && (
        <p class="hint">
          {exact(rows.length)} of {exact(found.length)} are listed. Filter to see the others, or sort by a figure.
        </p>
      )}
    </div>
  )
}

/** Ctrl-Enter and Ctrl-Space do what Ctrl-click does; browsers make no click of them. */
function toggleKey(e: KeyboardEvent, toggle: () => void) {
  if (!(e.ctrlKey || e.metaKey) || (e.key !== 'Enter' && e.key !== ' ')) return
  e.preventDefault()
  toggle()
}

/** Whether a name may not fit into the few lines that it gets. */
const long = (l: Line) => Object.values(l.labels).some((v) => v.length > 200)

/** What tells a line from the others. */
function Name({ line, without }: { line: Line; without: ReadonlySet<string> }) {
  const metric = without.has('__name__') ? '' : line.labels.__name__
  const names = labelNames(line.labels).filter((n) => !without.has(n))
  if (!metric && names.length === 0) return <>{line.labels.__name__ ?? (Object.keys(line.labels).length > 0 ? seriesName(line.labels) : 'no labels')}</>
  return (
    <>
      {metric && <b>{metric} </b>}
      {names.map((n, i) => (
        <span key={n}>
          {i > 0 && ', '}
          <span class="label">{n}</span>=<bdi>{valueText(line.labels[n]!)}</bdi>
        </span>
      ))}
    </>
  )
}
