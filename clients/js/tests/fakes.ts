/** A scripted server in the place of WebSocket, and a client that is connected to it. */

import { Readable } from "node:stream";
import { vi } from "vitest";
import { connect, type Client, type ConnectOptions } from "../src/index.js";
import type { Socket, SocketClass } from "../src/connection.js";

export type Message = Record<string, any>; // eslint-disable-line @typescript-eslint/no-explicit-any

/** The server's end of one connection. */
export class FakeSocket implements Socket {
  onopen: ((event: never) => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: ((event: never) => void) | null = null;
  /** What the client has sent and nobody has looked at. */
  sent: Message[] = [];
  closedWith: number | undefined;
  private onRefusal: (request: unknown, response: unknown) => void = () => {};

  constructor(readonly url: string) {}

  send(text: string): void {
    this.sent.push(JSON.parse(text) as Message);
  }

  close(code?: number): void {
    this.closedWith = code;
  }

  open(): void {
    this.onopen?.(undefined as never);
  }

  /** As `ws` has it: hears of an answer in place of the upgrade. A browser's WebSocket has no such thing. */
  on: ((event: string, listener: (request: unknown, response: unknown) => void) => void) | undefined = (event, listener) => {
    if (event === "unexpected-response") this.onRefusal = listener;
  };

  /** Answer the handshake with a status. */
  refuse(statusCode: number, message: string, headers: Record<string, string> = {}): void {
    const body = Readable.from([JSON.stringify({ error: { message } })]);
    this.onRefusal(undefined, Object.assign(body, { statusCode, headers }));
  }

  say(message: Message): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  text(data: string): void {
    this.onmessage?.({ data });
  }

  end(code: number, reason = ""): void {
    this.onclose?.({ code, reason });
  }

  /** The next message of the client; fails when it has sent none. */
  next(type: string): Message {
    const message = this.sent.shift();
    if (message?.type !== type) throw new Error(`expected ${type}, got ${JSON.stringify(message)}`);
    return message;
  }

  ack(id: string, last_seq_id: number, more: Message = {}, key = ["id"]): void {
    this.say({
      type: "subscription_ack",
      subscription_id: id,
      total_rows: 0,
      batch_control: control(last_seq_id),
      schema: key.map((name, index) => ({ name, data_type: "Json", index, flags: ["pk"] })),
      ...more,
    });
  }

  page(id: string, rows: Message[], last_seq_id: number, has_more = false): void {
    this.say({ type: "initial_data_batch", subscription_id: id, rows, batch_control: control(last_seq_id, has_more) });
  }

  change(id: string, change_type: string, fields: Message): void {
    this.say({ type: "change", subscription_id: id, change_type, ...fields });
  }
}

function control(last_seq_id: number, has_more = false): Message {
  return { batch_num: 0, has_more, status: has_more ? "loading" : "ready", last_seq_id };
}

export function row(id: unknown, seq: number, more: Message = {}): Message {
  return { id, ...more, _seq: String(seq) };
}

/** A network whose connections the test opens, speaks on and ends. */
export class FakeNetwork {
  readonly sockets: FakeSocket[] = [];
  readonly WebSocket: SocketClass;

  /** `isBrowser`: its sockets tell nothing of a handshake that was refused. */
  constructor(isBrowser = false) {
    const { sockets } = this;
    // Whoever asks why a handshake failed gets no answer, and no real network.
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("failed to fetch")));
    this.WebSocket = class extends FakeSocket {
      constructor(url: string) {
        super(url);
        if (isBrowser) this.on = undefined;
        sockets.push(this);
      }
    };
  }

  client(options: ConnectOptions = {}): Client {
    return connect("http://server:2900", { WebSocket: this.WebSocket, ...options });
  }

  /** The newest connection, opened; waits until the client has begun it. */
  async accept(): Promise<FakeSocket> {
    await settle();
    const socket = this.sockets.at(-1);
    if (!socket) throw new Error("nobody connects");
    socket.open();
    return socket;
  }

  /** The connection after this many of them: waits for the client's back-off. */
  async acceptNext(count = this.sockets.length): Promise<FakeSocket> {
    await this.attempt(count);
    return this.accept();
  }

  /** The same, not opened. */
  async attempt(count: number): Promise<FakeSocket> {
    for (let waited = 0; this.sockets.length === count; waited += 100) {
      if (waited > 60_000) throw new Error("the client does not come back");
      await vi.advanceTimersByTimeAsync(100);
    }
    await settle();
    return this.sockets.at(-1)!;
  }
}

/** Promises, and the frame after what has been said. */
export async function settle(): Promise<void> {
  await vi.advanceTimersByTimeAsync(1);
}

/** A token that expires in so many seconds. */
export function tokenFor(seconds: number, user = "alice"): string {
  const part = (value: Message) => btoa(JSON.stringify(value)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `${part({ alg: "none" })}.${part({ sub: user, exp: Date.now() / 1000 + seconds })}.signature`;
}
