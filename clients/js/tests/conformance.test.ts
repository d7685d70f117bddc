/** The scenarios of clients/conformance, which the Python client plays as well. */

import { readFileSync } from "node:fs";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { AuthenticationError, ConnectionError, QueryError, type Live } from "../src/index.js";
import { FakeNetwork, settle, type FakeSocket, type Message } from "./fakes.js";

interface Step {
  accept?: true;
  refuse?: number;
  hear?: Message;
  without?: string[];
  say?: Message;
  end?: number;
  reason?: string;
  rows?: Message[];
  fails?: { code?: string; close?: number; refused?: number; authentication?: string };
  stays_away?: true;
}

interface Scenario {
  name: string;
  sql: string;
  params?: unknown[];
  tokens?: string[];
  batch_size?: number;
  live_only?: boolean;
  steps: Step[];
}

const FILE = new URL("../../conformance/scenarios.json", import.meta.url);
const SCENARIOS = JSON.parse(readFileSync(FILE, "utf8")) as Scenario[];

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

class Player {
  private readonly network = new FakeNetwork();
  private readonly live: Live<Message>;
  private socket: FakeSocket | undefined;
  private accepted = 0;
  private id = "";

  constructor({ sql, params = [], tokens, batch_size: batchSize, live_only: liveOnly }: Scenario) {
    const left = [...(tokens ?? [])];
    const db = this.network.client(tokens ? { token: () => left.shift()! } : {});
    this.live = db.live(sql, params, { batchSize, liveOnly });
  }

  async step(step: Step): Promise<void> {
    if (step.refuse) (await this.network.attempt(this.accepted++)).refuse(step.refuse, step.reason!);
    if (step.accept) this.socket = await this.network.acceptNext(this.accepted++);
    if (step.hear) await this.hear(step.hear, step.without ?? []);
    if (step.say) this.socket!.text(JSON.stringify(step.say).replaceAll('"$q"', JSON.stringify(this.id)));
    if (step.end) this.socket!.end(step.end, step.reason);
    if (step.rows) await this.rows(step.rows);
    if (step.fails) await this.fails(step.fails);
    if (step.stays_away) {
      await vi.advanceTimersByTimeAsync(120_000);
      expect(this.network.sockets).toHaveLength(this.accepted);
    }
  }

  private async hear(expected: Message, without: string[]): Promise<void> {
    const { sent } = this.socket!;
    for (let waited = 0; !sent.length && waited < 5000; waited += 50) await vi.advanceTimersByTimeAsync(50);
    const message = sent.shift();
    this.id = message?.subscription?.id ?? this.id;
    expect(plain(message, this.id)).toMatchObject(plain(expected) as Message);
    for (const name of without) expect(message?.subscription.options).not.toHaveProperty(name);
  }

  private async rows(expected: Message[]): Promise<void> {
    await settle();
    const sorted = (rows: readonly Message[]) => rows.map((it) => JSON.stringify(Object.entries(it).sort())).sort();
    expect(sorted(this.live.rows)).toEqual(sorted(expected));
    expect(this.live.status).toBe("live");
  }

  private async fails({ code, close, refused, authentication }: NonNullable<Step["fails"]>): Promise<void> {
    await settle();
    const { error, status } = this.live;
    expect(status).toBe("error");
    if (code) expect(error).toMatchObject({ constructor: QueryError, code, message: "the reason" });
    if (close) expect(error).toMatchObject({ constructor: ConnectionError, closeCode: close });
    if (refused) expect(error).toMatchObject({ constructor: AuthenticationError, status: refused });
    if (authentication) expect(error).toMatchObject({ constructor: AuthenticationError, message: authentication });
  }
}

/** Seqs may be numbers or decimal strings; a query's id is its client's own. */
function plain(message: unknown, id = ""): unknown {
  return JSON.parse(JSON.stringify(message ?? null), (name, value: unknown) => {
    if (name === "from" || name === "last_seq_id") return String(value);
    return name === "subscription_id" && value === id ? "$q" : value;
  });
}

it.each(SCENARIOS)("$name", async (scenario) => {
  const player = new Player(scenario);
  for (const step of scenario.steps) await player.step(step);
});
