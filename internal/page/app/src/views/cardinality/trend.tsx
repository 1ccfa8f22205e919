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

/** A bar as long as a share of the whole. */
export function Share({ part, of }: { part: number; of: number }) {
  const share = of > 0 ? Math.min(1, part / of) : 0
  return (
    <svg class="share" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">
      <rect class="room" width="100" height="4" />
      <rect class="used" width={share * 100} height="4" />
    </svg>
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
  const share = first === 0 ? 'new' : last === 0 ? 'gone' : `${by > 0 ? '+' : '−'}${percent(Math.abs(by), first)}`
  return (
    <span class={`growth ${by > 0 ? 'up' : 'down'}`}>
      {by > 0 ? '+' : '−'}
      {exact(Math.abs(by))} <small>{share}</small>
    </span>
  )
}
