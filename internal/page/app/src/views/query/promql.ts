// Small changes to PromQL text. What needs the grammar is loaded with the editor.

import { labelText, quoted } from './series'

/** A label name as it stands in a path: what is not [a-zA-Z0-9_:] is written out (Prometheus' U__ form). */
export function escapeLabel(name: string): string {
  if (/^[a-zA-Z_][\w]*$/.test(name)) return name
  let out = 'U__'
  for (const [i, c] of [...name].entries()) out += c === '_' ? '__' : (i > 0 ? /[a-zA-Z0-9:]/ : /[a-zA-Z:]/).test(c) ? c : `_${c.codePointAt(0)!.toString(16)}_`
  return out
}

export interface Selector {
  name: string
  nameEnd: number
  open: number
  close: number
}

/**
 * The expression with one more matcher in each of its selectors, or only in those of `metric` if some have its name. A matcher that
 * says `label=` already is replaced.
 */
export function withMatcher(expr: string, selectors: readonly Selector[], label: string, op: '=' | '!=', value: string, metric?: string): string {
  const named = selectors.filter((s) => metric !== undefined && s.name === metric)
  const chosen = named.length > 0 ? named : selectors
  const matcher = `${labelText(label)}${op}${quoted(value)}`
  let out = expr
  for (const s of [...chosen].sort((a, b) => b.nameEnd - a.nameEnd)) {
    if (s.open < 0) {
      out = `${out.slice(0, s.nameEnd)}{${matcher}}${out.slice(s.nameEnd)}`
      continue
    }
    const inside = out.slice(s.open + 1, s.close - 1)
    const parts = matchersOf(inside)
    const own = parts.findIndex((p) => new RegExp(`^${label.replace(/\W/g, '\\$&')}\\s*=[^~]`).test(p))
    if (own >= 0 && op === '=') parts[own] = matcher
    else if (!parts.includes(matcher)) parts.push(matcher)
    out = `${out.slice(0, s.open + 1)}${parts.join(', ')}${out.slice(s.close - 1)}`
  }
  return out
}

/** The parts between the commas of `a="b", c=~"d,e"`. */
function matchersOf(inside: string): string[] {
  return [...inside.matchAll(/(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`|[^,"'`])+/g)].map(([m]) => m.trim()).filter(Boolean)
}

/** Where a parse error of the server is: `1:5: parse error: …`. */
export function positionOf(message: string): { line: number; column: number; text: string } | undefined {
  const m = /\b(\d+):(\d+): parse error: (.*)/s.exec(message)
  return m ? { line: Number(m[1]), column: Number(m[2]), text: m[3]! } : undefined
}

/** What to ask of a metric of a type. */
export function suggestions(metric: string, type: string | undefined): { text: string; why: string }[] {
  const name = /^[a-zA-Z_:][\w:]*$/.test(metric) ? metric : `{${quoted(metric)}}`
  const out = [{ text: name, why: 'as it is' }]
  if (/_bucket$/.test(metric)) out.push({ text: `histogram_quantile(0.9, sum by (le) (rate(${name}[5m])))`, why: '90th percentile' })
  else if (type === 'histogram' && !/_(sum|count)$/.test(metric)) out.push({ text: `histogram_quantile(0.9, sum(rate(${name}[5m])))`, why: '90th percentile' })
  else if (type === 'counter' || /_(total|count|sum)$/.test(metric)) out.push({ text: `rate(${name}[5m])`, why: 'per second' }, { text: `sum(rate(${name}[5m]))`, why: 'per second, of all' })
  else out.push({ text: `avg(${name})`, why: 'average of all' })
  return out
}

/** Whether somebody who has typed this character last is in the middle of something, and not behind the end of it. */
export const beganWord = (last: string): boolean => last !== '' && !/[\s)\]}]/.test(last)
