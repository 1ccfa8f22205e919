import { Waiting } from '../ui'

export function Pipeline() {
  return <Waiting />
}
