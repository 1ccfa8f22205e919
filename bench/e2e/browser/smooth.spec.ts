// How smoothly a graph of 200 series with 2,000 points each follows the mouse.

import { expect, open, report, test } from './page'

test('200 series with 2,000 points', async ({ page }) => {
  const begun = performance.now()
  await open(page, 'query', { 'g0.expr': 'page_wave', 'g0.tab': 'graph', 'g0.range_input': '2000s', 'g0.step_input': '1', 'g0.end_input': process.env.NOW! })
  const chart = page.locator('.uplot .u-over').first()
  await expect(chart).toBeVisible()
  await expect(page.getByRole('main')).toContainText('200')
  const shown = (performance.now() - begun) / 1000
  const box = (await chart.boundingBox())!
  await page.mouse.move(box.x + 10, box.y + 10)
  await page.waitForTimeout(500)
  await page.evaluate(() => {
    const times: number[] = []
    ;(window as unknown as { frames: number[] }).frames = times
    const next = (t: number) => {
      times.push(t)
      requestAnimationFrame(next)
    }
    requestAnimationFrame(next)
  })
  const until = Date.now() + 2000
  for (let i = 0; Date.now() < until; i++) {
    const at = i / 200
    await page.mouse.move(box.x + ((at % 1) * 0.9 + 0.05) * box.width, box.y + (0.5 + 0.4 * Math.sin(at * 9)) * box.height)
  }
  const times = await page.evaluate(() => (window as unknown as { frames: number[] }).frames)
  const deltas = times.slice(1).map((t, i) => t - times[i]!).sort((a, b) => a - b)
  const quantile = (q: number) => Math.round(deltas[Math.min(deltas.length - 1, Math.floor(q * deltas.length))]! * 10) / 10
  report({ shown_seconds: Number(shown.toFixed(2)), frames: deltas.length, median_ms: quantile(0.5), p95_ms: quantile(0.95), max_ms: quantile(1) })
  expect(deltas.length).toBeGreaterThan(5)
  expect(quantile(0.95)).toBeLessThan(250)
})
