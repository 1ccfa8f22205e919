// The first screen: from the navigation to figures that the server has counted.

import { expect, report, test } from './page'

test('the first view', async ({ page }) => {
  const times: Record<string, number> = {}
  for (const cache of ['cold', 'warm']) {
    const begun = performance.now()
    await page.goto('./')
    await expect(page.getByRole('main').getByText(/healthy|fine|running|well/i).first()).toBeVisible()
    times[`${cache}_seconds`] = Number(((performance.now() - begun) / 1000).toFixed(3))
  }
  const paint = await page.evaluate(() => Math.round(performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1))
  report({ ready_seconds: Number(process.env.READY_SECONDS), ...times, first_contentful_paint_ms: paint })
  expect(times.cold_seconds).toBeLessThan(5)
})
