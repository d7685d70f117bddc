/**
 * The messages of the WebSocket, as far as a client uses them, and what its close codes mean.
 */

/** A seq on its way through the client: a decimal string, whatever it was on the wire. */
export type Seq = string;

/** A row as the server sends it; `_seq` is the seq of the change that wrote it. */
export type WireRow = Readonly<Record<string, unknown>> & { readonly _seq?: string };

/** One query as the protocol has it. */
export interface Subscription {
  id: string;
  sql: string;
  params?: readonly unknown[];
  options: Record<string, unknown>;
}

/** What a client says. */
export type ClientMessage =
  | { type: "authenticate"; method: "jwt"; token: string }
  | { type: "subscribe"; subscription: Subscription }
  | { type: "next_batch"; subscription_id: string; last_seq_id?: Seq }
  | { type: "unsubscribe"; subscription_id: string };

export interface BatchControl {
  has_more: boolean;
  last_seq_id: number | string;
}

/** One column of an acknowledgement's schema. */
export interface Column {
  name: string;
  data_type: string;
  flags?: readonly string[];
}

/** What a server says. */
export interface ServerMessage {
  type: string;
  subscription_id?: string;
  message?: string;
  code?: string;
  schema?: readonly Column[];
  resumed?: boolean;
  notices?: readonly string[];
  batch_control?: BatchControl;
  rows?: readonly WireRow[];
  change_type?: "insert" | "update" | "delete";
  old_values?: readonly WireRow[];
  transition?: "enter" | "leave";
}

/** Seqs are decimal strings without leading zeros: the longer one is the greater one. */
export function isAfter(seq: Seq, position: Seq | undefined): boolean {
  return (
    position === undefined ||
    seq.length > position.length ||
    (seq.length === position.length && seq > position)
  );
}

/** What to do after a close: come back at once or after a pause, with a new token, or never. */
export type Comeback = "now" | "pause" | "token" | "never";

const COMEBACK: Record<number, Comeback> = {
  1002: "never",
  1007: "never",
  1008: "token",
  1009: "never",
  1011: "pause",
  1013: "pause",
};

/** `status` is that of an answer in place of the upgrade. */
export function comebackAfter(closeCode: number, status?: number): Comeback {
  if (!status) return COMEBACK[closeCode] ?? "now";
  if (status === 401) return "token";
  return status < 500 && status !== 429 ? "never" : "pause";
}
