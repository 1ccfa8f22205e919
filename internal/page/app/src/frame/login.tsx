import { useEffect, useRef, useState } from 'preact/hooks'
import { loadAccess } from '../lib/access'
import { useSession } from '../lib/hooks'
import { Choice, Notice, Panel } from '../ui'

/** Asks for a user and a password, or for a token. They stay in this tab. */
export function Login() {
  const s = useSession()
  const [way, setWay] = useState<'password' | 'token'>('password')
  const [user, setUser] = useState('')
  const [secret, setSecret] = useState('')
  const [asking, setAsking] = useState(false)
  const first = useRef<HTMLInputElement>(null)
  useEffect(() => first.current?.focus(), [way])
  const submit = async (e: Event) => {
    e.preventDefault()
    setAsking(true)
    s.signIn(way === 'password' ? user : '', secret)
    await loadAccess()
    setAsking(false) // this form is gone if it went well
  }
  return (
    <div class="login-page">
      <Panel title="Sign in">
        {s.login && <Notice tone="warning">{s.login}</Notice>}
        <form class="login" onSubmit={(e) => void submit(e)}>
          <Choice
            label="With"
            value={way}
            options={[
              ['password', 'Password'],
              ['token', 'Token'],
            ]}
            onChange={(v) => {
              setWay(v)
              setSecret('')
            }}
          />
          {way === 'password' && (
            <label>
              User
              <input name="username" autocomplete="username" autocapitalize="none" spellcheck={false} required value={user} onInput={(e) => setUser(e.currentTarget.value)} ref={first} />
            </label>
          )}
          <label>
            {way === 'password' ? 'Password' : 'Token'}
            <input name={way} type="password" autocomplete="current-password" required value={secret} onInput={(e) => setSecret(e.currentTarget.value)} ref={way === 'token' ? first : undefined} />
          </label>
          <button type="submit" class="primary" disabled={asking}>
            {asking ? 'Signing in…' : 'Sign in'}
          </button>
          <p class="hint">
            Users and tokens are those of the file of <code>--auth.users-file</code>. They are kept in this tab until it is closed.
          </p>
        </form>
      </Panel>
    </div>
  )
}
