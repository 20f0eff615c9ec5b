import { spawn } from "node:child_process";
import { mkdirSync, readdirSync, statSync, watch } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { absent, atLeast, atMost, type Benchmark, type Finding, milliseconds, noted, round } from "./benchmark.ts";
import { findLitestream, missingTools, startLitestream, startSsh } from "./other-tools.ts";
import { type Agent, firstCopy, inStep, metricIn, type Pair, preparePair } from "./pair.ts";
import { median, percentile, Scratch, settleDisk, until } from "./scratch.ts";
import type { WriterReport } from "./sqlite-writer.ts";

const writer = fileURLToPath(new URL("sqlite-writer.ts", import.meta.url));
const rate = 100;
const rowsBefore = 20_000;

/**
 * From a commit of the application to its durable acknowledgement, as the primary hears it: the commit counts from when
 * it returned to the application. Then what the writer loses by us, and what a replica that stands still does to it.
 */
export const sqliteCommits: Benchmark = async (options) => {
  const { directory, seconds = 20, repeat = 3, stopSeconds = 10, say } = options;
  using scratch = new Scratch(directory, "sqlite");
  const findings: Finding[] = [];
  const database = join(scratch.path, "app.db");
  makeDatabase(database);
  const pair = await preparePair(scratch.path, { db: { kind: "sqlite", path: database } });
  {
    await using replica = pair.start("bravo");
    await replica.ready();
    await using primary = pair.start("alpha");
    await firstCopy(primary, replica, 60_000);
    findings.push(...(await latency(primary, replica, database, seconds, say)));
  }
  findings.push(...(await litestreamLatency(scratch.path, options, seconds)));
  findings.push(...(await throughput(pair, database, repeat, Math.min(seconds, 10), say)));
  findings.push(...(await standstill(pair, database, stopSeconds, say)));
  return findings;
};

function makeDatabase(path: string): void {
  using database = new DatabaseSync(path);
  database.exec("PRAGMA journal_mode=WAL; CREATE TABLE rows (id INTEGER PRIMARY KEY, at REAL, body BLOB)");
  database.exec("BEGIN");
  const insert = database.prepare("INSERT INTO rows (at, body) VALUES (?, ?)");
  for (let n = 0; n < rowsBefore; n++) insert.run(n, new Uint8Array(200));
  database.exec("COMMIT");
}

async function write(
  database: string,
  seconds: number,
  commitsPerSecond: number,
  synchronous = "FULL",
): Promise<WriterReport> {
  const parameters = [writer, database, String(seconds), String(commitsPerSecond), synchronous];
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

/** How far the log of a database was covered from a moment on. */
interface Covered {
  readonly atMs: number;
  readonly salt: string;
  readonly frame: number;
}

async function latency(
  primary: Agent,
  replica: Agent,
  database: string,
  seconds: number,
  say: (text: string) => void,
): Promise<Finding[]> {
  const positions = new Map<number, { salt: string; frame: number }>();
  const covered: Covered[] = [];
  const takenMs: number[] = [];
  const stop = primary.onLog(({ event, fields, atMs }) => {
    if (event === "cut.taken") {
      const [salt = "", frame = ""] = String(fields.positions).split(":");
      positions.set(Number(fields.seq), { salt, frame: Number(frame.split("/")[0]) });
      takenMs.push(Number(fields.ms));
    }
    if (event === "cut.acknowledged") {
      // The log of the acknowledgement may overtake that of the cut: resolved at the end.
      covered.push({ atMs: machineNow(atMs), salt: String(fields.seq), frame: 0 });
    }
  });
  await primary.control.metrics();
  await replica.control.metrics();
  const cpu = [primary.cpuSeconds(), replica.cpuSeconds()];
  const report = await write(database, seconds, rate);
  const spent = [primary, replica].map((agent, i) => agent.cpuSeconds() - cpu[i]!);
  await until("the last commit is durable", () => inStep(primary, replica), 20_000);
  stop();
  const known = covered.flatMap(({ atMs, salt: cut }) => {
    const position = positions.get(Number(cut));
    return position === undefined ? [] : [{ atMs, ...position }];
  });
  const ms = durableAfter(report, known);
  say(
    `${report.commits} commits in ${positions.size} cuts, p50 ${milliseconds(median(ms))}, worst ${milliseconds(Math.max(...ms))}`,
  );
  const what = `SQLite, ${rate} commits/s, commit to durable`;
  const delays = await Promise.all(
    [primary, replica].map(async (agent) =>
      metricIn(await agent.control.metrics(), "event_loop_delay_seconds", 'quantile="0.99"'),
    ),
  );
  return [
    atMost(`${what}: p50`, `${ms.length} commits`, "", median(ms), 6, " ms"),
    atMost(`${what}: p99`, `worst ${milliseconds(Math.max(...ms))}`, "", percentile(ms, 0.99), 40, " ms"),
    noted(
      "SQLite: processor per commit, primary and replica",
      spent.map((each) => milliseconds((each * 1000) / report.commits)).join(", "),
      "",
      `${(report.commits / positions.size).toFixed(2)} commits a cut`,
    ),
    atMost(
      "SQLite: event loop delay p99, primary and replica",
      delays.map((each) => milliseconds(each * 1000)).join(", "),
      "",
      Math.max(...delays) * 1000,
      20,
      " ms",
    ),
  ];
}

/** Milliseconds from the return of each commit to the first moment at which it was covered. */
function durableAfter(report: WriterReport, covered: readonly Covered[]): number[] {
  // Generations of the log in the order in which the writer met them.
  const order = new Map<string, number>();
  for (const [, , salt] of report.stamps) if (!order.has(salt)) order.set(salt, order.size);
  const result: number[] = [];
  let at = 0;
  for (const [, committedMs, salt, frame] of report.stamps) {
    const generation = order.get(salt)!;
    const isCovered = (event: Covered): boolean => {
      const theirs = order.get(event.salt);
      return theirs !== undefined && (theirs > generation || (theirs === generation && event.frame >= frame));
    };
    while (at < covered.length && !isCovered(covered[at]!)) at++;
    const event = covered[at];
    if (event === undefined) break; // The writer's last commits, after which it closed and the log was copied back.
    result.push(Math.max(0, event.atMs - committedMs));
  }
  return result;
}

/** A time of this process on the clock that the writer has. */
function machineNow(atMs: number): number {
  return Number(process.hrtime.bigint()) / 1e6 - (performance.now() - atMs);
}

/** Litestream has no acknowledgement: a commit counts when the piece of log with it lies whole, unsynced, at the replica. */
async function litestreamLatency(
  directory: string,
  options: { litestream: string | undefined },
  seconds: number,
): Promise<Finding[]> {
  const what = "SQLite, commit to visible with litestream";
  const program = findLitestream(options.litestream);
  const missing = missingTools(["ssh", "sshd"]);
  if (program === undefined || missing.length > 0)
    return [absent(what, program === undefined ? ["litestream", ...missing] : missing)];
  await using cleanup = new AsyncDisposableStack();
  const ssh = await startSsh(directory, cleanup);
  const database = join(directory, "litestream.db");
  const replica = join(directory, "litestream-replica");
  makeDatabase(database);
  mkdirSync(replica);
  startLitestream(program, ssh, directory, database, replica, cleanup);
  const pieces = await pieceDirectory(replica);
  const written = new Map<string, number>();
  const watcher = watch(pieces, (_event, name) => {
    if (name !== null) written.set(name, Number(process.hrtime.bigint()) / 1e6);
  });
  const report = await write(database, seconds, rate);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  watcher.close();
  const pageSize = 4096;
  // A piece begins where the one before it ends, so what it covers is known from the name of the next one.
  const names = readdirSync(pieces).sort();
  const generations = [...new Set(report.stamps.map(([, , salt]) => salt))];
  const firstIndex = names.findIndex((name) => written.has(name));
  const indexOf = (name: string): number => Number.parseInt(name.slice(0, 8), 16);
  const baseIndex = indexOf(names[firstIndex] ?? "");
  const covered: Covered[] = [];
  for (let i = Math.max(0, firstIndex); i + 1 < names.length; i++) {
    const next = names[i + 1]!;
    const salt = generations[indexOf(names[i]!) - baseIndex];
    const atMs = written.get(names[i]!);
    if (salt === undefined || atMs === undefined) continue;
    const ends =
      indexOf(next) === indexOf(names[i]!) ? Number.parseInt(next.slice(9, 17), 16) : Number.POSITIVE_INFINITY;
    covered.push({ atMs, salt, frame: Math.floor((ends - 32) / (pageSize + 24)) });
  }
  const ms = durableAfter(report, covered);
  if (ms.length < report.commits / 2)
    return [noted(what, "", `only ${ms.length} of ${report.commits} commits could be matched`)];
  return [noted(`${what}: p50, p99`, "", `${milliseconds(median(ms))}, ${milliseconds(percentile(ms, 0.99))}`)];
}

async function pieceDirectory(replica: string): Promise<string> {
  let found = "";
  await until(
    "litestream's first piece of log",
    () => {
      for (const name of readdirSync(replica, { recursive: true, encoding: "utf8" })) {
        if (name.endsWith("/wal") && statSync(join(replica, name)).isDirectory()) found = join(replica, name);
      }
      return found !== "" && readdirSync(found).length > 0;
    },
    20_000,
  );
  return found;
}

/** A writer that never pauses, with and without us, in turns. */
async function throughput(
  pair: Pair,
  database: string,
  repeat: number,
  seconds: number,
  say: (text: string) => void,
): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const synchronous of ["FULL", "NORMAL"]) {
    const alone: number[] = [];
    const followed: number[] = [];
    for (let i = 0; i < repeat; i++) {
      settleDisk();
      alone.push(perSecond(await write(database, seconds, 0, synchronous)));
      await using replica = pair.start("bravo");
      await replica.ready();
      await using primary = pair.start("alpha");
      await primary.ready();
      await until("both are in step", () => inStep(primary, replica), 60_000);
      settleDisk();
      followed.push(perSecond(await write(database, seconds, 0, synchronous)));
      await until("the replica has all", () => inStep(primary, replica), 120_000);
      say(`${synchronous}: alone ${round(alone.at(-1)!)}/s, followed ${round(followed.at(-1)!)}/s`);
    }
    const [with_, without] = [median(followed), median(alone)];
    findings.push(
      atLeast(
        `SQLite, writer that never pauses, synchronous=${synchronous}`,
        `${round(with_)}/s`,
        `alone ${round(without)}/s`,
        with_ / without,
        0.95,
      ),
    );
  }
  return findings;
}

function perSecond(report: WriterReport): number {
  return report.commits / report.seconds;
}

/** The replica stands still while the writer goes on at its pace; what that costs the writer and the primary. */
async function standstill(
  pair: Pair,
  database: string,
  seconds: number,
  say: (text: string) => void,
): Promise<Finding[]> {
  await using replica = pair.start("bravo");
  await replica.ready();
  await using primary = pair.start("alpha");
  await primary.ready();
  await until("both are in step", () => inStep(primary, replica), 60_000);
  settleDisk();
  const before = perSecond(await write(database, seconds, 0));
  await until("the replica has all", () => inStep(primary, replica), 120_000);
  primary.forgetPeak();
  const memoryBefore = primary.peakMiB();
  replica.process.kill("SIGSTOP");
  let during: number;
  try {
    during = perSecond(await write(database, seconds, 0));
  } finally {
    replica.process.kill("SIGCONT");
  }
  const memory = primary.peakMiB();
  const begun = performance.now();
  await until("the replica has caught up", () => inStep(primary, replica), 120_000, 100);
  const caughtUpMs = performance.now() - begun;
  say(`standing still: ${round(during)}/s of ${round(before)}/s, primary ${memory.toFixed(0)} MiB`);
  return [
    atLeast(
      `SQLite, replica stopped for ${seconds} s: writer`,
      `${round(during)}/s`,
      `replica running ${round(before)}/s`,
      during / before,
      0.95,
    ),
    atMost(
      "SQLite, replica stopped: primary's memory",
      `${memory.toFixed(0)} MiB, ${memoryBefore.toFixed(0)} before`,
      "",
      memory,
      250,
      " MiB",
    ),
    noted("SQLite, replica stopped: caught up after", milliseconds(caughtUpMs)),
  ];
}
