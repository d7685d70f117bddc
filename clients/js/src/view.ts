/**
 * The rows a query answers now, by primary key.
 *
 * When the server begins anew, what is shown stays until the new snapshot is complete, and is then
 * replaced at one stroke. Without a primary key there is no telling which row an update or a delete
 * means: such a view is the list of what was inserted and what rows became.
 */

import { compareValues, Order, type Compare, type Entry } from "./order.js";
import type { Column, WireRow } from "./protocol.js";

const INTEGER = /int/i;

export class View<T> {
  isReady = false;
  #primaryKey: readonly string[] = [];
  #integers = new Set<string>();
  #shown = new Map<unknown, Entry<T>>();
  // What will be shown once it is complete; the same map where nothing had to be kept on show.
  #coming = this.#shown;
  #listed = 0;
  readonly #byKey: Order<T> = new Order((a, b) => this.#compareKeys(a, b));
  readonly #orders = new Set([this.#byKey]);

  /** Columns are in every acknowledgement; `replaces`: what was known before is void. */
  begin(replaces: boolean, schema: readonly Column[]): void {
    this.#primaryKey = schema.filter((column) => column.flags?.includes("pk")).map((column) => column.name);
    this.#integers = new Set(schema.filter((column) => INTEGER.test(column.data_type)).map((column) => column.name));
    if (!replaces) return;
    this.isReady = false;
    this.#coming = this.#shown.size ? new Map<unknown, Entry<T>>() : this.#shown;
  }

  put(row: WireRow): void {
    const entry = { key: this.#keyOf(row), row: row as T };
    this.#coming.set(entry.key, entry);
    if (this.#coming === this.#shown) for (const order of this.#orders) order.changed(entry);
  }

  drop(row: WireRow): void {
    if (!this.#primaryKey.length) return;
    this.#coming.delete(this.#keyOf(row));
    if (this.#coming === this.#shown) for (const order of this.#orders) order.changed();
  }

  /** The snapshot is complete. */
  ready(): void {
    this.isReady = true;
    if (this.#coming === this.#shown) return;
    this.#shown = this.#coming;
    for (const order of this.#orders) order.reset();
  }

  /** An order of its own, to be given back to `unsort`. */
  sort(compare: Compare<T>): Order<T> {
    const order = new Order<T>((a, b) => compare(a.row, b.row) || this.#compareKeys(a, b));
    this.#orders.add(order);
    return order;
  }

  unsort(order: Order<T>): void {
    this.#orders.delete(order);
  }

  /** What is shown, in order of the primary key or in another. */
  rows(order: Order<T> = this.#byKey): readonly T[] {
    return order.rows(this.#shown);
  }

  /** What the messages so far add up to, complete or not. */
  *held(): Iterable<T> {
    for (const entry of this.#coming.values()) yield entry.row;
  }

  get size(): number {
    return this.#coming.size;
  }

  /** The row under the key of `row`, if it is held. */
  find(row: WireRow): T | undefined {
    return this.#primaryKey.length ? this.#coming.get(this.#keyOf(row))?.row : undefined;
  }

  // 1 and "1" are two keys, as they are to Map. Of several columns JSON makes one value; a BigInt
  // becomes an array there, which no value of a key is.
  #keyOf(row: WireRow): unknown {
    const columns = this.#primaryKey;
    if (columns.length === 1) return row[columns[0]!];
    if (!columns.length) return this.#listed++;
    return JSON.stringify(columns.map((column) => row[column]), (_, value: unknown) =>
      typeof value === "bigint" ? [String(value)] : value,
    );
  }

  #compareKeys(a: Entry<T>, b: Entry<T>): number {
    for (const column of this.#primaryKey) {
      const result = compareValues(this.#ordinal(a, column), this.#ordinal(b, column));
      if (result) return result;
    }
    return this.#primaryKey.length ? 0 : compareValues(a.key, b.key);
  }

  // Integers beyond 2^53 come as texts unless the client asked otherwise; they are numbers still.
  #ordinal(entry: Entry<T>, column: string): unknown {
    const value = (entry.row as WireRow)[column];
    return typeof value === "string" && this.#integers.has(column) && /^-?\d+$/.test(value) ? BigInt(value) : value;
  }
}
