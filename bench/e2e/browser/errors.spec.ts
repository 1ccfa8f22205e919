// The bucket is away, a query is over its limit, the server has stopped: the page says it, and goes on when it is over.

import type { Page } from './page'
import { expect, loaded, look, open, test, world } from './page'

const query = (expr: string, more: Record<string, string> = {}) => ({ 'g0.expr': expr, 'g0.tab': 'table', ...more })

/** Opens the query view, whose answer may take long: the client of S3 tries more than once. */
const visit = (page: Page, params: Record<string, string>) => page.goto(`./query?${new URLSearchParams(params)}`)

test('the bucket is away', async ({ page, guard }) => {
  test.setTimeout(240_000)
  guard.expect(/status of 503/)
  const stored = 'sum(count_over_time(page_stored[6h]))'
  await world('bucket-away')
  try {
    await visit(page, query(stored))
    const alert = page.getByRole('main').getByRole('alert').first()
    await expect(alert).toContainText('cannot answer this now', { timeout: 60_000 })
    await look(page, 'query')
    for (const view of ['cardinality', 'pipeline', 'blocks', 'tenants', '']) {
      await open(page, view)
      await expect(page.getByRole('main').getByRole('heading').first()).toBeVisible()
      await look(page, view || 'start')
    }
    await visit(page, query(stored, { partial_response: '1' }))
    await expect(page.getByRole('main')).toContainText(/block [0-9A-Z]{26}/, { timeout: 60_000 })
    await look(page, 'query-partial')
    await visit(page, query(stored))
    await expect(alert).toContainText('cannot answer this now', { timeout: 60_000 })
  } finally {
    await world('bucket-back')
  }
  await page.getByRole('main').getByRole('button', { name: 'Try again' }).first().click()
  await expect(page.getByRole('main').getByRole('table').first()).toContainText('30')
  await expect(page.getByRole('main').getByRole('alert')).toHaveCount(0)
})

test('a query over its limit', async ({ page, guard }) => {
  guard.expect(/status of 422/)
  await open(page, 'query', query('page_many'))
  const alert = page.getByRole('main').getByRole('alert').first()
  await expect(alert).toContainText('err-sluice-max-series-per-query')
  await expect(alert).toContainText('20') // the limit
  await look(page, 'query-limit')
})

test('a query that is none', async ({ page, guard }) => {
  guard.expect(/status of 400/)
  await open(page, 'query', query('sum(page_many'))
  await expect(page.getByRole('main')).toContainText(/parse error|unclosed/)
  await look(page, 'query-wrong')
})

test('the server stops', async ({ page, guard }) => {
  guard.expect(/ERR_CONNECTION|ERR_EMPTY_RESPONSE|status of 503/)
  await open(page, 'pipeline')
  const main = page.getByRole('main')
  await expect(main.getByRole('alert')).toHaveCount(0)
  const before = await main.getByRole('heading').count()
  await world('stop')
  await expect(main.getByRole('alert').first()).toContainText('does not answer', { timeout: 30_000 })
  expect(await main.getByRole('heading').count(), 'what was known stays').toBeGreaterThanOrEqual(before)
  await look(page, 'pipeline-stopped')
  await world('start')
  await expect(main.getByRole('alert').filter({ hasText: 'does not answer' })).toHaveCount(0, { timeout: 30_000 }) // by itself
  await loaded(page)
})

test('an address that is no view, and parameters that mean nothing', async ({ page, guard }) => {
  guard.expect(/status of 400.*no-such-block/) // the server says so, and the view passes it on
  for (const [view, params] of [
    ['query', { 'g0.range_input': 'x', 'g0.end_input': 'yesterday', 'g0.tab': '7', 'g999.expr': 'up' }],
    ['cardinality', { by: 'x', range: '-1', n: '1e9', sort: '__proto__' }],
    ['blocks', { id: 'no-such-block', from: 'x', to: '' }],
    ['tenants', { sort: 'constructor', offset: '-5' }],
    ['pipeline', { partition: '99' }],
  ] as const) {
    await page.goto(`./${view}?${new URLSearchParams(params)}`)
    await expect(page.getByRole('main')).not.toBeEmpty()
    await page.waitForTimeout(500)
  }
})
