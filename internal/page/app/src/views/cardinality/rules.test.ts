import { describe, expect, it } from 'vitest'
import { monitorRules, otelRules, quoteRegex, rulesFor, scrapeRules, selector, sluiceLimits, writeRules, yaml } from './rules'
import type { Rule, Subject, Way } from './rules'

describe('yaml', () => {
  it.each([
    ['pod', 'pod'],
    ['__name__', '__name__'],
    ['', "''"],
    ['no', "'no'"],
    ['True', "'True'"],
    ['42', "'42'"],
    ['-', "'-'"],
    ["it's", "'it''s'"],
    ['a: b # c', "'a: b # c'"],
    ['*', "'*'"],
    ['a,b', "'a,b'"],
    ['\\d', "'\\d'"],
    ['größe', "'größe'"],
    ['a\nb', '"a\\nb"'],
    ['a\u2028b', '"a\\u2028b"'],
    ['a\u0085b', '"a\\u0085b"'],
    ['\ud800', '"\\ud800"'],
    ['😀', "'😀'"],
  ])('%j is %s', (text, want) => expect(yaml(text)).toBe(want))
})

it('a quoted regular expression matches the text alone', () => {
  for (const text of ['up', 'http.server.duration', 'a|b', '/api/[0-9]+?x=(1)', '^$', '{a}\\b*', 'a-b']) {
    const re = new RegExp(`^(?:${quoteRegex(text)})$`)
    expect(re.test(text)).toBe(true)
    expect(re.test(`${text}x`)).toBe(false)
    expect(re.test(text.replace('.', '_') + (text.includes('.') ? '' : 'y'))).toBe(false)
  }
})

it('selectors quote what is not plain', () => {
  expect(selector({ __name__: 'up', job: undefined })).toBe('{__name__="up"}')
  expect(selector({ 'a.b': 'x"y\\z' })).toBe('{"a.b"="x\\"y\\\\z"}')
})

/** What Prometheus would do with the labels; undefined = dropped. */
function relabel(labels: Record<string, string>, rules: Rule[]): Record<string, string> | undefined {
  const out = { ...labels }
  for (const r of rules) {
    const re = new RegExp(`^(?:${r.regex ?? '(.*)'})$`, 's')
    const hit = re.test((r.source_labels ?? []).map((l) => out[l] ?? '').join(r.separator ?? ';'))
    if (r.action === 'drop' && hit) return undefined
    if (r.action === 'keep' && !hit) return undefined
    if (r.action === 'labeldrop') for (const l of Object.keys(out)) if (re.test(l)) delete out[l]
    if ((r.action ?? 'replace') === 'replace' && hit) {
      if (r.replacement) out[r.target_label!] = r.replacement
      else delete out[r.target_label!]
    }
  }
  return out
}

describe('rules do what they say', () => {
  const m = { __name__: 'a.b', job: 'x', pod: 'p.1' }
  const cases: [string, Subject, Way, Record<string, string>, Record<string, string> | undefined][] = [
    ['drop a metric', { kind: 'metrics', names: ['a.b', 'c'] }, 'drop', m, undefined],
    ['drop a metric, not its neighbour', { kind: 'metrics', names: ['a.b'] }, 'drop', { __name__: 'a_b' }, { __name__: 'a_b' }],
    ['keep metrics', { kind: 'metrics', names: ['c', 'a.b'] }, 'keep', m, m],
    ['keep metrics, not others', { kind: 'metrics', names: ['c'] }, 'keep', m, undefined],
    ['drop a label', { kind: 'label', label: 'pod' }, 'drop', m, { __name__: 'a.b', job: 'x' }],
    ['drop a label of a metric', { kind: 'label', label: 'pod', metric: 'a.b' }, 'drop', m, { __name__: 'a.b', job: 'x' }],
    ['drop a label of another metric', { kind: 'label', label: 'pod', metric: 'c' }, 'drop', m, m],
    ['drop a value', { kind: 'value', label: 'pod', value: 'p.1' }, 'drop', m, undefined],
    ['drop a value, not its neighbour', { kind: 'value', label: 'pod', value: 'p.1' }, 'drop', { ...m, pod: 'p-1' }, { ...m, pod: 'p-1' }],
    ['drop a value of a metric', { kind: 'value', label: 'pod', value: 'p.1', metric: 'a.b' }, 'drop', m, undefined],
    ['drop a value of another metric', { kind: 'value', label: 'pod', value: 'p.1', metric: 'c' }, 'drop', m, m],
    ['keep a value', { kind: 'value', label: 'pod', value: 'p.1' }, 'keep', m, m],
    ['keep a value, not others', { kind: 'value', label: 'pod', value: 'p' }, 'keep', m, undefined],
    ['keep a value, and what has no such label', { kind: 'value', label: 'zone', value: 'p' }, 'keep', m, m],
    ['keep a value of a metric', { kind: 'value', label: 'pod', value: 'p.1', metric: 'a.b' }, 'keep', m, m],
    ['keep a value of a metric, not others', { kind: 'value', label: 'pod', value: 'q', metric: 'a.b' }, 'keep', m, undefined],
    ['keep a value of a metric, and what has no such label', { kind: 'value', label: 'zone', value: 'q', metric: 'a.b' }, 'keep', m, m],
    ['keep a value of another metric', { kind: 'value', label: 'pod', value: 'q', metric: 'c' }, 'keep', m, m],
  ]
  it.each(cases)('%s', (_, subject, way, labels, want) => expect(relabel(labels, rulesFor(subject, way))).toEqual(want))
})

it('limits say again what holds now, as they replace it', () => {
  const present = { metric_relabel_configs: [{ source_labels: ['__name__'], separator: ';', regex: 'go_.*', replacement: '$1', action: 'drop' }], drop_labels: ['pod_uid'] }
  expect(sluiceLimits('team-a', { kind: 'metrics', names: ['x.y'] }, 'drop', present)).toBe(`overrides:
  team-a:
    metric_relabel_configs:
      # the rule of now, and the new one
      - source_labels: [__name__]
        regex: 'go_.*'
        action: drop
      - source_labels: [__name__]
        regex: 'x\\.y'
        action: drop
`)
  expect(sluiceLimits('it!', { kind: 'label', label: 'pod' }, 'drop', present)).toBe(`overrides:\n  'it!':\n    drop_labels: [pod_uid, pod]\n`)
  expect(sluiceLimits('a', { kind: 'label', label: 'pod_uid' }, 'drop', present)).toContain('[pod_uid]')
})

it('senders get whole files', () => {
  const label: Subject = { kind: 'label', label: 'pod' }
  expect(scrapeRules(label, 'drop')).toBe('scrape_configs:\n  - job_name: your-job\n    metric_relabel_configs:\n      - regex: pod\n        action: labeldrop\n')
  expect(writeRules({ kind: 'label', label: 'pod', metric: 'up' }, 'drop', 'http://h:1/api/v1/push')).toBe(
    "remote_write:\n  - url: 'http://h:1/api/v1/push'\n    write_relabel_configs:\n      - source_labels: [__name__]\n        regex: up\n        target_label: pod\n        replacement: ''\n",
  )
  expect(monitorRules({ kind: 'metrics', names: ['a', 'b'] }, 'keep')).toContain("        - sourceLabels: [__name__]\n          regex: 'a|b'\n          action: keep\n")
})

it('the collector gets its own language, dollars twice', () => {
  expect(otelRules({ kind: 'metrics', names: ['a', 'b$'] }, 'drop')).toContain("        - 'name == \"a\"'\n        - 'name == \"b$$\"'\n")
  expect(otelRules({ kind: 'metrics', names: ['a', 'b'] }, 'keep')).toContain(`- 'not (name == "a" or name == "b")'`)
  expect(otelRules({ kind: 'label', label: 'pod', metric: 'a' }, 'drop')).toContain(`- 'delete_key(attributes, "pod") where metric.name == "a"'`)
  expect(otelRules({ kind: 'value', label: 'l', value: "it's", metric: 'm' }, 'drop')).toContain(`- 'metric.name == "m" and attributes["l"] == "it''s"'`)
  expect(otelRules({ kind: 'value', label: 'l', value: 'v' }, 'keep')).toContain(`- 'attributes["l"] != nil and attributes["l"] != "v"'`)
})
