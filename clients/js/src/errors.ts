/**
 * What ends a query or a client for good. Everything else is answered by connecting again.
 */

/** The root of every error of this package; `code` is for programs, `message` for people. */
export class KalamError extends Error {
  override name = "KalamError";

  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** The server refused or ended one query; `code` is the protocol's, such as `INVALID_SQL`. */
export class QueryError extends KalamError {
  override name = "QueryError";
}

/**
 * The server lets this client not in: no token that it has holds, or its origin is not allowed. `status`
 * is that of a handshake that was answered so, 401 or 403.
 */
export class AuthenticationError extends KalamError {
  override name = "AuthenticationError";

  constructor(
    message: string,
    readonly status?: number,
  ) {
    super("AUTHENTICATION_FAILED", message);
  }
}

/** The server does not want this client again; `closeCode` is the WebSocket's, or the HTTP status in its place. */
export class ConnectionError extends KalamError {
  override name = "ConnectionError";

  constructor(
    readonly closeCode: number,
    reason: string,
  ) {
    super("CONNECTION_LOST", `the server closed the connection for good: ${closeCode} ${reason}`.trim());
  }
}
