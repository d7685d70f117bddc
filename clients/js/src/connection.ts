/**
 * The one socket of a client, kept up until the client is closed.
 *
 * A loop: connect, authenticate, hear until the end, and let the close code say whether to come back
 * and the back-off when. A page that becomes visible or a machine that is online again does not wait
 * for the back-off; and as such a moment often finds a socket that is dead without knowing it, the
 * server is asked for a sign of life: a page of a subscription that does not exist, which it refuses.
 * The same is asked of a server that has been silent for long.
 */

import { Backoff, type BackoffOptions } from "./backoff.js";
import { AuthenticationError, ConnectionError, KalamError } from "./errors.js";
import { EventSocket } from "./events.js";
import { parseExactly, stringify } from "./json.js";
import { platform } from "./platform.js";
import { askWhy, onRefusal } from "./refusal.js";
import { comebackAfter, type ClientMessage, type ServerMessage } from "./protocol.js";
import { Tokens, type Token } from "./token.js";

/** As much of a WebSocket as is used here. */
export interface Socket {
  onopen: ((event: never) => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: ((event: never) => void) | null;
  send(text: string): void;
  close(code?: number): void;
}

export type SocketClass = new (url: string) => Socket;

export interface ConnectOptions {
  /** A token, or a function that is asked for one. None: anonymous. */
  token?: Token | undefined;
  /** Closes the client. */
  signal?: AbortSignal | undefined;
  /** Where there is no global WebSocket, and `ws` is not to be used. */
  WebSocket?: SocketClass | undefined;
  /**
   * Whether to go on with streams of events over HTTP where no WebSocket gets through. Where nothing is
   * said: unless a `WebSocket` is given.
   */
  fallback?: boolean | undefined;
  backoff?: BackoffOptions | undefined;
  /** After how many milliseconds of silence the server is asked for a sign of life; Infinity: never. */
  heartbeat?: number | undefined;
  /** Hears what the server finds odd about a query, or about the client; without it: `console.warn`. */
  onNotice?: ((text: string, sql: string | undefined) => void) | undefined;
  /** Hears why the connection was lost, and after how many milliseconds the next attempt comes. */
  onTrouble?: ((why: string, delay: number) => void) | undefined;
}

/** What the connection tells its client. */
export interface Hearer {
  /** Everything has to be asked for. */
  opened(): void;
  received(message: ServerMessage): void;
  lost(): void;
  /** There will be no more connection. */
  ended(error: KalamError): void;
}

const OPEN_TIMEOUT_MS = 15_000;
const ANSWER_TIMEOUT_MS = 10_000;
const ASK_TIMEOUT_MS = 3000;
const PROBE: ClientMessage = { type: "next_batch", subscription_id: "alive" };

/** `code` is that of the close, 0 without one; `status` that of an answer in place of the upgrade. */
interface End {
  code: number;
  reason: string;
  status?: number;
  retryAfter?: number;
  isForeign?: boolean;
}

export class Connection {
  #socket: Socket | undefined;
  #isOpen = false;
  #isClosed = false;
  #authError: string | undefined;
  #hasHeard = false;
  /** Whether anything was heard over this connection, and whether it goes without a WebSocket. */
  #works = false;
  #usesEvents = false;
  #tellsRefusals = false;
  #openedAt: number | undefined;
  #end: (end: End) => void = () => {};
  #wake: () => void = () => {};
  #timers = new Map<string, ReturnType<typeof setTimeout>>();
  readonly #tokens: Tokens;
  readonly #backoff: Backoff;
  readonly #heartbeat: number;

  constructor(
    private readonly url: string,
    private readonly options: ConnectOptions,
    private readonly hearer: Hearer,
  ) {
    this.#tokens = new Tokens(options.token);
    this.#backoff = new Backoff(options.backoff);
    this.#heartbeat = options.heartbeat ?? 45_000;
  }

  start(): void {
    platform.addEventListener?.("online", this.#onWake);
    platform.document?.addEventListener("visibilitychange", this.#onWake);
    void this.#run();
  }

  /** Send, if there is a connection; what is not sent is asked for at the next one. */
  send(message: ClientMessage): void {
    if (this.#isOpen) this.#socket?.send(stringify(message));
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    platform.removeEventListener?.("online", this.#onWake);
    platform.document?.removeEventListener("visibilitychange", this.#onWake);
    this.#hangUp({ code: 1000, reason: "" });
    this.#wake();
  }

  async #run(): Promise<void> {
    try {
      while (!this.#isClosed) {
        const end = await this.#explained(await this.#connection());
        if (this.#hasClosed()) return;
        const isPaused = await this.#judge(end);
        // What brought nothing is tried the other way next time; what worked once is tried again.
        if (!this.#works && this.#mayFallBack) this.#usesEvents = !this.#usesEvents;
        const delay = Math.max(this.#backoff.next(this.#heldFor(), isPaused), end.retryAfter ?? 0);
        this.options.onTrouble?.(`${end.status ?? end.code} ${end.reason}`.trim(), delay);
        await this.#sleep(delay);
      }
    } catch (error) {
      this.close();
      this.hearer.ended(error instanceof KalamError ? error : new KalamError("FAULT", String(error)));
    }
  }

  get #mayFallBack(): boolean {
    return this.options.fallback ?? !this.options.WebSocket;
  }

  /** How long the last connection was open. */
  #heldFor(): number {
    const opened = this.#openedAt;
    this.#openedAt = undefined;
    return opened === undefined ? 0 : Date.now() - opened;
  }

  /** A question of its own, as the answer may have changed while something was waited for. */
  #hasClosed(): boolean {
    return this.#isClosed;
  }

  /** One connection, from its start to its end. */
  async #connection(): Promise<End> {
    try {
      const token = await this.#tokens.next();
      const SocketClass = this.#usesEvents ? EventSocket : (this.options.WebSocket ?? (await socketClass()));
      if (this.#hasClosed()) return { code: 1000, reason: "" };
      return await this.#converse(new SocketClass(this.url), token);
    } catch (error) {
      if (error instanceof KalamError) throw error;
      return { code: 0, reason: `cannot connect: ${String(error)}` };
    } finally {
      this.hearer.lost();
    }
  }

  #converse(socket: Socket, token: string | undefined): Promise<End> {
    return new Promise((resolve) => {
      this.#socket = socket;
      this.#authError = undefined;
      this.#works = false;
      this.#end = resolve;
      this.#after("open", OPEN_TIMEOUT_MS, () => this.#hangUp({ code: 0, reason: "no answer" }));
      socket.onopen = () => this.#opened(token);
      socket.onmessage = ({ data }) => this.#received(String(data));
      socket.onclose = ({ code, reason }) => this.#hangUp({ code, reason });
      this.#tellsRefusals = onRefusal(socket, (refusal) => {
        if (this.#socket === socket) this.#hangUp({ code: 0, ...refusal });
      });
      socket.onerror = () => {}; // a close follows, which tells as much
    });
  }

  #opened(token: string | undefined): void {
    this.#stop("open");
    this.#isOpen = true;
    this.#openedAt = Date.now();
    // Messages are handled in order: there is no need to wait for auth_success.
    if (token !== undefined) this.#authenticate(token);
    this.#listen();
    this.hearer.opened();
  }

  #received(text: string): void {
    this.#hasHeard = this.#works = true;
    try {
      const message = parseExactly(text) as ServerMessage;
      if (message.type === "auth_error") this.#authError = message.message;
      else this.hearer.received(message);
    } catch (error) {
      this.#hangUp({ code: 1011, reason: `not understood: ${String(error)}` });
    }
  }

  /** The end of the socket, whichever side it comes from; a dead peer would answer no close. */
  #hangUp(end: End): void {
    const socket = this.#socket;
    if (!socket) return;
    this.#socket = undefined;
    this.#isOpen = false;
    for (const name of [...this.#timers.keys()]) this.#stop(name);
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(1000);
    this.#end(end);
  }

  /** A handshake that failed may have been refused, which not every socket tells. */
  async #explained(end: End): Promise<End> {
    if (this.#tellsRefusals || end.code !== 1006 || this.#openedAt !== undefined) return end;
    return { ...end, ...(await askWhy(this.url, ASK_TIMEOUT_MS)) };
  }

  /** Whether to pause before coming back; throws where there is no coming back. */
  async #judge({ code, reason, status, isForeign }: End): Promise<boolean> {
    if (isForeign && status === 403 && this.#mayFallBack && !this.#usesEvents) return false;
    switch (comebackAfter(code, status)) {
      case "never":
        throw status === 403 ? new AuthenticationError(reason, status) : new ConnectionError(status ?? code, reason);
      case "token":
        if (await this.#hasOtherToken()) return false;
        if (status) throw new AuthenticationError(reason, status);
        throw this.#authError === undefined
          ? new ConnectionError(code, reason)
          : new AuthenticationError(this.#authError);
      case "pause":
        return true;
      case "now":
        return false;
    }
  }

  async #hasOtherToken(): Promise<boolean> {
    try {
      return await this.#tokens.hasOther();
    } catch {
      return true; // none for now: it will be asked for again at the next connect
    }
  }

  #authenticate(token: string): void {
    this.send({ type: "authenticate", method: "jwt", token });
    const wait = this.#tokens.untilRefresh();
    if (wait !== undefined) this.#after("token", wait, () => void this.#refreshToken());
  }

  async #refreshToken(): Promise<void> {
    const before = this.#tokens.current;
    const socket = this.#socket;
    const token = await this.#tokens.next().catch(() => before);
    this.#tokens.current = token;
    if (socket !== this.#socket || token === undefined) return;
    if (token !== before) this.#authenticate(token);
    else this.#after("token", this.#tokens.untilRefresh() ?? 0, () => void this.#refreshToken());
  }

  #listen(): void {
    if (this.#heartbeat === Infinity) return;
    this.#after("heartbeat", this.#heartbeat, () => {
      if (!this.#hasHeard) this.#probe();
      this.#hasHeard = false;
      this.#listen();
    });
  }

  #probe(): void {
    if (this.#timers.has("probe")) return;
    this.#hasHeard = false;
    this.send(PROBE);
    this.#after("probe", ANSWER_TIMEOUT_MS, () => {
      if (!this.#hasHeard) this.#hangUp({ code: 1006, reason: "the server is silent" });
    });
  }

  readonly #onWake = (): void => {
    if (platform.document?.visibilityState === "hidden") return;
    if (this.#isOpen) return this.#probe();
    this.#backoff.reset();
    this.#wake();
  };

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #after(name: string, ms: number, work: () => void): void {
    this.#stop(name);
    const run = () => {
      this.#timers.delete(name);
      work();
    };
    this.#timers.set(name, setTimeout(run, ms));
  }

  #stop(name: string): void {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

async function socketClass(): Promise<SocketClass> {
  if (platform.WebSocket) return platform.WebSocket as SocketClass;
  try {
    const name = "ws"; // not a literal: bundlers for browsers must not look for it
    return ((await import(/* @vite-ignore */ name)) as { WebSocket: SocketClass }).WebSocket;
  } catch {
    throw new KalamError("NO_WEBSOCKET", "there is no WebSocket here: npm install ws, or use Node 22 or later");
  }
}
