import { useState } from 'preact/hooks'
import { useSession } from '../lib/hooks'
import { Notice, Panel } from '../ui'

/** Asks for a user and a password, or for a token. They stay in this tab. */
export function Login() {
  const s = useSession()
  const [way, setWay] = useState<'password' | 'token'>('password')
  const [user, setUser] = useState('')
  const [secret, setSecret] = useState('')
  const submit = (e: Event) => {
    e.preventDefault()
    void s.signIn(way === 'password' ? user : '', secret)
  }
  return (
    <Panel title="Sign in">
      {s.login && <Notice tone="warning">{s.login}</Notice>}
      <form class="login" onSubmit={submit}>
        <label>
          With{' '}
          <select value={way} onChange={(e) => setWay(e.currentTarget.value as 'password' | 'token')}>
            <option value="password">user and password</option>
            <option value="token">a token</option>
          </select>
        </label>
        {way === 'password' && (
          <label>
            User
            <input name="username" autocomplete="username" required value={user} onInput={(e) => setUser(e.currentTarget.value)} />
          </label>
        )}
        <label>
          {way === 'password' ? 'Password' : 'Token'}
          <input name="password" type="password" autocomplete="current-password" required value={secret} onInput={(e) => setSecret(e.currentTarget.value)} />
        </label>
        <button type="submit" class="primary">
          Sign in
        </button>
        <p class="hint">The users are those of the file that --auth.users-file names.</p>
      </form>
    </Panel>
  )
}
