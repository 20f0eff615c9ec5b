import { exitCodes, UnderstudyError } from "./errors.ts";

/**
 * Quantities as people write them: `30s`, `20GiB`, `1.5Mbit/s`. A number without its unit is an error, since who wrote
 * `rate: 10` and who reads it never think of the same thing.
 */
export class UnitInvalid extends UnderstudyError {
  readonly code = "UNIT_INVALID";
  readonly remedy = "stop";
  readonly state = "Nothing was done.";
  readonly hint: string;
  override readonly exitCode = exitCodes.usage;

  constructor(message: string, hint: string) {
    super(message);
    this.hint = hint;
  }
}

interface Dimension {
  readonly noun: string;
  readonly example: string;
  /** Unit to its worth in the smallest one that is counted. */
  readonly units: ReadonlyMap<string, number>;
  /** What is counted, for a value that is not a whole number of it. */
  readonly counted: string;
}

const duration: Dimension = {
  noun: "duration",
  example: "30s",
  counted: "milliseconds",
  units: new Map([
    ["ms", 1],
    ["s", 1000],
    ["m", 60_000],
    ["h", 3_600_000],
    ["d", 86_400_000],
  ]),
};

const size: Dimension = {
  noun: "size",
  example: "20GiB",
  counted: "bytes",
  units: new Map([
    ["B", 1],
    ["kB", 1e3],
    ["MB", 1e6],
    ["GB", 1e9],
    ["TB", 1e12],
    ["KiB", 2 ** 10],
    ["MiB", 2 ** 20],
    ["GiB", 2 ** 30],
    ["TiB", 2 ** 40],
  ]),
};

const rate: Dimension = {
  noun: "rate",
  example: "1.5Mbit/s",
  counted: "bytes a second",
  units: new Map([
    ["bit/s", 1 / 8],
    ["kbit/s", 1e3 / 8],
    ["Mbit/s", 1e6 / 8],
    ["Gbit/s", 1e9 / 8],
    ...[...size.units].map(([unit, worth]): [string, number] => [`${unit}/s`, worth]),
  ]),
};

/** `100ms`, `30s`, `5m`, `1h`, `7d` in milliseconds. @throws {UnitInvalid} */
export function parseDurationMs(text: string): number {
  return parse(text, duration);
}

/** `512MiB`, `20GiB`, `1MB` in bytes. @throws {UnitInvalid} */
export function parseSizeBytes(text: string): number {
  return parse(text, size);
}

/** `1.5Mbit/s`, `2MiB/s` in bytes a second. @throws {UnitInvalid} */
export function parseRateBytesPerSecond(text: string): number {
  return parse(text, rate);
}

function parse(text: string, dimension: Dimension): number {
  const hint = `Write a ${dimension.noun} as a number and one of ${[...dimension.units.keys()].join(", ")}, such as ${dimension.example}.`;
  const match = /^(\d{1,16}(?:\.\d{1,9})?) ?([A-Za-z][A-Za-z/]*)?$/.exec(text);
  if (!match) throw new UnitInvalid(`${JSON.stringify(text)} is not a ${dimension.noun}`, hint);
  const [, digits = "", unit] = match;
  if (unit === undefined)
    throw new UnitInvalid(`${JSON.stringify(text)} is a ${dimension.noun} without its unit`, hint);
  const worth = dimension.units.get(unit);
  if (worth === undefined) {
    throw new UnitInvalid(`${JSON.stringify(text)} has the unknown unit ${JSON.stringify(unit)}`, hint);
  }
  const value = scaled(digits, worth);
  if (!Number.isSafeInteger(value)) {
    throw new UnitInvalid(`${JSON.stringify(text)} is not a whole number of ${dimension.counted}, or too large`, hint);
  }
  return value;
}

/** Exact where a float product is not (`1.1s`), by counting in units of the last decimal. */
function scaled(digits: string, worth: number): number {
  const [whole = "", decimals = ""] = digits.split(".");
  // A worth below 1 (bit/s) is an eighth: multiplied out, so that both factors are integers.
  const numerator = BigInt(whole + decimals) * BigInt(worth * 8);
  const denominator = 8n * 10n ** BigInt(decimals.length);
  return numerator % denominator === 0n ? Number(numerator / denominator) : Number.NaN;
}

/** Shortest honest text for people: `0 ms`, `340 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`, `7 d 3 h`. */
export function durationText(ms: number): string {
  const rounded = Math.round(ms);
  if (rounded < 1000) return `${rounded} ms`;
  if (ms < 9950) return `${trimmed(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return pair(Math.floor(seconds / 60), "min", seconds % 60, "s");
  const minutes = Math.round(seconds / 60);
  if (minutes < 24 * 60) return pair(Math.floor(minutes / 60), "h", minutes % 60, "min");
  const hours = Math.round(minutes / 60);
  return pair(Math.floor(hours / 24), "d", hours % 24, "h");
}

function pair(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
}

/** `0 B`, `512 B`, `1.5 KiB`, `20 GiB`. */
export function sizeText(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let index = 0;
  while (value >= 999.5 && index < units.length - 1) {
    value /= 1024;
    index += 1;
  }
  return `${index === 0 ? Math.round(value) : trimmed(value)} ${units[index]}`;
}

function trimmed(value: number): string {
  return value < 9.95 ? value.toFixed(1).replace(/\.0$/, "") : String(Math.round(value));
}
