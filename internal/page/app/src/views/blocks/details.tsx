// One block, whole.

import { get } from '../../lib/api'
import { ago, bytes, exact, seconds, time } from '../../lib/format'
import { useLoad } from '../../lib/hooks'
import { queryLink } from '../../lib/own'
import { href, setParams } from '../../lib/route'
import { Badge, Copy, Drawer, Failure, Notice, Table, Waiting } from '../../ui'
import type { Column } from '../../ui'
import { levelName } from './timeline'
import type { Details, LogRange } from './types'

const few = 12

/** Counting every series of a large block is no first thing to do. */
const smallEnoughToCount = 100_000

export function BlockDetails({ id, tenant, now }: { id: string; tenant: string; now: number }) {
  const found = useLoad((signal) => get<Details>(`api/v1/status/blocks/${encodeURIComponent(id)}`, {}, { signal }), [id, tenant])
  return (
    <Drawer key={id} title={`Block ${id}`} onClose={() => setParams({ id: undefined })}>
      {found.error && <Failure error={found.error} retry={found.reload} />}
      {found.loading && !found.data && <Waiting />}
      {found.data && <Block block={found.data} now={now} />}
    </Drawer>
  )
}

function Block({ block: b, now }: { block: Details; now: number }) {
  const replacedBy = b.replaced_by === undefined ? [] : [b.replaced_by]
  const expression = b.series < smallEnoughToCount ? 'count({__name__=~".+"})' : 'count(up)'
  return (
    <>
      <p class="actions">
        <a href={queryLink(expression, b.tenant, b.min_time, b.max_time)}>Query its time</a>
        <a href={href('blocks', { from: String(b.min_time), to: String(b.max_time), id: b.id })}>Show it in the time line</a>
        <Copy text={b.id} label="Copy the ID" />
      </p>
      {b.quarantined && (
        <Notice tone="critical">
          <strong>Set aside.</strong> {b.quarantined.by} could not merge it, {ago(b.quarantined.at, now)}: <span class="said">{b.quarantined.reason}</span>. It stays where it is and is tried again a day later; queries still read it.
        </Notice>
      )}
      {(b.gaps?.length ?? 0) > 0 && (
        <Notice tone="warning">
          <strong>Parts of the log are missing in it:</strong>{' '}
          {b.gaps!.map((g) => `partition ${g.partition} from ${exact(g.from)} to ${exact(g.to)} (${g.reason}${g.from_time ? `, ${time(g.from_time)}` : ''})`).join('; ')}
        </Notice>
      )}
      <dl class="facts">
        <dt>State</dt>
        <dd>
          {b.state === 'live' ? <Badge tone="ok">live</Badge> : <Badge tone="warning">{b.state}</Badge>} {b.reason} since {time(b.at)}
        </dd>
        <dt>Samples of</dt>
        <dd>
          {time(b.min_time)} to {time(b.max_time)} ({seconds((b.max_time - b.min_time) / 1000)})
        </dd>
        <dt>Kind</dt>
        <dd>{levelName(b.level, b.resolution)}</dd>
        <dt>Holds</dt>
        <dd>
          {exact(b.series)} series, {exact(b.samples)} samples
        </dd>
        <dt>Size</dt>
        <dd>
          {bytes(b.bytes)}, {perSample(b.bytes, b.samples)}
        </dd>
        {b.folder && (
          <>
            <dt>In the bucket</dt>
            <dd>
              <code>{b.folder}</code>
            </dd>
          </>
        )}
        <dt>Log time</dt>
        <dd>
          {b.log_from ? `${time(b.log_from)} to ` : ''}
          {time(b.log_time)}
        </dd>
      </dl>
      {replacedBy.length > 0 && <IDs title="Replaced by" ids={replacedBy} linked />}
      <h3>Files</h3>
      <Table
        label="Files"
        rows={b.files ?? []}
        id={(f) => f.rel_path}
        columns={[
          { name: 'file', title: 'File', cell: (f) => <code>{f.rel_path}</code> },
          { name: 'size', title: 'Size', number: true, cell: (f) => bytes(f.size_bytes) },
          { name: 'hash', title: 'Hash', cell: (f) => (f.hash ? <code title={f.hash.value}>{`${f.hash.hashFunc} ${f.hash.value.slice(0, 12)}…`}</code> : '–') },
        ]}
      />
      <Ranges ranges={b.ranges ?? []} />
      <IDs title="Made of" ids={(b.sources ?? []).filter((s) => s !== b.id)} />
      <IDs title="Replaces" ids={b.replaces ?? []} />
    </>
  )
}

export const perSample = (size: number, samples: number) => (samples > 0 ? `${(size / samples).toFixed(2)} B/sample` : '–')

function Ranges({ ranges }: { ranges: LogRange[] }) {
  if (ranges.length === 0) return null
  const topics = new Set(ranges.map((r) => r.topic_id).filter(Boolean))
  const columns: Column<LogRange>[] = [
    { name: 'partition', title: 'Partition', cell: (r) => r.partition },
    { name: 'from', title: 'From', number: true, cell: (r) => exact(r.from) },
    { name: 'to', title: 'To, exclusive', number: true, cell: (r) => exact(r.to) },
    { name: 'records', title: 'Records', number: true, cell: (r) => exact(r.to - r.from) },
  ]
  if (topics.size > 1) columns.push({ name: 'topic', title: 'Topic', cell: (r) => <code>{r.topic_id}</code> })
  return (
    <>
      <h3>Where in the log it comes from</h3>
      {topics.size === 1 && (
        <p class="hint">
          Topic <code>{[...topics][0]}</code>
        </p>
      )}
      <Table label="Ranges of the log" columns={columns} rows={ranges.slice(0, 200)} id={(r) => `${r.topic_id}/${r.partition}/${r.from}`} />
      {ranges.length > 200 && <p class="hint">{ranges.length - 200} more</p>}
    </>
  )
}

function IDs({ title, ids, linked }: { title: string; ids: string[]; linked?: boolean }) {
  if (ids.length === 0) return null
  const list = (some: string[]) => (
    <ul class="ids">
      {some.map((id) => (
        <li key={id}>{linked ? <a href={href('blocks', { id })}>{id}</a> : <code>{id}</code>}</li>
      ))}
    </ul>
  )
  return (
    <>
      <h3>
        {title} <small>{ids.length === 1 ? 'one block' : `${ids.length} blocks`}</small>
      </h3>
      {list(ids.slice(0, few))}
      {ids.length > few && (
        <details>
          <summary>{ids.length - few} more</summary>
          {list(ids.slice(few))}
        </details>
      )}
    </>
  )
}
