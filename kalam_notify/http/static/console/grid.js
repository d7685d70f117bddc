/**
 * Rows as they change: what enters is green, what leaves red and gone a moment later, what changes is
 * marked cell by cell; each with a sign at the edge, so that nobody has to see colours.
 *
 * While the pointer is on it, or it is paused by its button, it stands still; then it shows where the
 * rows have got to meanwhile.
 */

import { cell, count, kindOf } from "./format.js";
import { fill, h, icon, say } from "./dom.js";

export const MOST_SHOWN = 500;
const MARKED_MS = 1800;
const SAY_EVERY_MS = 4000;

export class Grid {
  #columns = [];
  #key = [];
  #shown = new Map();
  #rows = [];
  #isHovered = false;
  #isPaused = false;
  #isFirst = true;
  #waiting = 0;
  #lastSaid = 0;
  #order = "key";

  constructor({ onUse }) {
    this.onUse = onUse;
    this.head = h("tr");
    this.body = h("tbody");
    this.empty = h("p.empty");
    this.more = h("p.more", { hidden: true });
    this.table = h("table.rows", { "aria-label": "Live rows" }, h("thead", {}, this.head), this.body);
    this.scroll = h("div.scroll", { role: "group", "aria-label": "Live rows", tabindex: 0 }, this.table, this.empty, this.more);
    this.pauseButton = h("button.quiet", { type: "button", "aria-pressed": "false", onclick: () => this.togglePause() }, "Pause");
    this.held = h("span.held", { role: "status" });
    this.scroll.addEventListener("pointerenter", () => this.#hover(true));
    this.scroll.addEventListener("pointerleave", () => this.#hover(false));
    this.reset();
  }

  /** Another query: nothing is known of its rows yet. */
  reset(text = "Run a query to see its rows here, live.") {
    this.#shown.clear();
    this.#rows = [];
    this.#columns = [];
    this.#isFirst = true;
    this.#waiting = 0;
    fill(this.head);
    fill(this.body);
    fill(this.empty, text);
    this.empty.hidden = false;
    this.more.hidden = true;
    this.#tellHeld();
  }

  /** The columns as an acknowledgement names them; those with the flag `pk` tell rows apart. */
  describe(schema) {
    this.#key = schema.filter(({ flags }) => flags?.includes("pk")).map(({ name }) => name);
    this.#columns = schema.map(({ name }) => name);
    this.#drawHead();
  }

  orderBy(order) {
    this.#order = order;
    this.#apply(false);
  }

  togglePause() {
    this.#isPaused = !this.#isPaused;
    this.pauseButton.setAttribute("aria-pressed", String(this.#isPaused));
    fill(this.pauseButton, this.#isPaused ? "Resume" : "Pause");
    this.#release();
  }

  /** The rows are these now. */
  show(rows) {
    this.#rows = rows;
    if (this.#stands()) {
      this.#waiting += 1;
      this.#tellHeld();
    } else {
      this.#apply(!this.#isFirst);
    }
  }

  /** All rows of the beginning have come: from here on what comes is news. */
  ready() {
    this.#isFirst = false;
    this.empty.hidden = this.#rows.length > 0;
    if (!this.#rows.length) fill(this.empty, "No row matches now. What enters will show here.");
  }

  #stands() {
    return !this.#isFirst && (this.#isHovered || this.#isPaused);
  }

  #hover(isHovered) {
    this.#isHovered = isHovered;
    this.#release();
  }

  #release() {
    if (!this.#stands() && this.#waiting) {
      this.#waiting = 0;
      this.#apply(true);
    }
    this.#tellHeld();
  }

  #tellHeld() {
    const why = this.#isPaused ? "Paused" : "Paused while you point at it";
    const news = this.#waiting ? ` · ${count(this.#waiting)} update${this.#waiting === 1 ? "" : "s"} waiting` : "";
    fill(this.held, this.#stands() ? why + news : "");
    this.scroll.classList.toggle("standing", this.#stands());
  }

  #keyOf(row) {
    return this.#key.length ? JSON.stringify(this.#key.map((name) => row[name])) : row;
  }

  #ordered() {
    if (this.#order !== "newest") return this.#rows;
    const seq = (row) => (row._seq === undefined ? 0n : BigInt(row._seq));
    return [...this.#rows].sort((one, other) => (seq(other) > seq(one) ? 1 : -1));
  }

  #apply(isNews) {
    const rows = this.#ordered().slice(0, MOST_SHOWN);
    this.#noteColumns(rows);
    const present = new Map(rows.map((row) => [this.#keyOf(row), row]));
    const tally = { entered: 0, left: 0, changed: 0 };
    for (const [key, line] of this.#shown) {
      if (!present.has(key)) this.#remove(key, line, isNews, tally);
    }
    for (const [key, row] of present) this.#put(key, row, isNews, tally);
    this.#arrange(present.keys());
    this.empty.hidden = this.#rows.length > 0 || this.#isFirst;
    if (!this.empty.hidden) fill(this.empty, "No row matches now. What enters will show here.");
    this.more.hidden = this.#rows.length <= MOST_SHOWN;
    fill(this.more, `${count(MOST_SHOWN)} of ${count(this.#rows.length)} rows are shown.`);
    if (isNews) this.#say(tally);
  }

  #put(key, row, isNews, tally) {
    const line = this.#shown.get(key);
    if (!line) {
      const made = this.#line(row);
      this.#shown.set(key, made);
      if (isNews) {
        tally.entered += 1;
        mark(made, "entered", "+");
      }
    } else if (line.row !== row) {
      const cells = this.#columns.filter((name) => cell(line.row[name]) !== cell(row[name]));
      line.row = row;
      for (const name of cells) this.#fillCell(line.cells.get(name), row[name]);
      if (isNews && cells.some((name) => name !== "_seq")) {
        tally.changed += 1;
        mark(line, "changed", "~");
        for (const name of cells) if (name !== "_seq") flash(line.cells.get(name));
      }
    }
  }

  #remove(key, line, isNews, tally) {
    this.#shown.delete(key);
    if (!isNews) return line.node.remove();
    tally.left += 1;
    mark(line, "left", "−");
    line.node.setAttribute("aria-hidden", "true");
    line.use.disabled = true;
    setTimeout(() => line.node.remove(), MARKED_MS);
  }

  #arrange(keys) {
    let place = this.body.firstElementChild;
    for (const key of keys) {
      while (place?.classList.contains("left")) place = place.nextElementSibling;
      const { node } = this.#shown.get(key);
      if (node === place) place = place.nextElementSibling;
      else this.body.insertBefore(node, place);
    }
  }

  #line(row) {
    const sign = h("span.sign", { "aria-hidden": "true" });
    const use = h(
      "button.use",
      { type: "button", "aria-label": "Put this row into the post form", title: "Put this row into the post form" },
      sign,
      icon("M4 16l1-4 8-8 3 3-8 8z"),
    );
    const line = { row, cells: new Map(), sign, use, node: h("tr") };
    use.addEventListener("click", () => this.onUse(line.row));
    this.#fillLine(line);
    return line;
  }

  #fillLine(line) {
    line.cells.clear();
    fill(line.node, h("td.edge", {}, line.use));
    for (const name of this.#columns) {
      const node = h(this.#key.includes(name) ? "th" : "td", this.#key.includes(name) ? { scope: "row" } : {});
      line.cells.set(name, node);
      this.#fillCell(node, line.row[name]);
      line.node.append(node);
    }
  }

  #fillCell(node, value) {
    node.className = `v-${kindOf(value)}`;
    const text = cell(value);
    node.title = text.length > 40 ? text : "";
    fill(node, text);
  }

  #noteColumns(rows) {
    const known = new Set(this.#columns);
    const before = known.size;
    for (const row of rows) for (const name of Object.keys(row)) known.add(name);
    if (known.size === before) return;
    // The server's own column stands last.
    this.#columns = [...known].sort((one, other) => (one === "_seq") - (other === "_seq"));
    this.#drawHead();
    for (const line of this.#shown.values()) this.#fillLine(line);
  }

  #drawHead() {
    fill(
      this.head,
      h("th.edge", { scope: "col" }, h("span.vh", {}, "What happened")),
      this.#columns.map((name) => h("th", { scope: "col", class: this.#key.includes(name) ? "pk" : "" }, name)),
    );
  }

  #say({ entered, left, changed }) {
    const parts = [entered && `${entered} entered`, changed && `${changed} changed`, left && `${left} left`].filter(Boolean);
    const now = Date.now();
    if (!parts.length || now - this.#lastSaid < SAY_EVERY_MS) return;
    this.#lastSaid = now;
    say(`${parts.join(", ")}; ${this.#rows.length} rows`);
  }
}

function mark(line, kind, sign) {
  const { node } = line;
  node.classList.remove("entered", "changed");
  void node.offsetWidth; // a mark that comes again begins again
  node.classList.add(kind);
  line.sign.textContent = sign;
  clearTimeout(line.timer);
  line.timer = setTimeout(() => {
    node.classList.remove(kind);
    line.sign.textContent = "";
  }, MARKED_MS);
}

function flash(node) {
  node.classList.remove("flash");
  void node.offsetWidth;
  node.classList.add("flash");
  setTimeout(() => node.classList.remove("flash"), MARKED_MS);
}
