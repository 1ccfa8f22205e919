// Where blocks stand in the time line: a band for each level and resolution, in it as many lanes as blocks overlap, and marks
// of at least a pixel. Pure, so that it can be tested without a browser.

import type { Block } from './types'

/** One or several neighbouring blocks, drawn as one. */
export interface Mark {
  blocks: Block[]
  /** Pixels from the left of the time line. */
  x: number
  width: number
  lane: number
}

export interface Band {
  level: number
  resolution: number
  lanes: number
  /** Lanes that are not drawn: their blocks are in the last one. */
  hidden: number
  marks: Mark[]
  blocks: number
}

/** More lanes than this cannot be told apart. */
export const maxLanes = 24

/** What is narrower than this is drawn together with its neighbours, until they are as wide as joined. */
const narrow = 2
const joined = 8

/** The bands of the blocks that touch [from, to), the highest level first. */
export function layout(blocks: readonly Block[], from: number, to: number, width: number): Band[] {
  const groups = new Map<string, Block[]>()
  for (const b of blocks) {
    if (b.max_time <= from || b.min_time >= to) continue
    const key = `${b.level}/${b.resolution}`
    const group = groups.get(key)
    if (group) group.push(b)
    else groups.set(key, [b])
  }
  const bands = [...groups.values()].map((group) => band(group, from, to, width))
  return bands.sort((a, b) => b.resolution - a.resolution || b.level - a.level)
}

function band(group: Block[], from: number, to: number, width: number): Band {
  const scale = width / Math.max(1, to - from)
  const x = (t: number) => Math.min(Math.max((t - from) * scale, 0), width)
  group.sort((a, b) => a.min_time - b.min_time || b.max_time - a.max_time || (a.id < b.id ? -1 : 1))
  const slack = 1 / scale // an overlap that nobody can see needs no other lane
  const ends: number[] = [] // of each lane, time
  const last: (Mark | undefined)[] = [] // of each drawn lane
  const marks: Mark[] = []
  for (const b of group) {
    let lane = ends.findIndex((end) => end <= b.min_time + slack)
    if (lane < 0) lane = ends.length
    ends[lane] = b.max_time
    const drawn = Math.min(lane, maxLanes - 1)
    const left = x(b.min_time)
    const right = Math.max(x(b.max_time), left + 1)
    const before = last[drawn]
    const room = before === undefined ? 1 : left - (before.x + before.width)
    const joins = before !== undefined && room < 1 && (lane !== drawn || room <= -1 || (before.width < joined && (right - left < narrow || before.width < narrow)))
    if (joins) {
      before.blocks.push(b)
      before.width = Math.max(before.width, right - before.x)
      continue
    }
    const mark = { blocks: [b], x: left, width: right - left, lane: drawn }
    last[drawn] = mark
    marks.push(mark)
  }
  const first = group[0]!
  return { level: first.level, resolution: first.resolution, lanes: Math.min(ends.length, maxLanes), hidden: Math.max(0, ends.length - maxLanes), marks, blocks: group.length }
}

const minute = 60_000
const hour = 60 * minute
const day = 24 * hour
const steps = [minute, 5 * minute, 10 * minute, 30 * minute, hour, 2 * hour, 6 * hour, 12 * hour, day, 2 * day, 7 * day, 14 * day, 30 * day, 91 * day, 365 * day]

export interface Tick {
  time: number
  label: string
}

/** Times to be written below the time line, at least gap pixels apart, on round local times; offset is what local time is ahead of UTC. */
export function ticks(from: number, to: number, width: number, gap = 110, offset = (t: number) => -new Date(t).getTimezoneOffset() * minute): Tick[] {
  const most = Math.max(1, Math.floor(width / gap))
  const step = steps.find((s) => (to - from) / s <= most) ?? 365 * day * Math.ceil((to - from) / (365 * day) / most)
  const found: Tick[] = []
  let local = Math.ceil((from + offset(from)) / step) * step
  for (;;) {
    const time = local - offset(local - offset(local))
    if (time > to) return found
    if (time >= from) found.push({ time, label: tickLabel(local, step) })
    local += step
  }
}

/** A local time, as exact as the step needs. */
function tickLabel(local: number, step: number): string {
  const iso = new Date(local).toISOString()
  if (step >= 30 * day) return iso.slice(0, 10)
  if (step >= day || local % day === 0) return iso.slice(5, 10)
  return iso.slice(11, 16)
}

/** The whole of what the blocks cover, with some room at the right for what is not in blocks yet. */
export function extent(blocks: readonly Block[], now: number): [number, number] {
  let from = Infinity
  let to = now
  for (const b of blocks) {
    from = Math.min(from, b.min_time)
    to = Math.max(to, b.max_time)
  }
  if (from === Infinity) from = now - day
  const room = Math.max((to - from) * 0.01, minute)
  return [from - room, to + room]
}

/** [from, to) around its middle, or around a time, by a factor; never smaller than a minute. */
export function zoom([from, to]: readonly [number, number], factor: number, around = (from + to) / 2): [number, number] {
  const span = Math.max(minute, (to - from) * factor)
  const share = (around - from) / Math.max(1, to - from)
  return [Math.round(around - span * share), Math.round(around + span * (1 - share))]
}
