import { Empty, Failure, Panel, SearchField, Table, Waiting } from '../../ui'
import type { Column } from '../../ui'
import { ago, bytes, count, exact, rate, time } from '../../lib/format'
import { useLoad } from '../../lib/hooks'
import { href, setParams, usePlace } from '../../lib/route'
import { Measured, Name } from '../cardinality/trend'
import { listTenants } from './data'
import type { TenantRow, TenantSort } from './data'

const pageSize = 50
const sorts: readonly TenantSort[] = ['active_series', 'samples_per_second', 'block_bytes', 'rejected', 'tenant']

/** All tenants of the installation. The server sorts, searches and pages: there may be thousands. */
export function TenantList() {
  const { params } = usePlace()
  const search = params.get('search') ?? ''
  const sort = sorts.find((s) => s === params.get('sort')) ?? 'active_series'
  const offset = Math.max(0, Number(params.get('from')) || 0)
  const found = useLoad((signal) => listTenants({ search, sort, limit: pageSize, offset }, signal), [search, sort, offset], 10_000)
  const data = found.data
  const rows = data?.tenants ?? []
  const top = Math.max(0, ...rows.map((t) => t.active_series))
  const columns: Column<TenantRow>[] = [
    {
      name: 'tenant',
      title: 'Tenant',
      by: (t) => t.tenant,
      cell: (t) => (
        <a class="name mono" href={href('tenants', { tenant: t.tenant, show: 'tenant' })}>
          <Name text={t.tenant} />
        </a>
      ),
    },
    {
      name: 'active_series',
      title: 'Active series',
      number: true,
      by: (t) => t.active_series,
      cell: (t) => <Measured value={t.active_series} of={top} />,
    },
    { name: 'head_series', title: 'In heads', number: true, hint: 'Series of the generations that are growing', cell: (t) => count(t.head_series) },
    { name: 'samples_per_second', title: 'Samples', number: true, by: (t) => t.samples_per_second ?? 0, cell: (t) => rate(t.samples_per_second) },
    { name: 'blocks', title: 'Blocks', number: true, cell: (t) => exact(t.blocks) },
    { name: 'block_bytes', title: 'In the bucket', number: true, by: (t) => t.block_bytes ?? 0, cell: (t) => <span title={t.block_samples === undefined ? undefined : `${count(t.block_samples)} samples`}>{bytes(t.block_bytes)}</span> },
    { name: 'oldest', title: 'Oldest sample', number: true, cell: (t) => <span title={time(t.oldest)}>{ago(t.oldest)}</span> },
    {
      name: 'rejected',
      title: 'Refused',
      number: true,
      by: (t) => t.rejected ?? 0,
      hint: 'Samples that were refused since the producers started',
      cell: (t) => count(t.rejected),
    },
    { name: 'last_rejected', title: 'Last refused', number: true, cell: (t) => (t.last_rejected ? <span title={time(t.last_rejected)}>{ago(t.last_rejected)}</span> : '–') },
  ]
  const last = offset + rows.length
  return (
    <div class="tenant-page">
    <h1 class="visually-hidden">Tenants</h1>
    <Panel
      title="All tenants"
      actions={<SearchField label="Search tenants" placeholder="Part of a name" value={search} onChange={(v) => setParams({ search: v, from: undefined })} />}
    >
      {found.error && <Failure error={found.error} retry={found.reload} />}
      {!data && !found.error && <Waiting />}
      {data && rows.length === 0 && <Empty>{search ? `No tenant contains “${search}”.` : 'No tenant has sent anything yet. A tenant comes to be with its first sample.'}</Empty>}
      {rows.length > 0 && (
        <Table
          label="Tenants"
          columns={columns}
          rows={rows}
          id={(t) => t.tenant}
          sort={sort}
          descending={sort !== 'tenant'}
          onSort={(column) => setParams({ sort: column === 'active_series' ? undefined : column, from: undefined })}
        />
      )}
      {data && data.total > 0 && (
        <nav class="pages" aria-label="Pages">
          <span class="hint">{`${exact(offset + 1)} to ${exact(last)} of ${exact(data.total)}`}</span>
          {data.total > pageSize && (
            <>
              <button type="button" disabled={offset === 0} onClick={() => setParams({ from: offset > pageSize ? String(offset - pageSize) : undefined })}>
                Previous
              </button>
              <button type="button" disabled={last >= data.total} onClick={() => setParams({ from: String(offset + pageSize) })}>
                Next
              </button>
            </>
          )}
        </nav>
      )}
    </Panel>
    </div>
  )
}
