// One of two zones is away, then both.

import { expect, loaded, look, open, test, world } from './page'

test.setTimeout(180_000)

test('a zone is away, then both are', async ({ page, guard }) => {
  guard.expect(/status of 503/)
  const main = page.getByRole('main')
  const zoned = { 'g0.expr': 'sum(zoned)', 'g0.tab': 'table' }

  await open(page, 'pipeline')
  await expect(main).toContainText('zone-a')
  await expect(main).toContainText('zone-b')
  await expect(main.getByText('silent')).toHaveCount(0)
  await look(page, 'pipeline-both')

  await world('stop-a')
  await expect(main.getByText('silent').first()).toBeVisible({ timeout: 60_000 }) // the view is live: nobody reloads it
  await look(page, 'pipeline')
  for (const view of ['', 'cardinality', 'blocks', 'tenants', 'query']) {
    await open(page, view, view === 'query' ? zoned : {})
    await expect(main.getByRole('alert').filter({ hasText: /cannot answer|not allowed/i })).toHaveCount(0)
    await look(page, view || 'start')
  }
  await expect(main.getByRole('table').first()).toContainText('7')

  await world('stop-b')
  await open(page, 'query', { ...zoned, strong: '1' })
  await expect(main.getByRole('alert').first()).toContainText('cannot answer this now', { timeout: 60_000 })
  await look(page, 'query-nobody')
  await open(page, 'query', { ...zoned, partial_response: '1' })
  await expect(main).toContainText(/partition \d/, { timeout: 60_000 })
  await look(page, 'query-partial')
  await open(page, 'pipeline')
  await expect(main.getByText(/critical/i).first()).toBeVisible({ timeout: 60_000 })
  await look(page, 'pipeline-nobody')

  await world('start')
  await expect(main.getByText('silent')).toHaveCount(0, { timeout: 60_000 })
  await open(page, 'query', zoned)
  await loaded(page)
  await expect(main.getByRole('table').first()).toContainText('7')
})
