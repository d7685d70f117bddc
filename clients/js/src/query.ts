/**
 * One query of a client: what all who ask the same share. It stands between the messages and the
 * handles (live.ts): messages change the view at once, handles hear of it once a frame.
 */

import type { Changes, Change } from "./changes.js";
import type { KalamError } from "./errors.js";
import { Following, type Asked, type Step } from "./following.js";
import type { ClientMessage, Column, ServerMessage, WireRow } from "./protocol.js";
import { View } from "./view.js";

/**
 * `loading`: not all rows have come yet. `live`: the rows are what the server would answer.
 * `reconnecting`: they are what it answered before the connection was lost. `error` and `closed` are
 * final.
 */
export type Status = "loading" | "live" | "reconnecting" | "error" | "closed";

/** Whoever shows a query: looks at it again (whether something changed), then tells its listeners. */
export interface Handle {
  refresh(): boolean;
  notify(): void;
}

/** A query as its client sees it, whatever its rows are. */
export interface AnyQuery {
  readonly key: string;
  readonly following: Following;
  readonly handles: ReadonlySet<Handle>;
  readonly notices: readonly string[];
  receive(message: ServerMessage): ClientMessage | undefined;
  pause(): void;
  end(error?: KalamError): void;
}

export class Query<T> implements AnyQuery {
  readonly following: Following;
  readonly view = new View<T>();
  readonly changes = new Set<Changes<T>>();
  readonly handles = new Set<Handle>();
  error: KalamError | undefined;
  /** What the server finds odd about the query. */
  notices: readonly string[] = [];
  #isClosed = false;
  #hasBegun = false;
  #wasReady = false;
  #bigColumns: readonly string[] = [];

  /** `hear` is called with whatever may have changed what is to be seen. */
  constructor(
    id: string,
    /** Names the query among those of its client: equal keys, equal queries. */
    readonly key: string,
    asked: Asked,
    private readonly asBigInt: boolean,
    private readonly hear: (query: AnyQuery) => void,
  ) {
    this.following = new Following(id, asked);
  }

  get status(): Status {
    if (this.error) return "error";
    if (this.#isClosed) return "closed";
    if (this.following.phase === "following") return this.view.isReady ? "live" : "loading";
    return this.#wasReady ? "reconnecting" : "loading";
  }

  /** Take in a message; returns what to answer. */
  receive(message: ServerMessage): ClientMessage | undefined {
    const { step, answer } = this.following.receive(message);
    if (step) {
      if (step.kind === "begin") this.notices = message.notices ?? [];
      this.#apply(step);
      this.hear(this);
    }
    return answer;
  }

  /** The connection is lost. */
  pause(): void {
    this.following.pause();
    this.hear(this);
  }

  /** The query has ended: by its last user, or by an error. */
  end(error?: KalamError): void {
    if (this.error || this.#isClosed) return;
    this.error = error;
    this.#isClosed = true;
    for (const changes of this.changes) changes.end(error);
    this.hear(this);
  }

  /** All that has been told so far, for one who comes late. */
  *recount(): Iterable<Change<T>> {
    if (!this.#hasBegun) return;
    yield { type: "reset" };
    for (const row of this.view.held()) yield { type: "insert", row };
    if (this.view.isReady) yield { type: "ready" };
  }

  #apply(step: Step): void {
    switch (step.kind) {
      case "begin":
        return this.#begin(step.replaces, step.schema);
      case "page":
        for (const row of step.rows) this.#put(row, true, {}, undefined);
        if (step.ready) this.#ready();
        return;
      case "put":
        return step.rows.forEach((row, place) => this.#put(row, step.isNew, step.olds[place]!, step.transition));
      case "drop":
        for (const row of step.rows) this.#drop(row, step.transition);
    }
  }

  #begin(replaces: boolean, schema: readonly Column[]): void {
    this.#bigColumns = this.asBigInt
      ? schema.filter((column) => column.data_type === "BigInt").map((column) => column.name)
      : [];
    this.#hasBegun = true;
    this.view.begin(replaces, schema);
    if (replaces) this.#tell({ type: "reset" });
  }

  #ready(): void {
    this.view.ready();
    this.#wasReady = true;
    this.#tell({ type: "ready" });
  }

  #put(wire: WireRow, isNew: boolean, old: WireRow, transition: string | undefined): void {
    const row = this.#read(wire);
    if (this.changes.size) {
      if (isNew) this.#tell({ type: "insert", row: row as T, ...(transition === "enter" && { transition }) });
      else this.#tell({ type: "update", row: row as T, old: this.view.find(row) ?? (this.#read(old) as T) });
    }
    this.view.put(row);
  }

  #drop(wire: WireRow, transition: string | undefined): void {
    const row = this.#read(wire);
    this.#tell({ type: "delete", row: row as T, ...(transition === "leave" && { transition }) });
    this.view.drop(row);
  }

  // A column that is declared to be BigInt is one in every row, however small the number.
  #read(row: WireRow): WireRow {
    const small = this.#bigColumns.filter((column) => Number.isInteger(row[column]));
    if (!small.length) return row;
    return { ...row, ...Object.fromEntries(small.map((column) => [column, BigInt(row[column] as number)])) };
  }

  #tell(change: Change<T>): void {
    for (const changes of this.changes) changes.push(change, this.view.size);
  }
}
