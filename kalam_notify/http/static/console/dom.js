/**
 * Making elements. Text is always text: nothing here, or anywhere else, makes code or HTML of it.
 */

/**
 * `h("button.primary", { onclick, "aria-label": "..." }, "text", child, [more])`. What is null or false
 * among the children is left out; so is an attribute.
 */
export function h(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const node = document.createElement(tag || "div");
  if (classes.length) node.className = classes.join(" ");
  return filled(node, attributes, children);
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for parts of pictures. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else if (name === "class") node.classList.add(...value.split(" ").filter(Boolean));
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

export function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

/** The children of `node` are these, and no others. */
export function fill(node, ...children) {
  node.replaceChildren();
  return append(node, children);
}

let labels = 0;

/** A labelled field: `control` under its name, with a hint that a screen reader reads along. */
export function field(label, control, hint) {
  control.id ||= `field-${++labels}`;
  const note = hint && h("small", { id: `${control.id}-hint` }, hint);
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div.field", {}, h("label", { for: control.id }, label), control, note);
}

/** An icon out of a path on a 20 by 20 grid; it says nothing to a screen reader. */
export function icon(path) {
  return svg(
    "svg",
    { viewBox: "0 0 20 20", width: 16, height: 16, "aria-hidden": "true", class: "icon" },
    svg("path", { d: path, fill: "none", stroke: "currentColor", "stroke-width": 1.6, "stroke-linecap": "round", "stroke-linejoin": "round" }),
  );
}

const said = () => document.getElementById("said");

/** Have a screen reader say it, when it has nothing else to say. */
export function say(text) {
  const place = said();
  place.textContent = "";
  requestAnimationFrame(() => (place.textContent = text));
}

/** A place for what went wrong, read out at once. */
export function complaint() {
  const node = h("p.complaint", { role: "alert", hidden: true });
  return {
    node,
    show(text) {
      node.textContent = text;
      node.hidden = !text;
    },
  };
}

/** Copy a text, and say so on the button that was pressed. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyByHand(text);
  }
  const before = button.textContent;
  button.textContent = "Copied";
  say("Copied");
  setTimeout(() => (button.textContent = before), 1500);
}

/** Where there is no clipboard: an address without TLS that is not this machine. */
function copyByHand(text) {
  const area = h("textarea", { value: text, class: "away" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
