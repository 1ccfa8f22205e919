import { Fragment } from 'preact'
import { exact } from '../../lib/format'
import type { Window } from './data'

const two = (n: number) => String(n).padStart(2, '0')

/** The beginning of a window, as short as its length allows. */
export function windowName(w: Window): string {
  const d = new Date(w.start)
  const day = `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`
  return w.end - w.start < 86_400_000 ? `${day} ${two(d.getHours())}:00` : day
}

/** Series by window, as bars; a window that nothing is known of stays empty. */
export function Trend({ values, windows, label, large }: { values: readonly number[]; windows: readonly Window[]; label: string; large?: boolean }) {
  const top = Math.max(1, ...values.filter(Number.isFinite))
  const step = 100 / Math.max(1, values.length)
  const gap = Math.min(0.8, step * 0.2)
  const first = values.find(Number.isFinite), last = values.filter(Number.isFinite).at(-1)
  return (
    <svg class={large ? 'trend large' : 'trend'} viewBox="0 0 100 40" preserveAspectRatio="none" role="img" aria-label={`${label} over ${values.length} windows: first ${exact(first)}, last ${exact(last)}, highest ${exact(top)} series`}>
      {values.map((v, i) => {
        const x = i * step
        if (!Number.isFinite(v)) return <rect key={i} class="hole" x={x} y="39" width={step - gap} height="1" />
        const height = v === 0 ? 0 : Math.max(1.5, (v / top) * 38)
        return (
          <g key={i}>
            <rect class="reach" x={x} y="0" width={step} height="40">
              <title>{windows[i] ? `${windowName(windows[i]!)}: ${exact(v)} series` : exact(v)}</title>
            </rect>
            <rect class={windows[i]?.source === 'heads' ? 'bar heads' : 'bar'} x={x} y={40 - height} width={step - gap} height={height} />
          </g>
        )
      })}
    </svg>
  )
}

/** A number, and a bar as long as its share of the largest. */
export function Measured({ value, of }: { value: number; of: number }) {
  const share = of > 0 ? Math.min(1, value / of) : 0
  return (
    <span class="measured">
      <svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">
        <rect class="room" width="100" height="4" />
        <rect class="used" width={value > 0 ? Math.max(1, share * 100) : 0} height="4" />
      </svg>
      <span class="n">{exact(value)}</span>
    </span>
  )
}

/** A long name, which may be broken where its words end. */
export function Name({ text }: { text: string }) {
  return (
    <>
      {text.split(/(?<=[_./:,=-])(?=[^_./:,=-])/).map((word, i) => (
        <Fragment key={i}>
          {i > 0 && <wbr />}
          {word}
        </Fragment>
      ))}
    </>
  )
}

/** A share for people. */
export const percent = (part: number, of: number): string => {
  if (of <= 0) return '–'
  const p = (part / of) * 100
  return p > 0 && p < 0.1 ? '< 0.1 %' : `${p < 10 ? Number(p.toFixed(1)) : Math.round(p)} %`
}

/** What became of a number, in words: absolute and in percent. */
export function Growth({ first, last }: { first: number; last: number }) {
  const by = last - first
  if (by === 0) return <span class="growth none">0</span>
  const part = percent(Math.abs(by), first)
  const share = first === 0 ? 'new' : last === 0 ? 'gone' : part.startsWith('<') ? part : `${by > 0 ? '+' : '−'}${part}`
  // Only what changed much has a colour: most numbers of series change a little all the time.
  const much = first === 0 || Math.abs(by) >= first * 0.2
  return (
    <span class={much ? `growth ${by > 0 ? 'up' : 'down'}` : 'growth'}>
      {by > 0 ? '+' : '−'}
      {exact(Math.abs(by))} <small>{share}</small>
    </span>
  )
}
