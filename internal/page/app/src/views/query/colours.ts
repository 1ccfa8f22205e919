// The colours of lines: far apart for neighbours, readable on the ground of the theme.

import { useEffect, useState } from 'preact/hooks'

/** Whether the page is dark now. */
export const dark = () => {
  const chosen = document.documentElement.dataset.theme
  return chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches
}

/** Hues of the first lines, which most charts have no more of; the golden angle goes on from there. */
const first = [230, 50, 145, 350, 300, 95, 195, 20, 265, 120, 325, 75]

/** The n-th colour. */
export function colourOf(n: number, isDark: boolean): string {
  const hue = n < first.length ? first[n]! : (n * 137.508) % 360
  const ring = Math.floor(n / first.length) % 3
  const lightness = isDark ? [0.76, 0.66, 0.84][ring]! : [0.56, 0.48, 0.62][ring]!
  const chroma = isDark ? 0.13 : 0.15
  return `oklch(${lightness} ${chroma} ${Math.round(hue)})`
}

/** Gives each key a colour of its own for as long as the view lives, so that a refresh does not change them. */
export class Colours {
  private known = new Map<string, number>()
  of(key: string): number {
    let n = this.known.get(key)
    if (n === undefined) {
      n = this.known.size
      this.known.set(key, n)
    }
    return n
  }
  /** Forgets all but these, when other queries take their place. */
  keep(keys: ReadonlySet<string>) {
    if ([...this.known.keys()].some((k) => keys.has(k))) return
    this.known.clear()
  }
}

/** A number that changes with the theme. */
export function useTheme(): number {
  const [n, set] = useState(0)
  useEffect(() => {
    const changed = () => set((v) => v + 1)
    const media = matchMedia('(prefers-color-scheme: dark)')
    addEventListener('sluice-theme', changed)
    media.addEventListener('change', changed)
    return () => {
      removeEventListener('sluice-theme', changed)
      media.removeEventListener('change', changed)
    }
  }, [])
  return n
}
