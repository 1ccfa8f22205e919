import { Waiting } from '../ui'

export function Query() {
  return <Waiting />
}
