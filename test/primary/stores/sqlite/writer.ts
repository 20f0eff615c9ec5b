/**
 * An application with a SQLite database: a process of its own, told what to do one JSON line at a time. Each of its
 * transactions leaves a row in `audit`, moves `state.last` and keeps `state.sum` equal to the sum over `item`, so that
 * any committed state can be told from any other, and from none.
 */
import { createInterface } from "node:readline";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as delay } from "node:timers/promises";

export type WriterOrder =
  | { op: "open"; path: string; pragmas: string[] }
  | { op: "close" }
  | { op: "sql"; sql: string }
  | { op: "write"; transactions: number }
  | { op: "begin"; gapMs: number }
  | { op: "end" };

export interface WriterReply {
  error?: string;
  /** Number of the last committed transaction. */
  last: number;
  /** When that was, in ms since 1970. */
  committedAt: number;
  /** Of each transaction since the last answer, in ms. */
  tookMs: number[];
}

const schema = `
  CREATE TABLE IF NOT EXISTS audit (n INTEGER PRIMARY KEY, note TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, value INTEGER NOT NULL, filling BLOB NOT NULL);
  CREATE INDEX IF NOT EXISTS item_by_value ON item (value);
  CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL, sum INTEGER NOT NULL);
  INSERT OR IGNORE INTO state VALUES (1, 0, 0);`;

let database: DatabaseSync | undefined;
let last = 0;
let committedAt = 0;
let tookMs: number[] = [];
let running: Promise<void> | undefined;
let stopping = false;
let random = 12345;

function chance(below: number): number {
  random = (random * 1103515245 + 12345) & 0x7fffffff;
  return (random >>> 8) % below;
}

function transaction(db: DatabaseSync): void {
  const begunAt = performance.now();
  db.exec("BEGIN IMMEDIATE");
  const n = last + 1;
  db.prepare("INSERT INTO audit VALUES (?, ?)").run(n, `note ${n}`);
  for (let change = 0; change < 3; change++) {
    const id = chance(2000);
    const before = Number(db.prepare("SELECT value FROM item WHERE id = ?").get(id)?.value ?? 0);
    const value = chance(1000000);
    db.prepare("INSERT OR REPLACE INTO item VALUES (?, ?, ?)").run(id, value, Buffer.alloc(chance(900), n & 0xff));
    db.prepare("UPDATE state SET last = ?, sum = sum + ?").run(n, value - before);
  }
  db.exec("COMMIT");
  last = n;
  committedAt = performance.timeOrigin + performance.now();
  tookMs.push(performance.now() - begunAt);
}

async function loop(db: DatabaseSync, gapMs: number): Promise<void> {
  while (!stopping) {
    transaction(db);
    await (gapMs > 0 ? delay(gapMs) : new Promise((resolve) => setImmediate(resolve)));
  }
}

async function obey(order: WriterOrder): Promise<void> {
  switch (order.op) {
    case "open":
      database = new DatabaseSync(order.path, { timeout: 5000 });
      for (const pragma of order.pragmas) database.exec(`PRAGMA ${pragma}`);
      database.exec(schema);
      last = Number(database.prepare("SELECT last FROM state").get()!.last);
      return;
    case "close":
      database!.close();
      return;
    case "sql":
      database!.exec(order.sql);
      return;
    case "write":
      for (let count = 0; count < order.transactions; count++) transaction(database!);
      return;
    case "begin":
      stopping = false;
      running = loop(database!, order.gapMs);
      return;
    case "end":
      stopping = true;
      await running;
      return;
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const reply: WriterReply = { last, committedAt, tookMs: [] };
  try {
    await obey(JSON.parse(line));
  } catch (error) {
    reply.error = String(error);
  }
  reply.last = last;
  reply.committedAt = committedAt;
  reply.tookMs = tookMs;
  tookMs = [];
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
// Whoever told it what to do is gone, perhaps in the middle of something.
if (database?.isOpen) database.close();
process.exit();
