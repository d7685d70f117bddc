/** What people do with the console, one function each. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const PAGES = ["query", "board", "tables", "subscriptions", "connections", "why"];

// -- helpers --

/** Wait until `look` finds something; what it found. */
async function until(look, what) {
  const end = Date.now() + 60_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) assert.fail(`never came: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
}

async function post(settings, ...changes) {
  const answer = await fetch(`${settings.url}/v1/changes`, {
    method: "POST",
    headers: { Authorization: `Bearer ${settings.service}`, "Content-Type": "application/json" },
    body: JSON.stringify(changes),
  });
  assert.equal(answer.status, 200, await answer.clone().text());
  return (await answer.json()).last_seq;
}

const put = (row, table = "app.orders") => ({ table, change_type: "update", row_data: row });

async function go(page, settings, name = "query") {
  await page.goto(`${settings.url}/#/${name}`);
  await page.locator("body.ready").waitFor();
}

async function ask(page, sql, ...params) {
  await page.getByLabel("SQL").fill(sql);
  for (const [number, value] of params.entries()) await page.getByLabel(`$${number + 1}`).fill(value);
  await page.getByRole("button", { name: "Run" }).click();
  await page.mouse.move(2, 2);
  await page.locator("#query-status", { hasText: /^live$/ }).waitFor();
}

const row = (page, id) => page.locator("table.rows tbody tr:not(.left)", { has: page.locator("th", { hasText: new RegExp(`^${id}$`) }) });

async function ids(page) {
  return page.locator("table.rows tbody tr:not(.left) th").allTextContents();
}

async function showsRows(page, ...expected) {
  await until(async () => JSON.stringify(await ids(page)) === JSON.stringify(expected.map(String)), `rows ${expected}`);
}

// -- queries --

export async function rows_enter_change_and_leave({ page, settings }) {
  await post(settings, put({ id: 1, status: "open", total: 5 }), put({ id: 2, status: "paid", total: 6 }));
  await go(page, settings);
  await ask(page, "SELECT * FROM app.orders WHERE status = $1", "open");
  await showsRows(page, 1);
  assert.equal(await page.locator("tr.entered").count(), 0, "what is there at the beginning is no news");

  await post(settings, put({ id: 2, status: "open", total: 6 }));
  await page.locator("tr.entered", { hasText: "6" }).waitFor();
  assert.equal(await page.locator("tr.entered .sign").textContent(), "+");
  await showsRows(page, 1, 2);

  await post(settings, put({ id: 1, status: "open", total: 99 }));
  await page.locator("tr.changed td.flash", { hasText: "99" }).waitFor();
  assert.equal(await page.locator("tr.changed .sign").textContent(), "~");
  const flashed = await page.locator("tr.changed td.flash").allTextContents();
  assert.deepEqual(flashed, ["99"], "only the cell that changed is marked");

  await post(settings, put({ id: 1, status: "paid", total: 99 }));
  await page.locator("tr.left", { hasText: "99" }).waitFor();
  await showsRows(page, 2);
  await until(async () => (await page.locator("tr.left").count()) === 0, "what has left goes");
  await until(async () => /entered|changed|left/.test(await page.locator("#said").textContent()), "it is said");
  assert.equal(await page.locator("#row-count").textContent(), "1");
}

export async function messages_stand_beside_the_rows({ page, settings }) {
  await go(page, settings);
  await ask(page, "SELECT * FROM app.orders WHERE id > 100");
  const messages = page.getByRole("list", { name: "Messages, the newest first" });
  for (const type of ["authenticate", "auth_success", "subscribe", "subscription_ack", "initial_data_batch"]) {
    await messages.locator(".type", { hasText: new RegExp(`^${type}$`) }).waitFor();
  }
  const seq = await post(settings, put({ id: 101, status: "x" }));
  const entry = messages.locator("li", { hasText: `seq ${seq}` });
  await entry.locator(".type", { hasText: "insert" }).waitFor();
  await entry.locator("summary").click();
  const told = JSON.parse(await entry.locator("pre").textContent());
  assert.equal(told.rows[0].id, 101);
  const sent = messages.locator("li", { hasText: "authenticate" }).first();
  await sent.locator("summary").click();
  assert.doesNotMatch(await sent.locator("pre").textContent(), /eyJ[\w-]+\.[\w-]+\.[\w-]+/, "no whole token is shown");
  await page.getByRole("button", { name: "Clear" }).click();
  assert.equal(await messages.locator("li").count(), 0);
}

export async function pointing_at_the_rows_holds_them({ page, settings }) {
  await post(settings, put({ id: 201, status: "held" }));
  await go(page, settings);
  await ask(page, "SELECT * FROM app.orders WHERE status = 'held'");
  await showsRows(page, 201);
  await page.locator("table.rows tbody").hover();
  await page.getByText("Paused while you point at it").waitFor();
  await post(settings, put({ id: 202, status: "held" }));
  await page.getByText("1 update waiting").waitFor();
  assert.deepEqual(await ids(page), ["201"]);
  await page.mouse.move(2, 2);
  await showsRows(page, 201, 202);

  const pause = page.getByRole("button", { name: "Pause" });
  await pause.focus();
  await page.keyboard.press("Enter");
  await post(settings, put({ id: 203, status: "held" }));
  await page.getByText("1 update waiting").waitFor();
  assert.deepEqual(await ids(page), ["201", "202"]);
  await page.getByRole("button", { name: "Resume" }).press("Enter");
  await showsRows(page, 201, 202, 203);
}

export async function a_refused_query_says_why({ page, settings }) {
  await go(page, settings);
  await page.getByLabel("SQL").fill("SELECT * FROM app.orders WHERE status = ");
  await page.getByRole("button", { name: "Run" }).click();
  await page.getByRole("alert").filter({ hasText: "INVALID_SQL" }).waitFor();
  await page.getByLabel("SQL").fill("SELECT * FROM app.orders WHERE id = $1");
  await page.getByLabel("$1").fill("7");
  await page.getByLabel("SQL").press("Control+Enter");
  await page.locator("#query-status", { hasText: /^live$/ }).waitFor();
  assert.equal(await page.getByRole("alert").filter({ hasText: "INVALID_SQL" }).count(), 0);
  await page.getByRole("button", { name: "Stop" }).click();
  await page.locator("#query-status", { hasText: "not running" }).waitFor();
}

export async function tables_and_columns_are_completed({ page, settings }) {
  await go(page, settings);
  const sql = page.getByLabel("SQL");
  await sql.fill("");
  await sql.pressSequentially("SELECT * FROM app.or");
  const list = page.getByRole("listbox", { name: "Completions" });
  await list.getByRole("option", { name: "app.orders" }).waitFor();
  const marked = await sql.getAttribute("aria-activedescendant");
  assert.equal(await page.locator(`#${marked}`).getAttribute("aria-selected"), "true");
  await sql.press("Enter");
  assert.equal(await sql.inputValue(), "SELECT * FROM app.orders");
  await list.waitFor({ state: "hidden" });

  await sql.pressSequentially(" WHERE st");
  await list.getByRole("option", { name: "status" }).waitFor();
  await sql.press("Escape");
  await list.waitFor({ state: "hidden" });
  await sql.press("Control+Space");
  await list.getByRole("option", { name: "status" }).waitFor();
  await sql.press("Tab");
  assert.equal(await sql.inputValue(), "SELECT * FROM app.orders WHERE status");

  await sql.fill("SELECT * FROM app.loose WHERE ");
  await sql.press("Control+Space");
  await list.getByRole("option", { name: "colour" }).waitFor();
  await sql.press("ArrowDown");
  await sql.press("ArrowUp");
  await list.getByRole("option", { name: "colour" }).click();
  assert.match(await sql.inputValue(), /WHERE colour$/);

  await sql.fill("SELECT * FROM app.orders WHERE status = 'st");
  await sql.press("End");
  assert.ok(await list.isHidden(), "inside of a text nothing is completed");
}

export async function changes_are_posted_from_a_form({ page, settings }) {
  await go(page, settings);
  await ask(page, "SELECT * FROM app.orders WHERE status = 'posted'");
  const form = page.getByRole("form", { name: "Post a change" });
  await until(async () => (await form.getByLabel("Table").inputValue()) === "app.orders", "the query's table");
  assert.match(await form.getByLabel("Row").inputValue(), /"status"/, "a row to begin with");
  await form.getByLabel("Row").fill('[{"id": 301, "status": "posted"}, {"id": 302, "status": "posted"}]');
  await form.getByRole("button", { name: "Post" }).click();
  await form.getByText("accepted 2").waitFor();
  await showsRows(page, 301, 302);

  await row(page, 301).getByRole("button", { name: "Put this row into the post form" }).click();
  assert.equal(JSON.parse(await form.getByLabel("Row").inputValue()).id, 301);
  await form.getByLabel("Change").selectOption("delete");
  await form.getByRole("button", { name: "Post" }).click();
  await page.mouse.move(2, 2);
  await showsRows(page, 302);

  await form.getByLabel("Row").fill("{");
  await form.getByRole("button", { name: "Post" }).click();
  await form.getByRole("alert").filter({ hasText: "not JSON" }).waitFor();
  await form.getByLabel("Change").selectOption("insert");
  await form.getByLabel("Row").fill('{"status": "no key"}');
  await form.getByRole("button", { name: "Post" }).click();
  await form.getByRole("alert").filter({ hasText: "INVALID_CHANGE" }).waitFor();

  await form.getByLabel("Row").fill('{"id": 303, "status": "elsewhere"}');
  await form.getByRole("button", { name: "Post" }).click();
  await form.getByRole("link").click();
  await page.locator("#page-title", { hasText: "Why" }).waitFor();
  assert.match(await page.getByLabel("Seq of the change").inputValue(), /^\d+$/);
}

export async function code_is_ready_to_run({ page, settings }) {
  await go(page, settings);
  await ask(page, "SELECT * FROM app.orders WHERE status = $1", "it's \"coded\"");
  await page.getByRole("tab", { name: "Code" }).click();
  const code = {};
  for (const language of ["JavaScript", "Python", "curl"]) {
    code[language] = await page.locator(`pre[data-language="${language}"]`).textContent();
  }
  await page.getByRole("button", { name: "Copy Python" }).click();
  await page.getByRole("button", { name: "Copy Python" }).filter({ hasText: "Copied" }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), code.Python);
  return code;
}

export async function a_token_is_at_hand_and_another_user_is_a_form_away({ page, settings }) {
  await post(settings, put({ id: 1, tenant: "a" }, "app.guarded"), put({ id: 2, tenant: "b" }, "app.guarded"));
  await go(page, settings);
  await page.getByRole("button", { name: "Acting as" }).click();
  const dialog = page.getByRole("dialog", { name: "Who asks" });
  const token = await dialog.locator("#ready-token").textContent();
  const claims = JSON.parse(Buffer.from(token.split(".")[1], "base64url"));
  assert.deepEqual([claims.sub, claims.role], ["dev", "service"]);
  await dialog.getByLabel("User").fill("ada");
  await dialog.getByLabel("Role").selectOption("user");
  await dialog.getByLabel("Claims").fill('{"tenant": "b"}');
  await dialog.getByRole("button", { name: "Make a token" }).click();
  await dialog.waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Acting as ada user" }).waitFor();
  await ask(page, "SELECT * FROM app.guarded");
  await showsRows(page, 2);

  await page.getByRole("button", { name: "Acting as" }).click();
  await dialog.getByRole("button", { name: "Be anonymous" }).click();
  await page.getByRole("button", { name: "Acting as anonymous" }).waitFor();
  await page.locator("#query-status", { hasText: /^live$/ }).waitFor();
  await showsRows(page);

  await page.getByRole("button", { name: "Acting as" }).click();
  await dialog.getByLabel("Token", { exact: true }).fill("nonsense");
  await dialog.getByRole("button", { name: "Use it" }).click();
  await dialog.getByRole("alert").filter({ hasText: "no token" }).waitFor();
  await dialog.getByLabel("Token", { exact: true }).fill(settings.service);
  await dialog.getByRole("button", { name: "Use it" }).click();
  await page.getByRole("button", { name: "Acting as feeder service" }).waitFor();
}

// -- the board and the lists --

export async function the_board_shows_what_is_going_on({ page, settings, opened }) {
  const other = await opened();
  await go(other, settings);
  await ask(other, "SELECT * FROM app.orders WHERE id > 400");
  await go(page, settings, "board");
  const tile = (name) => page.getByRole("region", { name, exact: true });
  const value = (name) => tile(name).locator(".value").textContent();
  await until(async () => Number(await value("Connections")) >= 1, "connections");
  let id = 400;
  await until(async () => {
    await post(settings, put({ id: (id += 1), status: "board" }));
    return Number.parseFloat(await value("Deliveries")) > 0 && /p50 [\d.]+ ms.*p99 [\d.]+ m?s/.test(await value("Post to socket"));
  }, "deliveries, p50 and p99");
  assert.match(await value("Memory"), /^\d+ MiB$/);
  assert.match(await value("CPU"), /^\d+ %$/);
  assert.match(await value("Lagging"), /^\d/);
  assert.match(await tile("Log").innerText(), /reaches back/);
  const line = page.locator("tr[data-table='app.orders']");
  await until(async () => Number.parseFloat(await line.locator("td").first().textContent()) > 0, "the table's rate");
  for (const chart of await page.getByRole("img").all()) assert.match(await chart.getAttribute("aria-label"), /: .+; highest /);
  const chart = tile("Deliveries").getByRole("img");
  await until(async () => (await chart.locator("path.line").getAttribute("d")).includes("L"), "a line of two points");
  await chart.focus();
  await page.keyboard.press("ArrowLeft");
  await tile("Deliveries").locator(".tip", { hasText: "/s" }).waitFor();
  await chart.hover({ position: { x: 2, y: 20 } });
}

export async function tables_are_listed_and_queried({ page, settings }) {
  await go(page, settings, "tables");
  const line = (name) => page.getByRole("row", { name: new RegExp(`^${name}`) });
  await line("app.orders").getByText("BigInt").waitFor();
  await line("app.notes").getByText("USER").waitFor();
  await line("app.guarded").getByText("tenant = CLAIM('tenant')").waitFor();
  await line("app.loose").getByText("auto-created").waitFor();
  await line("app.loose").getByText("colour").waitFor();
  await line("app.loose").getByRole("button", { name: "Query app.loose" }).click();
  await page.locator("#page-title", { hasText: "Query" }).waitFor();
  await page.locator("#query-status", { hasText: /^live$/ }).waitFor();
  assert.equal(await page.getByLabel("SQL").inputValue(), "SELECT * FROM app.loose");
}

/** Whoever started this holds `settings.crowd` connections of the user `crowd`. */
export async function connections_are_turned_over_page_by_page_and_closed({ page, settings }) {
  await go(page, settings, "connections");
  await page.getByLabel("User").fill("crowd");
  await page.getByRole("button", { name: "Show" }).click();
  const table = page.getByRole("table", { name: "Connections" });
  const lines = table.locator("tbody tr");
  await until(async () => (await lines.count()) === 100, "a page of a hundred");
  const idOf = () => lines.first().locator("code").last().textContent();
  const first = await idOf();
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByText(`page 2, ${settings.crowd - 100} rows`).waitFor();
  await page.getByRole("button", { name: "Previous" }).click();
  await page.getByText("page 1, 100 rows, more follow").waitFor();
  assert.equal(await idOf(), first);

  await page.getByLabel("User").fill("victim");
  await page.getByRole("button", { name: "Show" }).click();
  await page.getByText("page 1, 1 row").waitFor();
  await lines.first().getByRole("button", { name: "Close connection" }).click();
  const dialog = page.getByRole("dialog", { name: "Close a connection of victim?" });
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await dialog.waitFor({ state: "detached" });
  await lines.first().getByRole("button", { name: "Close connection" }).click();
  await dialog.getByLabel("Reason").fill("go and rest");
  await dialog.getByLabel("Reason").press("Enter");
  await page.getByText("There is no such connection now.").waitFor();
}

/** `settings.watched` is a connection of `reader` with one subscription on app.orders. */
export async function subscriptions_tell_how_they_are_found_and_how_far_they_are({ page, settings }) {
  await go(page, settings, "connections");
  await page.getByLabel("User").fill("reader");
  await page.getByRole("button", { name: "Show" }).click();
  await page.getByRole("link", { name: /^1 subscriptions of connection/ }).click();
  await page.locator("#page-title", { hasText: "Subscriptions" }).waitFor();
  const line = page.getByRole("table", { name: "Subscriptions" }).locator("tbody tr");
  await until(async () => (await line.count()) === 1, "the one subscription");
  await line.getByText("hash status = 'read'").waitFor();
  await line.getByText("then total > 5").waitFor();
  await line.getByText("live", { exact: true }).waitFor();
  await line.locator("summary").click();
  await line.getByText("(status = 'read') AND (total > 5)").waitFor();
  await line.getByRole("button", { name: "Explain" }).click();
  await line.getByText("Snapshot").waitFor();
  await page.getByLabel("State").selectOption("true");
  await page.getByRole("button", { name: "Show" }).click();
  await page.getByText("There is no such subscription now.").waitFor();
}

export async function why_a_user_did_not_get_a_change({ page, settings }) {
  const seq = await post(settings, put({ id: 501, status: "paid", total: 3 }));
  await go(page, settings, "why");
  await page.getByLabel("User").fill("reader");
  await page.getByLabel("Seq of the change").fill(String(seq));
  await page.getByRole("button", { name: "Why?" }).click();
  await page.getByText("kept back by the filter").first().waitFor();
  await page.getByRole("cell", { name: "status = 'read'" }).waitFor();
  await page.getByRole("cell", { name: '{"status":"paid"}' }).waitFor();
  const got = await post(settings, put({ id: 502, status: "read", total: 9 }));
  await page.getByLabel("Seq of the change").fill(String(got));
  await page.getByRole("button", { name: "Why?" }).click();
  await page.locator(".case .tag", { hasText: "delivered" }).waitFor();
  await page.getByLabel("Seq of the change").fill(String(got + 1000));
  await page.getByRole("button", { name: "Why?" }).click();
  await page.getByRole("alert").filter({ hasText: "NOT_FOUND" }).waitFor();
}

// -- who gets in --

export async function without_dev_a_token_of_a_dba_is_asked_for({ page, settings, opened }) {
  for (const colorScheme of ["light", "dark"]) {
    const examined = await opened({ ...EXAMINED, colorScheme });
    await examined.goto(`${settings.url}/`);
    await examined.getByRole("form", { name: "Sign in" }).waitFor();
    assert.deepEqual(await faultsOf(examined, `${colorScheme} sign in`), []);
  }
  const answer = await page.goto(`${settings.url}/`);
  assert.equal(answer.status(), 401);
  const form = page.getByRole("form", { name: "Sign in" });
  const token = form.getByLabel("Token");
  assert.ok(await token.evaluate((node) => node === document.activeElement));
  await token.fill("nonsense");
  await form.getByRole("button", { name: "Sign in" }).click();
  await form.getByRole("alert").filter({ hasText: /./ }).waitFor();
  await token.fill(settings.service);
  await form.getByRole("button", { name: "Sign in" }).click();
  await form.getByRole("alert").filter({ hasText: "role dba" }).waitFor();
  await token.fill(settings.dba);
  await form.getByRole("button", { name: "Sign in" }).click();
  await page.locator("body.ready").waitFor();
  await ask(page, "SELECT * FROM app.vault");
  await page.reload();
  await page.locator("body.ready").waitFor();
  await page.getByRole("button", { name: "Acting as boss dba" }).click();
  assert.equal(await page.getByRole("button", { name: "Make a token" }).count(), 0, "tokens are minted under --dev only");
  await page.getByRole("button", { name: "Sign out" }).click();
  await form.waitFor();
  assert.deepEqual(await page.evaluate(() => Object.keys(sessionStorage).filter((name) => /token|acting/.test(name))), []);
  assert.deepEqual(await page.evaluate(() => Object.keys(localStorage)), []);
}

/** `settings.url` is the internal address, `settings.others` has the public one. */
export async function on_the_internal_address_queries_go_to_the_public_one({ page, settings }) {
  await go(page, settings);
  await page.getByRole("button", { name: "Acting as" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Token", { exact: true }).fill(settings.service);
  await dialog.getByRole("button", { name: "Use it" }).click();
  await ask(page, "SELECT * FROM app.orders");
  await post(settings, put({ id: 601, status: "inside" }));
  await showsRows(page, 601);
  await page.getByRole("tab", { name: "Code" }).click();
  assert.match(await page.locator('pre[data-language="JavaScript"]').textContent(), new RegExp(new URL(settings.others[0]).host));
}

// -- for everybody --

export async function everything_is_done_with_a_keyboard({ page, settings }) {
  await post(settings, put({ id: 701, status: "keys" }));
  await go(page, settings);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the page");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "sql");
  await page.keyboard.press("Control+A");
  await page.keyboard.type("SELECT * FROM app.orders WHERE status = 'keys'");
  await page.keyboard.press("Control+Enter");
  await showsRows(page, 701);
  await page.getByRole("tab", { name: "Post changes" }).focus();
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Code");
  await page.getByRole("button", { name: "Copy curl" }).waitFor();
  await page.keyboard.press("ArrowRight");
  await page.getByText("Subscribers of this plan").waitFor();
  for (const name of PAGES.slice(1)) {
    const link = page.locator(`nav a[data-page=${name}]`);
    await link.focus();
    await page.keyboard.press("Enter");
    await until(async () => (await page.evaluate(() => document.activeElement.id)) === "page-title", "the focus moves to the page");
    assert.equal(await link.getAttribute("aria-current"), "page");
  }
  const shown = await page.evaluate(() => {
    document.querySelector("nav a").focus();
    return getComputedStyle(document.activeElement).outlineStyle;
  });
  assert.ok(shown, "the focus can be seen");
}

/** What axe-core has against a page, in lines that begin with `where`. */
async function faultsOf(page, where) {
  if (!(await page.evaluate(() => "axe" in window))) {
    await page.addScriptTag({ content: await readFile(createRequire(import.meta.url).resolve("axe-core"), "utf8") });
  }
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return violations.map(({ id, help, nodes }) => `${where}: ${id}, ${help}: ${nodes.map(({ html }) => html).join(" | ")}`);
}

/** The page's own policy keeps axe out. */
const EXAMINED = { bypassCSP: true, reducedMotion: "reduce" };

/** axe-core finds no fault, in both schemes, wide and narrow. */
export async function a_screen_reader_can_read_it({ settings, opened }) {
  await post(settings, put({ id: 801, status: "read aloud" }));
  const found = [];
  for (const [colorScheme, width] of [["light", 1280], ["dark", 1280], ["dark", 390]]) {
    const page = await opened({ ...EXAMINED, colorScheme, viewport: { width, height: 900 } });
    const examine = async (name) => found.push(...(await faultsOf(page, `${colorScheme} ${width} ${name}`)));
    await go(page, settings);
    for (const name of PAGES) {
      await page.evaluate((hash) => void (location.hash = hash), `#/${name}`);
      await page.getByRole("heading", { level: 2, name: new RegExp(`^${name}$`, "i") }).waitFor();
      if (name === "query") await ask(page, "SELECT * FROM app.orders WHERE status = 'read aloud'");
      if (name === "board") await page.locator(".tile .chart[aria-label]").first().waitFor();
      if (name === "tables") await page.getByRole("row", { name: /^app.orders/ }).waitFor();
      if (name.endsWith("ions")) await page.getByText(/^page 1, /).waitFor();
      await examine(name);
    }
    // The query goes on while other pages are on show.
    const seq = await post(settings, put({ id: 802, status: "whispered" }));
    await page.getByLabel("User").fill("dev");
    await page.getByLabel("Seq of the change").fill(String(seq));
    await page.getByRole("button", { name: "Why?" }).click();
    await page.getByRole("cell", { name: "status = 'read aloud'" }).first().waitFor();
    await examine("a verdict");
    await go(page, settings);
    await page.getByRole("button", { name: "Acting as" }).click();
    await examine("the dialog");
    await page.keyboard.press("Escape");
    await page.getByLabel("SQL").fill("SELECT nonsense");
    await page.getByRole("button", { name: "Run" }).click();
    await page.getByRole("alert").filter({ hasText: "INVALID_SQL" }).waitFor();
    for (const tab of ["Code", "Explain"]) {
      await page.getByRole("tab", { name: tab }).click();
      await examine(tab);
    }
    await page.context().close();
  }
  assert.deepEqual(found, []);
}

export async function it_fits_narrow_and_wide_light_and_dark({ settings, opened }) {
  const grounds = new Set();
  for (const [colorScheme, width] of [["light", 1600], ["dark", 360]]) {
    const page = await opened({ colorScheme, viewport: { width, height: 800 } });
    await go(page, settings);
    await ask(page, "SELECT * FROM app.orders");
    grounds.add(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
    for (const name of PAGES) {
      await page.goto(`${settings.url}/#/${name}`);
      await page.getByRole("heading", { level: 2, name: new RegExp(`^${name}$`, "i") }).waitFor();
      const [wide, inside] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide <= inside, `${name} is ${wide} wide at ${inside}`);
      assert.ok(await page.locator(`nav a[data-page=${name}]`).isVisible());
    }
  }
  assert.equal(grounds.size, 2);
}

export async function a_connection_that_was_closed_is_told({ page, settings }) {
  await post(settings, put({ id: 901, status: "lost" }));
  await go(page, settings);
  await ask(page, "SELECT * FROM app.orders WHERE status = 'lost'");
  const answer = await fetch(`${settings.url}/v1/subscriptions?table=app.orders`);
  const { subscriptions } = await answer.json();
  const mine = subscriptions.find(({ sql }) => sql.includes("'lost'"));
  await fetch(`${settings.url}/v1/connections/${mine.connection}`, { method: "DELETE" });
  // Closed with 1008: its client would come back with a new token only, and has none.
  await page.getByRole("alert").filter({ hasText: /closed by an administrator|1008/ }).waitFor();
  await page.getByRole("button", { name: "Run" }).click();
  await showsRows(page, 901);
}

// -- what the modules reckon --

/** The modules by themselves, in the browser that they are for. */
export async function the_modules_reckon_right({ page, settings }) {
  await go(page, settings);
  const told = await page.evaluate(async () => {
    const [format, metrics, editor, { snippets }] = await Promise.all(
      ["format", "metrics", "editor", "snippets"].map((name) => import(`/console/${name}.js`)),
    );
    const before = metrics.parse('t_bucket{le="0.1"} 1\nt_bucket{le="0.2"} 1\nt_bucket{le="+Inf"} 3\nn{a="x\\"y\\n"} 2\n');
    const after = metrics.parse('t_bucket{le="0.1"} 1\nt_bucket{le="0.2"} 101\nt_bucket{le="+Inf"} 103\n');
    const tables = [
      { table: "app.orders", type: "shared", primary_key: ["id"], columns: [{ name: "id", type: "Int" }, { name: "Full Name", type: "Text" }], seen_columns: [] },
      { table: 'public."User"', type: "shared", primary_key: ["id"], columns: null, seen_columns: ["id", "mail"] },
    ];
    const names = (before, sql) => editor.candidates(before, sql, tables).map(({ name }) => name);
    return {
      seconds: [0, 0.0042, 0.25, 12.34, 59.99, 245, 12000, 190000].map(format.seconds),
      bytes: [0, 999, 1500, 25 * 1024 * 1024, 5e12].map(format.bytes),
      short: [0, 0.5, 999, 12345, 2.5e6].map(format.short),
      cell: [undefined, null, true, 1.5, "x", { a: [1] }].map(format.cell),
      label: [...before.get("n")][0].labels.a,
      quantiles: [0.5, 1].map((share) => metrics.quantile(before, after, "t", share)),
      nothing: metrics.quantile(after, after, "t", 0.5),
      tables: ["select * FROM App.Orders where", 'SELECT * FROM "app"."orders"', 'SELECT 1 FROM public."User"', "SELECT"].map((sql) => editor.tableOf(sql, tables) ?? null),
      afterFrom: names("SELECT * FROM ", ""),
      inWhere: names("SELECT * FROM app.orders WHERE ", "SELECT * FROM app.orders WHERE ").slice(0, 3),
      loose: names('SELECT * FROM public."User" WHERE ', 'SELECT * FROM public."User" WHERE ').slice(0, 2),
      code: snippets({ server: "http://h:1", token: "", sql: "SELECT 'it''s' -- $HOME", params: [null, true, "o'x", [1]], change: "{}" }),
    };
  });
  assert.deepEqual(told.seconds, ["0 s", "4.2 ms", "250 ms", "12.3 s", "60 s", "4 m 5 s", "3 h 20 m", "2 d 4 h"]);
  assert.deepEqual(told.bytes, ["0 B", "999 B", "1.5 KiB", "25 MiB", "4,657 GiB"]);
  assert.deepEqual(told.short, ["0", "0.5", "999", "12.3 k", "2.5 M"]);
  assert.deepEqual(told.cell, ["", "NULL", "true", "1.5", "x", '{"a":[1]}']);
  assert.equal(told.label, 'x"y\n');
  assert.ok(Math.abs(told.quantiles[0] - 0.15) < 0.01, told.quantiles);
  assert.equal(told.quantiles[1], 0.2);
  assert.equal(told.nothing, null);
  assert.deepEqual(told.tables, ["app.orders", "app.orders", 'public."User"', null]);
  assert.deepEqual(told.afterFrom, ["app.orders", 'public."User"']);
  assert.deepEqual(told.inWhere, ["id", '"Full Name"', "AND"]);
  assert.deepEqual(told.loose, ["id", "mail"]);
  const [js, python, shell] = told.code.map(({ text }) => text);
  assert.match(js, /live\("SELECT 'it''s' -- \$HOME", \[null,true,"o'x",\[1\]\]\)/);
  assert.match(python, /params=\[None, True, "o'x", \[1\]\]/);
  assert.match(shell, /--param 'null' --param 'true' --param 'o'\\''x' --param '\[1\]'/);
  assert.match(shell, /'SELECT '\\''it'\\'''\\''s'\\'' -- \$HOME'/);
}
