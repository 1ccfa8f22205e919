// One query's editor: a plain field until CodeMirror is there.

import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import { positionOf } from './promql'
import type { Editor, Problem, Wishes } from './codemirror'

export interface Handle {
  insert: (text: string) => void
  focus: () => void
}

export function QueryEditor({ value, label, error, window, onChange, onRun, onFocus, handle, focus }: {
  value: string
  label: string
  /** What the server said of this text. */
  error: Error | undefined
  window: Wishes['window']
  onChange: (value: string) => void
  onRun: () => void
  onFocus?: () => void
  handle?: (handle: Handle | undefined) => void
  focus?: boolean
}) {
  const place = useRef<HTMLDivElement>(null)
  const plain = useRef<HTMLTextAreaElement>(null)
  const editor = useRef<Editor | undefined>(undefined)
  const [ready, setReady] = useState(false)
  const [problem, setProblem] = useState<Problem | undefined>()
  const latest = useRef({ value, onChange, onRun, window })
  latest.current = { value, onChange, onRun, window }

  useEffect(() => {
    let gone = false
    import('./codemirror').then(
      ({ mount }) => {
        if (gone || !place.current) return
        // Somebody may be typing: the next letter goes where it would have gone.
        const field = plain.current
        const typing = field !== null && document.activeElement === field
        editor.current = mount(place.current, {
          value: field?.value ?? latest.current.value,
          selection: field ? { anchor: field.selectionStart, head: field.selectionEnd } : undefined,
          label,
          window: () => latest.current.window(),
          onChange: (v) => latest.current.onChange(v),
          onRun: () => latest.current.onRun(),
          onProblem: setProblem,
        })
        setReady(true)
        if (typing || focus) editor.current.focus()
      },
      () => undefined, // the plain field goes on to work
    )
    return () => {
      gone = true
      editor.current?.destroy()
      editor.current = undefined
    }
  }, [])
  // Before the next key: later it would bring back what was typed a moment ago.
  useLayoutEffect(() => editor.current?.set(value), [value])
  useEffect(() => {
    const at = error && positionOf(error.message)
    if (at) editor.current?.mark(at.line, at.column, at.text)
  }, [error, ready])
  useEffect(() => {
    handle?.({
      insert(text) {
        if (editor.current) editor.current.insert(text)
        else latest.current.onChange(latest.current.value + text)
      },
      focus: () => (editor.current ? editor.current.focus() : plain.current?.focus()),
    })
    return () => handle?.(undefined)
  }, [])
  return (
    <div class="editor" onFocusIn={onFocus}>
      <div class="field" ref={place}>
        {!ready && (
          <textarea
            ref={plain}
            rows={Math.max(1, value.split('\n').length)}
            aria-label={label}
            spellcheck={false}
            placeholder="PromQL, for example: rate(http_requests_total[5m])"
            value={value}
            onInput={(e) => onChange(e.currentTarget.value)}
            onKeyDown={(e) => {
              if (e.key === 'Escape') e.currentTarget.blur()
              if (e.key !== 'Enter' || e.shiftKey) return
              e.preventDefault()
              onRun()
            }}
          />
        )}
      </div>
      {problem && value.trim() !== '' && (
        <p class="problem" role="status">
          <span class="where">
            {problem.line}:{problem.column}
          </span>{' '}
          {problem.text}
        </p>
      )}
    </div>
  )
}
