import { Empty, Failure, Table, Waiting } from '../../ui'
import { rate } from '../../lib/format'
import { useLoad } from '../../lib/hooks'
import { href } from '../../lib/route'
import { session } from '../../lib/session'
import { listTenants } from '../tenants/data'
import { pairs } from './data'
import { More, PartActions } from './list'
import { partHref } from './state'
import type { State } from './state'
import { Measured, Name, percent } from './trend'

/** The pairs of a label and a value that most series have. */
export function Pairs({ state }: { state: State }) {
  const found = useLoad((signal) => pairs(state.limit, signal), [state.limit])
  const data = found.data
  const rows = (data?.pairs ?? []).filter((p) => `${p.label}=${p.value}`.toLowerCase().includes(state.search.toLowerCase()))
  const top = Math.max(0, ...rows.map((p) => p.series))
  return (
    <>
      {found.error && <Failure error={found.error} retry={found.reload} />}
      {!data && !found.error && <Waiting what="Counting" />}
      {data && rows.length === 0 && <Empty>{state.search ? `Nothing contains “${state.search}”.` : 'Consumers hold no series of this tenant now.'}</Empty>}
      {data && rows.length > 0 && (
        <Table
          label="Label pairs by series"
          rows={rows}
          id={(p) => `${p.label}=${p.value}`}
          sort="series"
          columns={[
            { name: 'pair', title: 'Label and value', by: (p) => `${p.label}=${p.value}`, cell: (p) => <a class="name mono" href={partHref('labels', { label: p.label, value: p.value }, state)}><Name text={`${p.label}=${JSON.stringify(p.value)}`} /></a> },
            {
              name: 'series',
              title: 'Series',
              number: true,
              by: (p) => p.series,
              cell: (p) => <Measured value={p.series} of={top} />,
            },
            { name: 'share', title: 'Share', number: true, cell: (p) => percent(p.series, data.all) },
            { name: 'actions', title: <span class="visually-hidden">What to do</span>, cell: (p) => <PartActions part={{ label: p.label, value: p.value }} name={`${p.label}=${p.value}`} /> },
          ]}
        />
      )}
      {data && !state.search && <More shown={rows.length} total={rows.length < state.limit ? rows.length : rows.length + 1} limit={state.limit} />}
    </>
  )
}

/** The tenants with most series, for administrators. */
export function Heaviest({ state }: { state: State }) {
  const found = useLoad((signal) => listTenants({ search: state.search, sort: 'active_series', limit: state.limit, offset: 0 }, signal), [state.search, state.limit])
  const data = found.data
  const top = Math.max(0, ...(data?.tenants ?? []).map((t) => t.active_series))
  return (
    <>
      {found.error && <Failure error={found.error} retry={found.reload} />}
      {!data && !found.error && <Waiting />}
      {data && data.tenants.length === 0 && <Empty>{state.search ? `No tenant contains “${state.search}”.` : 'No tenant has sent anything yet.'}</Empty>}
      {data && data.tenants.length > 0 && (
        <Table
          label="Tenants by active series"
          rows={data.tenants}
          id={(t) => t.tenant}
          columns={[
            {
              name: 'tenant',
              title: 'Tenant',
              cell: (t) => (
                <a class="name mono" href={href('cardinality', { tenant: t.tenant })} aria-current={t.tenant === session.tenantName ? 'true' : undefined}>
                  <Name text={t.tenant} />
                </a>
              ),
            },
            {
              name: 'series',
              title: 'Active series',
              number: true,
              cell: (t) => <Measured value={t.active_series} of={top} />,
            },
            { name: 'rate', title: 'Samples', number: true, cell: (t) => rate(t.samples_per_second) },
            {
              name: 'actions',
              title: <span class="visually-hidden">Where to look</span>,
              cell: (t) => (
                <span class="row-actions">
                  <a href={href('cardinality', { tenant: t.tenant })}>
                    Series<span class="visually-hidden"> of {t.tenant}</span>
                  </a>
                  <a href={href('tenants', { tenant: t.tenant, show: 'tenant' })}>
                    Limits<span class="visually-hidden"> of {t.tenant}</span>
                  </a>
                </span>
              ),
            },
          ]}
        />
      )}
      {data && <More shown={data.tenants.length} total={data.total} limit={state.limit} />}
    </>
  )
}

