/** TanStack DB's own package against the scripted server. */

import { createCollection, createLiveQueryCollection, eq } from "@tanstack/db";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { kalamCollectionOptions } from "../src/tanstack.js";
import { FakeNetwork, row, settle, type FakeSocket, type Message } from "./fakes.js";

interface Order {
  id: number;
  status?: string;
  note?: string;
}

const SQL = "SELECT * FROM app.orders WHERE tenant = $1";
let network: FakeNetwork;

beforeEach(() => {
  vi.useFakeTimers();
  network = new FakeNetwork();
});
afterEach(() => void vi.useRealTimers());

function collection() {
  return createCollection(
    kalamCollectionOptions<Order, number>({ db: network.client(), sql: SQL, params: ["a"], getKey: (order) => order.id, startSync: true }),
  );
}

async function begun(rows: Message[]): Promise<FakeSocket> {
  const socket = await network.accept();
  expect(socket.next("subscribe").subscription.params).toEqual(["a"]);
  socket.ack("q1", 5);
  socket.page("q1", rows, 5);
  await settle();
  return socket;
}

const held = (it: { toArray: Order[] }) => it.toArray.map(({ id, status }) => [id, status]).sort();

it("fills a collection and makes it ready", async () => {
  const orders = collection();
  expect(orders.status).toBe("loading");
  await begun([row(1, 1, { status: "open" })]);
  expect(orders.status).toBe("ready");
  expect(held(orders)).toEqual([[1, "open"]]);
});

it("an empty answer makes it ready too", async () => {
  const orders = collection();
  await begun([]);
  expect(orders.status).toBe("ready");
  expect(orders.size).toBe(0);
});

it("carries inserts, whole updates and deletes over", async () => {
  const orders = collection();
  const socket = await begun([row(1, 1, { status: "open", note: "x" }), row(2, 2, { status: "open" })]);
  socket.change("q1", "insert", { rows: [row(3, 6, { status: "paid" })] });
  socket.change("q1", "update", { rows: [row(1, 7, { status: "paid" })], old_values: [{}] });
  socket.change("q1", "delete", { old_values: [row(2, 8)] });
  await settle();
  expect(held(orders)).toEqual([[1, "paid"], [3, "paid"]]);
  expect(orders.get(1)).not.toHaveProperty("note");
});

it("replaces everything at one stroke when the server begins anew", async () => {
  const orders = collection();
  const socket = await begun([row(1, 1), row(2, 2)]);
  const told: string[] = [];
  const tell = (changes: { type: string; key: unknown }[]) => told.push(changes.map((it) => `${it.type} ${String(it.key)}`).sort().join());
  orders.subscribeChanges(tell, { includeInitialState: true });
  told.length = 0;
  socket.end(1006);
  const next = await network.acceptNext();
  next.ack("q1", 9, { resumed: false });
  next.page("q1", [row(2, 8)], 8, true);
  await settle();
  expect(held(orders).map(([id]) => id)).toEqual([1, 2]);
  next.page("q1", [row(3, 9)], 9);
  await settle();
  expect(held(orders).map(([id]) => id)).toEqual([2, 3]);
  expect(told).toEqual(["delete 1,insert 3,update 2"]);
});

it("feeds TanStack's own live queries", async () => {
  const orders = collection();
  const open = createLiveQueryCollection({
    startSync: true,
    query: (q) => q.from({ order: orders }).where(({ order }) => eq(order.status, "open")),
  });
  const socket = await begun([row(1, 1, { status: "open" }), row(2, 2, { status: "paid" })]);
  expect(held(open as unknown as { toArray: Order[] })).toEqual([[1, "open"]]);
  socket.change("q1", "update", { rows: [row(2, 6, { status: "open" })], old_values: [{}] });
  await settle();
  expect(held(open as unknown as { toArray: Order[] })).toEqual([[1, "open"], [2, "open"]]);
});

it("tells a refusal", async () => {
  const orders = collection();
  const socket = await network.accept();
  const waiting = orders.preload().catch((error: unknown) => error);
  socket.say({ type: "error", subscription_id: "q1", code: "UNAUTHORIZED", message: "no" });
  await settle();
  expect(orders.status).toBe("error");
  expect(await waiting).toMatchObject({ code: "UNAUTHORIZED" });
});

it("unsubscribes when the collection is cleaned up", async () => {
  const orders = collection();
  const socket = await begun([]);
  await orders.cleanup();
  await settle();
  expect(socket.sent).toEqual([{ type: "unsubscribe", subscription_id: "q1" }]);
});
