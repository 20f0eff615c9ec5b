import { mkdirSync, readdirSync, statSync, watch } from "node:fs";
import { join } from "node:path";
import { absent, atMost, type Benchmark, type Finding, milliseconds, noted } from "./benchmark.ts";
import { findLitestream, missingTools, startLitestream, startSsh } from "./other-tools.ts";
import { type Agent, firstCopy, inStep, metricIn, preparePair } from "./pair.ts";
import { median, percentile, Scratch, until } from "./scratch.ts";
import { makeDatabase, runWriter, type WriterReport } from "./sqlite-writer.ts";

const rate = 100;

/**
 * From a commit of the application to its durable acknowledgement, as the primary hears it: the commit counts from when
 * it returned to the application.
 */
export const sqliteCommits: Benchmark = async (options) => {
  const { directory, seconds = 20, say } = options;
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
  return findings;
};

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
  const report = await runWriter(database, { seconds, rate });
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
  const report = await runWriter(database, { seconds, rate });
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
