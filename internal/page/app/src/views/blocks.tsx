import '../styles/blocks.css'
import { useMemo, useState } from 'preact/hooks'
import { get } from '../lib/api'
import { now } from '../lib/clock'
import { ago, agoBriefly, bytes, count, exact, seconds, time } from '../lib/format'
import { useLoad, useSession } from '../lib/hooks'
import type { Pipeline } from '../lib/pipeline'
import { href, setParams, usePlace } from '../lib/route'
import { Choice, Empty, Failure, Figure, Panel, Snippet, Table, Waiting } from '../ui'
import type { Column } from '../ui'
import { BlockDetails, perSample } from './blocks/details'
import { Jobs, SetAside } from './blocks/jobs'
import { extent, zoom } from './blocks/layout'
import { TimeLine } from './blocks/timeline'
import type { View } from './blocks/timeline'
import type { Block, Blocks as Answer } from './blocks/types'

/** How many blocks are asked for at a time; further back is asked for when it is looked at. */
const atOnce = 5000

const day = 86_400_000
const ranges = { '24h': day, '7d': 7 * day, '30d': 30 * day } as const
type Range = 'all' | keyof typeof ranges | ''

/** The blocks of a tenant: where they are in time, what they hold, what becomes of them. */
export function Blocks() {
  const s = useSession()
  const { params } = usePlace()
  const has = s.hasTenant
  const found = useLoad(async (signal) => (has ? get<Answer>('api/v1/status/blocks', { limit: atOnce }, { signal }) : undefined), [s.tenant, has], 20_000)
  const a = found.data
  const back = useFurtherBack(a, params, s.tenant)
  const id = params.get('id')
  return (
    <>
      <h1 class="visually-hidden">Blocks</h1>
      {!has && <Empty>Choose a tenant above: blocks belong to one.</Empty>}
      {found.error && <Failure error={found.error} retry={found.reload} />}
      {back.error && <Failure error={back.error} retry={back.reload} />}
      {has && !a && !found.error && <Waiting />}
      {a && (a.total === 0 && a.blocks.length === 0 ? <None admin={s.may('admin')} consumer={s.access!.stages.includes('consumer')} /> : <Shown answer={a} back={back.data} params={params} />)}
      {id && <BlockDetails id={id} tenant={s.tenant} now={a?.now ?? now()} />}
    </>
  )
}

/** The range that the URL names. */
function viewOf(params: URLSearchParams, blocks: readonly Block[], now: number): { view: View; range: Range } {
  const from = Number(params.get('from'))
  const to = Number(params.get('to'))
  if (from > 0 && to > from) return { view: [from, to], range: '' }
  const range = params.get('range')
  if (range !== null && range in ranges) {
    const span = ranges[range as keyof typeof ranges]
    return { view: [now - span, now + span * 0.01], range: range as Range }
  }
  return { view: extent(blocks, now), range: 'all' }
}

/** What is looked at and is not among the newest blocks. */
function useFurtherBack(a: Answer | undefined, params: URLSearchParams, tenant: string) {
  const oldest = a && a.total > a.blocks.length ? a.blocks.reduce((t, b) => Math.min(t, b.max_time), Infinity) : undefined
  const { view, range } = a ? viewOf(params, a.blocks, a.now) : { view: [0, 0] as View, range: 'all' as Range }
  const needed = oldest !== undefined && range !== 'all' && view[0] < oldest
  // Rounded, so that a range that ends now is not another one every time.
  const key = needed ? [Math.floor(view[0] / 60_000), Math.ceil(view[1] / 60_000)] : []
  return useLoad(
    async (signal) => (needed ? get<Answer>('api/v1/status/blocks', { start: key[0]! * 60, end: key[1]! * 60, limit: atOnce }, { signal }) : undefined),
    [tenant, needed, ...key],
  )
}

function Shown({ answer: a, back, params }: { answer: Answer; back: Answer | undefined; params: URLSearchParams }) {
  const blocks = useMemo(() => {
    if (!back) return a.blocks
    const known = new Set(a.blocks.map((b) => b.id))
    return [...a.blocks, ...back.blocks.filter((b) => !known.has(b.id))]
  }, [a, back])
  const { view, range } = viewOf(params, blocks, a.now)
  const [from, to] = view
  const inView = useMemo(() => blocks.filter((b) => b.max_time > from && b.min_time < to), [blocks, from, to])
  const look = ([f, t]: View) => setParams({ from: String(Math.round(f)), to: String(Math.round(t)), range: undefined }, false)
  const shift = (share: number) => look([from + (to - from) * share, to + (to - from) * share])
  return (
    <>
      <Totals all={a} />
      <Panel
        title="Time line"
        actions={
          <>
            <span class="choice">
              <button type="button" onClick={() => shift(-0.5)} aria-label="Earlier" title="Earlier">
                ←
              </button>
              <button type="button" onClick={() => look(zoom(view, 2))} aria-label="Zoom out" title="Zoom out">
                −
              </button>
              <button type="button" onClick={() => look(zoom(view, 0.5))} aria-label="Zoom in" title="Zoom in">
                +
              </button>
              <button type="button" onClick={() => shift(0.5)} aria-label="Later" title="Later">
                →
              </button>
            </span>
            <Choice<Range>
              label="Range"
              value={range}
              options={[
                ['all', 'All'],
                ['30d', '30 d'],
                ['7d', '7 d'],
                ['24h', '24 h'],
              ]}
              onChange={(r) => setParams({ range: r === 'all' ? undefined : r, from: undefined, to: undefined }, false)}
            />
          </>
        }
      >
        <TimeLine blocks={blocks} jobs={a.jobs} view={view} now={a.now} chosen={params.get('id')} onView={look} onBlock={(id) => setParams({ id }, false)} />
        {a.total > blocks.length && <p class="hint">These are {exact(blocks.length)} of {exact(a.total)} blocks, the newest: a range further back brings the others.</p>}
      </Panel>
      <SetAside blocks={blocks} now={a.now} />
      <Jobs answer={a} />
      <List blocks={inView} now={a.now} params={params} whole={range === 'all'} />
    </>
  )
}

function Totals({ all }: { all: Answer }) {
  const series = all.blocks.reduce((n, b) => Math.max(n, b.series), 0)
  return (
    <Panel>
      <h2 class="visually-hidden">All blocks together</h2>
      <dl class="figures">
        <Figure name="Blocks" value={exact(all.total)} />
        <Figure name="Size" value={bytes(all.bytes)} />
        <Figure name="Samples" value={count(all.samples)} />
        <Figure name="Bytes a sample" value={all.samples > 0 ? (all.bytes / all.samples).toFixed(2) : '–'} />
        <Figure name="Series" value={count(series)} hint="in the largest block" />
        <Figure name="Oldest sample" value={agoBriefly(all.oldest, all.now)} hint={time(all.oldest)} />
        <Figure name="Newest sample" value={agoBriefly(all.newest, all.now)} hint={time(all.newest)} />
      </dl>
    </Panel>
  )
}

/** How many rows at first, and how many more at a time. */
const rowsAtOnce = 50

const partitionsOf = (b: Block) => b.partitions ?? [...new Set((b.ranges ?? []).map((r) => r.partition))]

/** 1,2,3,7 → 1–3, 7 */
export function spans(numbers: readonly number[]): string {
  const out: string[] = []
  const sorted = [...numbers].sort((a, b) => a - b)
  for (let i = 0; i < sorted.length; ) {
    let j = i
    while (j + 1 < sorted.length && sorted[j + 1] === sorted[j]! + 1) j++
    out.push(i === j ? String(sorted[i]) : j === i + 1 ? `${sorted[i]}, ${sorted[j]}` : `${sorted[i]}–${sorted[j]}`)
    i = j + 1
  }
  return out.length > 6 ? `${out.slice(0, 6).join(', ')} …` : out.join(', ')
}

function offsets(b: Block): string {
  const [first] = b.ranges ?? []
  if (!first) return ''
  return b.ranges!.length === 1 ? `${exact(first.from)}–${exact(first.to)}` : `${b.ranges!.length} ranges`
}

const columns = (now: number): Column<Block>[] => [
  {
    name: 'id',
    title: 'Block',
    by: (b) => b.id,
    cell: (b) => (
      <button type="button" class="plain link mono" onClick={() => setParams({ id: b.id }, false)}>
        {b.id}
      </button>
    ),
  },
  { name: 'min_time', title: 'From', by: (b) => b.min_time, cell: (b) => <span class="nowrap">{time(b.min_time)}</span> },
  { name: 'length', title: 'Length', number: true, by: (b) => b.max_time - b.min_time, cell: (b) => seconds(Math.round((b.max_time - b.min_time) / 1000)) },
  { name: 'level', title: 'Level', number: true, by: (b) => b.level + b.resolution / 1e9, cell: (b) => (b.resolution > 0 ? `${b.level}, ${seconds(b.resolution / 1000)}` : b.level), hint: 'and how far apart the samples are, if they were downsampled' },
  { name: 'bytes', title: 'Size', number: true, by: (b) => b.bytes, cell: (b) => bytes(b.bytes) },
  { name: 'series', title: 'Series', number: true, by: (b) => b.series, cell: (b) => count(b.series) },
  { name: 'samples', title: 'Samples', number: true, by: (b) => b.samples, cell: (b) => count(b.samples) },
  { name: 'each', title: 'B/sample', number: true, by: (b) => (b.samples > 0 ? b.bytes / b.samples : 0), cell: (b) => perSample(b.bytes, b.samples).replace(' B/sample', '') },
  { name: 'partitions', title: 'Partitions', by: (b) => partitionsOf(b)[0] ?? -1, cell: (b) => spans(partitionsOf(b)) || '–' },
  { name: 'offsets', title: 'Offsets', number: true, by: (b) => b.ranges?.[0]?.from ?? -1, cell: offsets },
  { name: 'at', title: 'Written', number: true, by: (b) => b.at, cell: (b) => <span title={time(b.at)}>{ago(b.at, now)}</span> },
]

function List({ blocks, now, params, whole }: { blocks: readonly Block[]; now: number; params: URLSearchParams; whole: boolean }) {
  const [rows, setRows] = useState(rowsAtOnce)
  const all = columns(now)
  const sort = all.some((c) => c.name === params.get('sort')) ? params.get('sort')! : 'min_time'
  const descending = params.get('order') !== 'asc'
  const by = all.find((c) => c.name === sort)!.by!
  const sorted = useMemo(
    () =>
      [...blocks].sort((a, b) => {
        const [x, y] = [by(a), by(b)]
        const order = typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y))
        return descending ? -order : order
      }),
    [blocks, sort, descending],
  )
  return (
    <Panel
      title="Blocks"
      actions={
        <small>
          {exact(blocks.length)}
          {!whole && (
            <>
              {' '}
              in the range above · <a href={href('blocks')}>all</a>
            </>
          )}
        </small>
      }
    >
      <Table
        label="Blocks"
        columns={all}
        rows={sorted.slice(0, rows)}
        id={(b) => b.id}
        sort={sort}
        descending={descending}
        onSort={(name, down) => setParams({ sort: name === 'min_time' ? undefined : name, order: down ? undefined : 'asc' })}
        selected={params.get('id') ?? ''}
        empty="No block has samples of this time."
      />
      {sorted.length > rows && (
        <p class="more-rows">
          <button type="button" onClick={() => setRows(rows + 4 * rowsAtOnce)}>
            Show {Math.min(4 * rowsAtOnce, sorted.length - rows)} more
          </button>{' '}
          <small>
            {exact(rows)} of {exact(sorted.length)}
          </small>
        </p>
      )}
    </Panel>
  )
}

/** Nothing has been shipped yet: when something will be. */
function None({ admin, consumer }: { admin: boolean; consumer: boolean }) {
  const pipeline = useLoad(async (signal) => (admin ? get<Pipeline>('-/pipeline', {}, { signal }) : undefined), [admin], admin ? 30_000 : 0)
  const ends = pipeline.data?.partitions.flatMap((p) => p.holders.map((h) => (h.generation?.began && h.generation.length ? h.generation.began + h.generation.length : Infinity))) ?? []
  const next = Math.min(Infinity, ...ends)
  const now = pipeline.data?.now ?? 0
  const here = new URL('.', location.href).href.replace(/\/$/, '')
  return (
    <Panel title="No blocks yet">
      <p>
        What is written is in the log and in the memory of consumers, and can be queried. It becomes blocks when its generation ends
        {next < Infinity ? (
          <>
            : the first ends <strong>{next > now ? `in ${seconds(Math.round((next - now) / 1000))}` : 'now'}</strong>, at {time(next)}.
          </>
        ) : (
          <>, by default after two hours (--consumer.generation).</>
        )}
      </p>
      {admin && (
        <>
          <p>To have blocks at once, end all generations now:</p>
          <Snippet title="Seal" text={consumer ? `curl -X POST ${here}/-/seal\n` : 'sluice log seal --url http://CONSUMER:9009\n'} />
        </>
      )}
    </Panel>
  )
}
