/**
 * Live queries in React 18 and 19.
 *
 *     <KalamProvider db={db}>...</KalamProvider>
 *     const { rows, status, error } = useLiveQuery<Order>("SELECT * FROM app.orders WHERE tenant = $1", [tenant]);
 *
 * A component that shows a query holds a handle of it from its mount to its unmount; components that
 * show equal queries share one. All queries change in the same frame, so no two components of one
 * commit show different moments.
 */

import { createContext, createElement, useContext, useMemo, useSyncExternalStore, type ReactNode } from "react";
import type { Client, LiveOptions, LiveState } from "./index.js";

const Context = createContext<Client | undefined>(undefined);

/** Gives a client to everything below. */
export function KalamProvider({ db, children }: { db: Client; children?: ReactNode }): ReactNode {
  return createElement(Context.Provider, { value: db }, children);
}

/** The client of the nearest KalamProvider. */
export function useKalam(): Client {
  const db = useContext(Context);
  if (!db) throw new Error("there is no KalamProvider above this component");
  return db;
}

/**
 * The rows of a query, and whether they are live. Another query is asked when `sql`, the values of
 * `params` or the options differ (but for `compare`, which is taken as it is at first). With `null`
 * for `sql` nothing is asked, and the status is `closed`.
 */
export function useLiveQuery<T = Record<string, unknown>>(
  sql: string | null,
  params: readonly unknown[] = [],
  options: LiveOptions<T> = {},
): LiveState<T> {
  const db = useKalam();
  const key = sql === null ? null : db.keyOf(sql, params, options);
  // The key stands for the query; arrays and objects are other ones at each render.
  const store = useMemo<Store<T>>(() => (sql === null ? NOTHING : storeOf(db, sql, params, options)), [db, key]);
  return useSyncExternalStore(store.subscribe, store.state, stateAtServer<T>);
}

interface Store<T> {
  subscribe: (listener: () => void) => () => void;
  state: () => LiveState<T>;
}

const LOADING: LiveState<never> = { rows: [], status: "loading", error: undefined };
const CLOSED: LiveState<never> = { rows: [], status: "closed", error: undefined };
const NOTHING: Store<never> = { subscribe: () => () => {}, state: () => CLOSED };

function storeOf<T>(db: Client, sql: string, params: readonly unknown[], options: LiveOptions<T>): Store<T> {
  let current: LiveState<T> | undefined; // of the handle, while there is one
  return {
    subscribe(listener) {
      const live = db.live<T>(sql, params, options);
      current = live.state;
      live.subscribe((_, state) => {
        current = state;
        listener();
      });
      return () => {
        current = undefined;
        live.close();
      };
    },
    // Before the mount: what others show of the same query already.
    state: () => current ?? (options.compare ? undefined : db.peek<T>(sql, params, options)) ?? LOADING,
  };
}

function stateAtServer<T>(): LiveState<T> {
  return LOADING;
}
