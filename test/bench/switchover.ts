import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { type Benchmark, milliseconds, noted } from "./benchmark.ts";
import { serviceHooks, startFollowingWriter } from "./following-writer.ts";
import { type Agent, agentEnvironment, agentProgram, firstCopy, preparePair } from "./pair.ts";
import { median, percentile, run, Scratch } from "./scratch.ts";

const restMs = 700;

/**
 * There and back again under an application that commits all the time and moves with the primary: how long it could not
 * commit at each switchover, and whether every commit is there exactly once at the end.
 */
export const switchover: Benchmark = async ({ directory, size: rate = 500, repeat = 30, say }) => {
  using scratch = new Scratch(directory, "switchover");
  const service = (node: string): string => join(scratch.path, `service-${node}`);
  const database = join(scratch.path, "app.db");
  {
    using made = new DatabaseSync(database);
    made.exec("PRAGMA journal_mode=WAL; CREATE TABLE entries (id INTEGER PRIMARY KEY, body BLOB)");
  }
  for (const node of ["alpha", "bravo"]) mkdirSync(service(node));
  const pair = await preparePair(scratch.path, { db: { kind: "sqlite", path: database } }, serviceHooks(service));
  await using bravo = pair.start("bravo");
  await bravo.ready();
  await using alpha = pair.start("alpha");
  await firstCopy(alpha, bravo, 60_000);
  const databases = { alpha: database, bravo: pair.copies.db ?? "" };
  writeFileSync(join(service("alpha"), "service"), "");
  const end = join(scratch.path, "end");
  const nodes = (["alpha", "bravo"] as const).map((node) => ({ directory: service(node), database: databases[node] }));
  const writer = startFollowingWriter({ rate, nodes, end });
  const took: number[] = [];
  for (let round = 0; round < repeat; round++) {
    await new Promise((resolve) => setTimeout(resolve, restMs));
    const [from, to] = round % 2 === 0 ? [alpha, bravo] : [bravo, alpha];
    took.push(await switchTo(from, to));
    say(`${round + 1}: ${from.name} -> ${to.name} ${milliseconds(took.at(-1)!)}`);
  }
  await new Promise((resolve) => setTimeout(resolve, restMs));
  writeFileSync(end, "");
  const { commits } = await writer.done;
  const gaps = commits.flatMap(([at, node], index) => {
    const before = commits[index - 1];
    return before === undefined || before[1] === node ? [] : [at - before[0]];
  });
  const last = repeat % 2 === 0 ? databases.alpha : databases.bravo;
  using found = new DatabaseSync(last, { readOnly: true });
  const { count, distinct } = found
    .prepare("SELECT count(*) AS count, count(DISTINCT id) AS 'distinct' FROM entries")
    .get() as {
    count: number;
    distinct: number;
  };
  if (gaps.length !== repeat) throw new Error(`the writer moved ${gaps.length} times, not ${repeat}`);
  if (count !== commits.length || distinct !== count)
    throw new Error(
      `${commits.length} commits were made, ${count} are in ${dirname(last)}, ${distinct} of them different`,
    );
  return [
    noted(
      `${repeat} switchovers, ${rate} commits/s: the writer's gap p50 / p99`,
      `${milliseconds(median(gaps))} / ${milliseconds(percentile(gaps, 0.99))}`,
      "",
      `longest ${milliseconds(Math.max(...gaps))}`,
    ),
    noted(
      "the command `switchover`, p50 / p99",
      `${milliseconds(median(took))} / ${milliseconds(percentile(took, 0.99))}`,
    ),
    noted("commits made, and there exactly once", `${commits.length}, ${distinct}`),
  ];
};

async function switchTo(from: Agent, to: Agent): Promise<number> {
  const { code, out, ms } = await run(
    agentProgram.path,
    ["switchover", "app", "--to", to.name, "--state", from.state],
    agentEnvironment,
  );
  if (code !== 0) throw new Error(`switchover ended with ${code}: ${out}\n${from.lastLines()}\n${to.lastLines()}`);
  return ms;
}
