// One tenant with Sluice's own metrics and some that were pushed: what is shown is what was pushed and what the API says.

import { api, expect, loaded, look, notBlank, open, test, world } from './page'
import type { Page } from './page'

const main = (page: Page) => page.getByRole('main')
const editor = (page: Page, name = 'Query A') => page.getByRole('textbox', { name })
const result = (page: Page) => page.getByRole('region', { name: 'Result', exact: true })
const legend = (page: Page) => page.getByRole('region', { name: 'Legend' })

/** Types as a person does. What is typed has to end where completion has nothing to offer, as Enter would take that. */
async function type(page: Page, expr: string, name?: string) {
  await editor(page, name).click()
  await page.keyboard.press('ControlOrMeta+a')
  await page.keyboard.type(expr)
  await expect(editor(page, name)).toHaveText(expr)
}

test.describe('start', () => {
  test('data is in, and what is running', async ({ page, baseURL }) => {
    await open(page, '')
    await expect(main(page)).toContainText('Healthy')
    await expect(main(page)).toContainText('Yes, it is.')
    await expect(main(page).getByText('Active series').locator('..')).not.toContainText('–')
    for (const stage of ['producer', 'consumer', 'compactor', 'reader']) await expect(page.getByRole('row', { name: new RegExp(`^${stage} 1 `) })).toBeVisible()
    await expect(main(page).getByText('Refused').first()).toBeVisible()
    await look(page, 'start')

    const choice = page.getByRole('group', { name: 'What to connect' })
    for (const button of await choice.getByRole('button').all()) { // every way to connect names this address
      await button.click()
      await expect(main(page).locator('#connect')).toContainText(new URL(baseURL!).host)
    }
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write'])
    await choice.getByRole('button').first().click()
    const snippet = main(page).locator('figure.snippet').first()
    await snippet.getByRole('button', { name: 'Copy' }).click()
    await expect(snippet.getByRole('button', { name: 'Copied' })).toBeVisible()
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(await snippet.locator('pre').innerText())
  })
})

test.describe('query', () => {
  test('completion, table, graph, legend, a second query', async ({ page }) => {
    await open(page, 'query')
    await editor(page).click()
    await page.keyboard.type('page_req')
    const offered = page.locator('.cm-tooltip-autocomplete').getByRole('option', { name: /page_requests_total/ })
    await expect(offered).toBeVisible()
    await look(page, 'query-completion')
    await editor(page).click()
    await page.keyboard.press('ControlOrMeta+a')
    await page.keyboard.type('page_req')
    await expect(offered).toBeVisible()
    await page.waitForTimeout(150) // CodeMirror takes no Enter for a completion that has just opened
    await page.keyboard.press('Enter')
    await expect(editor(page)).toHaveText('page_requests_total')
    await page.keyboard.press('Enter')
    await expect(legend(page).getByRole('row')).toHaveCount(11)
    await page.getByRole('button', { name: 'Table', exact: true }).click()
    await expect(main(page).getByText('10 rows')).toBeVisible()
    const want = await api<{ result: { metric: Record<string, string>; value: [number, string] }[] }>('api/v1/query', '', { query: 'page_requests_total' })
    for (const { metric, value } of want.result) {
      await expect(result(page).getByRole('row').filter({ hasText: `instance="${metric.instance}"` })).toContainText(value[1])
    }
    await look(page, 'query-table')

    await page.getByRole('button', { name: 'Graph', exact: true }).click()
    await expect(main(page).locator('.uplot')).toBeVisible()
    await expect(legend(page).getByRole('row')).toHaveCount(11)
    await look(page, 'query-graph')
    await page.getByRole('searchbox', { name: 'Filter the legend' }).fill('host-3')
    await expect(legend(page).getByRole('row')).toHaveCount(2)
    await page.getByRole('searchbox', { name: 'Filter the legend' }).fill('')
    await expect(legend(page).getByRole('row')).toHaveCount(11)
    await legend(page).getByRole('button', { name: /host-3/ }).click() // it alone
    await expect(main(page).getByText('9 hidden')).toBeVisible()
    await page.getByRole('button', { name: 'Show all' }).click()
    await expect(main(page).getByText('9 hidden')).toHaveCount(0)

    await page.getByRole('button', { name: 'Add query' }).click()
    await type(page, 'sum(rate(page_requests_total[1m]))', 'Query B')
    await page.keyboard.press('Enter')
    await expect(legend(page).getByRole('row')).toHaveCount(12)
    await look(page, 'query-two')

    // The link shows somebody else the same.
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write'])
    await page.getByRole('button', { name: 'Copy link' }).click()
    const link = await page.evaluate(() => navigator.clipboard.readText())
    const other = await page.context().browser()!.newContext()
    try {
      const theirs = await other.newPage()
      await theirs.goto(link)
      await expect(legend(theirs).getByRole('row')).toHaveCount(12)
      await expect(editor(theirs, 'Query B')).toHaveText('sum(rate(page_requests_total[1m]))')
    } finally {
      await other.close()
    }
    await page.getByRole('button', { name: 'Remove query B' }).click()
    await expect(legend(page).getByRole('row')).toHaveCount(11)
  })

  test('zoom, absolute times, back', async ({ page }) => {
    await open(page, 'query', { 'g0.expr': 'page_requests_total', 'g0.tab': 'graph' })
    const chart = main(page).locator('.u-over').first()
    await expect(chart).toBeVisible()
    const box = (await chart.boundingBox())!
    await page.mouse.move(box.x + box.width * 0.5, box.y + 50)
    await expect(main(page).locator('.tip')).toBeVisible() // the value under the mouse
    await page.mouse.down()
    await page.mouse.move(box.x + box.width * 0.75, box.y + 60, { steps: 5 })
    await page.mouse.up()
    await expect.poll(() => new URL(page.url()).searchParams.get('g0.end_input')).not.toBeNull()
    await loaded(page)
    await page.goBack()
    await expect.poll(() => new URL(page.url()).searchParams.get('g0.end_input')).toBeNull()

    await page.getByRole('button', { name: /^Last 1h/ }).click()
    const dialog = page.getByRole('dialog', { name: 'Time range' })
    await look(page, 'query-times')
    const at = (ms: number) => new Date(ms).toISOString().slice(0, 16).replace('T', ' ')
    const now = Date.now()
    await dialog.getByLabel('From').fill('nonsense')
    await dialog.getByLabel('To').fill(at(now - 600_000))
    await dialog.getByRole('button', { name: 'Apply' }).last().click()
    await expect(dialog.getByRole('alert')).toContainText('no time')
    await dialog.getByLabel('From').fill(at(now - 1_800_000))
    await dialog.getByRole('button', { name: 'Apply' }).last().click()
    await expect(dialog).toHaveCount(0)
    await expect(legend(page).getByRole('row')).toHaveCount(11)
    expect(new URL(page.url()).searchParams.get('g0.range_input')).toBe('20m')
    await page.getByRole('button', { name: 'Now', exact: true }).click()
    await expect(page.getByRole('button', { name: /^Last 20m/ })).toBeVisible()
  })

  test('a native histogram, a scalar, nothing', async ({ page }) => {
    await open(page, 'query', { 'g0.expr': 'page_latency_seconds', 'g0.tab': 'table' })
    await expect(result(page)).toContainText('histogram of')
    await result(page).getByText('histogram of').click()
    await expect(result(page)).toContainText('Bucket')
    await look(page, 'query-histogram')
    await open(page, 'query', { 'g0.expr': 'histogram_quantile(0.9, page_latency_seconds)', 'g0.tab': 'graph' })
    await expect(legend(page).getByRole('row')).toHaveCount(2)
    await open(page, 'query', { 'g0.expr': '6 * 7', 'g0.tab': 'table' })
    await expect(main(page)).toContainText('42')
    await open(page, 'query', { 'g0.expr': 'no_such_metric', 'g0.tab': 'table' })
    await expect(main(page)).toContainText('No data')
  })

  test('explain', async ({ page }) => {
    await open(page, 'query', { 'g0.expr': 'page_old_total', 'g0.tab': 'graph', 'g0.range_input': '12h' })
    await page.getByRole('checkbox', { name: 'Explain' }).check()
    const panel = page.getByRole('region', { name: 'Where the time went' })
    await expect(panel).toBeVisible()
    await expect(panel.getByRole('region', { name: 'Waterfall' })).toContainText(/block/i)
    await look(page, 'query-explain')
    expect(new URL(page.url()).search).toContain('explain')
  })

  test('history', async ({ page }) => {
    await open(page, 'query')
    for (const expr of ['vector(1)', 'vector(2)']) {
      await type(page, expr)
      await page.keyboard.press('Enter')
      await expect.poll(() => new URL(page.url()).searchParams.get('g0.expr')).toBe(expr)
    }
    await page.reload()
    await page.getByRole('button', { name: 'History' }).click()
    const drawer = page.getByRole('dialog', { name: 'History' })
    await expect(drawer.getByRole('listitem').first()).toContainText('vector(2)')
    await look(page, 'query-history')
    await drawer.getByRole('button', { name: 'vector(1)' }).click()
    await expect(editor(page)).toHaveText('vector(1)')
    await expect(drawer).toHaveCount(0)
    await page.goBack()
    await expect(editor(page)).toHaveText('vector(2)')
  })

  test('Enter behind the end of an expression runs it, whatever completion offers', async ({ page }) => {
    await open(page, 'query')
    await type(page, 'rate(page_requests_total[5m])')
    await page.keyboard.press('Control+Space')
    await expect(page.locator('.cm-tooltip-autocomplete')).toBeVisible()
    await page.keyboard.press('Enter')
    await expect.poll(() => new URL(page.url()).searchParams.get('g0.expr')).toBe('rate(page_requests_total[5m])')
  })

  test('what is typed stays when another query is hidden or removed, and the last one is shown', async ({ page }) => {
    await open(page, 'query', { 'g0.expr': 'vector(1)', 'g0.tab': 'graph' })
    await page.getByRole('button', { name: 'Add query' }).click()
    await type(page, 'vector(2)', 'Query B')
    await page.getByRole('button', { name: 'Query A, shown' }).click()
    await expect(page.getByRole('button', { name: 'Query A, hidden' })).toBeVisible()
    await expect(editor(page, 'Query B')).toHaveText('vector(2)')
    await page.getByRole('button', { name: 'Remove query B' }).click()
    await expect(editor(page)).toHaveText('vector(1)')
    await expect(legend(page).getByRole('row')).toHaveCount(2)
  })

  test('metrics are found by a part of their names', async ({ page }) => {
    await open(page, 'query')
    await page.getByRole('button', { name: 'Metrics' }).click()
    const drawer = page.getByRole('dialog', { name: 'Metrics' })
    await drawer.getByRole('searchbox').fill('page_temp')
    await drawer.getByRole('button', { name: /page_temperature_celsius/ }).click()
    await look(page, 'query-metrics')
    await drawer.getByRole('button', { name: /page_temperature_celsius/ }).nth(1).click()
    await expect(editor(page)).toContainText('page_temperature_celsius')
  })

  test('who types while the editor is still loading goes on where they are', async ({ page }) => {
    let release = () => {}
    const gate = new Promise<void>((done) => (release = done))
    await page.route(/\/codemirror-[^/]*\.js$/, async (route) => {
      await gate
      await route.continue()
    })
    await open(page, 'query')
    await editor(page).click()
    await page.keyboard.type('vecto')
    await expect(editor(page)).toHaveValue('vecto') // the plain field
    release()
    await expect(page.locator('.cm-content')).toBeFocused()
    await page.keyboard.type('r(7)')
    await expect(editor(page)).toHaveText('vector(7)')
  })

  test('a running query is cancelled', async ({ page }) => {
    let held = 0
    await page.route(/\/api\/v1\/query(_range)?$/, async (route) => { // a query that takes as long as it is waited for
      held++
      await new Promise((done) => setTimeout(done, 3000))
      await route.continue().catch(() => undefined) // it is gone
    })
    await open(page, 'query')
    await type(page, 'vector(7)')
    await page.keyboard.press('Enter')
    await expect.poll(() => held).toBe(1)
    await page.getByRole('button', { name: 'Cancel' }).click()
    await expect(page.getByRole('button', { name: 'Run', exact: true })).toBeVisible()
    await expect(main(page)).toContainText(/cancelled/)
    await page.unrouteAll({ behavior: 'ignoreErrors' })
    await page.getByRole('button', { name: 'Run', exact: true }).click()
    await expect(main(page)).not.toContainText(/cancelled/)
    await expect.poll(() => main(page).getByRole('table').first().innerText()).toMatch(/7/)
  })
})

test.describe('cardinality', () => {
  test('from a metric to a query and to a rule that drops it', async ({ page }) => {
    await open(page, 'cardinality', { search: 'page_', range: 'now' })
    const row = main(page).getByRole('row').filter({ hasText: 'page_requests_total' })
    await expect(row).toContainText('10')
    await look(page, 'cardinality')
    await row.getByRole('button', { name: /Drop or relabel/ }).click()
    const drawer = page.getByRole('dialog', { name: /Drop or relabel/ })
    await expect(drawer.locator('pre')).toContainText('page_requests_total')
    await expect(drawer.locator('pre')).toContainText('action: drop')
    await expect(drawer).toContainText('10 of')
    for (const place of await drawer.getByRole('group', { name: 'Where' }).getByRole('button').all()) {
      await place.click()
      await expect(drawer.locator('pre')).toContainText('page_requests_total')
    }
    await look(page, 'cardinality-drop')
    await page.keyboard.press('Escape')
    await expect(drawer).toHaveCount(0)
    await row.getByRole('link', { name: /^Query/ }).click()
    await expect(page).toHaveURL(/\/query\?/)
    await expect(editor(page)).toContainText('page_requests_total')
    await loaded(page)
  })

  test('labels, values, pairs, over time', async ({ page }) => {
    await open(page, 'cardinality', { by: 'labels', range: 'now', search: 'instance' })
    await main(page).getByRole('link', { name: 'instance', exact: true }).click()
    await page.getByRole('searchbox').first().fill('host-')
    await expect(main(page).getByRole('row').filter({ hasText: 'host-' })).toHaveCount(10)
    await look(page, 'cardinality-label')
    await open(page, 'cardinality', { by: 'pairs' })
    await notBlank(page)
    await look(page, 'cardinality-pairs')
    await open(page, 'cardinality', { search: 'page_old' }) // in blocks only
    await expect(main(page).getByRole('row').filter({ hasText: 'page_old_total' })).toBeVisible()
    await look(page, 'cardinality-day')
  })

  test('what nothing queries', async ({ page }) => {
    await open(page, 'cardinality', { by: 'unqueried', search: 'page_' })
    const row = main(page).getByRole('row')
    await expect(row.filter({ hasText: 'page_forgotten' })).toBeVisible()
    await expect(row.filter({ hasText: 'page_requests_total' })).toHaveCount(0) // the tests above have asked
    await look(page, 'cardinality-unqueried')
    await page.getByRole('checkbox', { name: 'Choose page_forgotten' }).check()
    await page.getByRole('button', { name: 'Drop 1 chosen' }).click()
    await expect(page.getByRole('dialog').locator('pre')).toContainText('page_forgotten')
  })
})

test.describe('pipeline', () => {
  test('is live', async ({ page }) => {
    await open(page, 'pipeline')
    await expect(main(page)).toContainText('Healthy')
    const samples = page.getByRole('region', { name: 'Samples in' }).getByRole('img')
    await expect(samples).toHaveAccessibleName(/\d/, { timeout: 40_000 })
    await look(page, 'pipeline')
    const records = main(page).locator('.at-log')
    const before = await records.innerText()
    await expect(async () => {
      await world('push')
      expect(await records.innerText()).not.toBe(before)
    }).toPass({ timeout: 30_000 })
    const p = await api<{ partitions: unknown[] }>('-/pipeline')
    await expect(main(page).getByRole('region', { name: /Partitions/ }).getByRole('row')).toHaveCount(p.partitions.length + 1)
  })
})

test.describe('blocks', () => {
  test('a merged block, and its details', async ({ page }) => {
    type Block = { id: string; level: number; samples: number; sources: number; min_time: number }
    const blocks = async () => (await api<{ blocks: Block[] }>('api/v1/status/blocks')).blocks
    await expect.poll(async () => Math.max(0, ...(await blocks()).map((b) => b.level)), { timeout: 60_000 }).toBeGreaterThan(1)
    const merged = (await blocks()).find((b) => b.level > 1)!
    await open(page, 'blocks')
    await look(page, 'blocks')
    await main(page).getByRole('button', { name: merged.id }).first().click()
    const drawer = page.getByRole('dialog', { name: `Block ${merged.id}` })
    const whole = await api<{ samples: number; sources: string[] }>(`api/v1/status/blocks/${merged.id}`)
    await expect(drawer).toContainText('index')
    await expect(drawer).toContainText(whole.samples.toLocaleString('en-US'))
    for (const source of whole.sources) await expect(drawer).toContainText(source)
    await look(page, 'blocks-one')
    await page.keyboard.press('Escape')
    await expect(drawer).toHaveCount(0)
    expect(new URL(page.url()).searchParams.get('id')).toBeNull()
    await open(page, 'blocks', { id: merged.id }) // a link to it
    await expect(drawer).toContainText('index')
  })
})

test.describe('tenants', () => {
  test('limits, what was refused, HA', async ({ page }) => {
    await open(page, 'tenants')
    await main(page).getByRole('link', { name: 'anonymous' }).first().click()
    await loaded(page)
    await expect(main(page)).toContainText('err-sluice-', { timeout: 40_000 }) // producers tell every ten seconds, the view asks every ten
    await expect(main(page)).toContainText('job="nameless"')
    const ha = page.getByRole('region', { name: 'HA clusters' })
    await expect(ha.getByRole('row').filter({ hasText: 'pair' })).toContainText('replica-a')
    const status = await api<{ limits: Record<string, unknown>; rejects: { reason: string; count: number }[] }>('api/v1/status/tenant')
    for (const r of status.rejects) await expect(main(page).getByRole('listitem').filter({ hasText: `sluice explain ${r.reason}` })).toContainText(`${r.count} samples`)
    await page.getByRole('searchbox', { name: 'Search limits' }).fill('accept_ha')
    await expect(page.getByRole('region', { name: 'All limits' }).getByRole('row')).toHaveCount(2)
    await look(page, 'tenants-one')
  })
})

for (const hours of [-1, 1]) {
  test(`a browser whose clock is ${hours} h off sees what all others see`, async ({ page }) => {
    await page.addInitScript((off) => {
      const Real = Date
      globalThis.Date = class extends Real {
        constructor(...given: unknown[]) {
          super(...((given.length === 0 ? [Real.now() + off] : given) as [number]))
        }
        static override now() {
          return Real.now() + off
        }
      } as DateConstructor
    }, hours * 3_600_000)
    await open(page, '')
    await expect(main(page)).toContainText('Yes, it is.')
    await open(page, 'query', { 'g0.expr': 'count(up)', 'g0.tab': 'table' })
    await expect(result(page)).toContainText('1')
    await page.getByRole('button', { name: 'Last 1h' }).click()
    await expect(page.getByRole('dialog', { name: 'Time range' })).toContainText(/Its clock is (59 min|1 h)/)
  })
}

test('everything with the keyboard alone', async ({ page }) => {
  await open(page, '')
  await page.keyboard.press('Tab')
  await expect(page.getByRole('link', { name: 'Skip to the content' })).toBeFocused()
  for (const [key, name] of [['q', 'Query'], ['c', 'Cardinality'], ['p', 'Pipeline'], ['b', 'Blocks'], ['t', 'Tenants'], ['s', 'Start']] as const) {
    if (key === 'c') await page.keyboard.press('Escape') // out of the editor
    else await page.getByRole('main').focus()
    await page.keyboard.press('g')
    await page.keyboard.press(key)
    await expect(page.getByRole('navigation', { name: 'Views' }).getByRole('link', { name, exact: true })).toHaveAttribute('aria-current', 'page')
    await loaded(page)
    if (key === 'q') await expect(editor(page)).toBeFocused() // an empty one is there to be typed into
  }
  await page.keyboard.press('g')
  await page.keyboard.press('q')
  await expect(editor(page)).toBeFocused()
  await page.getByRole('main').focus()
  await page.keyboard.press('/')
  await expect(editor(page)).toBeFocused()
  await page.keyboard.type('vector(42)')
  await page.keyboard.press('Enter')
  await expect(main(page).getByRole('table').first()).toContainText('42')
  // The editor is no trap, and what has the focus is seen to have it.
  await editor(page).focus()
  await page.keyboard.press('Escape')
  for (const seen = new Set<string>(); seen.size < 8; ) {
    await page.keyboard.press('Tab')
    const at = await page.evaluate(() => {
      const e = document.activeElement as HTMLElement
      const style = getComputedStyle(e)
      return { what: e.outerHTML.slice(0, 120), body: e === document.body, outline: style.outlineStyle !== 'none' || style.boxShadow !== 'none' || !!e.closest('.cm-editor') }
    })
    expect(at.body).toBe(false)
    expect(at.outline, `${at.what} has the focus and does not show it`).toBe(true)
    expect(seen.has(at.what), `the focus is caught at ${at.what}`).toBe(false)
    seen.add(at.what)
  }
})
