/** Numbers, sizes and times as people read them. */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export function count(value) {
  return Math.abs(value) < 10 && !Number.isInteger(value) ? one.format(value) : whole.format(value);
}

/** `1.2 k`, `3.4 M`: for axes and tiles. */
export function short(value) {
  for (const [unit, name] of [[1e9, " G"], [1e6, " M"], [1e4, " k"]]) {
    if (value >= unit) return one.format(value / (name === " k" ? 1e3 : unit)) + name;
  }
  return count(value);
}

export function bytes(value) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1000 || unit === "GiB") return `${unit === "B" || value >= 10 ? whole.format(value) : one.format(value)} ${unit}`;
    value /= 1024;
  }
}

export function seconds(value) {
  if (value === 0) return "0 s";
  if (value < 1) return `${(value < 0.01 ? one : whole).format(value * 1000)} ms`;
  if (value < 60) return `${one.format(value)} s`;
  const rounded = Math.floor(value);
  for (const [unit, part, names] of [[86400, 3600, "dh"], [3600, 60, "hm"], [60, 1, "ms"]]) {
    if (rounded >= unit) return `${Math.floor(rounded / unit)} ${names[0]} ${Math.floor((rounded % unit) / part)} ${names[1]}`;
  }
}

export function clock(date = new Date()) {
  return date.toTimeString().slice(0, 8);
}

/** A value of a row, for a cell. */
export function cell(value) {
  if (value === undefined) return "";
  if (value === null) return "NULL";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** What a value is, for how a cell looks. */
export function kindOf(value) {
  if (value === null || value === undefined) return "null";
  return Array.isArray(value) ? "object" : typeof value;
}
