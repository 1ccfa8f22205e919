// Nothing was ever written: each view says what to do.

import { expect, look, notBlank, open, test, views } from './page'

for (const view of views) {
  test(`${view || 'start'} without data`, async ({ page }) => {
    await open(page, view)
    await notBlank(page)
    await look(page, view || 'start')
  })
}

test('the start page tells how to write', async ({ page, baseURL }) => {
  await open(page, '')
  await expect(page.getByRole('main')).toContainText(`${baseURL}api/v1/push`)
})
