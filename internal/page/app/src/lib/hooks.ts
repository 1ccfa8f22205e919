import { useCallback, useEffect, useRef, useState } from 'preact/hooks'
import { now } from './clock'
import { session } from './session'

/** The session, followed. */
export function useSession() {
  const [, redraw] = useState(0)
  useEffect(() => session.subscribe(() => redraw((n) => n + 1)), [])
  return session
}

export interface Loaded<T> {
  data: T | undefined
  error: Error | undefined
  loading: boolean
  /** When data came, ms; 0 = not yet. */
  at: number
  reload: () => void
}

/**
 * Loads something when the inputs change, and again every interval (ms; 0 = once) while the tab is looked at. What was loaded stays
 * visible while the next is on its way, and beside an error; other inputs begin anew.
 */
export function useLoad<T>(load: (signal: AbortSignal) => Promise<T>, inputs: readonly unknown[], interval = 0): Loaded<T> {
  const [state, set] = useState<Omit<Loaded<T>, 'reload'>>({ data: undefined, error: undefined, loading: true, at: 0 })
  const [round, setRound] = useState(0)
  const latest = useRef(load)
  latest.current = load
  const key = JSON.stringify(inputs)
  const known = useRef(key)
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined
    let abort = new AbortController()
    let over = false
    if (known.current !== key) {
      known.current = key
      set({ data: undefined, error: undefined, loading: true, at: 0 })
    }
    const once = async () => {
      abort = new AbortController()
      set((s) => ({ ...s, loading: true }))
      try {
        const data = await latest.current(abort.signal)
        if (!over) set({ data, error: undefined, loading: false, at: now() })
      } catch (error) {
        if (!over && !abort.signal.aborted) set((s) => ({ ...s, error: error as Error, loading: false }))
      }
      if (!over && interval > 0) timer = setTimeout(again, interval)
    }
    const again = () => {
      if (document.hidden) timer = setTimeout(again, 1000)
      else void once()
    }
    void once()
    return () => {
      over = true
      clearTimeout(timer)
      abort.abort()
    }
  }, [key, interval, round])
  const reload = useCallback(() => setRound((n) => n + 1), [])
  return { ...state, reload }
}

/** A value that is remembered in this browser. */
export function useStored(name: string, initial: string): [string, (value: string) => void] {
  const [value, set] = useState(() => {
    try {
      return localStorage.getItem(`sluice.${name}`) ?? initial
    } catch {
      return initial
    }
  })
  const store = useCallback(
    (next: string) => {
      set(next)
      try {
        localStorage.setItem(`sluice.${name}`, next)
      } catch {
        // forbidden by the browser: it holds until the reload
      }
    },
    [name],
  )
  return [value, store]
}
