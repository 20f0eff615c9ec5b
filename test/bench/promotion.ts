import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { atMost, type Benchmark, type Finding, mebibytes, noted, round as rounded, seconds } from "./benchmark.ts";
import { type Agent, agentEnvironment, agentProgram, firstCopy, preparePair } from "./pair.ts";
import { median, run, Scratch } from "./scratch.ts";

const rowBytes = 4000;

/**
 * The time of the command `promote`, from its start to its end, on a replica whose primary is dead: with nothing left to
 * do, and on an agent that was killed while it applied as much as may wait, and has just been started again.
 */
export const promotion: Benchmark = async ({ directory, size = 60 * 2 ** 20, repeat = 3, say }) => {
  const idle: number[] = [];
  const backlog: { commandMs: number; sinceStartMs: number; unapplied: boolean }[] = [];
  for (let round = 0; round < repeat; round++) {
    idle.push(await promoteIdle(directory));
    backlog.push(await promoteBacklog(directory, size));
    const last = backlog.at(-1)!;
    say(
      `round ${round}: idle ${seconds(idle.at(-1)!)}, backlog ${seconds(last.commandMs)}, since start ${seconds(last.sinceStartMs)}`,
    );
  }
  const met = backlog.filter((each) => each.unapplied);
  const command = median(backlog.map((each) => each.commandMs));
  const findings: Finding[] = [
    atMost("promote, nothing to do", "", "", median(idle) / 1000, 1, " s"),
    atMost(
      `promote, ${mebibytes(size)} unapplied after SIGKILL`,
      `${met.length} of ${backlog.length} killed within apply`,
      "",
      command / 1000,
      2,
      " s",
    ),
    noted(
      "promote, the same from the start of the agent",
      `${rounded(median(backlog.map((each) => each.sinceStartMs)) / 1000)} s`,
    ),
  ];
  return findings;
};

async function promoteIdle(directory: string | undefined): Promise<number> {
  using scratch = new Scratch(directory, "promote");
  const database = join(scratch.path, "app.db");
  makeDatabase(database);
  const pair = await preparePair(scratch.path, { db: { kind: "sqlite", path: database } });
  await using replica = pair.start("bravo");
  await replica.ready();
  const primary = pair.start("alpha");
  await firstCopy(primary, replica, 60_000);
  await primary.stop("SIGKILL");
  return await promote(replica);
}

async function promoteBacklog(
  directory: string | undefined,
  bytes: number,
): Promise<{ commandMs: number; sinceStartMs: number; unapplied: boolean }> {
  using scratch = new Scratch(directory, "promote");
  const database = join(scratch.path, "app.db");
  makeDatabase(database);
  const pair = await preparePair(scratch.path, { db: { kind: "sqlite", path: database } });
  const replica = pair.start("bravo");
  await replica.ready();
  const primary = pair.start("alpha");
  await firstCopy(primary, replica, 60_000);
  let applied = false;
  replica.onLog(({ event }) => {
    if (event === "batch.applied") applied = true;
  });
  const durable = primary.event("cut.acknowledged", 60_000);
  writeAtOnce(database, bytes);
  await durable;
  // Apply begins within some milliseconds of the acknowledgement, and takes longer than that.
  await new Promise((resolve) => setTimeout(resolve, 50));
  await Promise.all([replica.stop("SIGKILL"), primary.stop("SIGKILL")]);
  const begun = performance.now();
  await using again = pair.start("bravo");
  await again.ready();
  const commandMs = await promote(again);
  return { commandMs, sinceStartMs: performance.now() - begun, unapplied: !applied };
}

async function promote(replica: Agent): Promise<number> {
  const options = [
    "promote",
    "app",
    "--state",
    replica.state,
    "--yes",
    "--accept-loss",
    "--accept-unreachable-primary",
  ];
  const { code, out, ms } = await run(agentProgram.path, options, agentEnvironment);
  if (code !== 0) throw new Error(`promote ended with ${code}: ${out}`);
  return ms;
}

function makeDatabase(path: string): void {
  mkdirSync(join(path, ".."), { recursive: true });
  using database = new DatabaseSync(path);
  database.exec("PRAGMA journal_mode=WAL; CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB)");
  database.exec("INSERT INTO rows (body) VALUES (randomblob(1000))");
}

/** One transaction, so one cut. */
function writeAtOnce(path: string, bytes: number): void {
  using database = new DatabaseSync(path);
  database.exec("PRAGMA busy_timeout=5000; BEGIN IMMEDIATE");
  const insert = database.prepare("INSERT INTO rows (body) VALUES (randomblob(?))");
  for (let at = 0; at < bytes; at += rowBytes) insert.run(rowBytes);
  database.exec("COMMIT");
}
