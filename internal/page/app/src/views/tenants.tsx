import '../styles/cardinality.css'
import '../styles/tenants.css'
import { Empty } from '../ui'
import { usePlace } from '../lib/route'
import { session } from '../lib/session'
import { TenantList } from './tenants/list'
import { TenantPage } from './tenants/one'

/** All tenants, for administrators; or one: what it may do and what of that it does. */
export function Tenants() {
  const { params } = usePlace()
  const many = session.may('admin') && session.access?.tenancy !== 'off'
  if (many && params.get('show') !== 'tenant') return <TenantList />
  if (!session.hasTenant) return <Empty>Choose a tenant, at the top of the page.</Empty>
  return <TenantPage back={many} />
}
