import { Waiting } from '../ui'

export function Cardinality() {
  return <Waiting />
}
