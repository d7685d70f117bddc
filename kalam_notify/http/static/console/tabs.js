/** Tabs: one panel of several on show; the arrow keys go from tab to tab. */

import { h } from "./dom.js";

let groups = 0;

/** `panels`: [{ name, node, onShow }]. */
export function tabs(label, panels) {
  const group = `tabs-${++groups}`;
  const buttons = panels.map(({ name }, number) =>
    h("button.tab", { type: "button", role: "tab", id: `${group}-${number}`, "aria-controls": `${group}-panel-${number}`, onclick: () => show(number) }, name),
  );
  const bodies = panels.map(({ node }, number) =>
    h("div.panel", { role: "tabpanel", id: `${group}-panel-${number}`, "aria-labelledby": `${group}-${number}` }, node),
  );
  const list = h("div.tablist", { role: "tablist", "aria-label": label }, buttons);
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length;
    show(next);
    buttons[next].focus();
  });

  function show(number) {
    buttons.forEach((button, place) => {
      button.setAttribute("aria-selected", String(place === number));
      button.tabIndex = place === number ? 0 : -1;
      bodies[place].hidden = place !== number;
    });
    panels[number].onShow?.();
  }

  show(0);
  return { node: h("div.tabs", {}, list, bodies), show };
}
