import { ApiError, get } from './api'
import { session } from './session'
import type { Access } from './session'

/** Asks the server who this is, and tells the session. */
export async function loadAccess() {
  try {
    session.admit(await get<Access>('api/v1/status/access', {}, { tenant: '' }))
  } catch (err) {
    if (!(err instanceof ApiError && err.status === 401)) session.failed(err as Error) // else the session asks for a login
  }
}
