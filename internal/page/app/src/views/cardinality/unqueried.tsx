import { useState } from 'preact/hooks'
import { Choice, Empty, Failure, Figure, Panel, SearchField, Table, Waiting } from '../../ui'
import { now } from '../../lib/clock'
import { ago, exact, time } from '../../lib/format'
import { useLoad } from '../../lib/hooks'
import { place, setParams } from '../../lib/route'
import { seriesNow, uses } from './data'
import type { MetricUse } from './data'
import { RulesDrawer } from './drawer'
import { PartActions, More } from './list'
import { partHref } from './state'
import type { State } from './state'
import { Measured, Name, percent } from './trend'

const everSince = (s: number) => now() / 1000 - s

/** Metrics that cost series and answer nobody: never queried, or least. */
export function Unqueried({ state }: { state: State }) {
  const never = place().params.get('least') !== '1'
  const found = useLoad((signal) => uses(never, signal), [never])
  const tenant = useLoad((signal) => seriesNow({}, 'active', signal), [])
  const [chosen, choose] = useState<ReadonlySet<string>>(new Set())
  const [rules, setRules] = useState(false)
  const data = found.data
  const search = state.search.toLowerCase()
  const records = (data?.records ?? []).filter((r) => r.metricName.toLowerCase().includes(search))
  const sorted = never ? [...records].sort((a, b) => b.series - a.series) : records
  const shown = sorted.slice(0, state.limit)
  const top = Math.max(0, ...shown.map((r) => r.series))
  const idle = (data?.records ?? []).filter((r) => r.queryRequests === 0)
  const sum = idle.reduce((n, r) => n + r.series, 0)
  const picked = records.filter((r) => chosen.has(r.metricName))
  const short = data && everSince(data.statsCollectedSince) < 7 * 86_400
  const toggle = (name: string) => {
    const next = new Set(chosen)
    if (!next.delete(name)) next.add(name)
    choose(next)
  }
  return (
    <Panel
      title="Metrics that nothing queries"
      actions={
        <>
          <Choice label="Which" value={never ? 'never' : 'least'} options={[['never', 'Never queried'], ['least', 'Least queried']]} onChange={(v) => setParams({ least: v === 'least' ? '1' : undefined })} />
          <SearchField label="Search metrics" value={state.search} onChange={(v) => setParams({ search: v })} />
          <button type="button" class="primary" disabled={picked.length === 0} onClick={() => setRules(true)}>
            Drop {picked.length > 0 ? `${exact(picked.length)} chosen` : 'chosen'}
          </button>
        </>
      }
    >
      {found.error && <Failure error={found.error} retry={found.reload} />}
      {!data && !found.error && <Waiting />}
      {data && (
        <>
          <dl class="figures">
            <Figure name="Never queried" value={`${exact(idle.length)}${data.records.length >= 1000 && never ? ' or more' : ''}`} hint="metrics that have series now" />
            <Figure name="Their series" value={exact(sum)} hint={tenant.data && `${percent(sum, tenant.data.all)} of ${exact(tenant.data.all)}`} />
            <Figure name="Counted since" value={ago(data.statsCollectedSince * 1000).replace(/ ago$/, '')} hint={time(data.statsCollectedSince * 1000)} tone={short ? 'warning' : 'ok'} />
          </dl>
          <p class="hint">
            {short && 'That is not long: what is looked at once a month may still come. '}
            Counted are queries, rules and federation of all readers; not this page, and not rules that Prometheus evaluates on its own data before it sends.
          </p>
          {shown.length === 0 ? (
            <Empty>{state.search ? `Nothing contains “${state.search}”.` : never ? 'Every metric was queried since counting began.' : 'No query was counted yet.'}</Empty>
          ) : (
            <Table<MetricUse>
              label="Metrics by use"
              rows={shown}
              id={(r) => r.metricName}
              sort={never ? 'series' : 'queries'}
              descending={never}
              columns={[
                {
                  name: 'choose',
                  title: <span class="visually-hidden">Chosen</span>,
                  cell: (r) => <input type="checkbox" aria-label={`Choose ${r.metricName}`} checked={chosen.has(r.metricName)} onChange={() => toggle(r.metricName)} />,
                },
                { name: 'metric', title: 'Metric', by: (r) => r.metricName, cell: (r) => <a class="name mono" href={partHref('metrics', { metric: r.metricName }, state)}><Name text={r.metricName} /></a> },
                {
                  name: 'series',
                  title: 'Series',
                  number: true,
                  by: (r) => r.series,
                  cell: (r) => <Measured value={r.series} of={top} />,
                },
                ...(never
                  ? []
                  : [
                      { name: 'queries', title: 'Queries', number: true, by: (r: MetricUse) => r.queryRequests, cell: (r: MetricUse) => exact(r.queryRequests) },
                      { name: 'last', title: 'Last query', by: (r: MetricUse) => r.lastRequestTimestamp, cell: (r: MetricUse) => (r.lastRequestTimestamp ? <span title={time(r.lastRequestTimestamp * 1000)}>{ago(r.lastRequestTimestamp * 1000)}</span> : 'never') },
                    ]),
                ...(tenant.data ? [{ name: 'share', title: 'Share', number: true, cell: (r: MetricUse) => percent(r.series, tenant.data!.all) }] : []),
                { name: 'actions', title: <span class="visually-hidden">What to do</span>, cell: (r) => <PartActions part={{ metric: r.metricName }} name={r.metricName} /> },
              ]}
            />
          )}
          <p class="more hint">
            {shown.length > 0 && (
              <button type="button" onClick={() => choose(picked.length > 0 ? new Set() : new Set(shown.map((r) => r.metricName)))}>
                {picked.length > 0 ? 'Choose none' : `Choose the ${exact(shown.length)} shown`}
              </button>
            )}
          </p>
          <More shown={shown.length} total={records.length} limit={state.limit} />
        </>
      )}
      {rules && picked.length > 0 && (
        <RulesDrawer subject={{ kind: 'metrics', names: picked.map((r) => r.metricName) }} series={picked.reduce((n, r) => n + r.series, 0)} onClose={() => setRules(false)} />
      )}
    </Panel>
  )
}

