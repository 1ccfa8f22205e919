// Rules that get rid of series, as text for the places where they can stand. Everything is escaped twice: names become regular
// expressions that match nothing but themselves (RE2), and these become YAML.

/** What is to go, or the only thing to stay. */
export type Subject =
  | { kind: 'metrics'; names: readonly string[] }
  /** A label, of one metric or of all. */
  | { kind: 'label'; label: string; metric?: string }
  /** The series with a label's value, of one metric or of all. */
  | { kind: 'value'; label: string; value: string; metric?: string }

export type Way = 'drop' | 'keep'

/** A rule of Prometheus' relabelling, by its YAML names. */
export interface Rule {
  source_labels?: readonly string[]
  separator?: string
  regex?: string
  modulus?: number
  target_label?: string
  replacement?: string
  action?: string
}

/** A regular expression of RE2 that matches the text and nothing else. */
export const quoteRegex = (text: string) => text.replace(/[\\.+*?()|[\]{}^$]/g, '\\$&')

/** A string in PromQL, and in OTTL. */
export const quoteString = (text: string) => JSON.stringify(text)

/** A selector of PromQL; names that are none of the old kind are quoted. */
export function selector(labels: Readonly<Record<string, string | undefined>>): string {
  const parts = Object.entries(labels)
    .filter(([, v]) => v !== undefined)
    .map(([name, value]) => `${labelName(name)}=${quoteString(value!)}`)
  return `{${parts.join(', ')}}`
}

/** The name of a label as PromQL has it. */
export const labelName = (name: string) => (/^[a-zA-Z_][a-zA-Z0-9_]*$/.test(name) ? name : quoteString(name))

const plainScalar = /^[A-Za-z_][A-Za-z0-9_./-]*$/
const otherMeaning = /^(true|false|null|yes|no|on|off|y|n)$/i // some of them only in YAML 1.1, which Prometheus' parser reads
// Line breaks of any kind, control characters, marks of byte order, halves of characters: nothing that single quotes could hold.
const unprintable = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/

/** A string as a scalar of YAML. */
export function yaml(text: string): string {
  if (plainScalar.test(text) && !otherMeaning.test(text)) return text
  if (!unprintable.test(text)) return `'${text.replaceAll("'", "''")}'`
  return JSON.stringify(text).replace(/[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

const any = (names: readonly string[]) => names.map(quoteRegex).join('|')
/** Marks series on their way through the rules; no series with it is left behind them. */
const mark = '__tmp_drop'

/** The rules for Prometheus' relabelling. */
export function rulesFor(s: Subject, way: Way): Rule[] {
  if (s.kind === 'metrics') return [{ source_labels: ['__name__'], regex: any(s.names), action: way }]
  if (s.kind === 'label') {
    if (s.metric === undefined) return [{ regex: quoteRegex(s.label), action: 'labeldrop' }]
    return [{ source_labels: ['__name__'], regex: quoteRegex(s.metric), target_label: s.label, replacement: '' }]
  }
  const value = quoteRegex(s.value)
  // Series without the label are none of the rule's business: keep has to match the empty value too.
  if (s.metric === undefined) return [{ source_labels: [s.label], regex: way === 'drop' ? value : `${value}|`, action: way }]
  const metric = quoteRegex(s.metric)
  if (way === 'drop') return [{ source_labels: ['__name__', s.label], regex: `${metric};${value}`, action: 'drop' }]
  return [
    { source_labels: ['__name__'], regex: metric, target_label: mark, replacement: 'yes' },
    { source_labels: ['__name__', s.label], regex: `${metric};(${value}|)`, target_label: mark, replacement: '' },
    { source_labels: [mark], regex: 'yes', action: 'drop' },
  ]
}

/** A rule as the lines of an element of a list; without what is Prometheus' default. */
function ruleLines(r: Rule, indent: string, camel = false): string {
  const key = (name: string) => (camel ? name.replace(/_([a-z])/g, (_, c: string) => c.toUpperCase()) : name)
  const lines: string[] = []
  if (r.source_labels?.length) lines.push(`${key('source_labels')}: [${r.source_labels.map(yaml).join(', ')}]`)
  if (r.separator !== undefined && r.separator !== ';') lines.push(`separator: ${yaml(r.separator)}`)
  if (r.regex !== undefined && r.regex !== '(.*)') lines.push(`regex: ${yaml(r.regex)}`)
  if (r.modulus) lines.push(`modulus: ${r.modulus}`)
  if (r.target_label) lines.push(`${key('target_label')}: ${yaml(r.target_label)}`)
  if (r.replacement !== undefined && r.replacement !== '$1') lines.push(`replacement: ${yaml(r.replacement)}`)
  if (r.action && (r.action !== 'replace' || lines.length === 0)) lines.push(`action: ${yaml(r.action)}`)
  return lines.map((line, i) => `${indent}${i === 0 ? '- ' : '  '}${line}\n`).join('')
}

const ruleList = (rules: readonly Rule[], indent: string, camel = false) => rules.map((r) => ruleLines(r, indent, camel)).join('')

/** What the tenant's limits say already; what a more specific entry says replaces it, so that it has to be said again. */
export interface Present {
  metric_relabel_configs?: readonly Rule[] | null
  drop_labels?: readonly string[] | null
}

/** An entry for the file of --limits.file. */
export function sluiceLimits(tenant: string, s: Subject, way: Way, present: Present = {}): string {
  const head = `overrides:\n  ${yaml(tenant)}:\n`
  if (s.kind === 'label' && s.metric === undefined) {
    const labels = [...(present.drop_labels ?? []), s.label].filter((l, i, all) => all.indexOf(l) === i)
    return `${head}    drop_labels: [${labels.map(yaml).join(', ')}]\n`
  }
  const before = present.metric_relabel_configs ?? []
  const note = before.length > 0 ? `      # ${before.length === 1 ? 'the rule' : `the ${before.length} rules`} of now, and the new one\n` : ''
  return `${head}    metric_relabel_configs:\n${note}${ruleList([...before, ...rulesFor(s, way)], '      ')}`
}

/** For Prometheus, where it scrapes. */
export const scrapeRules = (s: Subject, way: Way) => `scrape_configs:\n  - job_name: your-job\n    metric_relabel_configs:\n${ruleList(rulesFor(s, way), '      ')}`

/** For Prometheus, where it sends: it keeps the series itself. */
export const writeRules = (s: Subject, way: Way, url: string) => `remote_write:\n  - url: ${yaml(url)}\n    write_relabel_configs:\n${ruleList(rulesFor(s, way), '      ')}`

/** For the Prometheus operator. */
export const monitorRules = (s: Subject, way: Way) => `spec:\n  endpoints:\n    - port: metrics\n      metricRelabelings:\n${ruleList(rulesFor(s, way), '        ', true)}`

/** For the OpenTelemetry Collector, which replaces $NAME in its file, so that a dollar is written twice. */
export function otelRules(s: Subject, way: Way): string {
  const line = (indent: string, text: string) => `${indent}- ${yaml(text).replaceAll('$', '$$$$')}\n`
  const filter = (kind: string, conditions: string[]) => `processors:\n  filter/cardinality:\n    error_mode: ignore\n    metrics:\n      ${kind}:\n${conditions.map((c) => line('        ', c)).join('')}${pipeline('filter')}`
  const pipeline = (kind: string) => `service:\n  pipelines:\n    metrics:\n      processors: [${kind}/cardinality] # beside those that are there\n`
  if (s.kind === 'metrics') {
    const named = s.names.map((n) => `name == ${quoteString(n)}`)
    return filter('metric', way === 'drop' ? named : [`not (${named.join(' or ')})`])
  }
  const attribute = `attributes[${quoteString(s.label)}]`
  if (s.kind === 'label') {
    const where = s.metric === undefined ? '' : ` where metric.name == ${quoteString(s.metric)}`
    const statement = `delete_key(attributes, ${quoteString(s.label)})${where}`
    return `processors:\n  transform/cardinality:\n    error_mode: ignore\n    metric_statements:\n      - context: datapoint\n        statements:\n${line('          ', statement)}${pipeline('transform')}`
  }
  const metric = s.metric === undefined ? '' : `metric.name == ${quoteString(s.metric)} and `
  return filter('datapoint', [`${metric}${way === 'drop' ? '' : `${attribute} != nil and `}${attribute} ${way === 'drop' ? '==' : '!='} ${quoteString(s.value)}`])
}
