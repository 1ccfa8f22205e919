// The time range, resolution and refresh of all queries.

import { useEffect, useRef, useState } from 'preact/hooks'
import { clockOff, now } from '../../lib/clock'
import { formatDuration, parseDuration, parseTime, timeField } from '../../lib/time'
import { seconds, time } from '../../lib/format'
import { moved, zoomed } from './range'
import type { State } from './state'

const ranges = ['5m', '15m', '30m', '1h', '3h', '6h', '12h', '1d', '2d', '7d', '14d', '30d']
const refreshes = [[0, 'Off'], [5, '5 s'], [15, '15 s'], [60, '1 min']] as const
const stepChoices = ['1s', '5s', '15s', '30s', '1m', '5m', '15m', '1h', '6h', '1d']

type Change = (change: Partial<State>) => void

export function TimeBar({ state, change, step }: { state: State; change: Change; step: number | undefined }) {
  const graph = state.tab === 'graph'
  return (
    <div class="timebar">
      <div class="choice" role="group" aria-label="Move and zoom">
        <button type="button" title="Earlier, by half of the range" aria-label="Earlier" onClick={() => change({ end: moved(state.range, state.end, -1, now()) })}>
          ◀
        </button>
        <Range state={state} change={change} />
        <button type="button" title="Later, by half of the range" aria-label="Later" disabled={state.end === undefined} onClick={() => change({ end: moved(state.range, state.end, 1, now()) })}>
          ▶
        </button>
        <button type="button" title="Zoom out" aria-label="Zoom out" onClick={() => change(zoomed(state.range, state.end, 2, now()))}>
          −
        </button>
        <button type="button" title="Zoom in" aria-label="Zoom in" onClick={() => change(zoomed(state.range, state.end, 0.5, now()))}>
          +
        </button>
        {state.end !== undefined && (
          <button type="button" title="End the range now" onClick={() => change({ end: undefined })}>
            Now
          </button>
        )}
      </div>
      {graph && (
        <label title="Time between two points of a series">
          Step
          <Step value={state.step} auto={step} onChange={(s) => change({ step: s })} />
        </label>
      )}
      <label title={state.end === undefined ? 'Run again by itself' : 'Only a range that ends now refreshes'}>
        Refresh
        <select value={String(state.refresh)} disabled={state.end !== undefined} onChange={(e) => change({ refresh: Number(e.currentTarget.value) })}>
          {!refreshes.some(([s]) => s === state.refresh) && <option value={String(state.refresh)}>{state.refresh} s</option>}
          {refreshes.map(([s, text]) => (
            <option key={s} value={String(s)}>
              {text}
            </option>
          ))}
        </select>
      </label>
    </div>
  )
}

function Step({ value, auto, onChange }: { value: number | undefined; auto: number | undefined; onChange: (step: number | undefined) => void }) {
  const shown = value === undefined ? '' : formatDuration(value)
  const [text, set] = useState(shown)
  useEffect(() => set(shown), [shown])
  const wrong = text.trim() !== '' && parseDuration(text) === undefined
  const done = () => {
    const next = text.trim() === '' ? undefined : parseDuration(text)
    if (!wrong && next !== value) onChange(next)
  }
  return (
    <>
      <input class="short" list="query-steps" aria-invalid={wrong} placeholder={auto ? `auto: ${formatDuration(auto)}` : 'auto'} value={text} onInput={(e) => set(e.currentTarget.value)} onBlur={done} onKeyDown={(e) => e.key === 'Enter' && done()} />
      <datalist id="query-steps">
        {stepChoices.map((s) => (
          <option key={s} value={s} />
        ))}
      </datalist>
    </>
  )
}

/** The range as a button, which opens the choice of another one. */
function Range({ state, change }: { state: State; change: Change }) {
  const [open, setOpen] = useState(false)
  const box = useRef<HTMLDivElement>(null)
  const button = useRef<HTMLButtonElement>(null)
  useEffect(() => {
    if (!open) return
    const out = (e: Event) => !box.current?.contains(e.target as Node) && setOpen(false)
    addEventListener('pointerdown', out)
    box.current?.querySelector('input')?.focus()
    return () => removeEventListener('pointerdown', out)
  }, [open])
  const close = () => {
    setOpen(false)
    button.current?.focus()
  }
  const text = state.end === undefined ? `Last ${formatDuration(state.range)}` : `${time(state.end - state.range).slice(0, 16)} – ${time(state.end).slice(sameDay(state) ? 11 : 0, 16)}`
  return (
    <div class="range" ref={box} onKeyDown={(e) => e.key === 'Escape' && open && close()}>
      <button type="button" ref={button} aria-expanded={open} aria-haspopup="dialog" onClick={() => setOpen(!open)}>
        {text} <span aria-hidden="true">▾</span>
      </button>
      {open && <RangeChoice state={state} change={(c) => (change(c), close())} />}
    </div>
  )
}

const sameDay = (s: State) => s.end !== undefined && time(s.end - s.range).slice(0, 10) === time(s.end).slice(0, 10)

function RangeChoice({ state, change }: { state: State; change: Change }) {
  const end = state.end ?? now()
  const [length, setLength] = useState(formatDuration(state.range))
  const [from, setFrom] = useState(timeField(end - state.range))
  const [to, setTo] = useState(state.end === undefined ? 'now' : timeField(end))
  const [wrong, setWrong] = useState('')
  const last = (e: Event) => {
    e.preventDefault()
    const range = parseDuration(length)
    if (range === undefined) setWrong(`“${length}” is no duration: write 45m, 1h30m, 10d.`)
    else change({ range, end: undefined })
  }
  const between = (e: Event) => {
    e.preventDefault()
    const at = now()
    const start = parseTime(from, at), stop = parseTime(to, at)
    if (start === undefined || stop === undefined) setWrong(`“${start === undefined ? from : to}” is no time: write 2026-11-21 20:17, now-2h or seconds since 1970.`)
    else if (stop <= start) setWrong('“From” has to be before “to”.')
    else change({ range: stop - start, end: to.trim() === 'now' || to.trim() === '' ? undefined : stop })
  }
  return (
    <div class="range-choice" role="dialog" aria-label="Time range">
      <form onSubmit={last} class="actions">
        <label>
          Last <input class="short" value={length} onInput={(e) => setLength(e.currentTarget.value)} />
        </label>
        <button type="submit">Apply</button>
      </form>
      <div class="presets">
        {ranges.map((r) => (
          <button key={r} type="button" aria-pressed={state.end === undefined && parseDuration(r) === state.range} onClick={() => change({ range: parseDuration(r)!, end: undefined })}>
            {r}
          </button>
        ))}
      </div>
      <form onSubmit={between}>
        <label>
          From <input value={from} onInput={(e) => setFrom(e.currentTarget.value)} />
        </label>
        <label>
          To <input value={to} onInput={(e) => setTo(e.currentTarget.value)} />
        </label>
        <button type="submit">Apply</button>
      </form>
      {wrong && (
        <p class="problem" role="alert">
          {wrong}
        </p>
      )}
      <p class="hint">Times are in the zone of this browser ({Intl.DateTimeFormat().resolvedOptions().timeZone}).</p>
      {clockOff() !== 0 && (
        <p class="hint">
          Its clock is {seconds(Math.round(Math.abs(clockOff()) / 1000))} {clockOff() > 0 ? 'ahead of' : 'behind'} the server’s. “Now” is the server’s.
        </p>
      )}
    </div>
  )
}
