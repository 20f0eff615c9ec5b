import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { atMost, type Benchmark, type Finding, milliseconds } from "./benchmark.ts";
import { type Agent, firstCopy, preparePair } from "./pair.ts";
import { percentile, Scratch } from "./scratch.ts";
import { makeDatabase } from "./sqlite-writer.ts";

/**
 * What an application pays that answers its caller only when its commit is durable on a replica: the time of `wait` at the
 * control socket after each commit, with one caller and with several.
 */
export const wait: Benchmark = async ({ directory, size = 1000, say }) => {
  using scratch = new Scratch(directory, "wait");
  const path = join(scratch.path, "app.db");
  makeDatabase(path);
  const semiSync = "    durability: { semi_sync: { replicas: 1, timeout: 2s } }\n";
  const pair = await preparePair(scratch.path, { db: { kind: "sqlite", path } }, semiSync);
  await using replica = pair.start("bravo");
  await replica.ready();
  await using primary = pair.start("alpha");
  await firstCopy(primary, replica, 60_000);
  using database = new DatabaseSync(path, { timeout: 5000 });
  database.exec("PRAGMA synchronous = FULL; CREATE TABLE asked (number INTEGER)");
  const findings: Finding[] = [];
  for (const callers of [1, 8]) {
    await ask(primary, database, callers, 50);
    const times = await ask(primary, database, callers, size);
    const [p50, p99] = [percentile(times, 0.5), percentile(times, 0.99)];
    say(`${callers} callers: p50 ${milliseconds(p50)}, p99 ${milliseconds(p99)}`);
    const whose = callers === 1 ? "one caller" : `each of ${callers} callers`;
    findings.push(atMost(`wait after a commit, ${whose}, p50`, "", "", p50, callers === 1 ? 10 : 40, " ms"));
    findings.push(atMost(`wait after a commit, ${whose}, p99`, "", "", p99, callers === 1 ? 50 : 120, " ms"));
  }
  return findings;
};

/** Milliseconds of each wait. */
async function ask(primary: Agent, database: DatabaseSync, callers: number, times: number): Promise<number[]> {
  const insert = database.prepare("INSERT INTO asked VALUES (?)");
  const took: number[] = [];
  const caller = async (): Promise<void> => {
    for (let number = 0; number < times / callers; number++) {
      insert.run(number);
      const begun = performance.now();
      const { degraded } = await primary.control.wait("app", { timeoutMs: 30_000, replicas: [] });
      took.push(performance.now() - begun);
      if (degraded) throw new Error("durability was degraded: this machine is too busy to measure anything");
    }
  };
  await Promise.all(Array.from({ length: callers }, caller));
  return took;
}
