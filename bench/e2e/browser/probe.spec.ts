import { test, world } from './page'
test.setTimeout(200_000)
test('probe', async () => {
  const ask = async (what: string) => {
    const t = Date.now()
    const a = await fetch(`${process.env.BASE_URL}api/v1/query?${what}`)
    console.log('PROBE', what, a.status, Date.now() - t, (await a.text()).slice(0, 600))
  }
  for (const w of (process.env.PROBE ?? '').split(',')) {
    if (w.startsWith('q:')) await ask(w.slice(2))
    else if (w.startsWith('s:')) await new Promise((d) => setTimeout(d, Number(w.slice(2))))
    else if (w) { const t = Date.now(); await world(w); console.log('PROBE world', w, Date.now() - t) }
  }
})
