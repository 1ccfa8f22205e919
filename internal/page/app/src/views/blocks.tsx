import { Waiting } from '../ui'

export function Blocks() {
  return <Waiting />
}
