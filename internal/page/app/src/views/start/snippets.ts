// What to write into the configuration of those who send to Sluice and of those who read from it.

export interface Target {
  /** Where a producer answers, without a slash at the end. */
  write: string
  /** Where a reader does. */
  read: string
  /** The tenant that has to be named in a header; '' = none has. */
  tenant: string
  /** The user whose password is asked for; '' = nobody's. */
  user: string
}

export interface Snippet {
  /** The name of the file or what it is. */
  title: string
  text: string
  /** What to know about it. */
  note?: string
}

export interface Kind {
  name: string
  label: string
  snippets: (t: Target) => Snippet[]
}

const lines = (...all: (string | false)[]) => all.filter((l): l is string => l !== false).join('\n') + '\n'

/** A YAML string where a plain one may mean something else. */
const quoted = (text: string) => JSON.stringify(text)

/** A word of a shell command. */
const word = (text: string) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`)

const prometheus = (t: Target): Snippet[] => [
  {
    title: 'prometheus.yml',
    text: lines(
      'remote_write:',
      `  - url: ${t.write}/api/v1/push`,
      t.tenant !== '' && `    headers: {X-Scope-OrgID: ${quoted(t.tenant)}}`,
      t.user !== '' && `    basic_auth: {username: ${quoted(t.user)}, password_file: /etc/prometheus/sluice-password}`,
      '    send_native_histograms: true',
      '    send_exemplars: true',
      '    queue_config: {retry_on_http_429: true}',
    ),
    note: 'Prometheus 3 may add protobuf_message: io.prometheus.write.v2.Request, which is smaller and brings start timestamps.',
  },
]

const grafana = (t: Target): Snippet[] => [
  {
    title: 'provisioning/datasources/sluice.yaml',
    text: lines(
      'apiVersion: 1',
      'datasources:',
      '  - name: Sluice',
      '    type: prometheus',
      '    access: proxy',
      `    url: ${t.read}/prometheus`,
      t.user !== '' && '    basicAuth: true',
      t.user !== '' && `    basicAuthUser: ${quoted(t.user)}`,
      '    jsonData:',
      '      httpMethod: POST',
      t.tenant !== '' && '      httpHeaderName1: X-Scope-OrgID',
      (t.tenant !== '' || t.user !== '') && '    secureJsonData:',
      t.tenant !== '' && `      httpHeaderValue1: ${quoted(t.tenant)}`,
      t.user !== '' && '      basicAuthPassword: $SLUICE_PASSWORD',
    ),
    note: 'Or by hand: a data source of the type Prometheus with this URL' + (t.tenant !== '' ? ' and the header under “HTTP headers”.' : '.'),
  },
]

const collector = (t: Target): Snippet[] => [
  {
    title: 'OpenTelemetry Collector',
    text: lines(
      t.user !== '' && 'extensions:',
      t.user !== '' && '  basicauth/sluice:',
      t.user !== '' && `    client_auth: {username: ${quoted(t.user)}, password: "\${env:SLUICE_PASSWORD}"}`,
      'exporters:',
      '  otlphttp/sluice:',
      `    endpoint: ${t.write}/otlp`,
      t.tenant !== '' && `    headers: {X-Scope-OrgID: ${quoted(t.tenant)}}`,
      t.user !== '' && '    auth: {authenticator: basicauth/sluice}',
      'service:',
      t.user !== '' && '  extensions: [basicauth/sluice]',
      '  pipelines:',
      '    metrics:',
      '      receivers: [otlp]',
      '      exporters: [otlphttp/sluice]',
    ),
    note: 'Sums and histograms have to be cumulative: delta is refused, the processor deltatocumulative converts it.',
  },
  {
    title: 'An OpenTelemetry SDK by itself',
    text: lines(
      `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=${t.write}/otlp/v1/metrics`,
      'OTEL_EXPORTER_OTLP_METRICS_PROTOCOL=http/protobuf',
      (t.tenant !== '' || t.user !== '') &&
        `OTEL_EXPORTER_OTLP_METRICS_HEADERS=${[t.tenant !== '' && `X-Scope-OrgID=${t.tenant}`, t.user !== '' && 'Authorization=Bearer%20A-TOKEN'].filter(Boolean).join(',')}`,
    ),
    ...(t.user !== '' && { note: `A token of the user ${t.user}: sluice auth token makes one.` }),
  },
]

const alloy = (t: Target): Snippet[] => [
  {
    title: 'config.alloy',
    text: lines(
      'prometheus.remote_write "sluice" {',
      '  endpoint {',
      `    url = ${quoted(`${t.write}/api/v1/push`)}`,
      t.tenant !== '' && `    headers = { "X-Scope-OrgID" = ${quoted(t.tenant)} }`,
      t.user !== '' && '    basic_auth {',
      t.user !== '' && `      username      = ${quoted(t.user)}`,
      t.user !== '' && '      password_file = "/etc/alloy/sluice-password"',
      t.user !== '' && '    }',
      '    queue_config { retry_on_http_429 = true }',
      '  }',
      '}',
    ),
  },
]

const vmagent = (t: Target): Snippet[] => [
  {
    title: 'vmagent',
    text:
      [
        `vmagent -remoteWrite.url=${word(`${t.write}/api/v1/push`)}`,
        t.tenant !== '' && `-remoteWrite.headers=${word(`X-Scope-OrgID:${t.tenant}`)}`,
        t.user !== '' && `-remoteWrite.basicAuth.username=${word(t.user)}`,
        t.user !== '' && '-remoteWrite.basicAuth.passwordFile=/etc/vmagent/sluice-password',
      ]
        .filter(Boolean)
        .join(' \\\n  ') + '\n',
  },
]

const curl = (t: Target): Snippet[] => [
  {
    title: 'Is anything there?',
    text:
      [
        'curl -sS',
        t.user !== '' && `-u ${word(t.user)}`,
        t.tenant !== '' && `-H ${word(`X-Scope-OrgID: ${t.tenant}`)}`,
        `${word(`${t.read}/prometheus/api/v1/query`)} --data-urlencode 'query=up'`,
      ]
        .filter(Boolean)
        .join(' \\\n  ') + '\n',
  },
]

export const kinds: readonly Kind[] = [
  { name: 'prometheus', label: 'Prometheus', snippets: prometheus },
  { name: 'grafana', label: 'Grafana', snippets: grafana },
  { name: 'otel', label: 'OpenTelemetry', snippets: collector },
  { name: 'alloy', label: 'Alloy', snippets: alloy },
  { name: 'vmagent', label: 'vmagent', snippets: vmagent },
  { name: 'curl', label: 'curl', snippets: curl },
]

/** The URL of a process by the address it announces, which has a scheme where it serves TLS. */
export const urlOf = (addr: string): string => (/^https?:\/\//.test(addr) ? addr : `http://${addr}`).replace(/\/+$/, '')
