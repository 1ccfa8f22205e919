// A thousand tenants, each with one series of its number; tenant-777 has 50 more.

import { expect, loaded, look, notBlank, open, test, views } from './page'
import type { Page } from './page'

const main = (page: Page) => page.getByRole('main')
const chooser = (page: Page) => page.getByRole('banner').getByRole('button', { name: 'Tenant' })

test('every view', async ({ page }) => {
  for (const view of views) {
    await open(page, view, { tenant: 'tenant-500' })
    await notBlank(page)
    await look(page, view || 'start')
  }
})

test('one of a thousand is chosen with the keyboard, and its data is shown', async ({ page }) => {
  await open(page, 'query', { tenant: 'tenant-123', 'g0.expr': 'tenant_number', 'g0.tab': 'table' })
  const row = page.getByRole('region', { name: 'Result', exact: true }).getByRole('row')
  await expect(row).toHaveCount(2)
  await expect(row.nth(1)).toContainText('123')
  await chooser(page).focus()
  await page.keyboard.press('Enter')
  const field = page.getByRole('combobox', { name: 'Search tenants' })
  await expect(field).toBeFocused()
  await expect(page.getByRole('listbox', { name: 'Tenants' }).getByRole('option')).not.toHaveCount(0)
  await look(page, 'chooser')
  await page.keyboard.type('nant-77')
  await expect(page.getByRole('listbox', { name: 'Tenants' }).getByRole('option').filter({ hasText: 'tenant-777' })).toBeVisible()
  await page.keyboard.press('ArrowDown')
  await page.keyboard.press('ArrowDown')
  await expect(page.getByRole('listbox', { name: 'Tenants' }).getByRole('option', { selected: true })).toHaveText('tenant-772')
  await page.keyboard.press('Enter')
  await expect(chooser(page)).toContainText('tenant-772')
  await expect(row.nth(1)).toContainText('772')
  expect(new URL(page.url()).searchParams.get('g0.expr')).toBe('tenant_number')
  await page.goBack()
  await expect(row.nth(1)).toContainText('123')
})

test('two at once', async ({ page }) => {
  await open(page, 'query', { 'g0.expr': 'sum(tenant_number)', 'g0.tab': 'table', tenant: 'tenant-001' })
  await chooser(page).click()
  await page.getByRole('combobox', { name: 'Search tenants' }).fill('tenant-100|tenant-200')
  await page.getByRole('listbox', { name: 'Tenants' }).getByRole('option', { name: 'tenant-100|tenant-200' }).click()
  await expect(page.getByRole('region', { name: 'Result', exact: true })).toContainText('300')
  await page.reload()
  await expect(page.getByRole('region', { name: 'Result', exact: true })).toContainText('300')
})

test('the table of tenants: pages, search, order', async ({ page }) => {
  await open(page, 'tenants')
  const rows = page.getByRole('region', { name: 'Tenants' }).getByRole('row')
  const pages = page.getByRole('navigation', { name: 'Pages' })
  await expect(pages).toContainText('1,000')
  await expect(rows).toHaveCount(51)
  await expect(rows.nth(1)).toContainText('tenant-777') // most series first
  await expect(rows.nth(1)).toContainText('51')
  await pages.getByRole('button', { name: 'Next' }).click()
  await expect(pages).toContainText('51 to 100')
  await expect(page).toHaveURL(/from=50/)
  await page.getByRole('columnheader', { name: 'Tenant' }).getByRole('button').click()
  await expect(rows.nth(1)).toContainText('tenant-000')
  await page.getByRole('searchbox', { name: 'Search tenants' }).fill('99')
  await expect(pages).toContainText('of 19') // 99, 199, … 899, and 990 to 999
  await rows.nth(1).getByRole('link').click()
  await expect(main(page).getByRole('heading', { level: 1 })).toContainText('tenant-099')
  await loaded(page)
  await look(page, 'tenants-one')
})

test('the heaviest tenant', async ({ page }) => {
  await open(page, 'cardinality', { by: 'tenants' })
  const rows = page.getByRole('region', { name: 'Tenants by active series' }).getByRole('row')
  await expect(rows.nth(1)).toContainText('tenant-777')
  await look(page, 'cardinality-tenants')
  await rows.nth(1).getByRole('link', { name: 'tenant-777', exact: true }).click()
  await expect(main(page).getByRole('row').filter({ hasText: 'tenant_many' })).toContainText('50')
})

test('a link names the tenant; one that does not is about the default one, and Back leads to it', async ({ page }) => {
  const chosen = chooser(page)
  await open(page, 'query', { 'g0.expr': 'tenant_number' })
  await expect(chosen).toContainText('anonymous')
  await chosen.click()
  await page.getByRole('combobox', { name: 'Search tenants' }).fill('tenant-321')
  await page.getByRole('listbox', { name: 'Tenants' }).getByRole('option', { name: 'tenant-321' }).click()
  await expect(chosen).toContainText('tenant-321')
  await page.goBack()
  await expect(chosen).toContainText('anonymous')
  await page.goForward()
  await expect(chosen).toContainText('tenant-321')
  await open(page, '') // the browser remembers, and the address says so
  await expect(chosen).toContainText('tenant-321')
  await expect.poll(() => new URL(page.url()).searchParams.get('tenant')).toBe('tenant-321')
  await open(page, 'query', { 'g0.expr': 'tenant_number' })
  await expect(chosen).toContainText('anonymous')
})
