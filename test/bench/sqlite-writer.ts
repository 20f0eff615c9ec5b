import { spawn } from "node:child_process";
import { closeSync, openSync, readSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";

/**
 * A writer as an application would be: a process of its own, one row for each transaction. `node sqlite-writer.ts
 * DATABASE WRITING`, a `Writing` as JSON. Prints what it did as one line of JSON, with a stamp for each commit when it
 * has a rate: when it returned, and where it stands in the log (salt and last frame).
 */

export interface Writing {
  readonly seconds: number;
  /** Commits a second; without it as many as it can. */
  readonly rate?: number;
  /** What it rests after each commit. */
  readonly pauseMs?: number;
  /** FULL unless given. */
  readonly synchronous?: string;
}

export interface WriterReport {
  readonly commits: number;
  readonly seconds: number;
  /** Processor time of its own, in all. */
  readonly cpuMs: number;
  /** How long each commit took, as the application saw it. */
  readonly commitMs: { readonly p50: number; readonly p99: number; readonly max: number };
  /** When it was begun and had returned (monotonic clock, ms), the log's salt, the last frame. */
  readonly stamps: readonly (readonly [begunMs: number, atMs: number, salt: string, frame: number])[];
}

const rowsBefore = 20_000;

export function makeDatabase(path: string): void {
  using database = new DatabaseSync(path);
  database.exec("PRAGMA journal_mode=WAL; CREATE TABLE rows (id INTEGER PRIMARY KEY, at REAL, body BLOB)");
  database.exec("BEGIN");
  const insert = database.prepare("INSERT INTO rows (at, body) VALUES (?, ?)");
  for (let n = 0; n < rowsBefore; n++) insert.run(n, new Uint8Array(200));
  database.exec("COMMIT");
}

export async function runWriter(path: string, writing: Writing): Promise<WriterReport> {
  const parameters = [fileURLToPath(import.meta.url), path, JSON.stringify(writing)];
  const child = spawn(process.execPath, parameters, { stdio: ["ignore", "pipe", "inherit"] });
  let out = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    out += text;
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  if (code !== 0) throw new Error(`the writer ended with ${code}`);
  return JSON.parse(out) as WriterReport;
}

/** Shared by all processes of the machine, unlike `performance.now()`. */
export function machineMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

function write(path: string, { seconds, rate = 0, pauseMs = 0, synchronous = "FULL" }: Writing): WriterReport {
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
  const cpu = process.cpuUsage();
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
    if (pauseMs > 0) Atomics.wait(pause, 0, 0, pauseMs);
    if (rate === 0) continue;
    readSync(index, header, 0, header.length, 0);
    // The salt is there as in the log itself, the frame in the machine's own order.
    const salt = `${header.toString("hex", 32, 36)}-${header.toString("hex", 36, 40)}`;
    stamps.push([from, at, salt, header.readUInt32LE(16)]);
  }
  const spent = (machineMs() - begun) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  closeSync(index);
  database.close();
  took.sort((a, b) => a - b);
  const at = (share: number): number => took[Math.min(took.length - 1, Math.floor(took.length * share))] ?? 0;
  return {
    commits: took.length,
    seconds: spent,
    cpuMs: (user + system) / 1000,
    commitMs: { p50: at(0.5), p99: at(0.99), max: at(1) },
    stamps,
  };
}

if (import.meta.main) {
  const [path = "", writing = ""] = process.argv.slice(2);
  process.stdout.write(`${JSON.stringify(write(path, JSON.parse(writing)))}\n`);
}
