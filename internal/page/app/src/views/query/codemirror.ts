// The PromQL editor: Prometheus' own CodeMirror mode, with completion out of our API. A chunk of its own, as it is the largest part of
// the page.

import { acceptCompletion, autocompletion, closeBrackets, closeBracketsKeymap, closeCompletion, completionKeymap, completionStatus, selectedCompletionIndex } from '@codemirror/autocomplete'
import { defaultKeymap, history, historyKeymap, insertNewlineAndIndent } from '@codemirror/commands'
import { HighlightStyle, bracketMatching, indentOnInput, syntaxHighlighting } from '@codemirror/language'
import { forEachDiagnostic, lintKeymap, setDiagnostics, setDiagnosticsEffect } from '@codemirror/lint'
import { EditorState, Prec } from '@codemirror/state'
import { EditorView, keymap, placeholder } from '@codemirror/view'
import { tags } from '@lezer/highlight'
import { PromQLExtension } from '@prometheus-io/codemirror-promql'
import { ask, uncounted } from '../../lib/api'
import { beganWord, escapeLabel } from './promql'

export interface Problem {
  text: string
  line: number
  column: number
}

export interface Wishes {
  value: string
  /** Where the cursor is, in characters. */
  selection: { anchor: number; head: number } | undefined
  label: string
  /** The time range that completion looks at, ms. */
  window: () => { start: number; end: number }
  onChange: (value: string) => void
  onRun: () => void
  onProblem: (problem: Problem | undefined) => void
}

export interface Editor {
  set: (value: string) => void
  /** Puts text where the cursor is. */
  insert: (text: string) => void
  focus: () => void
  /** Marks what the server says is wrong, at line:column. */
  mark: (line: number, column: number, text: string) => void
  destroy: () => void
}

/** Most names or values that one completion asks for. */
const maxCompletions = 10_000

/** The editor's requests, as requests of this page: tenant, credentials, bounds, and not counted as use of a metric. */
function fetchFor(window: Wishes['window']) {
  return async (input: RequestInfo, init?: RequestInit): Promise<Response> => {
    const url = new URL(String(input), 'http://x')
    const path = url.pathname.slice(1).replace(/\/label\/(.*)\/values$/, (_, name: string) => `/label/${escapeLabel(decodeURIComponent(name))}/values`)
    const params: Record<string, string | string[]> = {}
    const given = init?.body instanceof URLSearchParams ? init.body : url.searchParams
    for (const name of new Set(given.keys())) params[name] = given.getAll(name)
    if (!/\/(metadata|flags)$/.test(path)) {
      const { start, end } = window()
      params.start = String(start / 1000)
      params.end = String(end / 1000)
    }
    if (!path.endsWith('/flags')) params.limit = String(maxCompletions)
    return ask(path, params, { post: init?.method === 'POST', headers: uncounted, ...(init?.signal && { signal: init.signal }) })
  }
}

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier], color: 'var(--code-keyword)' },
  { tag: [tags.string, tags.special(tags.string)], color: 'var(--code-string)' },
  { tag: [tags.number, tags.literal], color: 'var(--code-number)' },
  { tag: [tags.function(tags.variableName), tags.standard(tags.variableName)], color: 'var(--code-function)' },
  { tag: tags.labelName, color: 'var(--code-label)' },
  { tag: [tags.comment, tags.lineComment], color: 'var(--quiet)', fontStyle: 'italic' },
  { tag: tags.invalid, color: 'var(--critical)' },
])

const look = EditorView.theme({
  '&': { fontSize: '0.95rem', borderRadius: 'var(--radius)', backgroundColor: 'var(--panel)', color: 'var(--text)' },
  '&.cm-focused': { outline: 'none' },
  '.cm-content': { fontFamily: 'var(--mono)', caretColor: 'var(--text)', padding: '0.45rem 0' },
  '.cm-line': { padding: '0 0.6rem' },
  '.cm-cursor': { borderLeftColor: 'var(--text)' },
  '.cm-scroller': { maxHeight: '16rem', overflow: 'auto' },
  '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground, ::selection': { backgroundColor: 'var(--code-selection)' },
  '.cm-placeholder': { color: 'var(--quiet)' },
  '.cm-matchingBracket, &.cm-focused .cm-matchingBracket': { backgroundColor: 'var(--raised)', outline: '1px solid var(--line)' },
  '.cm-nonmatchingBracket': { color: 'var(--critical)' },
  '.cm-tooltip': { backgroundColor: 'var(--panel)', color: 'var(--text)', border: '1px solid var(--line)', borderRadius: 'var(--radius)', maxWidth: 'min(46rem, 92vw)' },
  '.cm-tooltip.cm-tooltip-autocomplete > ul': { fontFamily: 'var(--mono)', fontSize: '0.88rem', maxHeight: '20em', maxWidth: 'min(40rem, 90vw)' },
  '.cm-tooltip.cm-tooltip-autocomplete > ul > li': { padding: '0.2em 0.6em' },
  '.cm-tooltip.cm-tooltip-autocomplete > ul > li[aria-selected]': { backgroundColor: 'var(--accent)', color: 'var(--on-accent)' },
  '.cm-completionDetail': { color: 'inherit', opacity: '0.75', fontStyle: 'normal', marginLeft: '1.2em' },
  '.cm-completionIcon': { display: 'none' },
  '.cm-completionMatchedText': { textDecoration: 'none', fontWeight: '700' },
  '.cm-tooltip .cm-completionInfo': { padding: '0.5rem 0.7rem', maxWidth: '24rem' },
  '.cm-diagnostic': { padding: '0.3rem 0.7rem', borderLeftWidth: '4px' },
})

/**
 * Typing over a selection. Left to itself, Chromium gives the new text the style of what it replaces, as an attribute, which the content
 * security policy refuses and the console tells of.
 */
const typedOver = EditorView.domEventHandlers({
  beforeinput(e, view) {
    const { from, to, empty } = view.state.selection.main
    const text = e.data
    if (empty || !text || e.inputType !== 'insertText' || view.composing) return false
    const insert = () => view.state.update(view.state.replaceSelection(text), { userEvent: 'input.type', scrollIntoView: true })
    if (!view.state.facet(EditorView.inputHandler).some((handle) => handle(view, from, to, text, insert))) view.dispatch(insert())
    return true
  },
})

/** Whether Enter is meant for the completion: something of it was typed, or it was gone to. Behind `rate(x[5m])` it offers operators, and Enter runs. */
function wanted(state: EditorState): boolean {
  if ((selectedCompletionIndex(state) ?? 0) > 0) return true
  const { head } = state.selection.main
  return beganWord(state.sliceDoc(Math.max(0, head - 1), head))
}

/** Makes an editor in a place of the document. */
export function mount(parent: HTMLElement, wishes: Wishes): Editor {
  const promql = new PromQLExtension()
    .activateLinter(true)
    .activateCompletion(true)
    .setComplete({ remote: { fetchFn: fetchFor(wishes.window), url: '', httpMethod: 'POST', cache: { maxAge: 60_000 } } })
  // A query with thousands of operators is too deep for the linter's recursion. The server says what is wrong with it.
  const linter = promql.getLinter()
  promql.setLinter({
    promQL: () => {
      const lint = linter.promQL()
      return (view) => {
        try {
          return lint(view)
        } catch {
          return []
        }
      }
    },
  })
  const run = (view: EditorView) => {
    if (completionStatus(view.state) === 'active' && wanted(view.state) && acceptCompletion(view)) return true
    closeCompletion(view)
    wishes.onRun()
    return true
  }
  const leave = (view: EditorView) => {
    if (!closeCompletion(view)) view.contentDOM.blur()
    return true
  }
  const nonce = document.querySelector<HTMLMetaElement>('meta[name=csp-nonce]')?.content ?? ''
  let quiet = false // while the page itself changes the text
  const view = new EditorView({
    parent,
    state: EditorState.create({
      doc: wishes.value,
      selection: wishes.selection,
      extensions: [
        EditorView.cspNonce.of(nonce),
        Prec.highest(keymap.of([{ key: 'Enter', run }, { key: 'Mod-Enter', run }, { key: 'Shift-Enter', run: insertNewlineAndIndent }, { key: 'Escape', run: leave }])),
        history(),
        closeBrackets(),
        bracketMatching(),
        indentOnInput(),
        autocompletion({ icons: false }),
        keymap.of([...closeBracketsKeymap, ...defaultKeymap, ...historyKeymap, ...completionKeymap, ...lintKeymap]),
        placeholder('PromQL, for example: rate(http_requests_total[5m])'),
        EditorView.lineWrapping,
        typedOver,
        EditorView.contentAttributes.of({ 'aria-label': wishes.label, spellcheck: 'false' }),
        syntaxHighlighting(colours),
        look,
        promql.asExtension(),
        EditorView.updateListener.of((update) => {
          if (update.docChanged && !quiet) wishes.onChange(update.state.doc.toString())
          if (update.transactions.some((t) => t.effects.some((e) => e.is(setDiagnosticsEffect)))) wishes.onProblem(problemOf(update.state))
        }),
      ],
    }),
  })
  return {
    set(value) {
      if (value === view.state.doc.toString()) return
      quiet = true
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: value }, selection: { anchor: value.length } })
      quiet = false
    },
    insert(text) {
      view.dispatch(view.state.replaceSelection(text))
      view.focus()
    },
    focus: () => view.focus(),
    mark(line, column, message) {
      const doc = view.state.doc
      if (line < 1 || line > doc.lines) return
      const from = Math.min(doc.line(line).from + column - 1, doc.length)
      view.dispatch(setDiagnostics(view.state, [{ from: Math.max(0, from === doc.length ? from - 1 : from), to: Math.min(doc.length, from + 1), severity: 'error', message }]))
    },
    destroy() {
      promql.destroy()
      view.destroy()
    },
  }
}

function problemOf(state: EditorState): Problem | undefined {
  let first: Problem | undefined
  forEachDiagnostic(state, (d, from) => {
    if (first || d.severity !== 'error') return
    const line = state.doc.lineAt(from)
    first = { text: d.message, line: line.number, column: from - line.from + 1 }
  })
  return state.doc.length === 0 ? undefined : first
}

export { selectorsIn } from './grammar'
