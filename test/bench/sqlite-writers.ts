import { accessSync, constants } from "node:fs";
import { join } from "node:path";
import {
  atLeast,
  atMost,
  type Benchmark,
  type BenchOptions,
  type Finding,
  milliseconds,
  noted,
  round,
} from "./benchmark.ts";
import { type Agent, firstCopy, inStep, preparePair } from "./pair.ts";
import { median, Scratch, settleDisk, until } from "./scratch.ts";
import { makeDatabase, runWriter, type Writing } from "./sqlite-writer.ts";

const writers: Readonly<Record<string, Omit<Writing, "seconds">>> = {
  "that never pauses, synchronous=FULL": { synchronous: "FULL" },
  "that never pauses, synchronous=NORMAL": { synchronous: "NORMAL" },
  "that rests 2 ms after each commit": { synchronous: "FULL", pauseMs: 2 },
};
const sliceSeconds = 3;
const memoryDisk = "/dev/shm";

/**
 * What a writer loses by being followed, and by a replica that stands still. Both nodes share this machine's two cores
 * and, in the first lines, its disk; in the others the replica is on a filesystem in memory, so that what is left is
 * the primary's part.
 */
export const sqliteWriters: Benchmark = async (options) => {
  const findings = await onDisk(options, options.directory, "");
  if (!writable(memoryDisk))
    return [...findings, noted("SQLite writers, replica's disk apart", "", `no ${memoryDisk} here`)];
  return [...findings, ...(await onDisk(options, memoryDisk, ", replica's disk apart"))];
};

function writable(directory: string): boolean {
  try {
    accessSync(directory, constants.W_OK);
    return true;
  } catch {
    return false; // Not there, or not ours to write to: either way it cannot be used.
  }
}

async function onDisk(options: BenchOptions, replicaDirectory: string | undefined, where: string): Promise<Finding[]> {
  const { directory, stopSeconds = 10 } = options;
  using scratch = new Scratch(directory, "sqlite");
  using there = new Scratch(replicaDirectory, "sqlite-replica");
  const followed = join(scratch.path, "followed.db");
  const alone = join(scratch.path, "alone.db");
  makeDatabase(followed);
  makeDatabase(alone);
  const pair = await preparePair(scratch.path, { db: { kind: "sqlite", path: followed } }, "", there.path);
  await using replica = pair.start("bravo");
  await replica.ready();
  await using primary = pair.start("alpha");
  await firstCopy(primary, replica, 60_000);
  const findings: Finding[] = [];
  for (const [name, writing] of Object.entries(writers)) {
    const ratio = await inTurns(options, { name, alone, followed, settled: () => inStep(primary, replica) }, writing);
    findings.push(atLeast(`SQLite, writer ${name}${where}`, ratio.ours, ratio.theirs, ratio.median, 0.95));
  }
  findings.push(...(await standstill(options, { primary, replica, followed, alone, seconds: stopSeconds, where })));
  return findings;
}

interface Turns {
  readonly name: string;
  /** Nobody follows this one; else it is as the other. */
  readonly alone: string;
  readonly followed: string;
  /** The agents are done with what was written. */
  readonly settled: () => Promise<boolean>;
}

/** The same writer in turns on a database that is followed and on one that is not; each pair gives a ratio. */
async function inTurns(
  { seconds = sliceSeconds, repeat = 5, say }: BenchOptions,
  { name, alone, followed, settled }: Turns,
  writing: Omit<Writing, "seconds">,
): Promise<{ ours: string; theirs: string; median: number }> {
  const rates = new Map<string, number[]>([
    [alone, []],
    [followed, []],
  ]);
  for (let i = 0; i < repeat; i++) {
    for (const path of i % 2 === 0 ? [alone, followed] : [followed, alone]) {
      await until("all is durable and applied", settled, 120_000);
      settleDisk();
      const report = await runWriter(path, { ...writing, seconds });
      rates.get(path)!.push(report.commits / report.seconds);
    }
    say(`${name}: alone ${round(rates.get(alone)!.at(-1)!)}/s, followed ${round(rates.get(followed)!.at(-1)!)}/s`);
  }
  const ratios = rates.get(followed)!.map((each, i) => each / rates.get(alone)![i]!);
  return {
    ours: `${round(median(rates.get(followed)!))}/s, ratios ${round(Math.min(...ratios))} to ${round(Math.max(...ratios))}`,
    theirs: `alone ${round(median(rates.get(alone)!))}/s`,
    median: median(ratios),
  };
}

interface Standstill {
  readonly primary: Agent;
  readonly replica: Agent;
  readonly followed: string;
  readonly alone: string;
  readonly seconds: number;
  readonly where: string;
}

/** The replica stands still while the writer goes on; what that costs the writer and the primary. */
async function standstill(
  { say }: BenchOptions,
  { primary, replica, followed, alone, seconds, where }: Standstill,
): Promise<Finding[]> {
  const settled = async (): Promise<boolean> => await inStep(primary, replica);
  await until("all is durable and applied", settled, 120_000);
  settleDisk();
  const before = await runWriter(alone, { seconds });
  primary.forgetPeak();
  const memoryBefore = primary.peakMiB();
  replica.process.kill("SIGSTOP");
  let during: typeof before;
  try {
    during = await runWriter(followed, { seconds });
  } finally {
    replica.process.kill("SIGCONT");
  }
  const memory = primary.peakMiB();
  const begun = performance.now();
  await until("the replica has caught up", settled, 120_000, 100);
  const caughtUpMs = performance.now() - begun;
  const [ours, theirs] = [during.commits / during.seconds, before.commits / before.seconds];
  say(`standing still: ${round(ours)}/s, alone ${round(theirs)}/s, primary ${memory.toFixed(0)} MiB`);
  return [
    atLeast(
      `SQLite, replica stopped for ${seconds} s: writer${where}`,
      `${round(ours)}/s`,
      `alone ${round(theirs)}/s`,
      ours / theirs,
      0.95,
    ),
    atMost(
      `SQLite, replica stopped: primary's memory${where}`,
      `${memory.toFixed(0)} MiB, ${memoryBefore.toFixed(0)} before`,
      "",
      memory,
      250,
      " MiB",
    ),
    noted(`SQLite, replica stopped: caught up after${where}`, milliseconds(caughtUpMs)),
  ];
}
