/**
 * A fault of somebody else's code: told where uncaught errors are told, without stopping ours.
 */
export function report(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}
