/**
 * A client: one socket, many queries. Equal queries are asked once and shared.
 */

import { Connection, type ConnectOptions, type Hearer } from "./connection.js";
import { KalamError, QueryError } from "./errors.js";
import type { Asked } from "./following.js";
import { Frames } from "./frames.js";
import { stringify } from "./json.js";
import { Live, type LiveState, type Owner } from "./live.js";
import type { Compare } from "./order.js";
import { platform } from "./platform.js";
import { report } from "./report.js";
import type { ServerMessage } from "./protocol.js";
import { Query, type AnyQuery, type Handle } from "./query.js";

export interface LiveOptions<T> {
  /** The order of `rows`; without it that of the primary key. */
  compare?: Compare<T> | undefined;
  /** Closes the query. */
  signal?: AbortSignal | undefined;
  /** How many rows a page of the snapshot has. */
  batchSize?: number | undefined;
  /** Begin with the newest rows only. */
  lastRows?: number | undefined;
  /** Begin with no rows: only what changes from now on. */
  liveOnly?: boolean | undefined;
  /** Begin at a position of an earlier client, `live.position`. */
  from?: string | number | undefined;
  /**
   * How integers beyond 2^53 come: as decimal strings (also where nothing is said), or as BigInt. A
   * column that is declared BigInt then has a BigInt in every row.
   */
  bigints?: "string" | "bigint" | undefined;
}

const REPEAT_AFTER_MS = 1000;
const REPEAT_EVERY_MS = 50;

/** Connect to a server: `http(s)://host:port` or `ws(s)://host:port`. The first query opens the socket. */
export function connect(url: string, options: ConnectOptions = {}): Client {
  return new Client(url, options);
}

export class Client implements Hearer, Owner {
  readonly #queries = new Map<string, AnyQuery>();
  readonly #byId = new Map<string, AnyQuery>();
  readonly #connection: Connection;
  readonly #frames = new Frames(() => this.#tell());
  #changed = new Set<AnyQuery>();
  #untold = new Set<Handle>();
  #isStarted = false;
  #error: KalamError | undefined;
  #names = 0;
  readonly #notice: (text: string, sql: string | undefined) => void;
  readonly #noticed = new Set<string>();
  #repeating: ReturnType<typeof setTimeout> | undefined;

  constructor(url: string, { signal, ...options }: ConnectOptions) {
    this.#connection = new Connection(socketUrl(url), options, this);
    this.#notice = options.onNotice ?? ((text, sql) => console.warn(`kalam-notify: ${text}`, sql ?? ""));
    signal?.addEventListener("abort", () => this.close());
    if (signal?.aborted) this.close();
  }

  /** A live query. It goes on until it is closed. `params` are the values of `$1`, `$2`, ... */
  live<T = Record<string, unknown>>(
    sql: string,
    params: readonly unknown[] = [],
    options: LiveOptions<T> = {},
  ): Live<T> {
    const key = this.keyOf(sql, params, options);
    const query = (this.#queries.get(key) ?? this.#ask(key, sql, params, options)) as Query<T>;
    return new Live(this, query, options.compare, options.signal);
  }

  /** Equal texts, equal queries, whatever their order and signal are. */
  keyOf<T>(sql: string, params: readonly unknown[] = [], options: LiveOptions<T> = {}): string {
    return stringify([asked(sql, params, options), options.bigints]);
  }

  /** What there is to be seen of a query that somebody has open already, in order of its key. */
  peek<T>(sql: string, params: readonly unknown[] = [], options: LiveOptions<T> = {}): LiveState<T> | undefined {
    const query = this.#queries.get(this.keyOf(sql, params, options)) as Query<T> | undefined;
    const handles = [...(query?.handles ?? [])] as Live<T>[];
    return handles.find((handle) => handle.isByKey)?.state;
  }

  /** Close the connection and every query. */
  close(): void {
    this.ended(new KalamError("CLOSED", "the client was closed"), undefined);
  }

  // -- what the handles want --

  request(handle: Handle): void {
    this.#untold.add(handle);
    this.#frames.request();
  }

  release(query: AnyQuery): void {
    // In a moment: whoever asks for it again before that finds it as it was.
    setTimeout(() => {
      if (!query.handles.size && this.#byId.has(query.following.id)) this.#forget(query);
    });
  }

  // -- what the connection tells --

  opened(): void {
    for (const query of this.#byId.values()) this.#connection.send(query.following.request());
  }

  received(message: ServerMessage): void {
    const query = this.#byId.get(message.subscription_id ?? "");
    if (message.type === "error") return this.#refused(message, query);
    const answer = query?.receive(message);
    if (answer) this.#connection.send(answer);
    for (const notice of message.notices ?? []) this.#noteOnce(notice, query?.following.asked.sql);
  }

  lost(): void {
    clearTimeout(this.#repeating);
    this.#repeating = undefined;
    for (const query of this.#byId.values()) query.pause();
  }

  ended(error: KalamError, reason: KalamError | undefined = error): void {
    if (this.#error) return;
    this.#error = error;
    this.#connection.close();
    for (const query of this.#byId.values()) query.end(reason);
    this.#queries.clear();
    this.#byId.clear();
  }

  // -- within --

  #ask<T>(key: string, sql: string, params: readonly unknown[], options: LiveOptions<T>): Query<T> {
    const asBigInt = options.bigints === "bigint";
    const query = new Query<T>(`q${++this.#names}`, key, asked(sql, params, options), asBigInt, (it) => {
      this.#changed.add(it);
      this.#frames.request();
    });
    if (this.#error) {
      query.end(this.#error);
      return query;
    }
    this.#queries.set(key, query);
    this.#byId.set(query.following.id, query);
    if (this.#isStarted) this.#connection.send(query.following.request());
    else this.#connection.start();
    this.#isStarted = true;
    return query;
  }

  #forget(query: AnyQuery, error?: KalamError): void {
    this.#queries.delete(query.key);
    this.#byId.delete(query.following.id);
    if (!error) this.#connection.send({ type: "unsubscribe", subscription_id: query.following.id });
    query.end(error);
  }

  #refused({ code = "", message = "", subscription_id = "" }: ServerMessage, query: AnyQuery | undefined): void {
    if (code === "BATCH_FETCH_FAILED") return; // a page asked for too late: the server goes on by itself
    if (code === "RATE_LIMIT_EXCEEDED") return this.#dropped(subscription_id, query);
    if (!query) {
      if (subscription_id === "protocol") this.#noteOnce(`${code}: ${message}`);
      return;
    }
    if (code === "RESUME_EXPIRED" && query.following.position !== undefined) {
      return this.#connection.send(query.following.restart());
    }
    this.#forget(query, new QueryError(code, message));
  }

  /** Once, though every new connection brings it again. */
  #noteOnce(text: string, sql?: string): void {
    const key = stringify([text, sql]);
    if (this.#noticed.has(key)) return;
    this.#noticed.add(key);
    this.#notice(text, sql);
  }

  /** The server dropped one of our messages: repeat those that it may have been, one by one. */
  #dropped(id: string, query: AnyQuery | undefined): void {
    if (!query && /^q\d+$/.test(id)) {
      setTimeout(() => this.#connection.send({ type: "unsubscribe", subscription_id: id }), REPEAT_AFTER_MS);
    }
    if (this.#repeating === undefined) this.#repeat(REPEAT_AFTER_MS);
  }

  #repeat(after: number, repeated = new Set<AnyQuery>()): void {
    this.#repeating = setTimeout(() => {
      this.#repeating = undefined;
      const isDue = (it: AnyQuery) => it.following.phase === "requested" && !repeated.has(it);
      const query = [...this.#byId.values()].find(isDue);
      if (!query) return;
      this.#connection.send(query.following.request());
      this.#repeat(REPEAT_EVERY_MS, repeated.add(query));
    }, after);
  }

  /** First every handle looks, then every listener hears: they all see the same moment. */
  #tell(): void {
    const told = this.#untold;
    for (const query of this.#changed) {
      for (const handle of query.handles) if (isOther(handle)) told.add(handle);
    }
    this.#changed = new Set();
    this.#untold = new Set();
    for (const handle of told) handle.notify();
  }
}

function isOther(handle: Handle): boolean {
  try {
    return handle.refresh();
  } catch (error) {
    report(error); // of the order that its reader gave
    return false;
  }
}

function asked<T>(sql: string, params: readonly unknown[], options: LiveOptions<T>): Asked {
  const { batchSize, lastRows, from, liveOnly = false, bigints = "string" } = options;
  return {
    sql,
    params,
    options: {
      ...(batchSize !== undefined && { batch_size: batchSize }),
      ...(lastRows !== undefined && { last_rows: lastRows }),
      ...(bigints === "string" && { bigints }),
    },
    from: from === undefined ? undefined : String(from),
    liveOnly,
  };
}

function socketUrl(base: string): string {
  const url = new URL(base, platform.location?.href);
  const protocol = { "http:": "ws:", "https:": "wss:", "ws:": "ws:", "wss:": "wss:" }[url.protocol];
  if (!protocol) throw new KalamError("BAD_URL", `${base} is no server address: use http(s):// or ws(s)://`);
  // A base may stand behind a path of a reverse proxy, and may be the WebSocket's own address.
  const root = url.pathname.replace(/\/$/, "").replace(/\/v1\/ws$/, "");
  return `${protocol}//${url.host}${root}/v1/ws`;
}
