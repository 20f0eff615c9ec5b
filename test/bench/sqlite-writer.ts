import { closeSync, openSync, readSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";

/**
 * A writer as an application would be: a process of its own, one row for each transaction. `node sqlite-writer.ts
 * DATABASE SECONDS RATE SYNCHRONOUS`; rate 0 is as fast as it can. Prints what it did as one line of JSON, with a stamp
 * for each commit when it is paced: when it returned, and where it stands in the log (salt and last frame).
 */

export interface WriterReport {
  readonly commits: number;
  readonly seconds: number;
  /** How long each commit took, as the application saw it. */
  readonly commitMs: { readonly p50: number; readonly p99: number; readonly max: number };
  /** When it was begun and had returned (monotonic clock, ms), the log's salt, the last frame. */
  readonly stamps: readonly (readonly [begunMs: number, atMs: number, salt: string, frame: number])[];
}

/** Shared by all processes of the machine, unlike `performance.now()`. */
export function machineMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

function write(path: string, seconds: number, rate: number, synchronous: string): WriterReport {
  const database = new DatabaseSync(path);
  database.exec(`PRAGMA journal_mode=WAL; PRAGMA synchronous=${synchronous}; PRAGMA busy_timeout=5000`);
  database.exec("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, at REAL, body BLOB)");
  const insert = database.prepare("INSERT INTO rows (at, body) VALUES (?, ?)");
  insert.run(0, new Uint8Array(100));
  const index = openSync(`${path}-shm`, "r");
  const header = Buffer.alloc(48);
  const body = new Uint8Array(200);
  const pause = new Int32Array(new SharedArrayBuffer(4));
  const stamps: [number, number, string, number][] = [];
  const took: number[] = [];
  const begun = machineMs();
  for (let n = 0; ; n++) {
    const now = machineMs();
    if (now - begun >= seconds * 1000) break;
    if (rate > 0) {
      const due = begun + (n * 1000) / rate;
      if (due > now) Atomics.wait(pause, 0, 0, due - now);
    }
    const from = machineMs();
    insert.run(from, body);
    const at = machineMs();
    took.push(at - from);
    if (rate === 0) continue;
    readSync(index, header, 0, header.length, 0);
    // The salt is there as in the log itself, the frame in the machine's own order.
    const salt = `${header.toString("hex", 32, 36)}-${header.toString("hex", 36, 40)}`;
    stamps.push([from, at, salt, header.readUInt32LE(16)]);
  }
  const spent = (machineMs() - begun) / 1000;
  closeSync(index);
  database.close();
  took.sort((a, b) => a - b);
  const at = (share: number): number => took[Math.min(took.length - 1, Math.floor(took.length * share))] ?? 0;
  return { commits: took.length, seconds: spent, commitMs: { p50: at(0.5), p99: at(0.99), max: at(1) }, stamps };
}

if (import.meta.main) {
  const [path = "", seconds = "1", rate = "0", synchronous = "FULL"] = process.argv.slice(2);
  process.stdout.write(`${JSON.stringify(write(path, Number(seconds), Number(rate), synchronous))}\n`);
}
