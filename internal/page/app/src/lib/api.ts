// The page's one way to the server: relative to wherever the page is served, with the tenant and the credentials of the session.

import { heard } from './clock'
import { session } from './session'

/** What went wrong, as the server says it. */
export class ApiError extends Error {
  constructor(
    message: string,
    /** HTTP status; 0 = no answer at all. */
    readonly status: number,
    /** Seconds after which the server wants to be asked again. */
    readonly retryAfter?: number,
    /** What else the answer held, such as `explain`. */
    readonly body?: Record<string, unknown>,
  ) {
    super(message)
  }

  /** The stable ID of docs/errors.md, if the message has one. */
  get id(): string | undefined {
    return /\berr-sluice-[a-z0-9-]+/.exec(this.message)?.[0]
  }
}

export type Params = Record<string, string | number | boolean | undefined | null | readonly string[]>

export interface Options {
  signal?: AbortSignal
  /** Sends the parameters as a form; for those that may be long. */
  post?: boolean
  headers?: Record<string, string>
  /** Another tenant than the session's. */
  tenant?: string
  method?: string
}

/** The base that every path is relative to: the folder that the page lies in. */
const base = () => new URL('.', location.href)

export function formOf(params: Params): URLSearchParams {
  const form = new URLSearchParams()
  for (const [name, value] of Object.entries(params)) {
    if (value === undefined || value === null || value === '') continue
    if (Array.isArray(value)) value.forEach((v) => form.append(name, String(v)))
    else form.set(name, String(value))
  }
  return form
}

/** Asks and returns the raw answer; a status of 400 or more is an ApiError. */
export async function ask(path: string, params: Params = {}, options: Options = {}): Promise<Response> {
  const url = new URL(path, base())
  const form = formOf(params)
  // A header cannot carry it, and no tenant is called so.
  const whose = options.tenant ?? session.tenant
  if (/[^\x20-\x7e]/.test(whose)) throw new ApiError(`“${whose}” is not the name of a tenant: names have letters from a to z, digits and !-_.*'() only.`, 400)
  const init: RequestInit = { method: options.method ?? (options.post ? 'POST' : 'GET'), headers: { ...session.headers(options.tenant), ...options.headers } }
  if (options.signal) init.signal = options.signal
  if (options.post) init.body = form
  else url.search = form.toString()
  let answer: Response
  try {
    answer = await fetch(url, init)
  } catch (err) {
    if (options.signal?.aborted) throw err
    throw new ApiError('The server does not answer. It may have stopped, or the network is away.', 0)
  }
  heard(answer.headers.get('Date'))
  if (answer.ok) return answer
  const failure = await errorOf(answer)
  if (answer.status === 401) session.loginNeeded(failure.message)
  throw failure
}

async function errorOf(answer: Response): Promise<ApiError> {
  const text = await answer.text().catch(() => '')
  const after = Number(answer.headers.get('Retry-After')) || undefined
  try {
    const body = JSON.parse(text) as Record<string, unknown>
    const said = body.error ?? body.message
    if (typeof said === 'string') return new ApiError(said, answer.status, after, body)
  } catch {
    // not JSON: the text is the message, of a proxy's page its title
  }
  const title = /<title>\s*([^<]+?)\s*<\/title>/i.exec(text)?.[1]
  const plain = /^\s*</.test(text) ? (title ? `${title} (HTTP ${answer.status}, not an answer of Sluice)` : '') : text.trim().slice(0, 2000)
  return new ApiError(plain || `${answer.status} ${answer.statusText}`, answer.status, after)
}

/** What is said of an answer with a good status that cannot be read. */
export const brokenOff = (answer: Response) =>
  new ApiError(
    /html/.test(answer.headers.get('Content-Type') ?? '')
      ? 'This is no answer of Sluice but a page of something in between, such as a proxy that wants a login. Load the page again.'
      : 'The answer broke off before its end.',
    0,
  )

/** An answer in Prometheus' envelope. */
export interface Envelope<T> {
  status: 'success'
  data: T
  warnings?: string[]
  infos?: string[]
  [more: string]: unknown
}

/** Asks for JSON and returns the whole envelope. */
export async function envelope<T>(path: string, params?: Params, options?: Options): Promise<Envelope<T>> {
  const answer = await ask(path, params, options)
  try {
    return (await answer.json()) as Envelope<T>
  } catch (err) {
    if (options?.signal?.aborted) throw err
    throw brokenOff(answer)
  }
}

/** Asks for JSON and returns what is in `data`; an answer without an envelope as it is. */
export async function get<T>(path: string, params?: Params, options?: Options): Promise<T> {
  const answer = await envelope<T>(path, params, options)
  return answer.status === 'success' && 'data' in answer ? answer.data : (answer as unknown as T)
}

/** The header for queries that are the page's own, so that they do not count as somebody's use of a metric. */
export const uncounted = { 'X-Sluice-Statistics': 'off' }
