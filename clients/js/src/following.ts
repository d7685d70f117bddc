/**
 * One query as its client knows it, without the socket.
 *
 * `request` makes the subscribe message for where it stands now: from the start, or from its
 * position. Between that request and its acknowledgement everything else that arrives under its id
 * belongs to the subscription it replaces, and is dropped; the position will bring it again.
 *
 * The position in an acknowledgement never counts: that of a snapshot already names the last seq of
 * its first page, and a client that took it for seen and then lost the connection would never get
 * that page. Queries for live changes alone ask for the newest 0 rows, so that their position comes
 * with a batch as well.
 */

import { isAfter, type ClientMessage, type Column, type Seq, type ServerMessage, type WireRow } from "./protocol.js";

/** What to ask for. `bigints` and the rest are told in `LiveOptions`. */
export interface Asked {
  sql: string;
  params: readonly unknown[];
  options: Record<string, unknown>;
  /** Where to begin: a position of an earlier client. */
  from: Seq | undefined;
  /** Whether the query shows only what changes from now on. */
  liveOnly: boolean;
}

/** What a message means to the view. */
export type Step =
  | { kind: "begin"; replaces: boolean; schema: readonly Column[] }
  | { kind: "page"; rows: readonly WireRow[]; ready: boolean }
  | { kind: "put"; isNew: boolean; rows: readonly WireRow[]; olds: readonly WireRow[]; transition: string | undefined }
  | { kind: "drop"; rows: readonly WireRow[]; transition: string | undefined };

/** What a message means, and what to answer to the server. */
export interface Reaction {
  step?: Step;
  answer?: ClientMessage;
}

type Phase = "idle" | "requested" | "following";

export class Following {
  phase: Phase = "idle";
  position: Seq | undefined;

  constructor(
    readonly id: string,
    readonly asked: Asked,
  ) {
    this.position = asked.from;
  }

  /** The subscribe message that starts, or goes on with, this query. */
  request(): ClientMessage {
    this.phase = "requested";
    const { sql, params, options, liveOnly } = this.asked;
    const start = this.position !== undefined ? { from: this.position } : liveOnly ? { last_rows: 0 } : {};
    const { last_rows: _, ...lasting } = options;
    return {
      type: "subscribe",
      subscription: {
        id: this.id,
        sql,
        ...(params.length && { params }),
        options: { ...(this.position === undefined ? options : lasting), ...start, on_gap: "snapshot" },
      },
    };
  }

  /** Take nothing more until the next request: the connection is lost. */
  pause(): void {
    this.phase = "idle";
  }

  /** Ask anew, as if nothing had ever come: the server's log no longer reaches the position. */
  restart(): ClientMessage {
    this.position = undefined;
    return this.request();
  }

  /** Take in a server message under this query's id. */
  receive(message: ServerMessage): Reaction {
    if (message.type === "subscription_ack") return this.#acknowledged(message);
    if (this.phase !== "following") return {};
    if (message.type === "initial_data_batch") return this.#page(message);
    if (message.type === "change") return this.#change(message);
    return {};
  }

  #acknowledged({ resumed, schema = [] }: ServerMessage): Reaction {
    if (this.phase === "idle") return {};
    if (this.phase === "following") {
      // A request that was thought lost was answered after all. From where we were or before: what
      // is not new will be dropped. From now on, which may lie ahead of us: ask again.
      if (resumed === true) return {};
      if (this.asked.liveOnly && resumed === undefined) return { answer: this.request() };
    }
    this.phase = "following";
    const replaces = resumed !== true;
    if (replaces) this.position = undefined;
    return { step: { kind: "begin", replaces, schema } };
  }

  #page({ rows = [], batch_control }: ServerMessage): Reaction {
    const news = rows.filter((row) => this.#advance(row._seq));
    const ready = !batch_control?.has_more;
    if (batch_control) this.#advance(String(batch_control.last_seq_id));
    const step: Step = { kind: "page", rows: news, ready };
    if (ready) return { step };
    const position = this.position === undefined ? {} : { last_seq_id: this.position };
    return { step, answer: { type: "next_batch", subscription_id: this.id, ...position } };
  }

  #change({ change_type, rows = [], old_values = [], transition }: ServerMessage): Reaction {
    const isDelete = change_type === "delete";
    // The old image of an update has the old seq, so the new one tells the position.
    const told = isDelete ? old_values : rows;
    const places = [...told.keys()].filter((place) => this.#advance(told[place]!._seq));
    if (!places.length) return {};
    const news = places.map((place) => told[place]!);
    if (isDelete) return { step: { kind: "drop", rows: news, transition } };
    const olds = places.map((place) => old_values[place] ?? {});
    return { step: { kind: "put", isNew: change_type === "insert", rows: news, olds, transition } };
  }

  /** Move to `seq`; false when it has been seen before. Without a seq everything is news. */
  #advance(seq: Seq | undefined): boolean {
    if (seq === undefined) return true;
    if (!isAfter(seq, this.position)) return false;
    this.position = seq;
    return true;
  }
}
