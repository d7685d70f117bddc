/**
 * JSON with integers of any size.
 *
 * JavaScript's parser rounds integers beyond 2^53. Here they become BigInt: they are put in quotes
 * behind a mark that nobody can guess, and taken out again by a reviver. A text without such a
 * number, which is nearly every one, goes straight to the parser. The same mark carries a BigInt the
 * other way.
 */

const MARK = `big${Math.random().toString(36).slice(2)}:`;
// Beyond 2^53 = 9007199254740992; a seq, which begins with the microseconds since 1970, is far below.
const SUSPECT = /[:,[]\s*-?(?:\d{17}|9\d{15})/;
const STRING_OR_NUMBER = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;
const MARKED = new RegExp(`"${MARK}(-?\\d+)"`, "g");

/** Parse JSON; integers that a number cannot hold become BigInt. */
export function parseExactly(text: string): unknown {
  if (!SUSPECT.test(text)) return JSON.parse(text);
  const marked = text.replace(STRING_OR_NUMBER, (token) => (isBig(token) ? `"${MARK}${token}"` : token));
  return JSON.parse(marked, (_, value: unknown) =>
    typeof value === "string" && value.startsWith(MARK) ? BigInt(value.slice(MARK.length)) : value,
  );
}

function isBig(token: string): boolean {
  return /^-?\d{16,}$/.test(token) && !Number.isSafeInteger(Number(token));
}

/** JSON of a value; a BigInt becomes an integer with all its digits. */
export function stringify(value: unknown): string {
  const text = JSON.stringify(value, (_, item: unknown) =>
    typeof item === "bigint" ? `${MARK}${item}` : item,
  );
  return text.replace(MARKED, "$1");
}
