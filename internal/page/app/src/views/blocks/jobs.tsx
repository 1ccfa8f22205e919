// What will be compacted next and why, and what cannot be.

import { ago, bytes, count, seconds, time } from '../../lib/format'
import { href } from '../../lib/route'
import { Badge, Panel, Table } from '../../ui'
import type { Column, Tone } from '../../ui'
import type { Block, Blocks, Job } from './types'

const tones: Record<Job['state'], Tone> = { ready: 'info', running: 'ok', waiting: 'info', too_large: 'warning' }
const order: Record<Job['state'], number> = { running: 0, ready: 1, waiting: 2, too_large: 3 }

/** Running ones first, then by when they are due. */
const inOrder = (jobs: readonly Job[]) => [...jobs].sort((a, b) => order[a.state] - order[b.state] || (a.due ?? 0) - (b.due ?? 0))

export function Jobs({ answer }: { answer: Blocks }) {
  const now = answer.now
  const columns: Column<Job>[] = [
    { name: 'state', title: 'State', cell: (j) => <Badge tone={tones[j.state]}>{j.state.replace('_', ' ')}</Badge> },
    { name: 'why', title: 'Why', cell: (j) => <span class="why">{j.why}</span> },
    {
      name: 'window',
      title: 'Window',
      cell: (j) => (
        <a class="nowrap" href={href('blocks', { from: String(j.start), to: String(j.end) })} title="Show it in the time line">
          {time(j.start).slice(0, 16)}, {seconds((j.end - j.start) / 1000)}
        </a>
      ),
    },
    { name: 'blocks', title: 'Blocks', number: true, cell: (j) => j.blocks.length },
    { name: 'size', title: 'Size', number: true, cell: (j) => bytes(j.bytes) },
    { name: 'series', title: 'Series', number: true, cell: (j) => count(j.series), hint: 'At most: a series of two blocks counts twice' },
    { name: 'due', title: 'Due', number: true, cell: (j) => <Due job={j} now={now} /> },
  ]
  const all = [...inOrder(answer.jobs), ...answer.too_large]
  return (
    <Panel title="What is merged next, and why" id="jobs">
      <Table label="Merges to come" columns={columns} rows={all} id={(j) => `${j.start}/${j.end}/${j.blocks.join()}`} empty="Nothing is to be merged: no two blocks overlap or share a closed window." />
    </Panel>
  )
}

function Due({ job, now }: { job: Job; now: number }) {
  if (job.state === 'too_large') return <>never</>
  if (job.state === 'running') return <>{job.by ? <>now, by <code>{job.by}</code></> : 'now'}</>
  if (job.due === undefined) return <>–</>
  return <span title={time(job.due)}>{job.due > now ? `in ${seconds(Math.round((job.due - now) / 1000))}` : `since ${ago(job.due, now).replace(' ago', '')}`}</span>
}

/** The blocks that compactors could not read. */
export function SetAside({ blocks, now }: { blocks: readonly Block[]; now: number }) {
  const bad = blocks.filter((b) => b.quarantined)
  if (bad.length === 0) return null
  return (
    <Panel title="Set aside" actions={<Badge tone="critical">{bad.length}</Badge>}>
      <p class="hint">Compactors could not read these for merging. They stay where they are, are still queried, and are tried again a day later.</p>
      <Table
        label="Blocks set aside"
        rows={bad}
        id={(b) => b.id}
        columns={[
          { name: 'id', title: 'Block', cell: (b) => <a class="mono" href={href('blocks', { id: b.id })}>{b.id}</a> },
          { name: 'reason', title: 'Why', cell: (b) => <span class="why">{b.quarantined!.reason}</span> },
          { name: 'by', title: 'Said by', cell: (b) => <code>{b.quarantined!.by}</code> },
          { name: 'at', title: 'When', number: true, cell: (b) => <span title={time(b.quarantined!.at)}>{ago(b.quarantined!.at, now)}</span> },
        ]}
      />
    </Panel>
  )
}
