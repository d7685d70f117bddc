/**
 * A small chart of the last minutes: lines over time, the newest at the right edge.
 *
 * To a screen reader it is one picture with a sentence; the pointer, and the arrow keys, read single
 * values out of it.
 */

import { fill, h, svg } from "./dom.js";

export const POINTS = 90;
const WIDTH = 300;
const HEIGHT = 64;
/** The highest value stands a little below the top. */
const HEADROOM = 1.2;
/** Fewer points than this do not fill the picture. */
const LEAST = 20;

export class Chart {
  /**
   * `series`: [{ name, key }], at most two; `format` makes text of a value. A value of null is a gap.
   */
  constructor({ title, series, format }) {
    this.title = title;
    this.series = series;
    this.format = format;
    this.values = [];
    this.at = null;
    this.lines = series.map((_, number) => svg("path", { class: `line line-${number}` }));
    this.area = svg("path", { class: "area" });
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
    this.dots = series.map((_, number) => svg("circle", { class: `dot line-${number}`, r: 3, visibility: "hidden" }));
    this.picture = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", tabindex: 0, class: "chart" },
      svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }),
      series.length === 1 && this.area,
      this.lines,
      this.cursor,
      this.dots,
    );
    this.tip = h("div.tip", { hidden: true });
    this.top = h("span.highest", { "aria-hidden": "true" });
    this.node = h("div.plot", {}, this.top, this.picture, this.tip);
    this.picture.addEventListener("pointermove", (event) => this.#point(event));
    this.picture.addEventListener("pointerleave", () => this.#show(null));
    this.picture.addEventListener("blur", () => this.#show(null));
    this.picture.addEventListener("keydown", (event) => this.#key(event));
  }

  /** `values` of one moment, by the series' keys; `at` in milliseconds. */
  add(values, at) {
    this.values.push({ ...values, at });
    if (this.values.length > POINTS) this.values.shift();
    this.draw();
  }

  draw() {
    const present = this.values.flatMap((one) => this.series.map(({ key }) => one[key])).filter((one) => one !== null);
    this.highest = Math.max(...present, 0);
    this.lines.forEach((line, number) => line.setAttribute("d", this.#path(this.series[number].key)));
    if (this.series.length === 1) this.area.setAttribute("d", this.#area(this.series[0].key));
    fill(this.top, this.highest > 0 ? this.format(this.highest) : "");
    this.picture.setAttribute("aria-label", this.#sentence());
    if (this.at !== null) this.#show(Math.min(this.at, this.values.length - 1));
  }

  get #steps() {
    return Math.max(this.values.length, LEAST) - 1;
  }

  #x(place) {
    return WIDTH - ((this.values.length - 1 - place) * WIDTH) / this.#steps;
  }

  #y(value) {
    return HEIGHT - 1 - (this.highest > 0 ? (value / this.highest / HEADROOM) * (HEIGHT - 2) : 0);
  }

  #path(key) {
    let path = "";
    this.values.forEach((one, place) => {
      if (one[key] === null) return;
      const begins = place === 0 || this.values[place - 1][key] === null;
      path += `${begins ? "M" : "L"}${this.#x(place).toFixed(1)} ${this.#y(one[key]).toFixed(1)}`;
      if (begins && this.values[place + 1]?.[key] == null) path += "h0.1";
    });
    return path;
  }

  #area(key) {
    if (this.values.length < 2) return "";
    return `${this.#path(key)}L${WIDTH} ${HEIGHT}L${this.#x(0).toFixed(1)} ${HEIGHT}Z`;
  }

  #sentence() {
    const now = this.values.at(-1);
    const told = this.series
      .map(({ name, key }) => `${name} ${now?.[key] == null ? "nothing" : this.format(now[key])}`)
      .join(", ");
    return `${this.title}: ${told}; highest ${this.format(this.highest)}`;
  }

  #point(event) {
    const box = this.picture.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    const place = this.values.length - 1 - Math.round((1 - share) * this.#steps);
    this.#show(place >= 0 && place < this.values.length ? place : null);
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.values.length) return;
    event.preventDefault();
    const place = (this.at ?? this.values.length) + step;
    this.#show(Math.max(0, Math.min(place, this.values.length - 1)));
    this.picture.setAttribute("aria-label", this.tip.textContent);
  }

  #show(place) {
    this.at = place;
    const hidden = place === null || !this.values[place];
    this.tip.hidden = hidden;
    this.cursor.setAttribute("visibility", hidden ? "hidden" : "visible");
    for (const dot of this.dots) dot.setAttribute("visibility", "hidden");
    if (hidden) return;
    const x = this.#x(place);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    const one = this.values[place];
    const ago = Math.round((this.values.at(-1).at - one.at) / 1000);
    const parts = this.series.map(({ name, key }) => {
      const value = one[key] === null ? "nothing" : this.format(one[key]);
      return this.series.length > 1 ? `${name} ${value}` : value;
    });
    fill(this.tip, `${parts.join(", ")} · ${ago ? `${ago} s ago` : "now"}`);
    this.tip.style.setProperty("--at", `${(x / WIDTH) * 100}%`);
    this.tip.classList.toggle("left", x > WIDTH / 2);
  }
}
