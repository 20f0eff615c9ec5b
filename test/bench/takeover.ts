import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { type Benchmark, type Finding, mebibytes, noted, seconds } from "./benchmark.ts";
import {
  type Agent,
  agentEnvironment,
  agentProgram,
  firstCopy,
  inStep,
  type Pair,
  preparePair,
  type StoreSpec,
} from "./pair.ts";
import { makeSmallFiles, median, percentile, run, Scratch, until } from "./scratch.ts";

const limitMs = 600_000;
const pageBytes = 4096;

/** How long `promote` takes when the primary was just killed, there and back many times: for a large database, and for many files. */
export const takeover: Benchmark = async ({ directory, size, repeat = 30, say }) => {
  const findings: Finding[] = [];
  const bytes = size ?? 2 ** 30;
  const files = size ?? 100_000;
  const cases: [string, (path: string) => StoreSpec][] = [
    [`${mebibytes(bytes)} of SQLite`, (path) => ({ kind: "sqlite", path: makeLarge(join(path, "app.db"), bytes) })],
    [`${files} files`, (path) => ({ kind: "files", path: makeMany(join(path, "files"), files) })],
  ];
  for (const [what, store] of cases) {
    using scratch = new Scratch(directory, "takeover");
    const pair = await preparePair(
      scratch.path,
      { data: store(scratch.path) },
      '    rejoin: auto\n    hooks: { stop_service: ["true"], start_service: ["true"] }\n',
    );
    const took = await promotions(pair, repeat, (text) => say(`${what}: ${text}`));
    findings.push(
      noted(
        `promote after a kill, ${what}, ${repeat} times: p50 / p99`,
        `${seconds(median(took))} / ${seconds(percentile(took, 0.99))}`,
        "",
        `longest ${seconds(Math.max(...took))}`,
      ),
    );
  }
  return findings;
};

async function promotions(pair: Pair, repeat: number, say: (text: string) => void): Promise<number[]> {
  const took: number[] = [];
  let replica = pair.start("bravo");
  await replica.ready();
  let primary = pair.start("alpha");
  try {
    await firstCopy(primary, replica, limitMs);
    for (let round = 0; round < repeat; round++) {
      await primary.stop("SIGKILL");
      took.push(await promote(replica));
      say(`${round + 1}: ${seconds(took.at(-1)!)}`);
      const gone = pair.start(primary.name as "alpha" | "bravo");
      [primary, replica] = [replica, gone];
      await replica.ready();
      await until("the former primary follows", async () => await follows(primary, replica), limitMs, 100);
    }
    return took;
  } finally {
    await primary.stop();
    await replica.stop();
  }
}

async function follows(primary: Agent, replica: Agent): Promise<boolean> {
  return (await replica.group()).role === "replica" && (await inStep(primary, replica));
}

async function promote(replica: Agent): Promise<number> {
  const options = ["promote", "app", "--yes", "--accept-loss", "--accept-unreachable-primary", "--accept-live-primary"];
  const { code, out, ms } = await run(agentProgram.path, [...options, "--state", replica.state], agentEnvironment);
  if (code !== 0) throw new Error(`promote ended with ${code}: ${out}`);
  return ms;
}

function makeMany(path: string, files: number): string {
  mkdirSync(path);
  makeSmallFiles(path, files);
  return path;
}

/** Full of rows, not sparse: as large as it says. */
function makeLarge(path: string, bytes: number): string {
  using database = new DatabaseSync(path);
  database.exec("PRAGMA journal_mode=WAL; CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB)");
  const insert = database.prepare("INSERT INTO rows (body) VALUES (randomblob(?))");
  const each = 1000 * pageBytes;
  for (let at = 0; at < bytes; at += each) {
    database.exec("BEGIN");
    for (let n = 0; n < 1000; n++) insert.run(pageBytes - 400);
    database.exec("COMMIT");
  }
  return path;
}
