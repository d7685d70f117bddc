/**
 * The server, asked over HTTP, and who is asking.
 *
 * Two tokens: the one that lets somebody administer (none is wanted under --dev and on the internal
 * address), and the one that the query box and the post form act with, which may be another user's. Both
 * are kept for this tab alone, and go with it.
 */

const ADMIN = "kalam-notify.token";
const ACTING = "kalam-notify.acting";

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const session = {
  /** What /v1/admin/console has told: version, mints_tokens, is_open, server. */
  settings: null,
  listeners: new Set(),

  get token() {
    return sessionStorage.getItem(ADMIN) ?? "";
  },
  set token(value) {
    keep(ADMIN, value);
  },
  /** What queries and posts are sent with. */
  get acting() {
    return sessionStorage.getItem(ACTING) ?? this.token;
  },
  set acting(value) {
    keep(ACTING, value);
    for (const listener of this.listeners) listener();
  },
  /** The address that clients are told: where the WebSocket and /v1/changes are. */
  get server() {
    return this.settings?.server ?? location.origin;
  },
  /** Call `listener` whenever somebody else acts. */
  onActing(listener) {
    this.listeners.add(listener);
  },
};

function keep(name, value) {
  if (value) sessionStorage.setItem(name, value);
  else sessionStorage.removeItem(name);
}

/** What a token says, unverified; null where it is none. */
export function claimsOf(token) {
  try {
    const [, body] = token.split(".");
    const raw = atob(body.replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(raw, (c) => c.charCodeAt(0))));
  } catch {
    return null;
  }
}

/** Who acts, in words. */
export function actor() {
  const claims = session.acting && claimsOf(session.acting);
  if (!session.acting) return { user: "anonymous", role: "anonymous" };
  return { user: claims?.sub ?? "?", role: claims?.role ?? "user" };
}

async function ask(method, path, { token, body, signal, kind = "application/json" } = {}) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = kind;
  const answer = await fetch(path, { method, headers, body, signal, cache: "no-store" });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  const { code = `HTTP ${answer.status}`, message = answer.statusText, index, field } = told?.error ?? {};
  const where = [index !== undefined && `change ${index}`, field].filter(Boolean).join(", ");
  throw new Refused(answer.status, code, where ? `${message} (${where})` : message);
}

/** GET for an administrator; the parameters that are empty are left out. */
export async function get(path, query = {}, signal) {
  const wanted = Object.entries(query).filter(([, value]) => value !== undefined && value !== "" && value !== null);
  const text = new URLSearchParams(wanted).toString();
  return (await ask("GET", text ? `${path}?${text}` : path, { token: session.token, signal })).json();
}

export async function text(path, signal) {
  return (await ask("GET", path, { token: session.token, signal })).text();
}

export async function closeConnection(id, reason) {
  const query = reason ? `?${new URLSearchParams({ reason })}` : "";
  return (await ask("DELETE", `/v1/connections/${encodeURIComponent(id)}${query}`, { token: session.token })).json();
}

/** Post changes as whoever acts; the accepted answer. */
export async function post(body) {
  const kind = body.trimStart().startsWith("{") && body.trim().includes("\n{") ? "application/x-ndjson" : "application/json";
  return (await ask("POST", "/v1/changes", { token: session.acting, body, kind })).json();
}

/** How a query would be served to whoever acts. */
export async function explain(sql, params) {
  const query = new URLSearchParams({ sql });
  if (params?.length) query.set("params", JSON.stringify(params));
  return (await ask("GET", `/v1/explain?${query}`, { token: session.acting || session.token })).json();
}

/** Let somebody else act; under --dev only. */
export async function mint(user, role, claims = {}) {
  const body = JSON.stringify({ user, role, claims });
  const { token } = await (await ask("POST", "/v1/admin/token", { token: session.token, body })).json();
  session.acting = token;
}

/** Learn where we are; raises Refused where a token is wanted. */
export async function learn() {
  session.settings = await get("/v1/admin/console");
  if (!session.settings.mints_tokens) return;
  // Anew at each load: a server that was started again has another key.
  const { sub = "dev", role = "service", iat, exp, iss, aud, ...claims } = claimsOf(session.acting) ?? {};
  await mint(sub, role, claims);
}

let tables = null;

/** All tables, asked once until `forgetTables`. */
export function allTables() {
  tables ??= pages("/v1/tables", "tables").catch((fault) => {
    tables = null;
    throw fault;
  });
  return tables;
}

export function forgetTables() {
  tables = null;
}

async function pages(path, name) {
  const rows = [];
  let cursor;
  do {
    const page = await get(path, { limit: 1000, cursor });
    rows.push(...page[name]);
    cursor = page.next_cursor;
  } while (cursor);
  return rows;
}
