/**
 * /metrics, read every two seconds while a board is on show, and what two readings tell.
 */

import { text } from "./api.js";

export const EVERY_MS = 2000;
/** Until the second reading: without it there is nothing to show. */
const SOON_MS = 500;
const K = "kalam_notify_";
const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** Samples by name: a list of { labels, value } each. */
export function parse(exposition) {
  const samples = new Map();
  for (const line of exposition.split("\n")) {
    const match = !line.startsWith("#") && LINE.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) {
      labels[name] = value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    }
    if (!samples.has(match[1])) samples.set(match[1], []);
    samples.get(match[1]).push({ labels, value: Number(match[3]) });
  }
  return samples;
}

export function total(samples, name) {
  return (samples.get(name) ?? []).reduce((sum, { value }) => sum + value, 0);
}

export function by(samples, name, label) {
  return new Map((samples.get(name) ?? []).map(({ labels, value }) => [labels[label], value]));
}

/** A histogram's quantile over what was observed between two readings; null: nothing was. */
export function quantile(before, after, name, share) {
  const was = by(before, `${name}_bucket`, "le");
  const counts = [...by(after, `${name}_bucket`, "le")]
    .map(([bound, value]) => [bound === "+Inf" ? Infinity : Number(bound), value - (was.get(bound) ?? 0)])
    .sort(([one], [other]) => one - other);
  const all = counts.at(-1)?.[1] ?? 0;
  if (all <= 0) return null;
  let low = 0;
  let below = 0;
  for (const [bound, value] of counts) {
    if (value >= share * all) {
      if (bound === Infinity) return low;
      return low + ((bound - low) * (share * all - below)) / Math.max(value - below, 1e-9);
    }
    [low, below] = [bound, value];
  }
  return low;
}

/** What a board shows of two readings. */
export function figures(before, after, elapsed) {
  const rate = (name) => Math.max(total(after, K + name) - total(before, K + name), 0) / elapsed;
  const of = (name) => total(after, K + name);
  const was = by(before, `${K}changes_ingested_total`, "table");
  const latency = `${K}ingest_to_socket_seconds`;
  return {
    connections: of("connections"),
    subscriptions: of("subscriptions"),
    deliveries: rate("deliveries_total"),
    deliveredBytes: rate("delivery_bytes_total"),
    changes: rate("changes_ingested_total"),
    p50: quantile(before, after, latency, 0.5),
    p99: quantile(before, after, latency, 0.99),
    lagging: of("lagging_subscriptions"),
    slowest: of("slowest_subscription_seconds"),
    waiting: of("send_buffer_bytes"),
    memory: total(after, "process_resident_memory_bytes"),
    cpu: (total(after, "process_cpu_seconds_total") - total(before, "process_cpu_seconds_total")) / elapsed,
    logBytes: of("log_bytes"),
    logReach: of("log_oldest_seconds"),
    lastSeq: of("log_last_seq"),
    tables: new Map(
      [...by(after, `${K}changes_ingested_total`, "table")].map(([table, value]) => [
        table,
        { total: value, rate: Math.max(value - (was.get(table) ?? 0), 0) / elapsed },
      ]),
    ),
  };
}

/** Reads for as long as the page is open; tells `listener` figures, or what went wrong. */
export class Readings {
  #before = null;
  #isRunning = false;

  constructor(listener) {
    this.listener = listener;
  }

  /** Begin; safe to repeat. */
  start() {
    if (this.#isRunning) return;
    this.#isRunning = true;
    void this.#read();
  }

  async #read() {
    let soon = EVERY_MS;
    try {
      const samples = parse(await text("/metrics"));
      const at = performance.now();
      if (this.#before) this.#tell(this.#before, samples, at);
      else soon = SOON_MS;
      this.#before = { at, samples };
    } catch (fault) {
      this.listener(null, fault);
    }
    setTimeout(() => void this.#read(), soon);
  }

  #tell(before, samples, at) {
    this.listener({ ...figures(before.samples, samples, (at - before.at) / 1000), at }, null);
  }
}
