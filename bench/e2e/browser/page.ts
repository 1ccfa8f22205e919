// What all scenarios share: a page that may do nothing wrong unnoticed, a look at a view with axe, in both themes and at phone width, and
// the way to the world outside that the Go test has started.

import { test as plain, expect } from '@playwright/test'
import type { BrowserContext, Locator, Page } from '@playwright/test'
import axe from 'axe-core'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'

export { expect }
export type { BrowserContext, Locator, Page }

/** Every view and the heading or landmark that says it has come. */
export const views = ['', 'query', 'cardinality', 'pipeline', 'blocks', 'tenants'] as const

/** What went wrong in any page of a context: errors, broken rules, requests to elsewhere. */
export class Guard {
  private found: string[] = []
  private excused: RegExp[] = []

  /** Errors that the scenario is about. */
  expect(...patterns: RegExp[]) {
    this.excused.push(...patterns)
  }

  async watch(context: BrowserContext, base: string) {
    const origin = new URL(base).origin
    context.on('console', (m) => {
      if (m.type() === 'error' || m.type() === 'warning') this.found.push(`console: ${m.text()} (${m.location().url})`)
    })
    context.on('weberror', (e) => this.found.push(`thrown: ${e.error().stack ?? e.error().message}`))
    context.on('request', (r) => {
      const url = new URL(r.url())
      if (url.protocol.startsWith('http') && url.origin !== origin) this.found.push(`request to elsewhere: ${r.url()}`)
    })
    // The console tells of violations too, but not of those that are only reported.
    await context.addInitScript(() => addEventListener('securitypolicyviolation', (e) => console.error(`policy: ${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber}:${e.columnNumber} ${e.sample}`)))
  }

  /** What was found and is not excused. */
  get problems(): string[] {
    return this.found.filter((f) => !this.excused.some((x) => x.test(f)))
  }
}

export const test = plain.extend<{ guard: Guard }>({
  guard: [
    async ({ context, baseURL }, use) => {
      const guard = new Guard()
      await guard.watch(context, baseURL!)
      await use(guard)
      expect(guard.problems, 'what the page must not do').toEqual([])
    },
    { auto: true },
  ],
})

const shots = process.env.PAGE_SCREENSHOTS
const scenario = process.env.PAGE_SCENARIO ?? 'unnamed'

async function shoot(page: Page, name: string) {
  if (!shots) return
  const folder = join(shots, scenario)
  mkdirSync(folder, { recursive: true })
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true, animations: 'disabled' })
}

/** axe's findings that keep somebody from using the page. */
export async function findings(page: Page): Promise<string[]> {
  await page.evaluate(axe.source)
  const result = await page.evaluate(() => (window as unknown as { axe: typeof axe }).axe.run(document, { resultTypes: ['violations'] }))
  return result.violations
    .filter((v) => v.impact === 'serious' || v.impact === 'critical')
    .flatMap((v) => v.nodes.map((n) => `${v.id} (${v.impact}): ${v.help}: ${n.target.join(' ')}: ${n.html.slice(0, 200)}: ${n.failureSummary?.replace(/\s+/g, ' ')}`))
}

/** How far the document is wider than the window, px. */
const overflow = (page: Page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)

/**
 * Looks at what the page shows now, in both themes, on a desk and on a phone: axe finds nothing serious, nothing sticks out of the
 * window. Every picture is kept where PAGE_SCREENSHOTS says.
 */
export async function look(page: Page, name: string) {
  const desk = page.viewportSize()!
  const wrong: string[] = []
  for (const theme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme: theme })
    for (const [device, size] of [['desk', desk], ['phone', { width: 375, height: 800 }]] as const) {
      await page.setViewportSize(size)
      await settled(page)
      await shoot(page, `${name}-${theme}-${device}`)
      const out = await overflow(page)
      if (out > 0) wrong.push(`${name}, ${theme}, ${device}: ${out} px wider than the window: ${(await widest(page)).join('; ')}`)
      // What differs between the four are colours and what is hidden: colours by theme, the rest by width.
      if (device === 'desk' || theme === 'light') wrong.push(...(await findings(page)).map((f) => `${name}, ${theme}, ${device}: ${f}`))
    }
    await page.setViewportSize(desk)
  }
  await page.emulateMedia({ colorScheme: 'light' })
  await settled(page)
  expect.soft([...new Set(wrong)], `a look at ${name}`).toEqual([])
}

/** Two frames, and the end of what they set in motion: sizes have been seen by observers, what they changed is drawn, colours are those of the theme. */
const settled = (page: Page) =>
  page.evaluate(async () => {
    await new Promise<void>((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))
    await Promise.allSettled(document.getAnimations().map((a) => a.finished))
  })

/** What sticks out at the right, for a message. */
const widest = (page: Page) =>
  page.evaluate(() => {
    const out: string[] = []
    for (const e of document.querySelectorAll('body *')) {
      const box = e.getBoundingClientRect()
      if (box.right > document.documentElement.clientWidth + 1 && box.width > 0 && !e.closest('.scroll, .visually-hidden, [hidden]')) out.push(`<${e.tagName.toLowerCase()} class="${e.getAttribute('class') ?? ''}"> to ${Math.round(box.right)}`)
    }
    return out.slice(0, 5)
  })

/** Opens a view and waits until it shows something other than that it loads. */
export async function open(page: Page, view: string, params: Record<string, string> = {}) {
  const search = new URLSearchParams(params).toString()
  await page.goto(`./${view}${search ? `?${search}` : ''}`)
  await loaded(page)
}

/** Waits until the view is there and no part of it says that it loads. */
export async function loaded(page: Page) {
  const main = page.getByRole('main')
  await expect(main).not.toBeEmpty()
  await expect(main.locator('p.waiting')).toHaveCount(0)
}

/** A view must say something in each of its states: a sentence, a table, a figure. */
export async function notBlank(page: Page) {
  const text = (await page.getByRole('main').innerText()).trim()
  expect(text.length, `the view shows: ${JSON.stringify(text)}`).toBeGreaterThan(20)
}

/** Asks the Go test to do something to the world: stop a zone, take the bucket away. */
export async function world(what: string) {
  const answer = await fetch(`${process.env.WORLD}/${what}`, { method: 'POST' })
  expect(answer.status, `${what}: ${await answer.text()}`).toBe(200)
}

/** Asks the server's API as the page does, for what a view ought to show. */
export async function api<T>(path: string, tenant = '', params: Record<string, string> = {}, headers: Record<string, string> = {}): Promise<T> {
  const url = new URL(path, process.env.BASE_URL)
  for (const [k, v] of Object.entries(params)) url.searchParams.set(k, v)
  const answer = await fetch(url, { headers: { ...(tenant ? { 'X-Scope-OrgID': tenant } : {}), ...headers } })
  const text = await answer.text()
  expect(answer.status, `${url}: ${text.slice(0, 500)}`).toBe(200)
  const body = JSON.parse(text) as { status?: string; data?: unknown }
  return (body.status === 'success' && 'data' in body ? body.data : body) as T
}

/** A line that CI shows, like those of the other end-to-end tests. */
export function report(what: Record<string, unknown>) {
  console.log(`SLUICE-FIGURES ${JSON.stringify({ ...what, scenario: `web page: ${scenario}` })}`)
}
