/**
 * Rows in order, kept in order: what did not change is not sorted again.
 *
 * Entries are immutable. After any number of changes the new order is the old one without the
 * entries that the view no longer holds, merged with the sorted new ones.
 */

/** A row under its key; a changed row is another entry. */
export interface Entry<T> {
  readonly key: unknown;
  readonly row: T;
}

/** Negative, zero or positive: whether `a` comes before `b`. */
export type Compare<T> = (a: T, b: T) => number;

const RANK: Record<string, number> = { boolean: 0, number: 1, bigint: 1, string: 2 };

/** Values of keys: false, true, then numbers by value, then texts by their UTF-16 code units. */
export function compareValues(a: unknown, b: unknown): number {
  if (a === b) return 0;
  const ranks = (RANK[typeof a] ?? 3) - (RANK[typeof b] ?? 3);
  return ranks || ((a as number) < (b as number) ? -1 : 1);
}

export class Order<T> {
  #rows: readonly T[] = [];
  #sorted: Entry<T>[] = [];
  // Entries that came since; undefined: too many or all others, sort everything.
  #fresh: Entry<T>[] | undefined = undefined;
  #isStale = true;

  constructor(private readonly compare: Compare<Entry<T>>) {}

  /** An entry was put, or (without one) some were dropped. */
  changed(entry?: Entry<T>): void {
    this.#isStale = true;
    if (entry === undefined || this.#fresh === undefined) return;
    this.#fresh.push(entry);
    if (this.#fresh.length > this.#sorted.length + 1000) this.#fresh = undefined;
  }

  /** Nothing that was known holds. */
  reset(): void {
    this.#isStale = true;
    this.#fresh = undefined;
  }

  /** The rows of `entries`, in order; the same array as long as nothing changed. */
  rows(entries: ReadonlyMap<unknown, Entry<T>>): readonly T[] {
    if (this.#isStale) {
      this.#sorted = this.#sort(entries);
      this.#rows = this.#sorted.map((entry) => entry.row);
      this.#fresh = [];
      this.#isStale = false;
    }
    return this.#rows;
  }

  #sort(entries: ReadonlyMap<unknown, Entry<T>>): Entry<T>[] {
    if (this.#fresh === undefined) return [...entries.values()].sort(this.compare);
    const isHeld = (entry: Entry<T>) => entries.get(entry.key) === entry;
    return merge(this.#sorted.filter(isHeld), this.#fresh.filter(isHeld).sort(this.compare), this.compare);
  }
}

function merge<T>(left: T[], right: T[], compare: Compare<T>): T[] {
  const result: T[] = [];
  let place = 0;
  for (const item of right) {
    while (place < left.length && compare(left[place]!, item) <= 0) result.push(left[place++]!);
    result.push(item);
  }
  // Not push(...rest): a call takes some ten thousand arguments at most.
  return result.concat(left.slice(place));
}
