/**
 * What happens to a query's rows, told one by one to whoever iterates.
 *
 * The changes add up to the query's rows at any moment. An iterator that is not read does not grow
 * without bound: it forgets what waits and begins again with all rows, once it is read.
 */

import type { KalamError } from "./errors.js";

export type Change<T> =
  /** Forget all rows; those that hold follow as inserts, up to `ready`. */
  | { type: "reset" }
  /** Every row of the snapshot has been told. */
  | { type: "ready" }
  /** `transition: "enter"`: the row was there before, but did not match the query. */
  | { type: "insert"; row: T; transition?: "enter" }
  /** `old`: the row as it was; of one that was never told, what the server says of it. */
  | { type: "update"; row: T; old: T }
  /** `transition: "leave"`: the row is there still, but does not match any more. */
  | { type: "delete"; row: T; transition?: "leave" };

const MAX_WAITING = 10_000;

/** What a query tells of itself to somebody who begins to listen now. */
export type Recount<T> = () => Iterable<Change<T>>;

export class Changes<T> implements AsyncIterableIterator<Change<T>> {
  #waiting: Change<T>[] = [];
  #next = 0;
  #isOverrun = true; // nothing has been told: begin with everything
  #end: { error: KalamError | undefined } | undefined;
  #wake: (() => void) | undefined;

  constructor(
    private readonly recount: Recount<T>,
    private readonly onReturn: (changes: Changes<T>) => void,
  ) {}

  /** `size`: how many rows the query holds; more changes than that are dearer than its rows. */
  push(change: Change<T>, size: number): void {
    if (!this.#isOverrun) this.#waiting.push(change);
    if (this.#waiting.length - this.#next > MAX_WAITING + 2 * size) this.#overrun();
    this.#wake?.();
  }

  /** No more changes; an error is thrown to the reader after the changes that came before it. */
  end(error?: KalamError): void {
    this.#end ??= { error };
    this.#wake?.();
  }

  async next(): Promise<IteratorResult<Change<T>, undefined>> {
    for (;;) {
      const change = this.#take();
      if (change) return { done: false, value: change };
      if (this.#end) {
        const { error } = this.#end;
        this.#end = { error: undefined };
        if (error) throw error;
        return { done: true, value: undefined };
      }
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  return(): Promise<IteratorResult<Change<T>, undefined>> {
    this.end();
    this.#overrun();
    this.#isOverrun = false;
    this.onReturn(this);
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #take(): Change<T> | undefined {
    if (this.#isOverrun) {
      this.#isOverrun = false;
      this.#waiting = [...this.recount()];
    }
    const change = this.#waiting[this.#next];
    if (change && ++this.#next < this.#waiting.length) return change;
    this.#waiting = [];
    this.#next = 0;
    return change;
  }

  #overrun(): void {
    this.#waiting = [];
    this.#next = 0;
    this.#isOverrun = true;
  }
}
