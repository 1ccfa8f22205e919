// What time it is. The server's clock counts: a range that ends now, or an age, must not depend on whether the browser's own is right.

/** How far the server is ahead of this browser, ms. */
let ahead = 0

/** Differences up to this, ms, are not told from the time that an answer takes and the whole seconds of its date. */
const blur = 5000

/** What the Date header of an answer that has just come says of the server's clock. */
export function heard(date: string | null, at = Date.now()) {
  const told = Date.parse(date ?? '')
  if (Number.isNaN(told)) return
  const off = told + 500 - at
  if (Math.abs(off) <= blur) ahead = 0
  // It is not moved for a second or two: times of one view fit each other.
  else if (Math.abs(off - ahead) > blur) ahead = off
}

/** Now, by the server's clock, ms since 1970. */
export const now = (): number => Date.now() + ahead

/** How far the browser's clock is wrong, ms; 0 = it is right. */
export const clockOff = (): number => 0 - ahead
