// A users file: everybody sees what they may, is told why not, and nothing is blank.

import { expect, loaded, look, notBlank, open, test, views } from './page'
import type { Page } from './page'

const password = process.env.PASSWORD!

/** Signs in through the form. */
async function signIn(page: Page, user: string, secret = password) {
  await page.getByLabel('User', { exact: true }).fill(user)
  await page.getByRole('textbox', { name: 'Password' }).fill(secret)
  await page.getByRole('button', { name: 'Sign in' }).click()
}

const navigation = (page: Page) => page.getByRole('navigation', { name: 'Views' }).getByRole('link')

test.beforeEach(({ guard }) => {
  guard.expect(/status of 401/) // whoever is not signed in
})

test('a stranger is asked who they are, on every view', async ({ page }) => {
  for (const view of views) {
    await page.goto(`./${view}`)
    await expect(page.getByRole('heading', { name: 'Sign in' })).toBeVisible()
    await expect(navigation(page).filter({ hasText: 'Pipeline' })).toHaveCount(0)
  }
  await look(page, 'login')
})

test('a wrong password is told, the right one lets in, signing out forgets it', async ({ page }) => {
  await page.goto('./tenants')
  await signIn(page, 'reader', 'wrong')
  await expect(page.getByRole('alert')).toContainText('err-sluice-unauthorized')
  await look(page, 'login-wrong')
  await signIn(page, 'nobody')
  await expect(page.getByRole('alert')).toContainText('err-sluice-unauthorized')
  await signIn(page, 'reader')
  await expect(page.getByRole('heading', { name: 'Sign in' })).toHaveCount(0)
  await loaded(page)
  await expect(page.getByRole('banner')).toContainText('reader')
  await page.reload() // the tab remembers
  await loaded(page)
  await expect(page.getByRole('heading', { name: 'Sign in' })).toHaveCount(0)
  await page.getByRole('button', { name: 'Sign out' }).click()
  await expect(page.getByRole('heading', { name: 'Sign in' })).toBeVisible()
  await page.reload()
  await expect(page.getByRole('heading', { name: 'Sign in' })).toBeVisible()
  expect(await page.evaluate(() => JSON.stringify([{ ...sessionStorage }, { ...localStorage }]))).not.toContain('Basic ')
})

test('a token lets in', async ({ page }) => {
  await page.goto('./')
  await page.getByRole('group', { name: 'With' }).getByRole('button', { name: /token/i }).click()
  await page.getByLabel('Token', { exact: true }).fill(process.env.READER_TOKEN!)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await loaded(page)
  await expect(page.getByRole('banner')).toContainText('reader')
})

for (const { user, shown } of [
  { user: 'operator', shown: ['Start', 'Query', 'Cardinality', 'Pipeline', 'Blocks', 'Tenants'] },
  { user: 'admin', shown: ['Start', 'Pipeline'] },
  { user: 'reader', shown: ['Start', 'Query', 'Cardinality', 'Blocks', 'Tenants'] },
  { user: 'writer', shown: ['Start'] },
  { user: 'several', shown: ['Start', 'Query', 'Cardinality', 'Blocks', 'Tenants'] },
]) {
  test(`what ${user} sees`, async ({ page }) => {
    await page.goto('./')
    await signIn(page, user)
    await loaded(page)
    // Which of the views of tenants an administrator without a tenant sees is the page's own matter; those of data are not.
    const got = await navigation(page).allInnerTexts()
    for (const name of ['Query', 'Cardinality', 'Blocks']) expect(got.includes(name), name).toBe(shown.includes(name))
    expect(got.includes('Pipeline')).toBe(shown.includes('Pipeline'))
    for (const view of views) {
      await open(page, view)
      await notBlank(page)
      const name = view ? view[0]!.toUpperCase() + view.slice(1) : 'Start'
      // Shown and refused would be as wrong as refused without a word.
      const main = page.getByRole('main')
      if (name === 'Start') await expect(main.getByText(/does not have the right read/)).toHaveCount(shown.includes('Query') ? 0 : 1)
      else if (got.includes(name)) await expect(main).not.toContainText(/does not have the right|Not allowed/)
      else await expect(main.getByRole('alert').first()).toContainText('right')
      await look(page, `${user}-${view || 'start'}`)
    }
  })
}

test('several tenants: those that match the pattern, and no other', async ({ page, guard }) => {
  await open(page, '')
  await signIn(page, 'several')
  await loaded(page)
  const chooser = page.getByRole('banner').getByRole('button', { name: 'Tenant' })
  await expect(chooser).toContainText('own')
  await chooser.click()
  const list = page.getByRole('listbox', { name: 'Tenants' })
  await expect(list.getByRole('option')).toContainText(['own', 'team-a'])
  await expect(list).toContainText('team-b')
  await expect(list).not.toContainText('other')
  await page.getByRole('combobox', { name: 'Search tenants' }).fill('team-b')
  await expect(list.getByRole('option')).toHaveText(['team-b'])
  await page.keyboard.press('Enter')
  await expect(chooser).toContainText('team-b')
  expect(new URL(page.url()).searchParams.get('tenant')).toBe('team-b')

  guard.expect(/status of 403/)
  await open(page, 'blocks', { tenant: 'other' }) // a link from somebody with other rights
  await expect(page.getByRole('main')).toContainText('err-sluice-tenant-forbidden')
  await look(page, 'foreign-tenant')
})
