import { Waiting } from '../ui'

export function Tenants() {
  return <Waiting />
}
