import { beforeEach, expect, test, vi } from 'vitest'

const storage = { getItem: () => null, setItem: () => undefined, removeItem: () => undefined }

/** What is said of an answer. */
async function said(body: string, status: number, type: string): Promise<string> {
  vi.stubGlobal('fetch', async () => new Response(body, { status, headers: { 'Content-Type': type } }))
  const { get } = await import('./api')
  return get('api/v1/query').then(JSON.stringify, (err: Error) => err.message)
}

beforeEach(() => {
  vi.stubGlobal('location', { href: 'http://x/', search: '' })
  vi.stubGlobal('localStorage', storage)
  vi.stubGlobal('sessionStorage', storage)
})

test.each([
  ['{"status":"success","data":1}', 200, 'application/json', '1'],
  ['{"status":"error","error":"too much (err-sluice-x)"}', 422, 'application/json', 'too much (err-sluice-x)'],
  ['no such thing\n', 404, 'text/plain', 'no such thing'],
  ['<html>\n<head><title>502 Bad Gateway</title></head><hr>nginx</html>', 502, 'text/html', '502 Bad Gateway (HTTP 502, not an answer of Sluice)'],
  ['<html><body>oh</body></html>', 500, 'text/html', '500 '],
  ['<html>Who are you?</html>', 200, 'text/html', 'This is no answer of Sluice but a page of something in between, such as a proxy that wants a login. Load the page again.'],
  ['{"status":"suc', 200, 'application/json', 'The answer broke off before its end.'],
])('%s', async (body, status, type, want) => expect(await said(body, status, type)).toBe(want))
