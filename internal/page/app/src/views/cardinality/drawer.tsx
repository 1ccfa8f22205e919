import { useState } from 'preact/hooks'
import { Choice, Drawer, Failure, Notice, Snippet, Waiting } from '../../ui'
import { get, uncounted } from '../../lib/api'
import { useLoad } from '../../lib/hooks'
import { exact } from '../../lib/format'
import { session } from '../../lib/session'
import { seriesNow, valuesNow } from './data'
import { labelName, monitorRules, otelRules, scrapeRules, sluiceLimits, writeRules } from './rules'
import type { Present, Subject, Way } from './rules'
import { selectorOf, sentence } from './state'
import type { Part } from './state'
import { percent } from './trend'

type Place = 'scrape' | 'write' | 'sluice' | 'operator' | 'otel'

const places = [
  ['scrape', 'Scrape'],
  ['write', 'Remote write'],
  ['sluice', 'Sluice'],
  ['operator', 'Operator'],
  ['otel', 'OTel'],
] as const

const effect: Record<Place, string> = {
  scrape: 'Prometheus drops it when it scrapes: neither Prometheus nor Sluice has it then. The cheapest place.',
  write: 'Prometheus keeps it and does not send it: its own rules and alerts can still use it.',
  sluice: 'Sluice drops it as it comes in, whoever sends it. Senders get a success; it takes effect some 20 seconds after the limits file was changed, without a restart.',
  operator: 'As at the scrape, in a ServiceMonitor or (under podMetricsEndpoints) a PodMonitor of the Prometheus operator.',
  otel: 'The OpenTelemetry Collector knows metrics by the names that senders gave them: before dots became underscores and units and _total were added. Check the names.',
}

/** Rules that take a subject away, for the places where that can be done, and what they would save. */
export function RulesDrawer({ subject, part, series, onClose }: { subject: Subject; part?: Part; series?: number; onClose: () => void }) {
  const [place, setPlace] = useState<Place>('scrape')
  const [way, setWay] = useState<Way>('drop')
  const limits = useLoad((signal) => get<{ limits: Present }>('api/v1/status/tenant', {}, { signal }), [])
  const used = subject.kind === 'label' ? 'drop' : way
  const names = subject.kind === 'metrics' ? subject.names : []
  const title = part ? sentence(part) : `${exact(names.length)} metrics`
  const push = new URL('api/v1/push', new URL('.', location.href)).href
  const text = {
    scrape: () => scrapeRules(subject, used),
    write: () => writeRules(subject, used, push),
    sluice: () => sluiceLimits(session.tenantName, subject, used, limits.data?.limits),
    operator: () => monitorRules(subject, used),
    otel: () => otelRules(subject, used),
  }[place]()
  const file = { scrape: 'prometheus.yml', write: 'prometheus.yml', sluice: 'The file of --limits.file', operator: 'ServiceMonitor', otel: 'The Collector’s configuration' }[place]
  return (
    <Drawer title={`Drop or relabel: ${title}`} onClose={onClose}>
      <div class="rules">
        {subject.kind !== 'label' && part && (
          <Choice
            label="What to do"
            value={way}
            onChange={setWay}
            options={[
              ['drop', 'Drop it'],
              ['keep', 'Keep only it'],
            ]}
          />
        )}
        {part ? <Saving part={part} subject={subject} way={used} /> : <p>{`Saves ${exact(series)} series.`}</p>}
        {used === 'keep' && subject.kind === 'metrics' && <Notice tone="warning">Keep drops every other metric that comes this way. Use it for a job of its own, seldom for a whole tenant.</Notice>}
        {subject.kind === 'label' && (
          <Notice tone="warning">
            Series that differ in this label alone become one, and of two samples for one time one stays. That is right for a label that only describes; where each value has a count of its own, drop series instead, or sum
            them up with a recording rule first.
          </Notice>
        )}
        <Choice label="Where" value={place} options={places} onChange={setPlace} />
        <p class="hint">{effect[place]}</p>
        {place === 'sluice' && limits.error && <Failure error={limits.error} retry={limits.reload} />}
        {place === 'sluice' && limits.loading && !limits.data ? <Waiting /> : <Snippet title={file} text={text} />}
        {place === 'sluice' && <p class="hint">The entry replaces what a class or the default says of this key; rules that hold now are in the text. If the tenant has an entry already, put the key in there.</p>}
        <p class="hint">
          Names are matched whole. What is in blocks stays until it is too old; the number of active series falls within 20 minutes. <code>docs/limits.md</code> says more.
        </p>
      </div>
    </Drawer>
  )
}

/** How many series the rules take away. */
function Saving({ part, subject, way }: { part: Part; subject: Subject; way: Way }) {
  const now = useLoad((signal) => seriesNow(part, 'active', signal), [part])
  if (now.error) return <p class="hint">What it saves is not known: {now.error.message}</p>
  if (!now.data) return <p class="saving">Counting what it saves…</p>
  const { series, all } = now.data
  if (subject.kind === 'label') return <LabelSaving part={part} label={subject.label} series={series} all={all} />
  if (way === 'keep' && subject.kind === 'value') return <KeepSaving part={part} series={series} />
  const saved = way === 'drop' ? series : all - series
  return (
    <p class="saving">
      Saves <strong>{exact(saved)}</strong> of {exact(all)} active series, {percent(saved, all)}.
    </p>
  )
}

function KeepSaving({ part, series }: { part: Part; series: number }) {
  const { value: _, ...label } = part
  const all = useLoad((signal) => seriesNow(label, 'active', signal), [label])
  if (!all.data) return null
  return (
    <p class="saving">
      Saves <strong>{exact(all.data.series - series)}</strong> of the {exact(all.data.series)} active series that have the label.
    </p>
  )
}

/** Without a label fewer series remain: at least as many as its most frequent value has. A query counts them. */
function LabelSaving({ part, label, series, all }: { part: Part; label: string; series: number; all: number }) {
  const top = useLoad((signal) => valuesNow(label, part, 'active', '', 1, signal), [part, label])
  const [asked, ask] = useState(false)
  const name = labelName(label)
  const selector = selectorOf(part)
  const query = part.metric !== undefined ? `count(count without (${name}) (${selector}))` : `count(count without (${name}) (label_replace(${selector}, "__metric", "$1", "__name__", "(.+)")))`
  const left = useLoad(async (signal) => (asked ? await scalar(query, signal) : undefined), [query, asked])
  const most = top.data?.rows[0]?.series
  return (
    <div class="saving">
      <p>
        {exact(series)} of {exact(all)} active series have the label.{' '}
        {left.data !== undefined ? (
          <>
            Without it {exact(left.data)} remain: saves <strong>{exact(series - left.data)}</strong>, {percent(series - left.data, all)}.
          </>
        ) : (
          most !== undefined && (
            <>
              Without it at least {exact(most)} remain, so it saves at most <strong>{exact(series - most)}</strong>, {percent(series - most, all)}.
            </>
          )
        )}
      </p>
      {left.data === undefined && (
        <button type="button" disabled={asked && left.loading} onClick={() => (asked ? left.reload() : ask(true))} title={query}>
          {asked && left.loading ? 'Counting…' : 'Count exactly, with a query'}
        </button>
      )}
      {left.error && <Failure error={left.error} />}
    </div>
  )
}

async function scalar(query: string, signal: AbortSignal): Promise<number> {
  const found = await get<{ result: { value: [number, string] }[] }>('api/v1/query', { query }, { signal, headers: uncounted, post: true })
  return Number(found.result[0]?.value[1] ?? 0)
}
