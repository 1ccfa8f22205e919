// The partitions of the log and who holds them: a map of all, a table of those to look at, and the details of one.

import { useState } from 'preact/hooks'
import { ago, bytes, count, exact, seconds, time } from '../../lib/format'
import { notInBlocks, plural } from '../../lib/pipeline'
import type { Generation, Holder, Partition } from '../../lib/pipeline'
import { setParams } from '../../lib/route'
import { Badge, Choice, Drawer, Empty, Meter, Panel, Table } from '../../ui'
import type { Column } from '../../ui'
import { badness, bestOf, openGaps, remarkable, rowsOf, stateOf, worstFirst } from './states'
import type { Row } from './states'

/** How many rows are shown in any case: so many are read at a glance. */
const few = 16

const mapFrom = 9

export function Partitions({ partitions, now, chosen, show }: { partitions: Partition[]; now: number; chosen: string | null; show: string | null }) {
  const rows = worstFirst(rowsOf(partitions))
  const bad = rows.filter(remarkable)
  const mode = show === 'all' || show === 'remarkable' ? show : rows.length <= few ? 'all' : 'remarkable'
  const shown = mode === 'all' ? rows : bad.length > 0 ? bad.slice(0, few) : rows.slice(0, 5)
  const hidden = rows.length - shown.length
  const badHidden = bad.length - shown.filter(remarkable).length
  const one = partitions.find((p) => String(p.partition) === chosen)
  return (
    <Panel
      id="partitions"
      title="Partitions"
      actions={
        rows.length > few && (
          <Choice
            label="Which partitions"
            value={mode}
            options={[
              ['remarkable', bad.length > 0 ? `To look at (${bad.length})` : 'Most behind'],
              ['all', `All (${rows.length})`],
            ]}
            onChange={(next) => setParams({ show: next })}
          />
        )
      }
    >
      {partitions.length >= mapFrom && <Map partitions={partitions} />}
      <Table label="Partitions and their holders" columns={columns(now)} rows={shown} id={(r) => r.id} empty="The log has no partitions yet." {...(chosen !== null && { selected: shown.find((r) => String(r.partition.partition) === chosen)?.id ?? '' })} />
      {hidden > 0 && (
        <p class="hint">
          {bad.length === 0 ? `All ${rows.length} are live; these are the most behind.` : `Not shown: ${badHidden > 0 ? `${badHidden} more to look at, ` : ''}${hidden - badHidden} healthy.`}{' '}
          <button type="button" class="plain" onClick={() => setParams({ show: 'all' })}>
            Show all
          </button>
        </p>
      )}
      {one && <Details partition={one} now={now} />}
    </Panel>
  )
}

const open = (p: Partition) => setParams({ partition: String(p.partition) }, false)

/** Every partition as a cell, a strip for each zone. */
function Map({ partitions }: { partitions: Partition[] }) {
  const zones = [...new Set(partitions.flatMap((p) => p.holders.map((h) => h.zone ?? '')))].sort()
  return (
    <div class="map">
      {(zones.length > 0 ? zones : ['']).map((zone) => (
        <Strip key={zone} zone={zone} partitions={partitions} />
      ))}
    </div>
  )
}

function Strip({ zone, partitions }: { zone: string; partitions: Partition[] }) {
  const cells = partitions.map((p) => {
    const holders = p.holders.filter((h) => (h.zone ?? '') === zone)
    const state = openGaps(p) > 0 ? { tone: 'critical' as const, word: plural(openGaps(p), 'open gap'), why: '' } : bestOf(holders)
    return { p, state, lag: holders[0]?.lag_seconds }
  })
  const bad = cells.filter((c) => c.state.tone !== 'ok').length
  const says = `${plural(partitions.length, 'partition')}, ${bad === 0 ? 'all live' : `${bad} to look at`}`
  return (
    <>
      {zone && <small class="zone-name">{zone}</small>}
      <div class={zone ? 'strip' : 'strip lone'} role="img" aria-label={`${zone ? `Zone ${zone}: ` : ''}${says}; the table tells which`}>
        {cells.map(({ p, state, lag }) => (
          <span key={p.partition} class={`cell ${state.tone}`} title={`Partition ${p.partition}: ${state.word}, lag ${seconds(lag)}`} onClick={() => open(p)}>
            {state.tone === 'critical' ? '■' : state.tone === 'warning' ? '▲' : ''}
          </span>
        ))}
      </div>
    </>
  )
}

function columns(now: number): Column<Row>[] {
  return [
    {
      name: 'partition',
      title: 'Partition',
      by: (r) => r.partition.partition,
      cell: (r) => (
        <button type="button" class="plain link" onClick={() => open(r.partition)} aria-label={`Partition ${r.partition.partition}`}>
          {r.partition.partition}
        </button>
      ),
    },
    {
      name: 'state',
      title: 'State',
      by: badness,
      cell: (r) => (
        <>
          <Badge tone={r.state.tone} title={r.state.why}>
            {r.state.word}
          </Badge>
          {r.holder?.state === 'replaying' && <Replay holder={r.holder} />}
        </>
      ),
    },
    { name: 'zone', title: 'Zone', by: (r) => r.holder?.zone ?? '', cell: (r) => r.holder?.zone || '–' },
    { name: 'consumer', title: 'Consumer', by: (r) => r.holder?.id ?? '', cell: (r) => (r.holder ? <code>{r.holder.id}</code> : '–') },
    { name: 'lag', title: 'Lag', number: true, by: (r) => r.holder?.lag_seconds ?? -1, cell: (r) => seconds(r.holder?.lag_seconds), hint: 'Age of the last applied record while others wait behind it; 0 = all are applied' },
    { name: 'records', title: 'Records behind', number: true, by: (r) => r.holder?.lag_records ?? -1, cell: (r) => count(r.holder?.lag_records) },
    {
      name: 'age',
      title: 'Generation',
      by: (r) => -(r.holder?.generation?.began || now),
      cell: (r) => <Age generation={r.holder?.generation} now={now} />,
      hint: 'How old the growing generation is; at its full length it becomes blocks',
    },
    { name: 'size', title: 'Size', number: true, by: (r) => r.holder?.generation?.bytes ?? -1, cell: (r) => bytes(r.holder?.generation?.bytes), hint: 'Records of the growing generation' },
    { name: 'series', title: 'Series', number: true, by: (r) => r.holder?.generation?.series ?? -1, cell: (r) => count(r.holder?.generation?.series) },
    { name: 'way', title: 'On the way', by: (r) => (r.holder ? r.holder.waiting + r.holder.sealing + r.holder.shipping : 0), cell: (r) => onTheWay(r.holder), hint: 'Generations that wait, are written as blocks, or go to the bucket' },
    { name: 'blocks', title: 'Not in blocks', number: true, by: (r) => notInBlocks(r.partition) ?? -1, cell: (r) => count(notInBlocks(r.partition)), hint: 'Records of the log behind the committed offset' },
    {
      name: 'gaps',
      title: 'Gaps',
      number: true,
      by: (r) => openGaps(r.partition) * 1000 + r.partition.gaps.length,
      cell: (r) => (openGaps(r.partition) > 0 ? <Badge tone="critical">{openGaps(r.partition)}</Badge> : r.partition.gaps.length > 0 ? `${r.partition.gaps.length} accepted` : '–'),
    },
  ]
}

function onTheWay(h: Holder | undefined): string {
  if (!h) return '–'
  const parts = [h.waiting > 0 && `${h.waiting} waiting`, h.sealing > 0 && `${h.sealing} sealing`, h.shipping > 0 && `${h.shipping} shipping`].filter(Boolean)
  return parts.join(', ') || '–'
}

function Replay({ holder }: { holder: Holder }) {
  const done = holder.replayed ?? 0
  return (
    <span class="progress">
      <Meter plain value={done} max={1} label={`${Math.floor(done * 100)} % replayed`} />
      <small>{Math.floor(done * 100)} %</small>
    </span>
  )
}

function Age({ generation, now }: { generation: Generation | undefined; now: number }) {
  if (!generation?.began) return <>–</>
  const age = Math.max(0, now - generation.began)
  return (
    <span class="progress">
      {generation.length ? <Meter plain value={age} max={generation.length} label={`${Math.round((age / generation.length) * 100)} % of a generation`} /> : null}
      <small>{seconds(Math.round(age / 1000))}</small>
    </span>
  )
}

function Details({ partition: p, now }: { partition: Partition; now: number }) {
  const [gapsShown, setGapsShown] = useState(20)
  return (
    <Drawer title={`Partition ${p.partition}`} onClose={() => setParams({ partition: undefined })}>
      <dl class="facts">
        <dt>Log</dt>
        <dd>
          {exact(p.start)} to {exact(p.end)}
        </dd>
        <dt>Committed</dt>
        <dd>
          {p.committed === undefined ? 'nothing yet' : exact(p.committed)}, {exact(notInBlocks(p))} records are not in blocks
        </dd>
        <dt>In blocks</dt>
        <dd>
          {p.blocks_to === undefined ? 'nothing yet' : `to ${exact(p.blocks_to)}`}
          {p.blocks_time ? `, ${time(p.blocks_time)} (${ago(p.blocks_time, now)})` : ''}
        </dd>
      </dl>
      {p.holders.length === 0 && <Empty>No consumer holds this partition.</Empty>}
      {p.holders.map((h) => (
        <HolderDetails key={h.id} holder={h} now={now} />
      ))}
      {p.gaps.length > 0 && (
        <>
          <h3>Gaps of the log</h3>
          <ul class="plain-list">
            {p.gaps.slice(0, gapsShown).map((g) => (
              <li key={g.from}>
                <Badge tone={g.accepted ? 'info' : 'critical'}>{g.accepted ? 'accepted' : 'open'}</Badge> {exact(g.from)} to {exact(g.to)} ({g.reason})
                {g.from_time ? <small> {time(g.from_time)} to {time(g.to_time)}</small> : null}
              </li>
            ))}
          </ul>
          {p.gaps.length > gapsShown && (
            <button type="button" onClick={() => setGapsShown(p.gaps.length)}>
              Show all {p.gaps.length}
            </button>
          )}
          <p class="hint">
            Queries over the time of an open gap fail. <code>sluice log accept-gap</code> accepts it.
          </p>
        </>
      )}
    </Drawer>
  )
}

function HolderDetails({ holder: h, now }: { holder: Holder; now: number }) {
  const state = stateOf(h)
  const g = h.generation
  return (
    <section class="holder">
      <h3>
        <code>{h.id}</code> {h.zone && <small>zone {h.zone}</small>} <Badge tone={state.tone}>{state.word}</Badge>
      </h3>
      {state.why && <p>{state.why}</p>}
      {h.state === 'replaying' && <Replay holder={h} />}
      <dl class="facts">
        <dt>Applied</dt>
        <dd>
          {exact(h.applied)}, from {exact(h.from)}
        </dd>
        <dt>Lag</dt>
        <dd>
          {seconds(h.lag_seconds)}, {exact(h.lag_records)} records
        </dd>
        {g && (
          <>
            <dt>Generation</dt>
            <dd>
              from {exact(g.from)}, {g.began ? `began ${ago(g.began, now)}` : 'empty'}
              {g.length ? `, ends after ${seconds(g.length / 1000)}` : ''}
            </dd>
            <dt>Holds</dt>
            <dd>
              {exact(g.series)} series, {exact(g.samples)} samples, {bytes(g.bytes)} of records
            </dd>
            {g.end_reason && (
              <>
                <dt>Ended before</dt>
                <dd>by {g.end_reason}</dd>
              </>
            )}
          </>
        )}
        <dt>On the way</dt>
        <dd>{onTheWay(h) === '–' ? 'nothing' : onTheWay(h)}</dd>
        {h.unshipped_since ? (
          <>
            <dt>Oldest in memory</dt>
            <dd>{ago(h.unshipped_since, now)}</dd>
          </>
        ) : null}
        <dt>Last shipped</dt>
        <dd>{h.last_shipped ? ago(h.last_shipped, now) : 'not since it started'}</dd>
      </dl>
    </section>
  )
}
