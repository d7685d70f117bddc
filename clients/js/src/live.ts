/**
 * A live query as its reader holds it: rows, status and a way to hear of both.
 */

import { Changes } from "./changes.js";
import { KalamError } from "./errors.js";
import type { Compare, Order } from "./order.js";
import type { AnyQuery, Handle, Query, Status } from "./query.js";
import { report } from "./report.js";
import type { Seq } from "./protocol.js";

/** What is to be seen of a query at one moment; another object whenever something changed. */
export interface LiveState<T> {
  readonly rows: readonly T[];
  readonly status: Status;
  readonly error: KalamError | undefined;
}

export type Listener<T> = (rows: readonly T[], live: LiveState<T>) => void;

/** What a handle wants of its client. */
export interface Owner {
  /** Have `handle` tell its listeners in the next frame, changed or not. */
  request(handle: Handle): void;
  /** One handle less shows `query`. */
  release(query: AnyQuery): void;
}

export class Live<T> implements LiveState<T>, Handle {
  #state: LiveState<T>;
  readonly #listeners = new Set<Listener<T>>();
  readonly #changes = new Set<Changes<T>>();
  readonly #order: Order<T> | undefined;
  #isOpen = true;
  #ready: { promise: Promise<void>; settle: () => void } | undefined;

  constructor(
    private readonly owner: Owner,
    private readonly query: Query<T>,
    compare: Compare<T> | undefined,
    private readonly signal: AbortSignal | undefined,
  ) {
    this.#order = compare && query.view.sort(compare);
    this.#state = this.#look();
    query.handles.add(this);
    signal?.addEventListener("abort", this.close);
    if (signal?.aborted) this.close();
  }

  /** The rows in order of their primary key, or in the order that was asked for. */
  get rows(): readonly T[] {
    return this.#state.rows;
  }

  get status(): Status {
    return this.#state.status;
  }

  /** What ended the query, when its status is `error`. */
  get error(): KalamError | undefined {
    return this.#state.error;
  }

  /** Rows, status and error of one moment; the same object until one of them changes. */
  get state(): LiveState<T> {
    return this.#state;
  }

  /** Whether the rows are in order of the primary key, as those of all who ask for nothing else. */
  get isByKey(): boolean {
    return !this.#order;
  }

  /** The seq up to which everything has come, for `from` of a later client. */
  get position(): Seq | undefined {
    return this.query.following.position;
  }

  /** What the server finds odd about the query: most likely a slip. */
  get notices(): readonly string[] {
    return this.query.notices;
  }

  /** Resolves when all rows have come; rejects when the query ends before that. */
  get ready(): Promise<void> {
    if (!this.#ready) {
      let settle = () => {};
      const promise = new Promise<void>((resolve, reject) => {
        settle = () => {
          if (this.status === "live") resolve();
          if (this.status === "error" || this.status === "closed") {
            reject(this.error ?? new KalamError("CLOSED", "the query was closed before its rows had come"));
          }
        };
      });
      promise.catch(() => {}); // whoever waits for it gets to know
      this.#ready = { promise, settle };
      settle();
    }
    return this.#ready.promise;
  }

  /**
   * Call `listener` with the rows whenever they or the status have changed, at most once a frame;
   * first with those that are there. Returns the way to stop.
   */
  subscribe(listener: Listener<T>): () => void {
    const own: Listener<T> = (rows, live) => listener(rows, live);
    this.#listeners.add(own);
    if (this.status !== "loading" || this.rows.length) this.owner.request(this);
    return () => void this.#listeners.delete(own);
  }

  /** Every change, row by row; the first are a reset and the rows that are there. */
  changes(): Changes<T> {
    const changes = new Changes<T>(
      () => this.query.recount(),
      (ended) => this.#forget(ended),
    );
    if (this.#isOpen) {
      this.#changes.add(changes);
      this.query.changes.add(changes);
    } else {
      changes.end(this.error);
    }
    return changes;
  }

  /** Let go of the query; the last one to do so ends it at the server. */
  readonly close = (): void => {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.signal?.removeEventListener("abort", this.close);
    for (const changes of this.#changes) {
      changes.end();
      this.#forget(changes);
    }
    if (this.#order) this.query.view.unsort(this.#order);
    this.#state = { ...this.#look(), status: this.error ? "error" : "closed" };
    this.#ready?.settle();
    this.#listeners.clear();
    this.query.handles.delete(this);
    this.owner.release(this.query);
  };

  /** Look again at the query; the first half of a frame. */
  refresh(): boolean {
    const state = this.#look();
    const { rows, status, error } = state;
    if (rows === this.rows && status === this.status && error === this.error) return false;
    this.#state = state;
    this.#ready?.settle();
    return true;
  }

  /** Tell the listeners; the second half, when all handles show the same moment. */
  notify(): void {
    for (const listener of [...this.#listeners]) {
      try {
        listener(this.rows, this.#state);
      } catch (error) {
        report(error); // the listener's own fault: the others are told all the same
      }
    }
  }

  #look(): LiveState<T> {
    const { view, status, error } = this.query;
    return { rows: view.rows(this.#order), status, error };
  }

  #forget(changes: Changes<T>): void {
    this.#changes.delete(changes);
    this.query.changes.delete(changes);
  }
}
