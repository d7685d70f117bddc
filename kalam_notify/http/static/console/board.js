/** The board: what the server does now, and has done in the last minutes. */

import { Chart } from "./chart.js";
import { complaint, fill, h } from "./dom.js";
import { bytes, count, seconds, short } from "./format.js";
import { Readings } from "./metrics.js";

const perSecond = (value) => `${short(value)}/s`;
const time = (value) => (value === null ? "–" : seconds(value));
const percent = (value) => `${Math.round(value * 100)} %`;

const TILES = [
  { title: "Connections", series: [{ name: "connections", key: "connections" }], format: short, note: (now) => `${count(now.subscriptions)} subscriptions` },
  { title: "Deliveries", series: [{ name: "deliveries", key: "deliveries" }], format: perSecond, note: (now) => `${bytes(now.deliveredBytes)}/s to sockets` },
  {
    title: "Post to socket",
    series: [{ name: "p50", key: "p50" }, { name: "p99", key: "p99" }],
    format: time,
    isWide: true,
    value: (now) => [h("span", {}, h("i.key.line-0"), "p50 ", h("b", {}, time(now.p50))), h("span", {}, h("i.key.line-1"), "p99 ", h("b", {}, time(now.p99)))],
    note: () => "until the last live socket had it",
  },
  { title: "Changes", series: [{ name: "changes", key: "changes" }], format: perSecond, note: (now) => `last seq ${now.lastSeq || "–"}` },
  { title: "Lagging", series: [{ name: "lagging", key: "lagging" }], format: short, note: (now) => (now.lagging ? `slowest ${seconds(now.slowest)} behind` : "all live"), isBad: (now) => now.slowest > 30 },
  { title: "Memory", series: [{ name: "memory", key: "memory" }], format: bytes, note: (now) => `${bytes(now.waiting)} wait for sockets` },
  { title: "CPU", series: [{ name: "CPU", key: "cpu" }], format: percent, note: () => "of one core" },
  { title: "Log", series: [{ name: "bytes", key: "logBytes" }], format: bytes, isWide: true, note: (now) => `reaches back ${seconds(now.logReach)}` },
];

class Tile {
  constructor(definition, number) {
    this.definition = definition;
    this.chart = new Chart(definition);
    this.value = h("p.value");
    this.note = h("p.note");
    const id = `tile-${number}`;
    this.node = h("section.tile", { class: definition.isWide ? "wide" : "", "aria-labelledby": id }, h("h3", { id }, definition.title), this.value, this.chart.node, this.note);
  }

  show(now) {
    const { series, format, note, value, isBad } = this.definition;
    fill(this.value, value ? value(now) : format(now[series[0].key]));
    fill(this.note, note(now));
    this.node.classList.toggle("bad", Boolean(isBad?.(now)));
    this.chart.add(now, now.at);
  }
}

export class BoardPage {
  title = "Board";
  #tables = new Map();

  constructor() {
    this.tiles = TILES.map((definition, number) => new Tile(definition, number));
    this.complaint = complaint();
    this.body = h("tbody");
    this.none = h("p.empty", {}, "No table has had a change since the server started.");
    this.node = h(
      "div.board",
      {},
      this.complaint.node,
      h("div.tiles", {}, this.tiles.map(({ node }) => node)),
      h(
        "section.rates",
        { "aria-labelledby": "rates-title" },
        h("header", {}, h("h3", { id: "rates-title" }, "Changes by table")),
        h(
          "div.scroll",
          { role: "group", "aria-label": "Changes by table", tabindex: 0 },
          h(
            "table",
            { "aria-labelledby": "rates-title" },
            h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Table"), h("th.number", { scope: "col" }, "Now"), h("th", { scope: "col" }, "Last 3 minutes"), h("th.number", { scope: "col" }, "Since start"))),
            this.body,
          ),
          this.none,
        ),
      ),
    );
    this.readings = new Readings((now, fault) => this.#read(now, fault));
  }

  /** From the first look on it goes on reading, so that nothing is missing when one comes back. */
  show() {
    this.readings.start();
  }

  #read(now, fault) {
    this.complaint.show(fault ? `The metrics cannot be read: ${fault.message}` : "");
    if (!now) return;
    for (const tile of this.tiles) tile.show(now);
    this.none.hidden = now.tables.size > 0;
    for (const [table, figures] of now.tables) this.#table(table).show(figures, now.at);
  }

  #table(table) {
    let line = this.#tables.get(table);
    if (!line) {
      line = new TableRate(table);
      this.#tables.set(table, line);
      const after = [...this.body.children].find((row) => row.dataset.table > table);
      this.body.insertBefore(line.node, after ?? null);
    }
    return line;
  }
}

class TableRate {
  constructor(table) {
    this.chart = new Chart({ title: table, series: [{ name: "changes", key: "rate" }], format: perSecond });
    this.now = h("td.number");
    this.total = h("td.number");
    this.node = h("tr", { "data-table": table }, h("th", { scope: "row" }, table), this.now, h("td.spark", {}, this.chart.node), this.total);
  }

  show(figures, at) {
    fill(this.now, perSecond(figures.rate));
    fill(this.total, count(figures.total));
    this.chart.add(figures, at);
  }
}
