import { useSession } from '../lib/hooks'
import { Panel, Snippet } from '../ui'

/** What is running, how to point senders and Grafana here, health in one line. */
export function Start() {
  const s = useSession()
  const base = new URL('.', location.href).href.replace(/\/$/, '')
  return (
    <Panel title="Start">
      <Snippet title="prometheus.yml" text={`remote_write:\n  - url: ${base}/api/v1/push\n`} />
      <p>{s.access?.version}</p>
    </Panel>
  )
}
