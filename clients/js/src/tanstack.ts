/**
 * Live queries as collections of TanStack DB.
 *
 *     const orders = createCollection(kalamCollectionOptions<Order, number>({
 *       db, sql: "SELECT * FROM app.orders", getKey: (order) => order.id,
 *     }));
 *
 * Once a frame the rows of the query are compared with those that the collection has: rows that did
 * not change are the same objects, so this is one pass over them, and a snapshot that replaces
 * everything arrives as the changes that it amounts to.
 */

import type { CollectionConfig } from "@tanstack/db";
import type { Client, LiveOptions, LiveState } from "./index.js";

/** What the collection is of, and any option of TanStack DB's own, such as `onInsert`. */
export interface KalamCollectionConfig<T extends object, K extends string | number>
  extends Omit<CollectionConfig<T, K>, "sync"> {
  db: Client;
  sql: string;
  params?: readonly unknown[];
  options?: LiveOptions<T>;
}

export function kalamCollectionOptions<T extends object, K extends string | number = string | number>({
  db,
  sql,
  params = [],
  options = {},
  ...config
}: KalamCollectionConfig<T, K>): CollectionConfig<T, K> {
  return {
    ...config,
    sync: {
      rowUpdateMode: "full",
      sync: ({ begin, write, commit, markReady, markError }) => {
        let held = new Map<K, T>();
        let isReady = false;

        const take = (rows: readonly T[]): void => {
          const next = new Map(rows.map((row) => [config.getKey(row), row]));
          begin();
          for (const [key, row] of held) if (!next.has(key)) write({ type: "delete", value: row });
          for (const [key, row] of next) {
            const old = held.get(key);
            if (old !== row) write({ type: old ? "update" : "insert", value: row });
          }
          void commit(); // an accepted transaction always applies
          held = next;
        };
        const hear = (rows: readonly T[], { status, error }: LiveState<T>): void => {
          take(rows);
          if (isReady) return;
          isReady = status === "live";
          if (isReady) markReady();
          else if (status === "error") markError(error);
        };

        const live = db.live<T>(sql, params, options);
        live.subscribe(hear);
        if (live.status === "error") markError(live.error);
        return live.close;
      },
    },
  };
}
