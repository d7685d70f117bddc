/**
 * The messages of a connection as they are on the wire, the newest on top.
 */

import { clock } from "./format.js";
import { fill, h } from "./dom.js";

export const MOST_KEPT = 200;

export class Stream {
  #count = 0;

  constructor() {
    this.list = h("ol.messages", { "aria-label": "Messages, the newest first" });
    this.total = h("span.total", {}, "0");
    this.node = h(
      "section.stream",
      { "aria-labelledby": "stream-title" },
      h("header", {}, h("h3", { id: "stream-title" }, "Messages "), this.total, h("span.grow"), h("button.quiet", { type: "button", onclick: () => this.clear() }, "Clear")),
      h("div.scroll", { role: "group", "aria-label": "Messages", tabindex: 0 }, this.list),
    );
  }

  clear() {
    this.#count = 0;
    fill(this.list);
    fill(this.total, "0");
  }

  add(direction, text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      message = { type: "?" };
    }
    this.#count += 1;
    fill(this.total, String(this.#count));
    this.list.prepend(this.#entry(direction, text, message));
    while (this.list.childElementCount > MOST_KEPT) this.list.lastElementChild.remove();
  }

  #entry(direction, text, message) {
    const type = String(message.type ?? "?");
    const details = h(
      "details",
      {},
      h(
        "summary",
        {},
        h("span.way", { title: direction === "in" ? "from the server" : "to the server" }, direction === "in" ? "←" : "→"),
        h("span.vh", {}, direction === "in" ? "received " : "sent "),
        h("span.type", { class: `t-${kind(message)}` }, type === "change" ? message.change_type : type),
        h("span.brief", {}, brief(message)),
        h("time", {}, clock()),
      ),
    );
    // Made when it is looked at: most never are.
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) details.append(h("pre", {}, pretty(text)));
    });
    return h("li", { class: direction }, details);
  }
}

/** A WebSocket class that tells a stream what goes through it. */
export function tapped(stream) {
  return class extends WebSocket {
    constructor(url) {
      super(url);
      this.addEventListener("message", ({ data }) => stream.add("in", data));
      this.addEventListener("close", ({ code, reason }) => stream.add("in", JSON.stringify({ type: "close", code, reason })));
    }

    send(text) {
      const shown = text.replace(/("token":")[^"]{12,}"/, (_, head) => `${head}…"`);
      stream.add("out", shown);
      super.send(text);
    }
  };
}

function kind(message) {
  if (message.type === "change") return message.transition === "enter" ? "insert" : message.transition === "leave" ? "delete" : message.change_type;
  if (message.type === "error" || message.type === "auth_error" || message.type === "close") return "error";
  return "other";
}

function brief(message) {
  const rows = message.rows ?? message.old_values;
  switch (message.type) {
    case "change": {
      const seqs = rows?.map(({ _seq }) => _seq).filter(Boolean) ?? [];
      const many = rows?.length > 1 ? `${rows.length} rows ` : "";
      return [message.transition, many, seqs.length ? `seq ${seqs.at(-1)}` : ""].filter(Boolean).join(" ");
    }
    case "initial_data_batch":
      return `${rows?.length ?? 0} rows${message.batch_control?.has_more ? ", more follow" : ", the last"}`;
    case "error":
    case "auth_error":
      return `${message.code ?? ""} ${message.message ?? ""}`;
    case "close":
      return `${message.code} ${message.reason}`;
    case "subscribe":
      return message.subscription?.sql ?? "";
    case "subscription_ack":
      return message.resumed === true ? "resumed" : `${message.total_rows ?? ""}`;
    default:
      return "";
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
