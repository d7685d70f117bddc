/**
 * Live queries that stay exact.
 *
 *     const db = connect("http://127.0.0.1:2900", { token: () => fetchToken() });
 *     const open = db.live("SELECT * FROM app.orders WHERE status = $1", ["open"]);
 *     open.subscribe((rows) => render(rows));
 *
 * From the socket to the page: connection.ts keeps one socket up; client.ts deals its messages out to
 * the queries; following.ts knows where a query stands; view.ts keeps its rows, order.ts their order;
 * live.ts is what a reader holds, and frames.ts says when it hears.
 */

export type { BackoffOptions } from "./backoff.js";
export type { Change, Changes } from "./changes.js";
export { connect, type Client, type LiveOptions } from "./client.js";
export type { ConnectOptions, SocketClass } from "./connection.js";
export { AuthenticationError, ConnectionError, KalamError, QueryError } from "./errors.js";
export type { Listener, Live, LiveState } from "./live.js";
export type { Compare } from "./order.js";
export type { Status } from "./query.js";
export type { Token } from "./token.js";
