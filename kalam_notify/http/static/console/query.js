/** The page of a live query: SQL, parameters, rows as they change, messages, and what to do with it. */

import { connect } from "./client.js";
import { actor, allTables, explain, forgetTables, post, session } from "./api.js";
import { append, complaint, copy, field, fill, h, say } from "./dom.js";
import { Editor, tableOf } from "./editor.js";
import { count } from "./format.js";
import { Grid } from "./grid.js";
import { snippets } from "./snippets.js";
import { Stream, tapped } from "./stream.js";
import { tabs } from "./tabs.js";

const KEPT = "kalam-notify.query";
const FIRST = "SELECT * FROM app.orders WHERE status = $1";

/** JSON where it is JSON, else text: as `--param` of the command line. */
function valueOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

export class QueryPage {
  title = "Query";
  #client = null;
  #params = new Map();
  #fields = new Map();

  constructor() {
    const kept = recall();
    for (const [number, text] of Object.entries(kept.params)) this.#params.set(Number(number), text);
    this.stream = new Stream();
    this.grid = new Grid({ onUse: (row) => this.post.use(row) });
    this.complaint = complaint();
    this.values = h("div.params", { role: "group", "aria-label": "Parameters" });
    this.editor = new Editor({ value: kept.sql, onRun: () => this.run(), onChange: () => this.#edited() });
    this.runButton = h("button.primary", { type: "button", onclick: () => this.run() }, "Run");
    this.stopButton = h("button", { type: "button", onclick: () => this.stop(), disabled: true }, "Stop");
    this.begin = h("select", { id: "begin" }, [
      h("option", { value: "snapshot" }, "all rows, then live"),
      h("option", { value: "last" }, "newest 100, then live"),
      h("option", { value: "live" }, "live changes only"),
    ]);
    this.order = h("select", { id: "order", onchange: () => this.grid.orderBy(this.order.value) }, [
      h("option", { value: "key" }, "by key"),
      h("option", { value: "newest" }, "newest first"),
    ]);
    this.dot = h("span.dot", { "aria-hidden": "true" });
    this.status = h("span", { role: "status", id: "query-status" }, "not running");
    this.total = h("span.total", { id: "row-count" });
    this.post = new PostForm(() => this.sql);
    this.snippets = h("div.snippets");
    this.plan = h("div.plan");
    const panels = tabs("What to do with the query", [
      { name: "Post changes", node: this.post.node },
      { name: "Code", node: this.snippets, onShow: () => this.#showSnippets() },
      { name: "Explain", node: this.plan, onShow: () => void this.#showPlan() },
    ]);
    this.panels = panels;
    this.node = h(
      "div.query",
      {},
      h(
        "section.ask",
        { "aria-labelledby": "ask-title" },
        h("h3.vh", { id: "ask-title" }, "Query"),
        h("label.vh", { for: "sql" }, "SQL"),
        this.editor.node,
        this.values,
        h(
          "div.bar",
          {},
          this.runButton,
          this.stopButton,
          h("label.vh", { for: "begin" }, "Begin with"),
          this.begin,
          h("small.hint", { id: "sql-hint" }, h("kbd", {}, "Ctrl Enter"), " runs it, ", h("kbd", {}, "Ctrl Space"), " completes"),
        ),
        this.complaint.node,
      ),
      h(
        "section.result",
        { "aria-labelledby": "rows-title" },
        h(
          "header",
          {},
          h("h3", { id: "rows-title" }, "Rows "),
          this.total,
          h("span.state", {}, this.dot, this.status),
          h("span.grow"),
          this.grid.held,
          h("label.vh", { for: "order" }, "Order"),
          this.order,
          this.grid.pauseButton,
        ),
        this.grid.scroll,
      ),
      this.stream.node,
      h("section.tools", { "aria-label": "Tools" }, panels.node),
    );
    session.onActing(() => {
      if (this.#client) this.run();
      this.#showSnippets();
    });
    this.#edited();
  }

  get sql() {
    return this.editor.value.trim();
  }

  /** Another page asks for this query. */
  open(sql) {
    this.editor.value = sql;
    this.run();
  }

  show() {
    this.#showSnippets();
    void this.post.learn();
  }

  run() {
    this.stop();
    this.complaint.show("");
    if (!this.sql) return this.complaint.show("There is no query to run.");
    this.stream.clear();
    this.grid.reset("Waiting for the server …");
    const begins = this.begin.value;
    const query = new Query(this, {
      sql: this.sql,
      params: this.params(),
      options: begins === "live" ? { liveOnly: true } : begins === "last" ? { lastRows: 100 } : {},
    });
    this.#client = query.client;
    this.stopButton.disabled = false;
    this.runButton.textContent = "Run again";
    this.#keep();
  }

  stop() {
    this.#client?.close();
    this.#client = null;
    this.stopButton.disabled = true;
    this.tell("not running", "");
  }

  /** The state of the query in words; `look` colours the dot. */
  tell(text, look) {
    this.dot.className = `dot ${look}`;
    if (this.status.textContent !== text) fill(this.status, text);
  }

  failed(error) {
    this.complaint.show(`${error.code ? `${error.code}: ` : ""}${error.message}`);
    this.grid.reset("The query was not answered.");
    this.stop();
    this.tell("refused", "bad");
  }

  params() {
    return [...this.#fields.keys()].sort((one, other) => one - other).map((number) => valueOf(this.#params.get(number) ?? ""));
  }

  #edited() {
    const text = this.sql.replace(/'(?:[^']|'')*'|"(?:[^"]|"")*"/g, "");
    const most = Math.min(Math.max(0, ...[...text.matchAll(/\$(\d+)/g)].map(([, number]) => Number(number))), 50);
    for (let number = 1; number <= most; number += 1) if (!this.#fields.has(number)) this.#addField(number);
    for (const [number, node] of this.#fields) {
      if (number > most) {
        node.remove();
        this.#fields.delete(number);
      }
    }
    this.values.hidden = !most;
    this.#showSnippets();
    this.post?.follow();
  }

  #addField(number) {
    const input = h("input", {
      id: `param-${number}`,
      value: this.#params.get(number) ?? (number === 1 && this.sql === FIRST ? "open" : ""),
      placeholder: "JSON, or text",
      autocomplete: "off",
      spellcheck: "false",
    });
    this.#params.set(number, input.value);
    input.addEventListener("input", () => {
      this.#params.set(number, input.value);
      this.#showSnippets();
    });
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.run();
    });
    const node = h("div.param", {}, h("label", { for: input.id }, `$${number}`), input);
    this.#fields.set(number, node);
    this.values.append(node);
  }

  #keep() {
    sessionStorage.setItem(KEPT, JSON.stringify({ sql: this.sql, params: Object.fromEntries(this.#params) }));
  }

  #showSnippets() {
    if (!this.snippets) return;
    const code = snippets({ server: session.server, token: session.acting, sql: this.sql, params: this.params(), change: this.post?.body ?? "{}" });
    const { user, role } = actor();
    fill(
      this.snippets,
      h("p.hint", {}, session.acting ? `With the token of ${user}, role ${role}. Whoever has it may do the same: treat it as a secret.` : "Without a token: as an anonymous client."),
      code.map(({ name, text }) =>
        h("figure.snippet", {}, h("figcaption", {}, name, h("button.quiet", { type: "button", "aria-label": `Copy ${name}`, onclick: (event) => void copy(text, event.currentTarget) }, "Copy")), h("pre", { tabindex: 0, "data-language": name }, text)),
      ),
    );
  }

  async #showPlan() {
    fill(this.plan, h("p.hint", {}, "Asking …"));
    try {
      const told = await explain(this.sql, this.params());
      fill(this.plan, explanation(told));
    } catch (fault) {
      fill(this.plan, h("p.complaint", { role: "alert" }, `${fault.code ?? ""} ${fault.message}`));
    }
  }
}

/** What /v1/explain tells, for people. */
export function explanation(told) {
  const rows = [
    ["Live changes", told.index === "scan" ? "every change is asked (no index)" : told.index],
    ["Asked besides", told.residual ?? "nothing"],
    ["Snapshot", told.snapshot],
    ["Subscribers of this plan", `${count(told.subscribers_of_this_plan)}, ${count(told.live_subscribers_of_this_plan)} live`],
    ["Plans of the table", count(told.plans)],
    told.demoted && ["Demoted", "it costs more than its share, and is fed behind the others"],
  ];
  return h("dl.facts", {}, rows.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}

/** One running query. */
class Query {
  constructor(page, { sql, params, options }) {
    this.page = page;
    this.hasBegun = false;
    const tap = tapped({ add: (direction, text) => this.#heard(direction, text) });
    this.client = connect(session.server, {
      token: session.acting || undefined,
      WebSocket: tap,
      onTrouble: (why, delay) => page.tell(`connection lost (${why}); again in ${Math.ceil(delay / 1000)} s`, "wait"),
    });
    this.live = this.client.live(sql, params, options);
    page.tell("connecting …", "wait");
    this.live.subscribe((rows, { status, error }) => this.#changed(rows, status, error));
    // Whoever is refused before the first rows is told by `ready` as well.
    this.live.ready.catch((error) => this.#ended(error));
  }

  #heard(direction, text) {
    this.page.stream.add(direction, text);
    if (direction !== "in" || !text.includes('"subscription_ack"')) return;
    const message = JSON.parse(text);
    if (message.type === "subscription_ack") this.page.grid.describe(message.schema ?? []);
  }

  #changed(rows, status, error) {
    if (status === "error") return this.#ended(error);
    const { page } = this;
    if (status === "closed") return undefined;
    page.grid.show(rows);
    fill(page.total, count(rows.length));
    if (status === "live") {
      if (!this.hasBegun) {
        this.hasBegun = true;
        page.grid.ready();
        say(`live, ${rows.length} rows`);
      }
      page.tell("live", "good");
    } else if (status === "loading") {
      page.tell("loading …", "wait");
    }
    return undefined;
  }

  #ended(error) {
    if (this.page.stopButton.disabled || error?.code === "CLOSED") return;
    this.page.failed(error);
  }
}

/** Posts changes: for one table, a row of JSON. */
class PostForm {
  #isTouched = false;
  #tables = [];

  constructor(sql) {
    this.sql = sql;
    this.table = h("input", { list: "table-names", autocomplete: "off", spellcheck: "false", required: true });
    this.names = h("datalist", { id: "table-names" });
    this.kind = h("select", {}, ["insert", "update", "delete"].map((kind) => h("option", { value: kind }, kind)));
    this.user = h("input", { autocomplete: "off", spellcheck: "false", placeholder: "of USER tables" });
    this.row = h("textarea.json", { rows: 5, spellcheck: "false", autocapitalize: "off" });
    this.row.addEventListener("input", () => (this.#isTouched = true));
    this.table.addEventListener("change", () => this.#suggest());
    this.answer = h("p.answer", { role: "status" });
    this.complaint = complaint();
    this.node = h(
      "form.post",
      { onsubmit: (event) => void this.#submit(event), "aria-label": "Post a change" },
      h("div.row", {}, field("Table", this.table), field("Change", this.kind), field("User id", this.user)),
      this.names,
      field("Row", this.row, "JSON: the whole row; for a delete its key is enough. A list of rows posts them all at once."),
      h("div.bar", {}, h("button.primary", {}, "Post"), this.answer),
      this.complaint.node,
    );
  }

  async learn() {
    try {
      this.#tables = await allTables();
    } catch {
      return; // whoever may not list tables may post to them all the same
    }
    fill(this.names, this.#tables.map(({ table }) => h("option", { value: table })));
    this.follow();
    this.#suggest();
  }

  /** The query has changed: its table is the one to post to. */
  follow() {
    const table = tableOf(this.sql(), this.#tables);
    if (table && table !== this.table.value && !this.#isTouched) {
      this.table.value = table;
      this.#suggest();
    }
  }

  /** A row of the grid, to be changed and posted. */
  use(row) {
    const { _seq, ...values } = row;
    this.table.value = tableOf(this.sql(), this.#tables) ?? this.table.value;
    this.kind.value = "update";
    this.row.value = JSON.stringify(values, null, 1);
    this.#isTouched = true;
    this.row.focus();
    say("The row is in the post form");
  }

  /** What would be posted, for the snippets. */
  get body() {
    try {
      return JSON.stringify(this.#changes());
    } catch {
      return JSON.stringify({ table: this.table.value || "app.orders", change_type: "insert", row_data: { id: 1 } });
    }
  }

  #suggest() {
    if (this.#isTouched) return;
    const known = this.#tables.find(({ table }) => table === this.table.value);
    this.user.value = known?.type === "user" ? actor().user : "";
    const names = known?.columns ?? (known?.seen_columns.length ? known.seen_columns.map((name) => ({ name })) : [{ name: "id" }, { name: "status" }]);
    const row = Object.fromEntries(names.map(({ name, type }) => [name, sample(name, type)]));
    this.row.value = JSON.stringify(row, null, 1);
  }

  #changes() {
    const given = JSON.parse(this.row.value);
    const rows = Array.isArray(given) ? given : [given];
    const under = this.kind.value === "delete" ? "old_data" : "row_data";
    const user = this.user.value ? { user_id: this.user.value } : {};
    const changes = rows.map((row) => ({ table: this.table.value.trim(), change_type: this.kind.value, [under]: row, ...user }));
    return Array.isArray(given) ? changes : changes[0];
  }

  async #submit(event) {
    event.preventDefault();
    this.complaint.show("");
    fill(this.answer);
    let changes;
    try {
      changes = this.#changes();
    } catch (fault) {
      return this.complaint.show(`The row is not JSON: ${fault.message}`);
    }
    try {
      const { accepted, duplicates, last_seq } = await post(JSON.stringify(changes));
      fill(this.answer, `accepted ${accepted}${duplicates ? `, duplicates ${duplicates}` : ""}`);
      if (last_seq !== null) append(this.answer, [", seq ", h("a", { href: `#/why?seq=${last_seq}` }, String(last_seq))]);
      forgetTables();
    } catch (fault) {
      this.complaint.show(`${fault.code}: ${fault.message}`);
    }
    return undefined;
  }
}

/** A value to begin with, for a column of a declared type. */
function sample(name, type = "") {
  if (/^(SmallInt|Int|BigInt)/.test(type)) return 1;
  if (/^(Float|Double)/.test(type)) return 1.5;
  if (type === "Boolean") return true;
  if (type.startsWith("Decimal")) return "1.00";
  if (/^(Timestamp|DateTime)/.test(type)) return new Date().toISOString();
  if (type === "Date") return new Date().toISOString().slice(0, 10);
  if (type === "Uuid") return "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
  if (type === "Json") return {};
  if (name === "id" && !type) return 1;
  return name === "status" ? "open" : "";
}

function recall() {
  try {
    const { sql, params } = JSON.parse(sessionStorage.getItem(KEPT));
    return { sql: String(sql), params };
  } catch {
    return { sql: FIRST, params: {} };
  }
}
