import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { AuthenticationError, ConnectionError, QueryError, type Change, type Live } from "../src/index.js";
import { FakeNetwork, row, settle, tokenFor, type FakeSocket, type Message } from "./fakes.js";

const SQL = "SELECT * FROM app.orders";
let network: FakeNetwork;

beforeEach(() => {
  vi.useFakeTimers();
  network = new FakeNetwork();
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

const ids = (live: { rows: readonly unknown[] }) => live.rows.map((it) => (it as Message).id);

/** A query whose snapshot has come. */
async function loaded(rows: Message[] = [row(1, 1)], last = 5): Promise<{ socket: FakeSocket; live: Live<Message>; db: ReturnType<FakeNetwork["client"]> }> {
  const db = network.client();
  const live = db.live<Message>(SQL);
  const socket = await network.accept();
  socket.next("subscribe");
  socket.ack("q1", last);
  socket.page("q1", rows, last);
  await settle();
  return { socket, live, db };
}

describe("a query", () => {
  it("asks for a snapshot, with exact integers, and goes live", async () => {
    const live = network.client().live(SQL);
    expect(live.status).toBe("loading");
    const socket = await network.accept();
    expect(socket.url).toBe("ws://server:2900/v1/ws");
    expect(socket.sent).toEqual([
      { type: "subscribe", subscription: { id: "q1", sql: SQL, options: { bigints: "string", on_gap: "snapshot" } } },
    ]);
    socket.ack("q1", 5);
    socket.page("q1", [row(1, 1), row(2, 3)], 5);
    await settle();
    await live.ready;
    expect(live.status).toBe("live");
    expect(live.rows).toEqual([row(1, 1), row(2, 3)]);
    expect(live.position).toBe("5");
  });

  it("sends parameters, BigInt among them with all digits", async () => {
    const spoken: string[] = [];
    const db = network.client();
    db.live("SELECT * FROM app.orders WHERE a = $1 AND b = ANY($2)", [9007199254740993n, ["x", null]]);
    await settle();
    const socket = network.sockets[0]!;
    socket.send = (text) => spoken.push(text);
    socket.open();
    expect(spoken[0]).toContain('"params":[9007199254740993,["x",null]]');
  });

  it("pulls page after page", async () => {
    const live = network.client().live(SQL, [], { batchSize: 2 });
    const socket = await network.accept();
    expect(socket.next("subscribe").subscription.options.batch_size).toBe(2);
    socket.ack("q1", 4);
    socket.page("q1", [row(1, 3), row(2, 4)], 4, true);
    expect(socket.next("next_batch")).toEqual({ type: "next_batch", subscription_id: "q1", last_seq_id: "4" });
    await settle();
    expect(live.status).toBe("loading");
    expect(ids(live)).toEqual([1, 2]);
    socket.page("q1", [row(3, 8)], 9);
    await settle();
    expect(live.status).toBe("live");
    expect(ids(live)).toEqual([1, 2, 3]);
  });

  it("applies inserts, updates, deletes and transitions", async () => {
    const { socket, live } = await loaded([row(1, 1), row(2, 2)]);
    socket.change("q1", "insert", { rows: [row(3, 6)], transition: "enter" });
    socket.change("q1", "update", { rows: [row(1, 7, { a: 1 })], old_values: [{ id: 1, _seq: "1" }] });
    socket.change("q1", "delete", { old_values: [row(2, 8)], transition: "leave" });
    await settle();
    expect(live.rows).toEqual([row(1, 7, { a: 1 }), row(3, 6)]);
  });

  it("tells its listeners once a frame, however many messages came", async () => {
    const { socket, live } = await loaded();
    const heard: unknown[] = [];
    live.subscribe((rows) => heard.push(rows.length));
    await settle();
    expect(heard).toEqual([1]);
    for (let id = 10; id < 200; id++) socket.change("q1", "insert", { rows: [row(id, id)] });
    expect(heard).toEqual([1]);
    await settle();
    expect(heard).toEqual([1, 191]);
  });

  it("hears nothing of messages that change nothing, and keeps its array", async () => {
    const { socket, live } = await loaded();
    const { rows, state } = live;
    socket.change("q1", "insert", { rows: [row(9, 2)] }); // seen before
    socket.say({ type: "of a later version", subscription_id: "q1" });
    await settle();
    expect(live.rows).toBe(rows);
    expect(live.state).toBe(state);
  });

  it("goes on telling others when a listener fails", async () => {
    const { socket, live } = await loaded();
    const faults: unknown[] = [];
    vi.stubGlobal("queueMicrotask", (work: () => void) => {
      try {
        work();
      } catch (fault) {
        faults.push(fault);
      }
    });
    const heard = vi.fn();
    live.subscribe(() => {
      throw new Error("a listener's");
    });
    live.subscribe(heard);
    socket.change("q1", "insert", { rows: [row(2, 6)] });
    await settle();
    expect(heard).toHaveBeenCalled();
    expect(String(faults[0])).toContain("a listener's");
  });

  it("ends with the server's error, and may be asked again", async () => {
    const db = network.client();
    const live = db.live(SQL);
    const socket = await network.accept();
    socket.next("subscribe");
    socket.say({ type: "error", subscription_id: "q1", code: "INVALID_SQL", message: "no" });
    await settle();
    await expect(live.ready).rejects.toThrow(QueryError);
    expect(live.status).toBe("error");
    expect(live.error?.code).toBe("INVALID_SQL");
    db.live(SQL);
    expect(socket.next("subscribe").subscription.id).toBe("q2");
  });

  it("is not ended by a page that it asked for too late", async () => {
    const { socket, live } = await loaded();
    socket.say({ type: "error", subscription_id: "q1", code: "BATCH_FETCH_FAILED", message: "late" });
    await settle();
    expect(live.status).toBe("live");
  });

  it("closes by an AbortSignal", async () => {
    const abort = new AbortController();
    const db = network.client();
    const live = db.live(SQL, [], { signal: abort.signal });
    const socket = await network.accept();
    socket.next("subscribe");
    abort.abort();
    await settle();
    expect(live.status).toBe("closed");
    expect(socket.next("unsubscribe").subscription_id).toBe("q1");
    expect(db.live(SQL, [], { signal: abort.signal }).status).toBe("closed");
  });
});

describe("equal queries", () => {
  it("are asked once, and unsubscribed by the last who leaves", async () => {
    const { socket, live, db } = await loaded();
    const other = db.live<Message>(SQL);
    expect(other.rows).toBe(live.rows);
    expect(socket.sent).toEqual([]);
    live.close();
    await settle();
    expect(socket.sent).toEqual([]);
    socket.change("q1", "insert", { rows: [row(2, 6)] });
    await settle();
    expect(ids(other)).toEqual([1, 2]);
    expect(ids(live)).toEqual([1]);
    other.close();
    await settle();
    expect(socket.sent).toEqual([{ type: "unsubscribe", subscription_id: "q1" }]);
  });

  it("survive a close that is followed by another live at once", async () => {
    const { socket, live, db } = await loaded();
    live.close();
    const again = db.live<Message>(SQL);
    await settle();
    expect(ids(again)).toEqual([1]);
    expect(socket.sent).toEqual([]);
  });

  it("are two where parameters or options differ", async () => {
    const db = network.client();
    db.live(SQL, [1]);
    db.live(SQL, ["1"]);
    db.live(SQL, [1n]);
    db.live(SQL, [1], { lastRows: 3 });
    db.live(SQL, [1], { compare: () => 0 });
    const socket = await network.accept();
    // 1 and 1n are one value on the wire.
    expect(socket.sent.map((it) => it.subscription.id)).toEqual(["q1", "q2", "q3"]);
  });
});

describe("rows", () => {
  it("stand in order of their key: numbers by value, then texts", async () => {
    const { live } = await loaded([row("b", 1), row(10, 2), row(9, 3), row("a", 4), row(true, 5)]);
    expect(ids(live)).toEqual([true, 9, 10, "a", "b"]);
  });

  it("tell 1 and '1' apart, in keys of one column and of several", async () => {
    const { live } = await loaded([row(1, 1), row("1", 2)]);
    expect(ids(live)).toEqual([1, "1"]);
    const two = network.client().live<Message>(SQL);
    const socket = await network.accept();
    socket.ack("q1", 5, {}, ["id", "b"]);
    socket.page("q1", [row(1, 1, { b: "x" }), row("1", 2, { b: "x" }), row(1, 3, { b: "a" })], 5);
    socket.change("q1", "delete", { old_values: [row("1", 6, { b: "x" })] });
    await settle();
    expect(two.rows).toEqual([row(1, 3, { b: "a" }), row(1, 1, { b: "x" })]);
  });

  it("order integers beyond 2^53 by value where the column is declared an integer", async () => {
    const live = network.client().live(SQL);
    const socket = await network.accept();
    socket.ack("q1", 5, { schema: [{ name: "id", data_type: "BigInt", index: 0, flags: ["pk"] }] });
    socket.page("q1", [row("9007199254740993", 1), row(7, 2), row("-9007199254740993", 3)], 5);
    await settle();
    expect(ids(live)).toEqual(["-9007199254740993", 7, "9007199254740993"]);
  });

  it("may stand in another order, ties by key", async () => {
    const { socket, db } = await loaded([row(1, 1, { n: 5 }), row(2, 2, { n: 9 }), row(3, 3, { n: 5 })]);
    const compare = (a: Message, b: Message) => b.n - a.n;
    const live = db.live<Message>(SQL, [], { compare });
    expect(ids(live)).toEqual([2, 1, 3]);
    socket.change("q1", "update", { rows: [row(3, 6, { n: 10 })], old_values: [{}] });
    socket.change("q1", "insert", { rows: [row(4, 7, { n: 7 })] });
    socket.change("q1", "delete", { old_values: [row(1, 8)] });
    await settle();
    expect(ids(live)).toEqual([3, 2, 4]);
  });

  it("stay in order through many random changes", async () => {
    const { socket, live } = await loaded([], 5);
    const held = new Map<number, Message>();
    for (let seq = 6; seq < 3000; seq++) {
      const id = Math.floor(Math.random() * 200);
      if (Math.random() < 0.3) {
        held.delete(id);
        socket.change("q1", "delete", { old_values: [row(id, seq)] });
      } else {
        held.set(id, row(id, seq));
        socket.change("q1", "insert", { rows: [row(id, seq)] });
      }
      if (seq % 37 === 0) {
        await settle();
        expect(live.rows).toEqual([...held.values()].sort((a, b) => a.id - b.id));
      }
    }
  });

  it("of a table without a key are all that came, in that order", async () => {
    const live = network.client().live(SQL);
    const socket = await network.accept();
    socket.ack("q1", 5, {}, []);
    socket.page("q1", [], 5);
    socket.change("q1", "insert", { rows: [row(2, 6), row(1, 7)] });
    socket.change("q1", "delete", { old_values: [row(1, 8)] });
    await settle();
    expect(ids(live)).toEqual([2, 1]);
  });

  it("have BigInt for what a number cannot hold, by option", async () => {
    const live = network.client().live(SQL, [], { bigints: "bigint" });
    const socket = await network.accept();
    expect(socket.next("subscribe").subscription.options).toEqual({ on_gap: "snapshot" });
    socket.ack("q1", 5, { schema: [{ name: "id", data_type: "BigInt", index: 0, flags: ["pk"] }] });
    socket.text(
      '{"type":"initial_data_batch","subscription_id":"q1","rows":[{"id":9007199254740993,"_seq":"1","f":0.1234567890123456,"t":": 9007199254740993"},' +
        '{"id":9007199254740992,"_seq":"2","deep":[18446744073709551615,{"n":-9223372036854775808}]},{"id":7,"n":7,"_seq":"3"}],' +
        '"batch_control":{"has_more":false,"last_seq_id":5}}',
    );
    await settle();
    expect(live.rows).toEqual([
      { id: 7n, n: 7, _seq: "3" },
      { id: 9007199254740992n, _seq: "2", deep: [18446744073709551615n, { n: -9223372036854775808n }] },
      { id: 9007199254740993n, _seq: "1", f: 0.1234567890123456, t: ": 9007199254740993" },
    ]);
  });
});

describe("changes", () => {
  it("are told one by one, from what is there on", async () => {
    const { socket, live } = await loaded([row(1, 1), row(2, 2)]);
    const told: Change<Message>[] = [];
    const reading = (async () => {
      for await (const change of live.changes()) told.push(change);
    })();
    await settle();
    socket.change("q1", "update", { rows: [row(1, 6, { a: 1 })], old_values: [{ id: 1, _seq: "1" }] });
    socket.change("q1", "insert", { rows: [row(3, 7)], transition: "enter" });
    socket.change("q1", "delete", { old_values: [row(2, 8)] });
    await settle();
    live.close();
    await reading;
    expect(told).toEqual([
      { type: "reset" },
      { type: "insert", row: row(1, 1) },
      { type: "insert", row: row(2, 2) },
      { type: "ready" },
      { type: "update", row: row(1, 6, { a: 1 }), old: row(1, 1) },
      { type: "insert", row: row(3, 7), transition: "enter" },
      { type: "delete", row: row(2, 8) },
    ]);
  });

  it("that nobody reads are forgotten, and told anew as rows", async () => {
    const { socket, live } = await loaded([row(1, 1)]);
    const changes = live.changes();
    expect((await changes.next()).value).toEqual({ type: "reset" });
    for (let seq = 6; seq < 12_000; seq++) {
      socket.change("q1", "update", { rows: [row(1, seq)], old_values: [{}] });
    }
    const told: unknown[] = [];
    for (let change; change?.type !== "ready"; ) {
      change = (await changes.next()).value as Change<Message>;
      told.push(change);
    }
    expect(told).toEqual([{ type: "reset" }, { type: "insert", row: row(1, 11_999) }, { type: "ready" }]);
  });

  it("end with the query's error after what came before it", async () => {
    const { socket, live } = await loaded();
    const changes = live.changes();
    for (const _ of [1, 2, 3]) await changes.next();
    socket.change("q1", "insert", { rows: [row(2, 6)] });
    socket.say({ type: "error", subscription_id: "q1", code: "UNAUTHORIZED", message: "no more" });
    expect((await changes.next()).value).toEqual({ type: "insert", row: row(2, 6) });
    await expect(changes.next()).rejects.toThrow("no more");
    expect((await changes.next()).done).toBe(true);
  });

  it("stop when the loop is left", async () => {
    const { live } = await loaded();
    for await (const change of live.changes()) if (change.type === "ready") break;
    expect(live.status).toBe("live");
  });
});

describe("a lost connection", () => {
  it("is resumed from the highest seq seen, and what comes again is dropped", async () => {
    const { socket, live } = await loaded([row(1, 1)], 5);
    socket.change("q1", "insert", { rows: [row(2, 9)] });
    socket.end(1006);
    await settle();
    expect(live.status).toBe("reconnecting");
    expect(ids(live)).toEqual([1, 2]);
    const next = await network.acceptNext();
    const { options } = next.next("subscribe").subscription;
    expect(options).toEqual({ bigints: "string", from: "9", on_gap: "snapshot" });
    next.change("q1", "insert", { rows: [row(77, 90)] }); // before its acknowledgement: another's
    next.ack("q1", 9, { resumed: true });
    next.page("q1", [], 9);
    next.change("q1", "insert", { rows: [row(2, 9), row(3, 10)] });
    await settle();
    expect(live.rows).toEqual([row(1, 1), row(2, 9), row(3, 10)]);
    expect(live.status).toBe("live");
  });

  it("compares seqs as numbers, not as texts", async () => {
    const { socket, live } = await loaded([row(1, 9)], 9);
    socket.change("q1", "insert", { rows: [row(2, 10)] });
    socket.change("q1", "insert", { rows: [row(3, 9)] });
    await settle();
    expect(ids(live)).toEqual([1, 2]);
    expect(live.position).toBe("10");
  });

  it("does not take the position of a snapshot's acknowledgement for seen", async () => {
    const live = network.client().live(SQL);
    const socket = await network.accept();
    socket.ack("q1", 40);
    socket.end(1006);
    const next = await network.acceptNext();
    expect(next.next("subscribe").subscription.options).not.toHaveProperty("from");
    next.ack("q1", 40);
    next.page("q1", [row(1, 40)], 41);
    await settle();
    await live.ready;
    expect(ids(live)).toEqual([1]);
  });

  it("keeps its rows on show until the new snapshot is complete, when the log no longer reaches them", async () => {
    const { socket, live } = await loaded([row(1, 1000), row(2, 1001)], 1001);
    socket.end(1006);
    const next = await network.acceptNext();
    next.next("subscribe");
    next.ack("q1", 8, { resumed: false });
    next.page("q1", [row(1, 8, { a: 2 })], 8, true);
    next.next("next_batch");
    await settle();
    expect(live.rows).toEqual([row(1, 1000), row(2, 1001)]);
    expect(live.status).toBe("loading");
    next.page("q1", [row(3, 9)], 10);
    await settle();
    expect(live.rows).toEqual([row(1, 8, { a: 2 }), row(3, 9)]);
    expect(live.status).toBe("live");
    expect(live.position).toBe("10");
  });

  it("begins anew after RESUME_EXPIRED", async () => {
    const { socket, live } = await loaded([row(1, 1)], 5);
    socket.end(1006);
    const next = await network.acceptNext();
    next.next("subscribe");
    next.say({ type: "error", subscription_id: "q1", code: "RESUME_EXPIRED", message: "gone" });
    expect(next.next("subscribe").subscription.options).not.toHaveProperty("from");
    next.ack("q1", 3);
    next.page("q1", [row(2, 2)], 3);
    await settle();
    expect(live.rows).toEqual([row(2, 2)]);
  });

  it("begins anew when the server does, in the middle of everything", async () => {
    const { socket, live } = await loaded([row(1, 1), row(2, 2)], 5);
    socket.ack("q1", 7, { resumed: false });
    socket.page("q1", [row(2, 2)], 7);
    await settle();
    expect(live.rows).toEqual([row(2, 2)]);
  });

  it("asks for live changes alone once more from where it stood", async () => {
    const live = network.client().live(SQL, [], { liveOnly: true });
    const socket = await network.accept();
    expect(socket.next("subscribe").subscription.options).toMatchObject({ last_rows: 0 });
    socket.ack("q1", 5);
    socket.page("q1", [], 5);
    socket.end(1001);
    const next = await network.acceptNext();
    const { options } = next.next("subscribe").subscription;
    expect(options).toEqual({ bigints: "string", from: "5", on_gap: "snapshot" });
    expect(live.rows).toEqual([]);
  });

  it.each([1000, 1001, 1005, 1006, 1011, 1013, 4000])("is taken up again after close %d", async (code) => {
    const { socket } = await loaded();
    socket.end(code);
    const next = await network.acceptNext();
    expect(next.next("subscribe").subscription.options.from).toBe("5");
  });

  it.each([1011, 1013])("is taken up after a pause when it ended with %d", async (code) => {
    vi.spyOn(Math, "random").mockReturnValue(0);
    const { socket } = await loaded();
    socket.end(code);
    await vi.advanceTimersByTimeAsync(990);
    expect(network.sockets).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(20);
    expect(network.sockets).toHaveLength(2);
  });

  it.each([1002, 1007, 1009])("is final after close %d", async (code) => {
    const { socket, live } = await loaded();
    socket.end(code, "your fault");
    await vi.advanceTimersByTimeAsync(120_000);
    expect(network.sockets).toHaveLength(1);
    expect(live.status).toBe("error");
    expect(live.error).toBeInstanceOf(ConnectionError);
    expect((live.error as ConnectionError).closeCode).toBe(code);
  });

  it("waits longer from failure to failure, at random, and not beyond the cap", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0.999_999);
    const delays: number[] = [];
    network.client({ onTrouble: (_, delay) => delays.push(Math.round(delay)) }).live(SQL);
    await settle();
    for (let attempt = 1; attempt < 10; attempt++) {
      network.sockets.at(-1)!.end(1006);
      while (network.sockets.length === attempt) await vi.advanceTimersByTimeAsync(100);
    }
    expect(delays).toEqual([500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  });

  it("forgets its failures once a connection has held", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0.999_999);
    const delays: number[] = [];
    network.client({ onTrouble: (_, delay) => delays.push(Math.round(delay)) }).live(SQL);
    await settle();
    network.sockets.at(-1)!.end(1006);
    const socket = await network.acceptNext();
    await vi.advanceTimersByTimeAsync(5000);
    socket.end(1006);
    await settle();
    expect(delays).toEqual([500, 500]);
  });

  it("is hung up on when the server says what is no JSON", async () => {
    const { socket } = await loaded();
    socket.text("{");
    expect(socket.closedWith).toBe(1000);
    await network.acceptNext();
  });
});

describe("waking up", () => {
  function page(): { fire: (name: string) => void; document: { visibilityState: string } } {
    const target = new EventTarget();
    const document = Object.assign(target, { visibilityState: "visible" });
    vi.stubGlobal("document", document);
    vi.stubGlobal("addEventListener", target.addEventListener.bind(target));
    vi.stubGlobal("removeEventListener", target.removeEventListener.bind(target));
    return { fire: (name) => target.dispatchEvent(new Event(name)), document };
  }

  it.each(["online", "visibilitychange"])("by %s, the back-off is cut short", async (event) => {
    vi.spyOn(Math, "random").mockReturnValue(0.999_999);
    const { fire } = page();
    const { socket } = await loaded();
    socket.end(1006);
    await settle();
    expect(network.sockets).toHaveLength(1);
    fire(event);
    await settle();
    expect(network.sockets).toHaveLength(2);
  });

  it("by going out of sight, it is not", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0.999_999);
    const { fire, document } = page();
    const { socket } = await loaded();
    socket.end(1006);
    await settle();
    document.visibilityState = "hidden";
    fire("visibilitychange");
    await settle();
    expect(network.sockets).toHaveLength(1);
  });

  it("asks a socket that seems open for a sign of life, and leaves one that gives none", async () => {
    const { fire } = page();
    const { socket, live } = await loaded();
    fire("online");
    expect(socket.next("next_batch").subscription_id).toBe("alive");
    socket.say({ type: "error", subscription_id: "alive", code: "BATCH_FETCH_FAILED", message: "no such" });
    await vi.advanceTimersByTimeAsync(11_000);
    expect(live.status).toBe("live");
    fire("online");
    await vi.advanceTimersByTimeAsync(10_500);
    expect(live.status).toBe("reconnecting");
    await network.acceptNext(1);
  });

  it("asks a server for a sign of life when it has been silent for long", async () => {
    const { socket, live } = await loaded();
    await vi.advanceTimersByTimeAsync(91_000);
    expect(socket.sent.map((it) => it.type)).toEqual(["next_batch"]);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(live.status).not.toBe("live");
  });

  it("has no part in a client that was closed", async () => {
    const { fire } = page();
    const { db, socket } = await loaded();
    db.close();
    fire("online");
    await vi.advanceTimersByTimeAsync(200_000);
    expect(socket.sent).toEqual([]);
    expect(socket.closedWith).toBe(1000);
    expect(network.sockets).toHaveLength(1);
  });
});

describe("a token", () => {
  it("goes first, as a message", async () => {
    network.client({ token: "t" }).live(SQL);
    const socket = await network.accept();
    expect(socket.sent.map((it) => it.type)).toEqual(["authenticate", "subscribe"]);
    expect(socket.sent[0]).toEqual({ type: "authenticate", method: "jwt", token: "t" });
  });

  it("is fetched anew before it expires, and told in band", async () => {
    const token = vi.fn(() => Promise.resolve(tokenFor(100)));
    network.client({ token, heartbeat: Infinity }).live(SQL);
    const socket = await network.accept();
    const first = socket.next("authenticate");
    socket.next("subscribe");
    await vi.advanceTimersByTimeAsync(79_000);
    expect(token).toHaveBeenCalledTimes(1);
    await vi.advanceTimersByTimeAsync(2000);
    const second = socket.next("authenticate");
    expect(second.token).not.toBe(first.token);
    await vi.advanceTimersByTimeAsync(81_000);
    socket.next("authenticate");
    expect(network.sockets).toHaveLength(1);
  });

  it("that cannot be had is asked for again, without an end to the connection", async () => {
    let calls = 0;
    const token = () => {
      if (calls++ === 1) throw new Error("the backend is away");
      return tokenFor(100);
    };
    network.client({ token, heartbeat: Infinity }).live(SQL);
    const socket = await network.accept();
    socket.next("authenticate");
    socket.next("subscribe");
    await vi.advanceTimersByTimeAsync(99_000);
    socket.next("authenticate");
  });

  it("that cannot be had at the start is asked for again", async () => {
    let calls = 0;
    const token = () => (calls++ < 3 ? Promise.reject(new Error("away")) : Promise.resolve("t"));
    network.client({ token }).live(SQL);
    const socket = await network.acceptNext(0);
    expect(socket.next("authenticate").token).toBe("t");
  });

  it("that is refused is followed by another", async () => {
    let calls = 0;
    const live = network.client({ token: () => `t${++calls}` }).live(SQL);
    const socket = await network.accept();
    socket.say({ type: "auth_error", message: "expired" });
    socket.end(1008, "token expired");
    const next = await network.acceptNext();
    expect(next.next("authenticate").token).toBe("t2");
    expect(live.status).toBe("loading");
  });

  it.each([["a text", "t"], ["always the same", () => "t"]])("that is %s and refused ends the client", async (_, token) => {
    const db = network.client({ token });
    const live = db.live(SQL);
    const socket = await network.accept();
    socket.say({ type: "auth_error", message: "unknown key" });
    socket.end(1008, "authentication failed");
    await vi.advanceTimersByTimeAsync(60_000);
    expect(network.sockets).toHaveLength(1);
    expect(live.error).toBeInstanceOf(AuthenticationError);
    expect(live.error?.message).toBe("unknown key");
    expect(db.live("SELECT * FROM app.others").status).toBe("error");
  });
});

describe("a message that was dropped for the rate", () => {
  it.each(["rate_limit", "q1"])("and told as %s is sent again after a second", async (id) => {
    const db = network.client();
    const live = db.live(SQL);
    db.live("SELECT * FROM app.others");
    const socket = await network.accept();
    socket.sent = [];
    socket.say({ type: "error", subscription_id: id, code: "RATE_LIMIT_EXCEEDED", message: "slowly" });
    await vi.advanceTimersByTimeAsync(990);
    expect(socket.sent).toEqual([]);
    await vi.advanceTimersByTimeAsync(20);
    expect(socket.next("subscribe").subscription.id).toBe("q1");
    expect(socket.sent).toEqual([]);
    await vi.advanceTimersByTimeAsync(50);
    expect(socket.next("subscribe").subscription.id).toBe("q2");
    await vi.advanceTimersByTimeAsync(10_000);
    expect(socket.sent).toEqual([]);
    expect(live.status).toBe("loading");
  });

  it("is sent again when it was an unsubscribe", async () => {
    const { socket, live } = await loaded();
    live.close();
    await settle();
    socket.next("unsubscribe");
    socket.say({ type: "error", subscription_id: "q1", code: "RATE_LIMIT_EXCEEDED", message: "slowly" });
    await vi.advanceTimersByTimeAsync(1010);
    socket.next("unsubscribe");
  });
});

describe("a handshake that is refused for now", () => {
  it("is not tried again before the time that the server names", async () => {
    const told: [string, number][] = [];
    network.client({ onTrouble: (...it) => told.push(it) }).live(SQL);
    (await network.attempt(0)).refuse(503, "draining", { "retry-after": "20" });
    await vi.advanceTimersByTimeAsync(19_000);
    expect(told).toEqual([["503 draining", 20_000]]);
    expect(network.sockets).toHaveLength(1);
    await network.acceptNext(1);
  });
});

describe("a handshake that fails without a word", () => {
  beforeEach(() => void (network = new FakeNetwork(true)));

  const answering = (status: number, body = "{}") => {
    const asked = vi.fn<(url: string) => Promise<Response>>(() => Promise.resolve(new Response(body, { status })));
    vi.stubGlobal("fetch", asked);
    return asked;
  };
  const failed = async () => {
    const trouble: string[] = [];
    const live = network.client({ onTrouble: (why) => trouble.push(why) }).live(SQL);
    (await network.attempt(0)).end(1006);
    await settle();
    return { live, trouble };
  };

  it.each([401, 403])("is asked about with fetch, and %s ends the client", async (status) => {
    const asked = answering(status, JSON.stringify({ error: { message: "this origin is not allowed" } }));
    const { live } = await failed();
    expect(asked.mock.calls.map(([url]) => url)).toEqual(["http://server:2900/v1/ws"]);
    expect(live.error).toMatchObject({
      constructor: AuthenticationError,
      code: "AUTHENTICATION_FAILED",
      message: "this origin is not allowed",
      status,
    });
    await vi.advanceTimersByTimeAsync(120_000);
    expect(network.sockets).toHaveLength(1);
  });

  it("that nobody explains is tried again", async () => {
    for (const status of [200, 404, 426, 503]) {
      network = new FakeNetwork(true);
      answering(status);
      const { live, trouble } = await failed();
      expect([live.status, trouble]).toEqual(["loading", ["1006"]]);
      await network.acceptNext(1);
    }
  });

  it("and whose server is not there is tried again", async () => {
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("failed to fetch")));
    const { live } = await failed();
    expect(live.status).toBe("loading");
    await network.acceptNext(1);
  });

  it("is not asked about where the socket would have told", async () => {
    network = new FakeNetwork();
    const asked = answering(403);
    const { live } = await failed();
    expect(asked).not.toHaveBeenCalled();
    expect(live.status).toBe("loading");
  });

  it("is asked about for three seconds at most", async () => {
    const { signal } = await new Promise<{ signal: AbortSignal }>((resolve) => {
      vi.stubGlobal("fetch", (_: string, options: { signal: AbortSignal }) => {
        resolve(options);
        return new Promise((_, reject) => options.signal.addEventListener("abort", () => reject(new Error("aborted"))));
      });
      void failed();
    });
    await vi.advanceTimersByTimeAsync(2990);
    expect(signal.aborted).toBe(false);
    await vi.advanceTimersByTimeAsync(20);
    expect(signal.aborted).toBe(true);
    await network.acceptNext(1);
  });

  it("is not asked about after a connection that was open", async () => {
    const asked = answering(403);
    const { socket, live } = await loaded();
    socket.end(1006);
    await settle();
    expect(asked).not.toHaveBeenCalled();
    expect(live.status).toBe("reconnecting");
  });

  it("with 401 is tried again where there is another token", async () => {
    answering(401);
    const tokens = [tokenFor(100), tokenFor(200)];
    network.client({ token: () => tokens.shift()! }).live(SQL);
    (await network.attempt(0)).end(1006);
    await network.acceptNext(1);
    expect(tokens).toEqual([]);
  });

  it("says nothing any more once the client is closed", async () => {
    let answer: (response: Response) => void = () => {};
    vi.stubGlobal("fetch", () => new Promise<Response>((resolve) => (answer = resolve)));
    const db = network.client();
    const live = db.live(SQL);
    (await network.attempt(0)).end(1006);
    await settle();
    db.close();
    answer(new Response("{}", { status: 403 }));
    await settle();
    expect(live.error).toMatchObject({ code: "CLOSED" });
  });
});

describe("what the server finds odd", () => {
  const OPEN = "SELECT * FROM app.orders WHERE stauts = 'open'";

  it("is told once, and stands at the query", async () => {
    const told: unknown[] = [];
    const live = network.client({ onNotice: (...notice) => told.push(notice) }).live(OPEN);
    for (const resumed of [undefined, true]) {
      const socket = await network.acceptNext(network.sockets.length);
      socket.ack("q1", 5, { notices: ["did you mean status?"], ...(resumed && { resumed }) });
      socket.page("q1", [], 5);
      socket.end(1006);
      await settle();
    }
    expect(told).toEqual([["did you mean status?", OPEN]]);
    expect(live.notices).toEqual(["did you mean status?"]);
  });

  it("is warned of on the console where nobody listens", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    const { socket } = await loaded();
    socket.ack("q1", 5, { notices: ["odd"] });
    socket.say({ type: "error", subscription_id: "protocol", code: "UNSUPPORTED", message: "not this" });
    socket.say({ type: "error", subscription_id: "alive", code: "NOT_FOUND", message: "a probe" });
    expect(warn.mock.calls).toEqual([
      ["kalam-notify: odd", SQL],
      ["kalam-notify: UNSUPPORTED: not this", ""],
    ]);
  });
});

describe("an address", () => {
  it.each([
    ["http://a:1", "ws://a:1/v1/ws"],
    ["https://a/", "wss://a/v1/ws"],
    ["ws://a:1/v1/ws", "ws://a:1/v1/ws"],
    ["wss://[::1]:2900/behind/", "wss://[::1]:2900/behind/v1/ws"],
  ])("%s stands for %s", async (url, expected) => {
    const { connect } = await import("../src/index.js");
    connect(url, { WebSocket: network.WebSocket }).live(SQL);
    await settle();
    expect(network.sockets[0]!.url).toBe(expected);
  });

  it("of another kind is refused", async () => {
    const { connect } = await import("../src/index.js");
    expect(() => connect("ftp://a")).toThrow("ftp://a is no server address");
  });
});
