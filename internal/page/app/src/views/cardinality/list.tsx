import { Empty, Failure, Notice, Table, Waiting } from '../../ui'
import type { Column } from '../../ui'
import type { Loaded } from '../../lib/hooks'
import { count, exact } from '../../lib/format'
import { href, setParams } from '../../lib/route'
import type { List, Row } from './data'
import { expressionOf, limits, partHref } from './state'
import type { Part, Sort, State } from './state'
import { Growth, Measured, Name, Trend, percent } from './trend'

/** Opens the rules for a part: they have parameters of their own beside those of the view. */
export const askRules = (p: Part) => setParams({ 'r.metric': p.metric, 'r.label': p.label, 'r.value': p.value, rules: '1' }, false)

/** What can be done about a part. */
export function PartActions({ part, name }: { part: Part; name: string }) {
  return (
    <span class="row-actions">
      <a href={href('query', { 'g0.expr': expressionOf(part), 'g0.tab': 'graph' })} title={expressionOf(part)}>
        Query<span class="visually-hidden"> {name}</span>
      </a>
      <button type="button" class="link" onClick={() => askRules(part)}>
        Drop or relabel<span class="visually-hidden"> {name}</span>
      </button>
    </span>
  )
}

/** Metrics, labels or values, with their series. */
export function SeriesList(props: { what: 'metrics' | 'labels' | 'values'; found: Loaded<List>; state: State; partOf: (name: string) => Part; label: string }) {
  const { found, state: s, what } = props
  const data = found.data
  if (!data) return found.error ? <Failure error={found.error} retry={found.reload} /> : <Waiting what="Counting" />
  const top = Math.max(0, ...data.rows.map((r) => r.series))
  const windows = data.windows
  const columns: Column<Row>[] = [
    {
      name: 'name',
      title: { metrics: 'Metric', labels: 'Label', values: 'Value' }[what],
      by: (r) => r.name,
      cell: (r) => (
        <a class="name mono" href={partHref(s.by, props.partOf(r.name), s)}>
          {r.name === '' ? '(empty)' : <Name text={r.name} />}
        </a>
      ),
    },
    ...(what === 'labels' ? [{ name: 'values', title: 'Values', number: true, cell: (r: Row) => exact(r.values), ...(windows ? {} : { by: (r: Row) => r.values ?? 0 }) }] : []),
    {
      name: 'max',
      title: windows ? 'Most series' : 'Series',
      number: true,
      by: (r) => r.series,
      hint: windows ? 'Series in the window that had most' : '',
      cell: (r) => <Measured value={r.series} of={top} />,
    },
  ]
  if (windows) {
    columns.push(
      { name: 'trend', title: 'Over time', cell: (r) => <Trend values={r.trend ?? []} windows={windows} label={r.name} /> },
      { name: 'ends', title: 'First → last', number: true, cell: (r) => <span title={`${exact(r.first)} → ${exact(r.last)}`}>{`${count(r.first)} → ${count(r.last)}`}</span> },
      { name: 'growth', title: 'Growth', number: true, by: (r) => r.growth ?? 0, cell: (r) => <Growth first={r.first ?? 0} last={r.last ?? 0} /> },
    )
  } else if (data.all) {
    columns.push({ name: 'part', title: 'Share', number: true, cell: (r) => percent(r.series, data.all!) })
  }
  columns.push({
    name: 'actions',
    title: <span class="visually-hidden">What to do</span>,
    cell: (r) => (what === 'labels' && r.name === '__name__' ? null : <PartActions part={props.partOf(r.name)} name={r.name} />),
  })
  return (
    <>
      {found.error && <Failure error={found.error} retry={found.reload} />}
      {data.warnings.map((w) => (
        <Notice key={w} tone="warning">
          {w}
        </Notice>
      ))}
      {windows && data.rows.length > 0 && windows.filter((w) => w.source).length < 2 && <p class="hint">Series are known of one window only, so there is no growth to see yet.</p>}
      {data.truncated && <Notice>There are more than could be counted: what has few series may be missing.</Notice>}
      {data.rows.length === 0 ? (
        <Empty>
          {s.search ? `Nothing contains “${s.search}”.` : windows ? 'There are no series in this time.' : 'There are no series now. Consumers hold what came in the last hours; choose a longer time to look into blocks.'}
        </Empty>
      ) : windows ? (
        <Table
          label={props.label}
          columns={columns}
          rows={data.rows}
          id={(r) => r.name}
          sort={s.sort}
          descending={s.sort !== 'name'}
          onSort={(column) => setParams({ sort: column === 'max' ? undefined : (column as Sort) })}
        />
      ) : (
        <Table label={props.label} columns={columns} rows={data.rows} id={(r) => r.name} sort="max" />
      )}
      <More shown={data.rows.length} total={data.total} limit={s.limit} />
    </>
  )
}

/** How much of the whole is shown, and how to see more of it. */
export function More({ shown, total, limit }: { shown: number; total: number; limit: number }) {
  const next = limits.find((n) => n > limit)
  if (shown === 0) return null
  return (
    <p class="more hint">
      {shown < total ? `${exact(shown)} of ${exact(total)} shown.` : `${exact(shown)} in all.`}{' '}
      {shown < total && next !== undefined && (
        <button type="button" onClick={() => setParams({ n: String(next) })}>
          Show {next}
        </button>
      )}
      {shown < total && next === undefined && 'Search for the others by a part of their names.'}
    </p>
  )
}
