/**
 * The SQL box: a text area with colours behind it, and completion of tables, columns and words.
 *
 * The text keeps the focus (aria-activedescendant), the list is walked with the arrow keys, Enter or
 * Tab takes what is marked, Escape sends the list away. Ctrl+Space asks for it.
 */

import { allTables } from "./api.js";
import { fill, h, say } from "./dom.js";

const WORDS =
  "SELECT FROM WHERE AND OR NOT IN LIKE ILIKE BETWEEN IS NULL TRUE FALSE CURRENT_USER ANY CASE WHEN THEN ELSE END CAST AS ESCAPE DISTINCT UNKNOWN".split(" ");
const KEYWORDS = new Set(WORDS);
const BEFORE_WHERE = new Set(["SELECT", "FROM", "WHERE"]);
const TOKEN = /('(?:[^']|'')*'?)|("(?:[^"]|"")*"?)|(--[^\n]*)|(\$\d+)|(\d+(?:\.\d+)?)|([A-Za-z_][\w]*)|(\s+|.)/gs;
const NAME = /(?:"(?:[^"]|"")+"|[A-Za-z_]\w*)/.source;
const FROM = new RegExp(`\\bFROM\\s+(${NAME}\\s*\\.\\s*${NAME})`, "i");
const MOST_OFFERED = 12;

let numbers = 0;

/** The table that a query reads, as its list calls it; undefined where none is named. */
export function tableOf(sql, tables) {
  const match = FROM.exec(sql);
  if (!match) return undefined;
  const wanted = folded(match[1]);
  return tables.find(({ table }) => folded(table) === wanted)?.table ?? match[1];
}

function folded(name) {
  return name.replace(/\s/g, "").replace(/"(?:[^"]|"")+"|[A-Za-z_]\w*/g, (part) => (part[0] === '"' && !/^"[a-z_][a-z0-9_]*"$/.test(part) ? part : part.replaceAll('"', "").toLowerCase()));
}

export class Editor {
  #offers = [];
  #at = 0;
  #start = 0;

  constructor({ value, onRun, onChange }) {
    const id = `offers-${++numbers}`;
    this.onRun = onRun;
    this.onChange = onChange;
    this.colours = h("pre.colours", { "aria-hidden": "true" });
    this.list = h("ul.offers", { id, role: "listbox", "aria-label": "Completions", hidden: true });
    this.text = h("textarea.sql", {
      id: "sql",
      spellcheck: "false",
      autocapitalize: "off",
      autocomplete: "off",
      wrap: "soft",
      rows: 2,
      "aria-autocomplete": "list",
      "aria-controls": id,
      "aria-describedby": "sql-hint",
      value,
    });
    this.text.addEventListener("input", () => this.#changed());
    this.text.addEventListener("scroll", () => (this.colours.scrollTop = this.text.scrollTop));
    this.text.addEventListener("keydown", (event) => this.#key(event));
    this.text.addEventListener("blur", () => this.#close());
    this.text.addEventListener("click", () => this.#close());
    this.node = h("div.editor", {}, this.colours, this.text, this.list);
    this.#paint();
  }

  get value() {
    return this.text.value;
  }

  set value(sql) {
    this.text.value = sql;
    this.#paint();
    this.onChange(sql);
  }

  #changed() {
    this.#paint();
    this.onChange(this.value);
    void this.#offer(false);
  }

  #paint() {
    const parts = [];
    for (const [token, text, quoted, comment, parameter, number, word] of this.value.matchAll(TOKEN)) {
      const kind = text ? "string" : quoted ? "quoted" : comment ? "comment" : parameter ? "parameter" : number ? "number" : word && KEYWORDS.has(word.toUpperCase()) ? "word" : "";
      parts.push(kind ? h(`span.${kind}`, {}, token) : token);
    }
    fill(this.colours, parts, "\n");
  }

  #key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.#close();
      return this.onRun();
    }
    if (event.key === " " && event.ctrlKey) {
      event.preventDefault();
      return void this.#offer(true);
    }
    if (this.list.hidden) return;
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in moves) {
      this.#mark((this.#at + moves[event.key] + this.#offers.length) % this.#offers.length);
    } else if (event.key === "Enter" || event.key === "Tab") {
      this.#take(this.#offers[this.#at]);
    } else if (event.key === "Escape") {
      this.#close();
    } else {
      return;
    }
    event.preventDefault();
  }

  async #offer(isAsked) {
    const before = this.value.slice(0, this.text.selectionStart);
    const word = /[\w."]*$/.exec(before)[0];
    const inText = (before.match(/'/g) ?? []).length % 2 === 1;
    if (inText || (!isAsked && word.length < 1)) return this.#close();
    const tables = await allTables().catch(() => []);
    // The text may have gone on meanwhile.
    if (this.value.slice(0, this.text.selectionStart) !== before) return;
    const offers = candidates(before.slice(0, -word.length || undefined), this.value, tables)
      .filter(({ name }) => fits(name, word))
      .slice(0, MOST_OFFERED);
    const isDone = offers.length === 1 && offers[0].name === word;
    if (!offers.length || isDone || document.activeElement !== this.text) return this.#close();
    this.#start = before.length - word.length;
    this.#open(offers);
  }

  #open(offers) {
    this.#offers = offers;
    fill(
      this.list,
      offers.map(({ name, kind, note }, number) =>
        h(
          "li",
          {
            id: `${this.list.id}-${number}`,
            role: "option",
            "aria-selected": "false",
            onpointerdown: (event) => {
              event.preventDefault();
              this.#take(offers[number]);
            },
          },
          h("span.name", {}, name),
          h("span.note", {}, note ?? kind),
        ),
      ),
    );
    const { left, top } = this.#caret();
    this.list.style.setProperty("left", `${left}px`);
    this.list.style.setProperty("top", `${top}px`);
    this.list.hidden = false;
    say(`${offers.length} completion${offers.length === 1 ? "" : "s"}`);
    this.#mark(0);
  }

  #mark(number) {
    this.#at = number;
    [...this.list.children].forEach((item, place) => item.setAttribute("aria-selected", String(place === number)));
    this.list.children[number].scrollIntoView({ block: "nearest" });
    this.text.setAttribute("aria-activedescendant", `${this.list.id}-${number}`);
  }

  #take({ name }) {
    const end = this.text.selectionStart;
    this.text.setRangeText(name, this.#start, end, "end");
    this.#close();
    this.#paint();
    this.onChange(this.value);
  }

  #close() {
    this.list.hidden = true;
    this.text.removeAttribute("aria-activedescendant");
  }

  /** Where the word that is completed begins, below its line: measured in the coloured copy. */
  #caret() {
    const range = document.createRange();
    let left = this.#start;
    const walker = document.createTreeWalker(this.colours, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (left <= node.length) {
        range.setStart(node, left);
        range.collapse(true);
        break;
      }
      left -= node.length;
    }
    const at = range.getBoundingClientRect();
    const box = this.node.getBoundingClientRect();
    const line = parseFloat(getComputedStyle(this.text).lineHeight);
    return {
      left: Math.max(0, Math.min(at.left - box.left, box.width - 260)),
      top: (at.top || box.top) - box.top + line + 2,
    };
  }
}

/** What may stand after `before` in the query `sql`. */
export function candidates(before, sql, tables) {
  const words = WORDS.map((name) => ({ name, kind: "word" }));
  const ofTables = tables.map(({ table, type }) => ({ name: table, kind: "table", note: `${type} table` }));
  if (/\bFROM\s+$/i.test(before)) return ofTables;
  const table = tables.find((one) => one.table === tableOf(sql, tables));
  const columns = columnsOf(table);
  if (/\bWHERE\b/i.test(before)) return [...columns, ...words.filter(({ name }) => !BEFORE_WHERE.has(name))];
  return /\bFROM\b/i.test(before) || columns.length ? [...columns, ...words] : [...words, ...ofTables];
}

export function columnsOf(table) {
  if (!table) return [];
  const declared = table.columns ?? [...new Set([...table.primary_key, ...table.seen_columns])].map((name) => ({ name }));
  return declared.map(({ name, type }) => ({
    name: /^[A-Za-z_]\w*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`,
    kind: "column",
    note: type ?? (table.primary_key.includes(name) ? "key" : "column"),
  }));
}

function fits(name, word) {
  const [one, other] = [name.toLowerCase(), word.toLowerCase()];
  return one.startsWith(other) || (other.length > 1 && one.split(".").at(-1).startsWith(other));
}
