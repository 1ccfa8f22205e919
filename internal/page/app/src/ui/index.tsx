// The page's few building blocks. Each is plain HTML with a class; what they look like is in styles/.

import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { ApiError } from '../lib/api'
import { time } from '../lib/format'

/** A titled part of a view. `actions` stand at its right. */
export function Panel({ title, actions, children, id, wide }: { title?: ComponentChildren; actions?: ComponentChildren; children: ComponentChildren; id?: string; wide?: boolean }) {
  return (
    <section class={wide ? 'panel wide' : 'panel'} id={id}>
      {(title || actions) && (
        <header>
          {title && <h2>{title}</h2>}
          {actions && <div class="actions">{actions}</div>}
        </header>
      )}
      {children}
    </section>
  )
}

export type Tone = 'ok' | 'info' | 'warning' | 'critical'

/** A sentence that needs to be seen. */
export function Notice({ tone = 'info', children }: { tone?: Tone; children: ComponentChildren }) {
  return (
    <div class={`notice ${tone}`} role={tone === 'critical' || tone === 'warning' ? 'alert' : 'status'}>
      {children}
    </div>
  )
}

/** What went wrong: the server's sentence, its ID, and what to do. */
export function Failure({ error, retry }: { error: Error; retry?: () => void }) {
  const api = error instanceof ApiError ? error : undefined
  return (
    <Notice tone={api && api.status >= 400 && api.status < 500 && api.status !== 429 ? 'warning' : 'critical'}>
      <p>
        {api?.status === 403 && <strong>Not allowed. </strong>}
        {api?.status === 429 && <strong>Too many requests. </strong>}
        {api && api.status >= 500 && <strong>The server cannot answer this now. </strong>}
        <span class="said">{error.message}</span>
      </p>
      {api?.id && (
        <p class="hint">
          Error ID <code>{api.id}</code>: <code>sluice explain {api.id}</code> says more.
        </p>
      )}
      {retry && (
        <button type="button" onClick={retry}>
          Try again
        </button>
      )}
    </Notice>
  )
}

/** Nothing is there yet, and what to do about it. */
export function Empty({ children }: { children: ComponentChildren }) {
  return <div class="empty">{children}</div>
}

/** Something is on its way. It shows only after a moment, so that what is fast does not flicker. */
export function Waiting({ what = 'Loading' }: { what?: string }) {
  return (
    <p class="waiting" role="status">
      {what}…
    </p>
  )
}

/** A short word with a colour and, for those who see none, a sign. */
export function Badge({ tone, children, title }: { tone: Tone; children: ComponentChildren; title?: string }) {
  const sign = { ok: '●', info: '○', warning: '▲', critical: '■' }[tone]
  return (
    <span class={`badge ${tone}`} title={title}>
      <span aria-hidden="true">{sign}</span> {children}
    </span>
  )
}

/** Text to take along; a function when it is much work to make. */
export function Copy({ text: given, label = 'Copy' }: { text: string | (() => string); label?: string }) {
  const [done, set] = useState('')
  const copy = async () => {
    const text = typeof given === 'function' ? given() : given
    try {
      await navigator.clipboard.writeText(text)
      set('Copied')
    } catch {
      // Without HTTPS a browser has no clipboard for pages, but it has a selection.
      const area = document.createElement('textarea')
      area.value = text
      document.body.append(area)
      area.select()
      set(document.execCommand('copy') ? 'Copied' : 'Select and copy by hand')
      area.remove()
    }
    setTimeout(() => set(''), 2000)
  }
  return (
    <button type="button" class="copy" onClick={() => void copy()} aria-live="polite">
      {done || label}
    </button>
  )
}

/** A block of text to be copied as it is. */
export function Snippet({ title, text }: { title: string; text: string }) {
  return (
    <figure class="snippet">
      <figcaption>
        <span>{title}</span>
        <Copy text={text} />
      </figcaption>
      <pre tabIndex={0} aria-label={title}>
        {text}
      </pre>
    </figure>
  )
}

export interface Column<R> {
  name: string
  title: ComponentChildren
  cell: (row: R) => ComponentChildren
  /** Sorts by this; without it the column is no button. */
  by?: (row: R) => number | string
  number?: boolean
  hint?: string
}

/** A table that sorts by a click on a head. A view that sorts at the server gives sort and onSort. */
export function Table<R>(props: {
  label: string
  columns: Column<R>[]
  rows: readonly R[]
  id: (row: R) => string
  sort?: string
  descending?: boolean
  onSort?: (column: string, descending: boolean) => void
  selected?: string
  onRow?: (row: R) => void
  empty?: ComponentChildren
}) {
  const [own, setOwn] = useState({ sort: props.sort ?? '', descending: props.descending ?? true })
  const at = props.onSort ? { sort: props.sort ?? '', descending: props.descending ?? true } : own
  const column = props.columns.find((c) => c.name === at.sort)
  let rows = props.rows
  if (column?.by && !props.onSort) {
    const by = column.by
    rows = [...rows].sort((a, b) => {
      const x = by(a), y = by(b)
      const order = typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y))
      return at.descending ? -order : order
    })
  }
  const choose = (name: string) => {
    const descending = name === at.sort ? !at.descending : true
    if (props.onSort) props.onSort(name, descending)
    else setOwn({ sort: name, descending })
  }
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={props.label}>
      <table>
        <thead>
          <tr>
            {props.columns.map((c) => (
              <th key={c.name} scope="col" class={c.number ? 'number' : undefined} title={c.hint} aria-sort={c.name === at.sort ? (at.descending ? 'descending' : 'ascending') : undefined}>
                {c.by ? (
                  <button type="button" onClick={() => choose(c.name)}>
                    {c.title}
                    <span aria-hidden="true">{c.name === at.sort ? (at.descending ? ' ↓' : ' ↑') : ''}</span>
                  </button>
                ) : (
                  c.title
                )}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr
              key={props.id(row)}
              class={props.onRow ? (props.selected === props.id(row) ? 'choosable chosen' : 'choosable') : undefined}
              onClick={props.onRow ? () => props.onRow!(row) : undefined}
            >
              {props.columns.map((c) => (
                <td key={c.name} class={c.number ? 'number' : undefined}>
                  {c.cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      {rows.length === 0 && <Empty>{props.empty ?? 'Nothing here.'}</Empty>}
    </div>
  )
}

/** One of a few ways, as a row of buttons. */
export function Choice<V extends string>({ label, value, options, onChange }: { label: string; value: V; options: readonly (readonly [V, ComponentChildren])[]; onChange: (value: V) => void }) {
  return (
    <div class="choice" role="group" aria-label={label}>
      {options.map(([v, text]) => (
        <button key={v} type="button" aria-pressed={v === value} onClick={() => onChange(v)}>
          {text}
        </button>
      ))}
    </div>
  )
}

/** A figure with its name and, below it, what it means. */
export function Figure({ name, value, hint, tone }: { name: string; value: ComponentChildren; hint?: ComponentChildren; tone?: Tone }) {
  return (
    <div class={`figure ${tone ?? ''}`}>
      <dt>{name}</dt>
      <dd>
        <strong>{value}</strong>
        {hint && <small>{hint}</small>}
      </dd>
    </div>
  )
}

/** How much of a limit is in use; plain: how far something has got, where being full is good. */
export function Meter({ value, max, label, plain }: { value: number; max: number; label: string; plain?: boolean }) {
  const share = max > 0 ? Math.min(1, value / max) : 0
  const tone = plain ? 'ok' : share >= 1 ? 'critical' : share >= 0.8 ? 'warning' : 'ok'
  return (
    <svg class={`meter ${tone}`} viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label={label}>
      <rect class="room" width="100" height="6" />
      <rect class="used" width={share * 100} height="6" />
    </svg>
  )
}

/** The past of a figure, small. points are [ms, value], NaN is a hole. */
export function Sparkline({ points, label, from, to, format, height = 44 }: { points: readonly (readonly [number, number])[]; label: string; from: number; to: number; format: (v: number) => string; height?: number }) {
  const [hover, setHover] = useState<number | undefined>()
  const solid = points.filter(([, v]) => Number.isFinite(v))
  const top = Math.max(1e-12, ...solid.map(([, v]) => v))
  const x = (t: number) => ((t - from) / Math.max(1, to - from)) * 100
  const y = (v: number) => 38 - (Math.max(0, v) / top) * 34
  let path = ''
  let pen = false
  for (const [t, v] of points) {
    if (!Number.isFinite(v)) {
      pen = false
      continue
    }
    path += `${pen ? 'L' : 'M'}${x(t).toFixed(2)} ${y(v).toFixed(2)}`
    pen = true
  }
  const last = solid.at(-1)
  const at = hover === undefined ? last : solid.reduce((best, p) => (Math.abs(p[0] - hover) < Math.abs(best[0] - hover) ? p : best), solid[0] ?? [0, 0])
  const move = (e: PointerEvent & { currentTarget: SVGSVGElement }) => {
    const box = e.currentTarget.getBoundingClientRect()
    setHover(from + ((e.clientX - box.left) / box.width) * (to - from))
  }
  return (
    <div class="sparkline">
      <svg viewBox="0 0 100 40" preserveAspectRatio="none" height={height} role="img" aria-label={`${label}: ${last ? format(last[1]) : 'no data'}; highest of the last hour ${last ? format(top) : 'unknown'}`} onPointerMove={move} onPointerLeave={() => setHover(undefined)}>
        <line x1="0" x2="100" y1="38" y2="38" class="ground" />
        {path && <path d={path} vector-effect="non-scaling-stroke" />}
        {hover !== undefined && at && <line class="cursor" x1={x(at[0])} x2={x(at[0])} y1="0" y2="40" vector-effect="non-scaling-stroke" />}
      </svg>
      <span class="at">
        {at ? format(at[1]) : 'no data'}
        {hover !== undefined && at && <small> {time(at[0]).slice(11)}</small>}
      </span>
    </div>
  )
}

/** A text field whose value counts once it is left or Enter is pressed, or after a pause in typing. */
export function SearchField({ label, value, onChange, placeholder }: { label: string; value: string; onChange: (value: string) => void; placeholder?: string }) {
  const [text, set] = useState(value)
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined)
  useEffect(() => set(value), [value])
  useEffect(() => () => clearTimeout(timer.current), [])
  return (
    <input
      type="search"
      aria-label={label}
      placeholder={placeholder ?? label}
      value={text}
      onInput={(e) => {
        const next = e.currentTarget.value
        set(next)
        clearTimeout(timer.current)
        timer.current = setTimeout(() => onChange(next), 300)
      }}
    />
  )
}

/** A part beside the view for the details of one thing; Escape closes it. */
export function Drawer({ title, onClose, children }: { title: ComponentChildren; onClose: () => void; children: ComponentChildren }) {
  const box = useRef<HTMLDivElement>(null)
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null
    box.current?.focus()
    const key = (e: KeyboardEvent) => e.key === 'Escape' && onClose()
    addEventListener('keydown', key)
    return () => {
      removeEventListener('keydown', key)
      // Not if it was closed to go on elsewhere, such as in the editor.
      if (document.activeElement === document.body || box.current?.contains(document.activeElement)) before?.focus?.()
    }
  }, [])
  return (
    <div class="drawer" role="dialog" aria-modal="false" aria-label={typeof title === 'string' ? title : 'Details'} tabIndex={-1} ref={box}>
      <header>
        <h2>{title}</h2>
        <button type="button" onClick={onClose} aria-label="Close">
          ✕
        </button>
      </header>
      {children}
    </div>
  )
}
