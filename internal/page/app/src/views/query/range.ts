// Times and steps of range queries.

/** Most points of a series that the server answers. */
export const maxPoints = 11_000

/** Most points of all series that are fetched for one chart; an answer of that size is about 60 MB. */
const maxValues = 2_000_000

/** Most series that are drawn. */
export const maxSeries = 1000

const s = 1000, m = 60 * s, h = 60 * m, d = 24 * h
const steps = [s, 2 * s, 5 * s, 10 * s, 15 * s, 20 * s, 30 * s, m, 2 * m, 5 * m, 10 * m, 15 * m, 20 * m, 30 * m, h, 2 * h, 3 * h, 4 * h, 6 * h, 12 * h, d, 2 * d, 7 * d]

export interface Grid {
  /** ms; multiples of step, so that what was drawn stays where it is when time goes on, and caches can be of use */
  start: number
  end: number
  step: number
  points: number
}

/** The step for a range on a chart of so many pixels: a point for every second pixel, at a round figure; all in ms. */
export function autoStep(range: number, pixels: number): number {
  const wanted = range / Math.max(50, Math.min(maxPoints, pixels / 2))
  return steps.find((step) => step >= wanted) ?? Math.ceil(wanted / d) * d
}

/** The points to ask for. A fixed step that would make too many points is made larger. */
export function gridOf(range: number, end: number, fixed: number | undefined, pixels: number): Grid {
  let step = Math.max(1, fixed ?? autoStep(range, pixels))
  if (range / step > maxPoints - 2) step = steps.find((n) => range / n <= maxPoints - 2) ?? Math.ceil(range / (maxPoints - 2))
  const first = Math.floor((end - range) / step) * step
  const last = Math.floor(end / step) * step
  return { start: first, end: last, step, points: Math.round((last - first) / step) + 1 }
}

/** How many series may be asked for on a grid. */
export const seriesLimit = (points: number) => Math.max(10, Math.min(maxSeries, Math.floor(maxValues / points)))

/** The range after a look earlier or later, by half of what is seen. A range that would end in the future ends now. */
export function moved(range: number, end: number | undefined, direction: -1 | 1, now: number): number | undefined {
  const next = (end ?? now) + (direction * range) / 2
  return next >= now ? undefined : next
}

/** The range after a look closer or wider, around its middle; one that ends now goes on to end now. */
export function zoomed(range: number, end: number | undefined, factor: number, now: number): { range: number; end: number | undefined } {
  const next = Math.max(10 * s, Math.min(10 * 365 * d, Math.round((range * factor) / s) * s))
  if (end === undefined) return { range: next, end }
  const moved = end - range / 2 + next / 2
  return { range: next, end: moved >= now ? undefined : moved }
}
