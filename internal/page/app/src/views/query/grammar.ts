// PromQL's grammar, loaded with the editor.

import { parser } from '@prometheus-io/lezer-promql'
import type { Selector } from './promql'

/** Where the matchers of each selector of an expression stand. */
export function selectorsIn(expr: string): Selector[] {
  const out: Selector[] = []
  parser.parse(expr).iterate({
    enter(node) {
      if (node.name !== 'VectorSelector') return
      const name = node.node.getChild('Identifier'), matchers = node.node.getChild('LabelMatchers')
      out.push({ name: name ? expr.slice(name.from, name.to) : '', nameEnd: name?.to ?? node.from, open: matchers?.from ?? -1, close: matchers?.to ?? -1 })
    },
  })
  return out
}
