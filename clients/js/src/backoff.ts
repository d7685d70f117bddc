/**
 * How long to wait before the next attempt: exponential, with full jitter.
 *
 * A wait anywhere between nothing and the bound spreads the clients of a restarted server best. The
 * count of failures is forgotten when a connection has held for longer than the wait that its end
 * would now be followed by, so a server that dies of its clients is not besieged.
 */

/** Times in milliseconds. */
export interface BackoffOptions {
  /** The bound of the first wait; it doubles from attempt to attempt. */
  base?: number;
  /** The longest wait. */
  cap?: number;
  /** The least wait after a close that asks for a pause (1011, 1013). */
  pause?: number;
}

export class Backoff {
  #attempts = 0;
  readonly #base: number;
  readonly #cap: number;
  readonly #pause: number;

  constructor({ base = 500, cap = 30_000, pause = 1000 }: BackoffOptions = {}) {
    this.#base = base;
    this.#cap = cap;
    this.#pause = pause;
  }

  /** The wait after a connection that held for `held` milliseconds. */
  next(held: number, afterPause: boolean): number {
    if (held > this.#bound()) this.reset();
    const wait = Math.random() * this.#bound();
    this.#attempts++;
    return wait + (afterPause ? this.#pause : 0);
  }

  /** The next failure is a first one again. */
  reset(): void {
    this.#attempts = 0;
  }

  #bound(): number {
    return Math.min(this.#cap, this.#base * 2 ** this.#attempts);
  }
}
