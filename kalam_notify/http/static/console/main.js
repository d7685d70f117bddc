/** The console: signs in, shows one page at a time by what stands behind the # of the address. */

import { get, learn, Refused, session } from "./api.js";
import { BoardPage } from "./board.js";
import { fill, h, icon } from "./dom.js";
import { Identity, signIn } from "./identity.js";
import { ConnectionsPage, SubscriptionsPage, TablesPage } from "./lists.js";
import { QueryPage } from "./query.js";
import { WhyPage } from "./why.js";

const PAGES = [
  { name: "query", title: "Query", make: () => new QueryPage(), path: "M3 5l4 5-4 5M10 15h7" },
  { name: "board", title: "Board", make: () => new BoardPage(), path: "M3 16V9M8 16V4M13 16v-5M18 16V7" },
  { name: "tables", title: "Tables", make: (go) => new TablesPage(go), path: "M3 4h14v12H3zM3 8h14M8 8v8" },
  { name: "subscriptions", title: "Subscriptions", make: (go) => new SubscriptionsPage(go), path: "M4 11a6 6 0 0 1 6-6M4 16a11 11 0 0 1 12-11M5 16h.1" },
  { name: "connections", title: "Connections", make: () => new ConnectionsPage(), path: "M7 3v5M13 3v5M5 8h10v3a5 5 0 0 1-10 0zM10 16v2" },
  { name: "why", title: "Why", make: () => new WhyPage(), path: "M7 7a3 3 0 1 1 4 3c-1 .5-1 1-1 2M10 15.5v.1" },
];
const HEALTH_MS = 5000;

const main = document.getElementById("main");
const content = document.getElementById("content");
const heading = document.getElementById("page-title");
const nav = document.getElementById("nav");
const health = document.getElementById("health");
const made = new Map();
let shown = null;

const identity = new Identity({
  onSignOut() {
    session.token = session.acting = "";
    location.reload();
  },
});

function go(address) {
  location.hash = address;
}

/** Show the page that the address names. `isFirst`: the focus stays where it is. */
function route(isFirst = false) {
  const [name, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const page = PAGES.find((one) => one.name === name) ?? PAGES[0];
  if (!made.has(page.name)) made.set(page.name, page.make(go));
  const next = made.get(page.name);
  if (shown !== next) fill(content, next.node);
  fill(heading, page.title);
  document.title = `${page.title} · kalam-notify`;
  document.body.dataset.page = page.name;
  for (const link of nav.querySelectorAll("a")) {
    if (link.dataset.page === page.name) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else {
      link.removeAttribute("aria-current");
    }
  }
  const isOther = shown !== next;
  shown = next;
  const asked = new URLSearchParams(query);
  if (page.name === "query" && asked.has("sql")) {
    next.open(asked.get("sql"));
    history.replaceState(null, "", "#/query");
  }
  if (!isFirst && isOther) heading.focus();
  next.show?.(asked);
}

async function lookAtHealth() {
  try {
    const told = await (await fetch("/health", { cache: "no-store" })).json();
    const crew = told.workers > 1 ? ` · ${told.workers_running} of ${told.workers} workers` : "";
    fill(health, h("span.dot", { class: told.status === "ok" ? "good" : "bad", "aria-hidden": "true" }), `${told.status}${crew}`);
  } catch {
    fill(health, h("span.dot.bad", { "aria-hidden": "true" }), "not reached");
  }
  setTimeout(() => void lookAtHealth(), HEALTH_MS);
}

// By hand: its # is none of the pages.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

function begin() {
  document.body.classList.add("ready");
  fill(document.getElementById("version"), session.settings.version);
  fill(nav, PAGES.map(({ name, title, path }) => h("a", { href: `#/${name}`, "data-page": name }, icon(path), h("span", {}, title))));
  fill(document.getElementById("who"), identity.button);
  identity.draw();
  addEventListener("hashchange", () => route());
  route(true);
  void lookAtHealth();
}

async function enter(token) {
  session.token = token;
  await get("/v1/admin/console"); // raises for a token that is not taken
  await learn();
  begin();
}

try {
  await learn();
  begin();
} catch (fault) {
  const isRefused = fault instanceof Refused && (fault.status === 401 || fault.status === 403);
  const why = !isRefused ? fault.message : session.token ? `That token was not taken: ${fault.message}` : "";
  fill(heading, "Sign in");
  fill(content, signIn(why, enter));
  document.getElementById("token").focus();
}
