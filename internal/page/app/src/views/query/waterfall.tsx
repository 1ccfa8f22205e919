// Where the time of a query went: totals, kinds of work, and a waterfall.

import { useMemo, useState } from 'preact/hooks'
import { bytes, count, exact, seconds } from '../../lib/format'
import { href } from '../../lib/route'
import { Badge, Copy, Figure } from '../../ui'
import { barsOf, countsText, coverageText, groupsOf, hitRatio, kinds } from './explain'
import type { Bar, Coverage, Explained } from './explain'

const percent = (share: number | undefined) => (share === undefined ? '–' : `${Math.round(share * 100)} %`)

export function ExplainPanel({ explain, of = '' }: { explain: Explained; of?: string }) {
  const [open, setOpen] = useState<ReadonlySet<string>>(new Set())
  const bars = useMemo(() => barsOf(explain, open), [explain, open])
  const groups = useMemo(() => groupsOf(explain), [explain])
  const t = explain.total ?? {}
  const pages = hitRatio(t, 'page_hits', 'page_misses'), results = hitRatio(t, 'cache_hits', 'cache_misses')
  return (
    <section class="explain" aria-label={`Where the time went${of}`}>
      <div class="actions">
        <h2>Where the time went</h2>
        <span class="gap" />
        <Copy text={() => JSON.stringify(explain, null, 1)} label="Copy JSON" />
      </div>
      <dl class="figures">
        <Figure name="Time" value={seconds(explain.seconds)} />
        <Figure name="Series" value={count(t.series ?? 0)} hint={`${count(t.chunks ?? 0)} chunks`} />
        <Figure name="Samples" value={count(t.samples ?? 0)} />
        <Figure name="Chunks" value={bytes(t.chunk_bytes ?? 0)} />
        <Figure name="Memory" value={bytes(t.memory_bytes ?? 0)} hint="at its most, estimated" />
        <Figure name="Bucket GETs" value={exact(t.bucket_requests ?? 0)} hint={bytes(t.bucket_bytes ?? 0)} />
        <Figure name="Page cache" value={percent(pages)} hint={pages === undefined ? 'not asked' : `of ${count((t.page_hits ?? 0) + (t.page_misses ?? 0))} pages`} />
        <Figure name="Results cache" value={percent(results)} hint={results === undefined ? 'not asked' : `of ${count((t.cache_hits ?? 0) + (t.cache_misses ?? 0))} parts`} />
      </dl>
      <div class="scroll" tabIndex={0} role="region" aria-label={`Kinds of work${of}`}>
        <table class="kinds">
          <thead>
            <tr>
              <th scope="col">Work</th>
              <th scope="col" class="number">Parts</th>
              <th scope="col" class="number" title="Sum; parts may run side by side">Time</th>
              <th scope="col" class="number">Longest</th>
              <th scope="col">What</th>
            </tr>
          </thead>
          <tbody>
            {groups.map((g) => (
              <tr key={g.kind}>
                <th scope="row">
                  <span class={`dot kind-${g.kind}`} aria-hidden="true" /> {kinds[g.kind]}
                </th>
                <td class="number">{exact(g.parts)}</td>
                <td class="number">{seconds(g.seconds)}</td>
                <td class="number">{seconds(g.longest)}</td>
                <td>
                  {g.failed > 0 && <Badge tone="warning">{exact(g.failed)} failed</Badge>} {countsText(g.counts)}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <div class="scroll" tabIndex={0} role="region" aria-label={`Waterfall${of}`}>
        <table class="waterfall">
          <thead>
            <tr>
              <th scope="col">Part</th>
              <th scope="col">0 s to {seconds(explain.seconds)}</th>
              <th scope="col" class="number">Time</th>
            </tr>
          </thead>
          <tbody>
            {bars.map((b) => (
              <Line key={b.id} bar={b} onMore={() => setOpen(new Set(open).add(b.id))} />
            ))}
          </tbody>
        </table>
      </div>
      {explain.dropped ? <p class="hint">{exact(explain.dropped)} more parts were not noted.</p> : null}
    </section>
  )
}

function Line({ bar: b, onMore }: { bar: Bar; onMore: () => void }) {
  const s = b.span
  const block = s.name === 'block' && typeof s.values?.block === 'string' ? s.values.block : ''
  const details = [countsText(s.counts), s.busy !== undefined ? `worked ${seconds(s.busy)} of it` : '', s.running ? 'was not over yet' : '', s.dropped ? `${exact(s.dropped)} parts not noted` : ''].filter(Boolean).join(' · ')
  return (
    <tr>
      <th scope="row" style={{ paddingLeft: `${b.depth * 1.1}rem` }} title={s.values ? JSON.stringify(s.values) : undefined}>
        {b.depth === 0 ? kinds.query : block ? <>Block <a class="mono" href={href('blocks', { id: block })}>{block}</a></> : b.name}
        {s.error && (
          <>
            {' '}
            <Badge tone="critical">{s.error}</Badge>
          </>
        )}
        {details && <small>{details}</small>}
        {b.more > 0 && (
          <button type="button" class="more" onClick={onMore}>
            {exact(b.more)} shorter parts
          </button>
        )}
      </th>
      <td>
        <div class="lane">
          <span class={`bar kind-${b.kind}`} style={{ left: `${b.left * 100}%`, width: `max(2px, ${b.width * 100}%)` }} title={`from ${seconds(s.start)}, for ${seconds(s.seconds)}`} />
        </div>
      </td>
      <td class="number">{seconds(s.seconds)}</td>
    </tr>
  )
}

/** What an answer is made of; its partitions one by one on demand. */
export function CoverageLine({ coverage: c }: { coverage: Coverage }) {
  const partitions = c.partitions ?? []
  const bad = !c.whole || (c.missing?.length ?? 0) > 0
  return (
    <details class={bad ? 'coverage bad' : 'coverage'}>
      <summary>{coverageText(c)}</summary>
      {c.missing?.map((m) => <p key={m}>Missing: {m}</p>)}
      {c.lost?.map((m) => <p key={m}>Lost for good: {m}</p>)}
      {partitions.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Partitions of the answer">
          <table>
            <thead>
              <tr>
                <th scope="col">Partition</th>
                <th scope="col" class="number">Answered up to offset</th>
                <th scope="col" class="number">Blocks have it to</th>
                <th scope="col">The rest is from</th>
              </tr>
            </thead>
            <tbody>
              {partitions.map((p) => (
                <tr key={p.partition}>
                  <th scope="row">{p.partition}</th>
                  <td class="number">{exact(p.to)}</td>
                  <td class="number">{exact(p.blocks_to)}</td>
                  <td>{p.member ? `${p.member}${p.zone ? `, zone ${p.zone}` : ''}` : '–'}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </details>
  )
}
