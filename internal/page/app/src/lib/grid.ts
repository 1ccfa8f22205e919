// Series of a range query on a grid of equal steps.

/** [ms, value]; NaN is a hole. */
export type Points = [number, number][]

/** Series on one grid, added up; a hole is where none has a value. */
export function added(all: readonly Points[], from: number, to: number, step: number): Points {
  if (all.length === 0) return onGrid([], from, to, step)
  return all[0]!.map(([t], i) => {
    const known = all.map((s) => s[i]![1]).filter((v) => !Number.isNaN(v))
    return [t, known.length > 0 ? known.reduce((a, b) => a + b) : NaN]
  })
}

/** Values at every step between two times, NaN where there is none. */
export function onGrid(values: readonly (readonly [number, string])[], from: number, to: number, step: number): Points {
  const known = new Map(values.map(([t, v]) => [Math.round(t * 1000), Number(v)]))
  const points: Points = []
  for (let t = from; t <= to; t += step) points.push([t, known.get(t) ?? NaN])
  return points
}
