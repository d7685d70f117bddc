/** Why did user U not get change N? */

import { get } from "./api.js";
import { complaint, field, fill, h } from "./dom.js";
import { cell } from "./format.js";

const GOOD = new Set(["delivered", "snapshot"]);
const NAMES = {
  delivered: "delivered",
  filter: "kept back by the filter",
  policy: "kept back by the policy",
  "filter+policy": "kept back by filter and policy",
  before_start: "before its beginning",
  not_yet: "not yet",
  snapshot: "in its snapshot",
  owner: "another user's row",
  nothing: "changed nothing",
  fault: "cannot be asked",
};

export class WhyPage {
  title = "Why";

  constructor() {
    this.user = h("input", { id: "why-user", autocomplete: "off", spellcheck: "false", required: true });
    this.seq = h("input", { id: "why-seq", inputmode: "numeric", pattern: "[0-9]+", autocomplete: "off", required: true });
    this.complaint = complaint();
    this.answer = h("div.verdict", { "aria-live": "polite" });
    this.node = h(
      "div.why",
      {},
      h("p.lead", {}, "Tells, for each subscription a user has now, whether a change reached it, and otherwise which filter, policy or position kept it back. It is judged now, out of the log."),
      h("form.filters", { "aria-label": "Which change, and whose subscriptions", onsubmit: (event) => void this.#ask(event) }, field("User", this.user), field("Seq of the change", this.seq), h("button.primary", {}, "Why?")),
      this.complaint.node,
      this.answer,
    );
  }

  show(query) {
    for (const name of ["user", "seq"]) if (query.has(name)) this[name].value = query.get(name);
    if (query.has("user") && query.has("seq")) void this.#ask();
    else if (query.has("seq")) this.user.focus();
  }

  async #ask(event) {
    event?.preventDefault();
    this.complaint.show("");
    try {
      this.#tell(await get("/v1/why", { user: this.user.value.trim(), seq: this.seq.value.trim() }));
    } catch (fault) {
      fill(this.answer);
      this.complaint.show(`${fault.code}: ${fault.message}`);
    }
  }

  #tell(told) {
    const { change, subscriptions } = told;
    fill(
      this.answer,
      h("h3", {}, told.verdict),
      h(
        "p.hint",
        {},
        `Change ${change.seq}: ${change.change_type} in ${change.table}${change.user_id ? ` of ${change.user_id}` : ""}. `,
        `${told.connections} connection${told.connections === 1 ? "" : "s"} of ${told.user}, ${told.other_subscriptions} subscriptions to other tables.`,
      ),
      (change.old_data || change.row_data) && rows(change),
      subscriptions.map(caseOf),
      told.more > 0 && h("p.hint", {}, `${told.more} more subscriptions were not looked at.`),
    );
  }
}

function rows({ old_data: old, row_data: row }) {
  const names = [...new Set([...Object.keys(old ?? {}), ...Object.keys(row ?? {})])];
  const line = (title, values) => values && h("tr", {}, h("th", { scope: "row" }, title), names.map((name) => h("td", {}, cell(values[name]))));
  return h(
    "div.scroll",
    { role: "region", "aria-label": "The change", tabindex: 0 },
    h("table", { "aria-label": "The change" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span.vh", {}, "Image")), names.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, line("old", old), line("new", row))),
  );
}

function caseOf(one) {
  return h(
    "article.case",
    {},
    h("header", {}, h("span.tag", { class: GOOD.has(one.outcome) ? "good" : one.outcome === "not_yet" ? "warn" : "bad" }, NAMES[one.outcome] ?? one.outcome), h("b", {}, one.id), h("span.hint", {}, ` on ${one.connection}`)),
    h("code.sql", {}, one.sql),
    h("p", {}, one.why),
    one.terms?.length > 0 &&
      h(
        "table",
        { "aria-label": "Terms that are not true" },
        h("thead", {}, h("tr", {}, ["Of", "Row", "Term", "Is", "Values"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, one.terms.map((term) => h("tr", {}, h("td", {}, term.of), h("td", {}, term.image), h("td", {}, h("code", {}, term.sql)), h("td", {}, term.is), h("td", {}, h("code", {}, term.values ? JSON.stringify(term.values) : "not told"))))),
      ),
  );
}
