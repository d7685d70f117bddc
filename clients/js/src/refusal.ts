/**
 * Why a handshake was refused. A WebSocket tells nothing of an answer that is no upgrade: the close code
 * is 1006, as of a cut cable.
 *
 * The `ws` of Node does tell, to who listens for `unexpected-response`. Elsewhere the same address is asked
 * with `fetch`: the daemon answers a page whose origin it refuses with 403, and a gate in front of it that
 * wants a log-in with 401 or 403, while 426 means that the handshake failed for another reason.
 */

import { platform } from "./platform.js";

export interface Refusal {
  status: number;
  reason: string;
  /** How many milliseconds the server wants to be left alone. */
  retryAfter?: number;
  /** Whether somebody on the way has answered, not the daemon: perhaps only WebSockets are not let through. */
  isForeign?: boolean;
}

/** As much of Node's request and response as is used here. */
interface Response {
  statusCode: number;
  statusMessage?: string;
  headers: Record<string, string | undefined>;
  on(event: string, listener: (data: string) => void): void;
  setEncoding(name: string): void;
}

type Listening = { on?: (event: string, listener: (request: unknown, response: Response) => void) => void };

/** Hear of an answer in place of the upgrade, where the socket tells of it; whether it does. */
export function onRefusal(socket: object, hear: (refusal: Refusal) => void): boolean {
  const { on } = socket as Listening;
  on?.call(socket, "unexpected-response", (_, response) => {
    const { statusCode: status, statusMessage = "", headers } = response;
    const retryAfter = Math.min(300, Number(headers["retry-after"]) || 0) * 1000;
    let body = "";
    response.setEncoding("utf8");
    response.on("data", (text) => (body += text));
    response.on("end", () => hear({ status, retryAfter, ...told(body, statusMessage) }));
    response.on("error", () => hear({ status, retryAfter, reason: statusMessage }));
  });
  return on !== undefined;
}

/** Ask why a handshake at `url` failed; undefined: no log-in and no other origin would help. */
export async function askWhy(url: string, timeout: number): Promise<Refusal | undefined> {
  const abort = new AbortController();
  // A timer of our own: a Node that has nothing but a request under way may end before its answer.
  const timer = setTimeout(() => abort.abort(), timeout);
  try {
    const { signal } = abort;
    const answer = await platform.fetch!(url.replace(/^ws/, "http"), { cache: "no-store", signal });
    const { status } = answer;
    if (status !== 401 && status !== 403) return undefined;
    return { status, ...told(await answer.text(), answer.statusText) };
  } catch {
    return undefined; // nobody there, or the answer is not for this page
  } finally {
    clearTimeout(timer);
  }
}

function told(body: string, otherwise: string): { reason: string; isForeign?: boolean } {
  try {
    return { reason: (JSON.parse(body) as { error: { message: string } }).error.message };
  } catch {
    return { reason: otherwise, isForeign: true };
  }
}
