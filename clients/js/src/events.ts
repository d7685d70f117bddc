/**
 * A stand-in for a WebSocket where none gets through: every subscription is a stream of Server-Sent
 * Events, read by fetch, which unlike EventSource can send a token. What the rest of the client says is
 * carried out here: a subscribe opens a stream, an unsubscribe ends it, pages come by themselves.
 */

import type { Socket } from "./connection.js";
import { parseExactly, stringify } from "./json.js";
import type { ClientMessage, Subscription } from "./protocol.js";

const SILENT_MS = 60_000;
const CLOSE_OF: Record<number, number> = { 401: 1008, 429: 1013, 500: 1011, 502: 1013, 503: 1013, 504: 1013 };

export class EventSocket implements Socket {
  onopen: Socket["onopen"] = null;
  onmessage: Socket["onmessage"] = null;
  onclose: Socket["onclose"] = null;
  onerror: Socket["onerror"] = null;
  #token: string | undefined;
  #heardAt = Date.now();
  readonly #streams = new Map<string, AbortController>();
  readonly #url: string;

  /** `url` is that of the WebSocket: the streams are beside it. */
  constructor(url: string) {
    this.#url = url.replace(/^ws/, "http").replace(/ws$/, "stream");
    queueMicrotask(() => this.onopen?.(undefined as never));
  }

  send(text: string): void {
    const message = parseExactly(text) as ClientMessage;
    if (message.type === "authenticate") this.#token = message.token;
    else if (message.type === "subscribe") void this.#stream(message.subscription);
    else if (message.type === "unsubscribe") this.#stop(message.subscription_id);
    else if (Date.now() - this.#heardAt < SILENT_MS) this.#say(message.subscription_id, "BATCH_FETCH_FAILED", "");
  }

  close(): void {
    for (const id of [...this.#streams.keys()]) this.#stop(id);
  }

  #stop(id: string): void {
    this.#streams.get(id)?.abort();
    this.#streams.delete(id);
  }

  async #stream({ id, sql, params = [], options }: Subscription): Promise<void> {
    this.#stop(id);
    const control = new AbortController();
    const { signal } = control;
    this.#streams.set(id, control);
    const asked = { ...(options as Record<string, string>), sql, id, params: stringify(params) };
    const headers: HeadersInit = this.#token === undefined ? {} : { authorization: `Bearer ${this.#token}` };
    let end = { code: 1006, reason: "the stream broke off" };
    try {
      const url = `${this.#url}?${new URLSearchParams(asked).toString()}`;
      const response = await fetch(url, { headers, signal, cache: "no-store" });
      if (response.ok && response.body) end = (await this.#read(response.body, signal)) ?? end;
      else if (await this.#isRefusal(id, response)) this.#stop(id);
      else end = { code: CLOSE_OF[response.status] ?? 1006, reason: `HTTP ${response.status}` };
    } catch {
      // As good as a stream that broke off.
    }
    // A subscription that has ended by itself has said so; the others go on.
    if (signal.aborted || end.code === 1000) return;
    if (end.code === 1008) this.onmessage?.({ data: JSON.stringify({ type: "auth_error", message: end.reason }) });
    this.onclose?.(end);
  }

  /** Hear the events of a stream; returns how it says that it ends. */
  async #read(body: ReadableStream<Uint8Array>, signal: AbortSignal): Promise<{ code: number; reason: string } | undefined> {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done || signal.aborted) return undefined;
      this.#heardAt = Date.now();
      const events = (text + decoder.decode(value, { stream: true })).split("\n\n");
      text = events.pop()!;
      for (const event of events) {
        // Not by a pattern, to which more than a line feed ends a line.
        const data = event.split("\n").find((line) => line.startsWith("data: "))?.slice(6);
        if (data === undefined) continue;
        if (event.startsWith("event: close")) return JSON.parse(data) as { code: number; reason: string };
        this.onmessage?.({ data });
      }
    }
  }

  /** Whether the server refused the subscription, and not the client; it is told then. */
  async #isRefusal(id: string, response: Response): Promise<boolean> {
    if (response.status >= 500 || response.status === 401) return false;
    const { error } = (await response.json()) as { error?: { code?: string; message?: string } };
    if (!error?.code || error.code === "RATE_LIMITED") return false;
    this.#say(id, error.code, error.message ?? "");
    return true;
  }

  #say(subscription_id: string, code: string, message: string): void {
    this.onmessage?.({ data: JSON.stringify({ type: "error", subscription_id, code, message }) });
  }
}
