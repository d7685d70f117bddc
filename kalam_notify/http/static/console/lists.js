/** Tables, connections and subscriptions: what there is, over all workers. */

import { allTables, closeConnection, explain, forgetTables } from "./api.js";
import { complaint, field, fill, h, say } from "./dom.js";
import { bytes, count, seconds } from "./format.js";
import { Pager } from "./pager.js";
import { explanation } from "./query.js";

const who = (user) => user ?? h("i", {}, "anonymous");

function lagBox(id) {
  return h("select", { id }, [h("option", { value: "" }, "any"), h("option", { value: "true" }, "lagging"), h("option", { value: "false" }, "live")]);
}

export class TablesPage {
  title = "Tables";

  constructor(go) {
    this.go = go;
    this.complaint = complaint();
    this.body = h("tbody");
    this.node = h(
      "div.list",
      {},
      this.complaint.node,
      h(
        "div.scroll",
        { role: "region", "aria-label": "Tables", tabindex: 0 },
        h(
          "table",
          { "aria-label": "Tables" },
          h("thead", {}, h("tr", {}, ["Table", "Type", "Access", "Columns", "Policy", "Subscriptions", "Changes", ""].map((name) => h("th", { scope: "col", class: /^(Subs|Chan)/.test(name) ? "number" : "" }, name || h("span.vh", {}, "Actions"))))),
          this.body,
        ),
      ),
    );
  }

  async show() {
    forgetTables();
    try {
      const tables = await allTables();
      this.complaint.show("");
      fill(this.body, tables.map((table) => this.#line(table)));
    } catch (fault) {
      this.complaint.show(`${fault.code}: ${fault.message}`);
    }
  }

  #line(table) {
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, table.table, !table.declared && h("span.tag", {}, "auto-created")),
      h("td", {}, table.type === "user" ? "USER" : "SHARED"),
      h("td", {}, table.access ?? "own rows"),
      h("td.columns", {}, this.#columns(table)),
      h("td", {}, table.policy ? h("code", {}, table.policy) : "–"),
      h("td.number", {}, count(table.subscriptions)),
      h("td.number", {}, count(table.changes)),
      h("td", {}, h("button.quiet", { type: "button", "aria-label": `Query ${table.table}`, onclick: () => this.go(`#/query?sql=${encodeURIComponent(`SELECT * FROM ${table.table}`)}`) }, "Query")),
    );
  }

  #columns({ columns, seen_columns, primary_key, indexes }) {
    const named = columns ?? [...new Set([...primary_key, ...seen_columns])].map((name) => ({ name }));
    const isIndexed = (name) => indexes.some((index) => index.length === 1 && index[0] === name);
    return [
      named.map(({ name, type }) => h("span.column", { class: primary_key.includes(name) ? "pk" : "", title: isIndexed(name) ? "indexed" : "" }, name, type && h("small", {}, ` ${type}`))),
      !columns && h("span.column.any", {}, "any"),
    ];
  }
}

export class ConnectionsPage {
  title = "Connections";

  constructor() {
    this.user = h("input", { autocomplete: "off", spellcheck: "false", id: "connections-user" });
    this.lagging = lagBox("connections-lagging");
    this.pager = new Pager({
      path: "/v1/connections",
      name: "connections",
      label: "Connections",
      empty: "There is no such connection now.",
      filters: [field("User", this.user), field("State", this.lagging)],
      query: () => ({ user: this.user.value, lagging: this.lagging.value }),
      columns: [
        { name: "User", isHead: true, cell: ({ user }) => who(user) },
        { name: "Role", cell: ({ role }) => role },
        { name: "Address", cell: ({ address }) => h("code", {}, address) },
        { name: "Age", class: "number", cell: ({ age }) => seconds(age) },
        { name: "Waiting", class: "number", cell: ({ bytes_waiting }) => bytes(bytes_waiting) },
        {
          name: "Subscriptions",
          class: "number",
          cell: ({ id, subscriptions, lagging }) => [
            lagging > 0 && h("span.tag.warn", {}, `${count(lagging)} lagging`),
            h("a", { href: `#/subscriptions?connection=${encodeURIComponent(id)}`, "aria-label": `${subscriptions} subscriptions of connection ${id}` }, count(subscriptions)),
          ],
        },
        { name: "Connection", cell: ({ id }) => h("code", {}, id) },
        { name: "Actions", class: "actions", cell: (row, pager) => closer(row.id, row.user, pager) },
      ],
    });
    this.node = this.pager.node;
  }

  show(query) {
    if (query.has("user")) this.user.value = query.get("user");
    void this.pager.load();
  }
}

export class SubscriptionsPage {
  title = "Subscriptions";

  constructor() {
    this.user = h("input", { autocomplete: "off", spellcheck: "false", id: "subscriptions-user" });
    this.table = h("input", { autocomplete: "off", spellcheck: "false", id: "subscriptions-table", list: "table-names" });
    this.connection = h("input", { autocomplete: "off", spellcheck: "false", id: "subscriptions-connection" });
    this.lagging = lagBox("subscriptions-lagging");
    this.pager = new Pager({
      path: "/v1/subscriptions",
      name: "subscriptions",
      label: "Subscriptions",
      empty: "There is no such subscription now.",
      filters: [field("User", this.user), field("Table", this.table), field("Connection", this.connection), field("State", this.lagging)],
      query: () => ({ user: this.user.value, table: this.table.value, connection: this.connection.value, lagging: this.lagging.value }),
      columns: [
        { name: "User", isHead: true, cell: ({ user, address }) => [who(user), h("small.address", {}, address)] },
        { name: "Query", class: "sql", cell: (row) => query(row) },
        { name: "Found by", class: "found", cell: ({ index, residual, plan }) => found(index, residual, plan) },
        { name: "State", cell: ({ state }) => h("span.tag", { class: state === "live" ? "good" : "warn" }, state.replace("_", " ")) },
        { name: "Behind", class: "number", cell: ({ seconds_behind, bytes_behind }) => [seconds(seconds_behind), bytes_behind > 0 && h("small", {}, bytes(bytes_behind))] },
        { name: "Waiting", class: "number", cell: ({ bytes_waiting }) => bytes(bytes_waiting) },
        { name: "Age", class: "number", cell: ({ age }) => seconds(age) },
        { name: "Actions", class: "actions", cell: (row, pager) => closer(row.connection, row.user, pager) },
      ],
    });
    this.node = this.pager.node;
  }

  show(query) {
    for (const name of ["user", "table", "connection"]) if (query.has(name)) this[name].value = query.get(name);
    void this.pager.load();
  }
}

function query(row) {
  const place = h("div.explained");
  const details = h(
    "details",
    {},
    h("summary", {}, h("code", {}, row.sql)),
    h(
      "dl.facts",
      {},
      [
        ["Id", row.id],
        ["Connection", row.connection],
        ["Filter, policy included", row.plan.filter],
        ["Columns", row.plan.columns?.join(", ") ?? "all"],
        ["Shared by", `${count(row.plan.subscribers)} subscriptions, ${count(row.plan.live_subscribers)} live`],
        ["Position", row.position ?? "before the first page"],
      ].map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]),
    ),
    // What stands for its parameters is its client's own.
    !/\$\d/.test(row.sql) && h("button.quiet", { type: "button", onclick: () => void explained(row.sql, place) }, "Explain"),
    place,
  );
  return details;
}

async function explained(sql, place) {
  try {
    fill(place, explanation(await explain(sql)));
  } catch (fault) {
    fill(place, h("p.complaint", { role: "alert" }, `${fault.code}: ${fault.message}`));
  }
}

function found(index, residual, plan) {
  return [
    h("code", {}, index),
    residual && h("small", {}, `then ${residual}`),
    plan.demoted && h("span.tag.warn", {}, "demoted"),
  ];
}

/** The button that closes a connection, once it has been asked whether and why. */
function closer(id, user, pager) {
  return h(
    "button.quiet.danger",
    { type: "button", "aria-label": `Close connection ${id}${user ? ` of ${user}` : ""}`, onclick: () => confirmClose(id, user, pager) },
    "Close",
  );
}

function confirmClose(id, user, pager) {
  const reason = h("input", { maxlength: 120, placeholder: "closed by an administrator", autocomplete: "off" });
  const wrong = complaint();
  const dialog = h(
    "dialog",
    { "aria-labelledby": "close-title" },
    h(
      "form",
      {
        onsubmit: async (event) => {
          event.preventDefault();
          try {
            await closeConnection(id, reason.value);
            dialog.close();
            say(`closed ${id}`);
            await pager.reload();
          } catch (fault) {
            wrong.show(fault.message);
          }
        },
      },
      h("h2", { id: "close-title" }, `Close a connection of ${user ?? "an anonymous client"}?`),
      h("p", {}, "Its client is told 1008 and the reason, and may come back with its token. To keep it out, revoke the token."),
      field("Reason", reason),
      wrong.node,
      h("div.bar.end", {}, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), h("button.primary.danger", {}, "Close connection")),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  reason.focus();
}
