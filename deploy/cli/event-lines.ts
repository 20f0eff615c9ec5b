import { open } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import { isSystemError } from "../../shared/errors.ts";

export type EventLine =
  | { readonly kind: "event"; readonly line: string; readonly event: Readonly<Record<string, unknown>> }
  /** Torn by a crash, or not of this program. */
  | { readonly kind: "unreadable"; readonly line: string };

const lookEveryMs = 250;
const readBytes = 64 * 1024;

/**
 * What the log of events has, oldest first, without the agent. `follow`: and what comes to it until the signal, also when the
 * file is put aside and begun anew. A last line without its end may be half written: followed, it is waited for.
 */
export async function* eventLines(path: string, follow: boolean, signal: AbortSignal): AsyncGenerator<EventLine> {
  let offset = 0;
  let inode = 0n;
  let rest = Buffer.alloc(0);
  while (!signal.aborted) {
    const found = await readFrom(path, inode, offset);
    if (found !== undefined) {
      if (found.inode !== inode || found.from !== offset) rest = Buffer.alloc(0);
      inode = found.inode;
      offset = found.from + found.bytes.length;
      const lines = splitLines(Buffer.concat([rest, found.bytes]));
      rest = lines.rest;
      for (const line of lines.whole) yield decoded(line);
      if (found.bytes.length > 0) continue;
    }
    if (!follow) {
      if (rest.length > 0) yield decoded(rest.toString("utf8"));
      return;
    }
    await delay(lookEveryMs, undefined, { signal }).catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
  }
}

/** The next bytes, from the beginning of a file that is another one or shorter than it was. */
async function readFrom(
  path: string,
  inode: bigint,
  offset: number,
): Promise<{ inode: bigint; from: number; bytes: Buffer } | undefined> {
  try {
    await using file = await open(path, "r");
    const { ino, size } = await file.stat({ bigint: true });
    const from = ino === inode && size >= BigInt(offset) ? offset : 0;
    const { buffer, bytesRead } = await file.read(Buffer.alloc(readBytes), 0, readBytes, from);
    return { inode: ino, from, bytes: buffer.subarray(0, bytesRead) };
  } catch (error) {
    // Nothing has happened yet, or it was put aside a moment ago.
    if (isSystemError(error, "ENOENT")) return undefined;
    throw error;
  }
}

function splitLines(bytes: Buffer): { readonly whole: readonly string[]; readonly rest: Buffer<ArrayBuffer> } {
  const end = bytes.lastIndexOf(0x0a);
  const rest = Buffer.from(bytes.subarray(end + 1));
  const text = bytes.subarray(0, Math.max(0, end)).toString("utf8");
  return { whole: end < 0 ? [] : text.split("\n").filter((line) => line !== ""), rest };
}

function decoded(line: string): EventLine {
  try {
    const event: unknown = JSON.parse(line);
    if (typeof event === "object" && event !== null && !Array.isArray(event))
      return { kind: "event", line, event: event as Readonly<Record<string, unknown>> };
  } catch {
    // Not JSON: said as what it is.
  }
  return { kind: "unreadable", line };
}

/** One event as a person reads it. */
export function eventText(event: Readonly<Record<string, unknown>>): string {
  const { at, node, group, event: name, ...fields } = event;
  const said = Object.entries(fields).map(([key, value]) => `${key}=${valueText(value)}`);
  return [at, node, group ?? "-", name, ...said].map((part) => String(part ?? "-")).join("  ");
}

function valueText(value: unknown): string {
  if (typeof value !== "string") return JSON.stringify(value) ?? "-";
  return /^[\w.:@/+-]+$/.test(value) ? value : JSON.stringify(value);
}
