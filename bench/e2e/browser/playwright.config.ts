import { defineConfig } from '@playwright/test'

// Run by the tests in page_test.go, which start what is looked at and say where it is. One browser, one test after the other: they share a world.
export default defineConfig({
  testDir: '.',
  outputDir: process.env.PAGE_OUTPUT ?? '/tmp/sluice-page',
  workers: 1,
  retries: 0,
  maxFailures: 0,
  timeout: 60_000,
  expect: { timeout: 10_000 },
  reporter: [['list']],
  use: {
    baseURL: process.env.BASE_URL ?? 'http://127.0.0.1:9009',
    viewport: { width: 1440, height: 900 },
    colorScheme: 'light',
    locale: 'en-GB',
    timezoneId: 'UTC',
    actionTimeout: 10_000,
    ignoreHTTPSErrors: true,
    launchOptions: { executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', '--disable-dev-shm-usage'] },
  },
})
