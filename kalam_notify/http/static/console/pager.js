/** A list that comes page by page, with filters above it. */

import { get } from "./api.js";
import { complaint, fill, h } from "./dom.js";
import { count } from "./format.js";

const LIMIT = 100;

export class Pager {
  #before = [];
  #cursor;
  #next = null;
  #asked = 0;

  /** `columns`: [{ name, cell(row), class? }]; `query()` gives the filters' values. */
  constructor({ path, name, label, columns, filters, query, empty, detail }) {
    Object.assign(this, { path, name, columns, query, emptyText: empty, detail });
    this.body = h("tbody");
    this.complaint = complaint();
    this.total = h("span.total", { role: "status" });
    this.back = h("button", { type: "button", onclick: () => this.#turnBack() }, "Previous");
    this.on = h("button", { type: "button", onclick: () => this.#turn() }, "Next");
    this.empty = h("p.empty", { hidden: true });
    const form = h("form.filters", { role: "search", "aria-label": `Filter ${label}`, onsubmit: (event) => this.#filter(event) }, filters, h("button.primary", {}, "Show"));
    this.node = h(
      "div.list",
      {},
      form,
      this.complaint.node,
      h(
        "div.scroll",
        { role: "region", "aria-label": label, tabindex: 0 },
        h("table", { "aria-label": label }, h("thead", {}, h("tr", {}, columns.map(({ name: head, class: kind = "" }) => h("th", { scope: "col", class: kind }, head)))), this.body),
        this.empty,
      ),
      h("nav.pages", { "aria-label": "Pages" }, this.back, this.on, this.total),
    );
    this.#buttons();
  }

  #filter(event) {
    event.preventDefault();
    void this.load();
  }

  /** The first page, by the filters as they are now. */
  load() {
    this.#before = [];
    this.#cursor = undefined;
    return this.reload();
  }

  #turn() {
    this.#before.push(this.#cursor);
    this.#cursor = this.#next;
    void this.reload();
  }

  #turnBack() {
    this.#cursor = this.#before.pop();
    void this.reload();
  }

  async reload() {
    const asked = ++this.#asked;
    this.node.setAttribute("aria-busy", "true");
    try {
      const page = await get(this.path, { ...this.query(), limit: LIMIT, cursor: this.#cursor });
      if (asked !== this.#asked) return;
      this.#next = page.next_cursor;
      this.complaint.show("");
      this.#show(page[this.name]);
    } catch (fault) {
      if (asked === this.#asked) this.complaint.show(`${fault.code ?? "FAULT"}: ${fault.message}`);
    } finally {
      if (asked === this.#asked) this.node.removeAttribute("aria-busy");
      this.#buttons();
    }
  }

  #show(rows) {
    fill(this.body, rows.map((row) => this.#lines(row)));
    const place = this.#before.length + 1;
    fill(this.total, `page ${place}, ${count(rows.length)} row${rows.length === 1 ? "" : "s"}${this.#next ? ", more follow" : ""}`);
    this.empty.hidden = rows.length > 0;
    fill(this.empty, this.emptyText);
  }

  #lines(row) {
    const line = h("tr", {}, this.columns.map(({ cell, class: kind = "", isHead }) => h(isHead ? "th" : "td", { class: kind, scope: isHead ? "row" : null }, cell(row, this))));
    return line;
  }

  #buttons() {
    this.back.disabled = !this.#before.length;
    this.on.disabled = !this.#next;
  }
}
