import '../styles/pipeline.css'
import { get } from '../lib/api'
import { ago, bytes, time } from '../lib/format'
import { useLoad, useSession } from '../lib/hooks'
import { plural } from '../lib/pipeline'
import type { Health, Pipeline as Answer } from '../lib/pipeline'
import { href, usePlace } from '../lib/route'
import { Badge, Failure, Figure, Panel, Waiting } from '../ui'
import { Flow } from './pipeline/flow'
import { Partitions } from './pipeline/partitions'
import { LastHour } from './pipeline/past'
import { Processes } from './pipeline/processes'

/** What the pipeline does now and did in the last hour, over all processes. */
export function Pipeline() {
  const s = useSession()
  const { params } = usePlace()
  const live = useLoad((signal) => get<Answer>('-/pipeline', {}, { signal }), [], 3000)
  const p = live.data
  return (
    <>
      <h1 class="visually-hidden">Pipeline</h1>
      {live.error && <Failure error={live.error} retry={live.reload} />}
      {!p && !live.error && <Waiting />}
      {p && (
        <>
          {live.error ? <p class="hint">What follows was so at {time(p.now).slice(11)}.</p> : <HealthPanel health={p.health} now={p.now} />}
          <Panel>
            <h2 class="visually-hidden">The way of a sample</h2>
            <Flow pipeline={p} />
          </Panel>
          <LastHour access={s.access!} />
          <Partitions partitions={p.partitions} now={p.now} chosen={params.get('partition')} show={params.get('show')} />
          {p.compaction && <Compaction pipeline={p} />}
          <Processes pipeline={p} />
        </>
      )}
    </>
  )
}

const words = { ok: 'Healthy', warning: 'Attention', critical: 'Critical' } as const

/** How many problems are shown before the rest is folded away. */
const problemsAtOnce = 8

function HealthPanel({ health, now }: { health: Health; now: number }) {
  const item = (problem: Health['problems'][number]) => (
    <li key={problem.what}>
      <Badge tone={problem.severity}>{problem.severity === 'critical' ? 'critical' : 'warning'}</Badge>
      <span>
        {problem.what} {problem.partition !== undefined && <a href={href('pipeline', { partition: String(problem.partition) })}>partition {problem.partition}</a>}
      </span>
    </li>
  )
  return (
    <Panel>
      <div class="health-head" role="status">
        <Badge tone={health.state}>{words[health.state]}</Badge> <span>{health.summary}</span> <small class="beside">as of {time(now).slice(11)}</small>
      </div>
      {health.problems.length > 0 && <ul class="problems">{health.problems.slice(0, problemsAtOnce).map(item)}</ul>}
      {health.problems.length > problemsAtOnce && (
        <details>
          <summary>{health.problems.length - problemsAtOnce} more</summary>
          <ul class="problems">{health.problems.slice(problemsAtOnce).map(item)}</ul>
        </details>
      )}
    </Panel>
  )
}

function Compaction({ pipeline }: { pipeline: Answer }) {
  const c = pipeline.compaction!
  const looked = Math.max(0, ...pipeline.processes.map((p) => p.compactor?.looked ?? 0))
  return (
    <Panel
      title="Compaction"
      actions={
        <small>
          {looked > 0 && <>looked {ago(looked, pipeline.now)} · </>}
          <a href={href('blocks')}>Blocks of a tenant</a>
        </small>
      }
    >
      <dl class="figures">
        <Figure name="Merges due" value={c.jobs} hint={c.bytes > 0 ? bytes(c.bytes) : undefined} />
        <Figure name="Put off" value={c.waiting} hint="failed, tried again later" {...(c.waiting > 0 && { tone: 'warning' as const })} />
        <Figure name="Too large" value={plural(c.too_large, 'window')} hint="overlap, but exceed a job’s bounds" {...(c.too_large > 0 && { tone: 'warning' as const })} />
        <Figure name="Set aside" value={plural(c.quarantined, 'block')} hint="could not be read" {...(c.quarantined > 0 && { tone: 'critical' as const })} />
      </dl>
    </Panel>
  )
}
