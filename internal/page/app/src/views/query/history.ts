// The queries that were run in this browser, newest first. Starred ones stay.

export interface Past {
  expr: string
  /** ms since 1970 */
  at: number
  starred: boolean
}

/** How many are kept beside the starred ones. */
export const kept = 100

/** Longest query that is kept. */
const maxLength = 10_000

export function remember(all: readonly Past[], expr: string, now: number): Past[] {
  const text = expr.trim()
  if (text === '' || text.length > maxLength) return [...all]
  const before = all.find((p) => p.expr === text)
  return prune([{ expr: text, at: now, starred: before?.starred ?? false }, ...all.filter((p) => p.expr !== text)])
}

export const star = (all: readonly Past[], expr: string): Past[] => prune(all.map((p) => (p.expr === expr ? { ...p, starred: !p.starred } : p)))

export const forget = (all: readonly Past[], expr?: string): Past[] => all.filter((p) => (expr === undefined ? p.starred : p.expr !== expr))

function prune(all: Past[]): Past[] {
  let plain = 0
  return all.filter((p) => p.starred || ++plain <= kept)
}

export function parseHistory(text: string): Past[] {
  try {
    const list: unknown = JSON.parse(text)
    if (!Array.isArray(list)) return []
    return list.flatMap((p: Partial<Past> | null) => (p && typeof p.expr === 'string' && typeof p.at === 'number' ? [{ expr: p.expr, at: p.at, starred: p.starred === true }] : []))
  } catch {
    return []
  }
}
