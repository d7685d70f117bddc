/**
 * Plays one scenario in Chromium: `node run.mjs '{"scenario": "...", "url": "...", ...}'`.
 *
 * Besides what the scenario looks for, nothing may go wrong that the browser tells: an error on the
 * page, something that its Content-Security-Policy stops, a request to another host. What a scenario
 * returns is printed as JSON, for whoever started it to go on with.
 */

import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import * as scenarios from "./scenarios.mjs";

const settings = JSON.parse(process.argv[2]);
const hosts = new Set([settings.url, ...(settings.others ?? [])].map((url) => new URL(url).host));
const faults = [];

const browser = await chromium.launch({
  executablePath: settings.browser,
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"],
});

/** A page of the console, watched. */
export async function opened(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]).catch(() => {});
  context.setDefaultTimeout(settings.timeout);
  const page = await context.newPage();
  page.on("pageerror", (fault) => faults.push(`error: ${fault.message}`));
  page.on("console", (message) => {
    // A status that is told to the page is no fault of it.
    const isStatus = message.text().startsWith("Failed to load resource: the server responded");
    if (message.type() === "error" && !isStatus) faults.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    const { host, protocol } = new URL(request.url());
    if (protocol !== "data:" && !hosts.has(host)) faults.push(`asked ${request.url()}`);
  });
  page.on("websocket", (socket) => {
    if (!hosts.has(new URL(socket.url()).host)) faults.push(`connected to ${socket.url()}`);
  });
  return page;
}

let page;
try {
  const scenario = scenarios[settings.scenario];
  page = await opened(settings.context);
  const told = await scenario({ page, settings, opened });
  assert.deepEqual(faults, []);
  console.log(JSON.stringify(told ?? null));
} catch (fault) {
  console.error(fault);
  console.error("the page's faults:", faults);
  console.error("it showed:", await page?.locator("body").innerText().catch(() => "nothing"));
  process.exitCode = 1;
} finally {
  await browser.close();
}
