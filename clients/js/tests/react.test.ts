// @vitest-environment happy-dom
/** React's own packages, 19 and 18 (vitest.config.ts), against the scripted server. */

import { act, createElement, Fragment, startTransition, StrictMode, useState, version, type ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { Client } from "../src/index.js";
import { KalamProvider, useLiveQuery } from "../src/react.js";
import { FakeNetwork, row, type FakeSocket, type Message } from "./fakes.js";

const SQL = "SELECT * FROM app.orders WHERE tenant = $1";
const now = performance.now.bind(performance); // the real one, while timers are fakes
let network: FakeNetwork;
let db: Client;
let root: Root;
let page: HTMLElement;

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("IS_REACT_ACT_ENVIRONMENT", true);
  network = new FakeNetwork();
  db = network.client();
  page = document.createElement("div");
  root = createRoot(page);
});
afterEach(async () => {
  await act(async () => root.unmount());
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

function Orders({ tenant = "a" }: { tenant?: string | null }): ReactNode {
  const { rows, status, error } = useLiveQuery<Message>(tenant === null ? null : SQL, [tenant]);
  return `[${status} ${rows.map((it) => it.id).join()} ${error?.code ?? ""}]`;
}

async function render(...children: ReactNode[]): Promise<void> {
  const tree = createElement(KalamProvider, { db }, createElement(Fragment, null, ...children));
  await act(async () => root.render(createElement(StrictMode, null, tree)));
}

/** Do something, and let a frame pass. */
async function frame(work: () => void = () => {}): Promise<void> {
  await act(async () => {
    work();
    await vi.advanceTimersByTimeAsync(20);
  });
}

async function begun(id = "q1", rows: Message[] = [row(1, 1)]): Promise<FakeSocket> {
  const socket = await network.accept();
  socket.next("subscribe");
  await frame(() => {
    socket.ack(id, 5);
    socket.page(id, rows, 5);
  });
  return socket;
}

it("runs on the React that it says", () => {
  expect(version.split(".")[0]).toBe(process.env.REACT ?? "19");
});

it("shows rows as they change, under StrictMode with one subscription", async () => {
  await render(createElement(Orders));
  expect(page.textContent).toBe("[loading  ]");
  const socket = await begun();
  expect(page.textContent).toBe("[live 1 ]");
  await frame(() => socket.change("q1", "insert", { rows: [row(2, 6)] }));
  expect(page.textContent).toBe("[live 1,2 ]");
  expect(socket.sent).toEqual([]);
});

it("unsubscribes on unmount", async () => {
  await render(createElement(Orders));
  const socket = await begun();
  await render();
  await frame();
  expect(socket.sent).toEqual([{ type: "unsubscribe", subscription_id: "q1" }]);
});

it("asks another query when a parameter's value changes, and none when only its array does", async () => {
  await render(createElement(Orders, { tenant: "a" }));
  const socket = await begun();
  await render(createElement(Orders, { tenant: "a" }));
  await frame();
  expect(socket.sent).toEqual([]);
  await render(createElement(Orders, { tenant: "b" }));
  expect(page.textContent).toBe("[loading  ]");
  await frame();
  expect(socket.sent.map((it) => it.type).sort()).toEqual(["subscribe", "unsubscribe"]);
  expect(socket.sent.find((it) => it.type === "subscribe")?.subscription.params).toEqual(["b"]);
});

it("asks nothing for null", async () => {
  await render(createElement(Orders, { tenant: null }));
  await frame();
  expect(page.textContent).toBe("[closed  ]");
  expect(network.sockets).toEqual([]);
});

it("shares a query among components, and shows one that comes late what is there at once", async () => {
  await render(createElement(Orders, { key: 1 }), createElement(Orders, { key: 2 }));
  const socket = await begun();
  expect(page.textContent).toBe("[live 1 ][live 1 ]");
  const seen: string[] = [];
  const Late = (): ReactNode => {
    seen.push(useLiveQuery<Message>(SQL, ["a"]).status);
    return null;
  };
  await render(createElement(Orders, { key: 1 }), createElement(Late, { key: 3 }));
  await frame();
  expect(new Set(seen)).toEqual(new Set(["live"]));
  expect(socket.sent).toEqual([]);
});

it("shows the server's error", async () => {
  await render(createElement(Orders));
  const socket = await network.accept();
  await frame(() => socket.say({ type: "error", subscription_id: "q1", code: "UNAUTHORIZED", message: "no" }));
  expect(page.textContent).toBe("[error  UNAUTHORIZED]");
});

it("renders once for many messages of a frame", async () => {
  let renders = 0;
  const Counted = (): ReactNode => {
    renders++;
    return String(useLiveQuery(SQL, ["a"]).rows.length);
  };
  await render(createElement(Counted));
  const socket = await begun();
  const before = renders;
  await frame(() => {
    for (let id = 10; id < 500; id++) socket.change("q1", "insert", { rows: [row(id, id)] });
  });
  expect(page.textContent).toBe("491");
  expect(renders - before).toBeLessThanOrEqual(2); // StrictMode renders twice
});

it("does not tear: rows that come amid a concurrent rendering show nowhere or everywhere", async () => {
  let grow = (): void => {};
  let disturb = false;
  // Slow enough that React yields between two of them; the change arrives in such a pause.
  const Slow = (): ReactNode => {
    const { rows } = useLiveQuery<Message>(SQL, ["a"]);
    const until = now() + 6;
    while (now() < until);
    return createElement("i", null, rows.length);
  };
  const App = (): ReactNode => {
    const [count, setCount] = useState(1);
    grow = () => setCount(8);
    return Array.from({ length: count }, (_, key) => createElement(Slow, { key }));
  };
  await render(createElement(App));
  const socket = await begun();
  vi.useRealTimers();
  vi.stubGlobal("IS_REACT_ACT_ENVIRONMENT", false);
  const shown = () => new Set([...page.querySelectorAll("i")].map((it) => it.textContent));
  const torn: unknown[] = [];
  const observer = new MutationObserver(() => shown().size > 1 && torn.push([...shown()]));
  observer.observe(page, { childList: true, subtree: true, characterData: true });
  startTransition(grow);
  for (let seq = 6; seq < 30; seq++) {
    disturb = page.querySelectorAll("i").length < 8 || disturb;
    socket.change("q1", "insert", { rows: [row(seq, seq)] });
    await new Promise((resolve) => setTimeout(resolve, 4));
  }
  await vi.waitFor(() => {
    expect(page.querySelectorAll("i")).toHaveLength(8);
    expect([...shown()]).toEqual(["25"]);
  }, 20_000);
  expect(disturb).toBe(true);
  expect(torn).toEqual([]);
  observer.disconnect();
  vi.stubGlobal("IS_REACT_ACT_ENVIRONMENT", true);
}, 30_000);

it("renders on a server without a connection", () => {
  const html = renderToString(createElement(KalamProvider, { db }, createElement(Orders)));
  expect(html).toBe("[loading  ]");
  expect(network.sockets).toEqual([]);
});

it("wants a provider", () => {
  expect(() => renderToString(createElement(Orders))).toThrow("no KalamProvider");
});
