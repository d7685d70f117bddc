/**
 * The token of a client: fetched, and fetched anew in good time before it expires.
 */

/** A token, or what is asked for one at every connect and before the last one expires. */
export type Token = string | (() => string | Promise<string>);

const MAX_WAIT_MS = 24 * 3600 * 1000; // timers know no waits of more than 24 days
const LATE_MS = 5000;

export class Tokens {
  /** The token that the server was told last. */
  current: string | undefined;
  #spare: string | undefined;

  constructor(private readonly source: Token | undefined) {}

  /** The token for the next connect. */
  async next(): Promise<string | undefined> {
    const spare = this.#spare;
    this.#spare = undefined;
    return (this.current = spare ?? (await this.#fetch()));
  }

  /** After the current one was refused: whether there is another. It is kept for the next connect. */
  async hasOther(): Promise<boolean> {
    if (typeof this.source !== "function") return false;
    const fresh = await this.#fetch();
    if (fresh === this.current) return false;
    this.#spare = fresh;
    return true;
  }

  /** Milliseconds until it is time for another; undefined: there is no such time. */
  untilRefresh(): number | undefined {
    if (typeof this.source !== "function" || this.current === undefined) return undefined;
    const expiry = expiryOf(this.current);
    if (expiry === undefined) return undefined;
    const left = expiry - Date.now();
    if (left <= 0) return LATE_MS;
    return Math.min(MAX_WAIT_MS, Math.max(1000, left - Math.min(60_000, left / 5)));
  }

  async #fetch(): Promise<string | undefined> {
    return typeof this.source === "function" ? await this.source() : this.source;
  }
}

/** When a JSON Web Token expires, in milliseconds since 1970; undefined where it does not say. */
export function expiryOf(token: string): number | undefined {
  try {
    const payload = token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(payload)) as { exp?: unknown };
    return typeof exp === "number" ? exp * 1000 : undefined;
  } catch {
    return undefined;
  }
}
