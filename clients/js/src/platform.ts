/**
 * What a browser has, and other places may not.
 */

type Maybe =
  | "document"
  | "location"
  | "WebSocket"
  | "fetch"
  | "requestAnimationFrame"
  | "addEventListener"
  | "removeEventListener";

export const platform: Partial<Pick<typeof globalThis, Maybe>> = globalThis;
