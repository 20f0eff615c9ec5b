import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { build } from "../../deploy/build/build.ts";
import { type Benchmark, type Finding, tableOf } from "./benchmark.ts";
import { fewChanges } from "./few-changes.ts";
import { largeFile } from "./large-file.ts";
import { agentProgram } from "./pair.ts";
import { promotion } from "./promotion.ts";
import { randomPages } from "./random-pages.ts";
import { rejoin } from "./rejoin.ts";
import { scanFiles } from "./scan-files.ts";
import { Scratch } from "./scratch.ts";
import { smallFiles } from "./small-files.ts";
import { sqliteCommits } from "./sqlite-commits.ts";
import { sqliteWriters } from "./sqlite-writers.ts";
import { switchover } from "./switchover.ts";
import { takeover } from "./takeover.ts";
import { wait } from "./wait.ts";

const benchmarks: Readonly<Record<string, Benchmark>> = {
  "small-files": smallFiles,
  "large-file": largeFile,
  "few-changes": fewChanges,
  "random-pages": randomPages,
  "sqlite-commits": sqliteCommits,
  "sqlite-writers": sqliteWriters,
  promotion,
  wait,
  switchover,
  takeover,
  rejoin,
  "scan-files": scanFiles,
};

const usage = `npm run bench -- [options]
  --only NAME[,NAME]   of ${Object.keys(benchmarks).join(", ")}
  --size N             files, bytes or commits, for the benchmarks that are run
  --repeat N           rounds; the median counts
  --seconds N          how long a writer writes
  --stop-seconds N     how long the replica stands still
  --litestream PATH    the program of the npm package @flydotio/litestream, unless it is in PATH
  --directory DIR      where to work (default: the system's temporary directory)
  --checkout           run the sources; else the bundle, as it is installed: it starts sooner and needs less memory
  --json FILE          the findings for a program
`;

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    size: { type: "string" },
    repeat: { type: "string" },
    seconds: { type: "string" },
    "stop-seconds": { type: "string" },
    litestream: { type: "string" },
    directory: { type: "string" },
    checkout: { type: "boolean" },
    json: { type: "string" },
    help: { type: "boolean" },
  },
});

const number = (text: string | undefined): number | undefined => {
  if (text === undefined) return undefined;
  const value = Number(text.replaceAll("_", ""));
  if (!Number.isFinite(value) || value <= 0) throw new Error(`${text} is no number above 0`);
  return value;
};

async function main(): Promise<void> {
  if (values.help) {
    process.stdout.write(usage);
    return;
  }
  using scratch = new Scratch(values.directory, "program");
  if (!values.checkout) {
    await build(join(scratch.path, "program"));
    agentProgram.path = join(scratch.path, "program", "understudy");
  }
  const names = values.only?.split(",") ?? Object.keys(benchmarks);
  const findings: Finding[] = [];
  let failed = false;
  for (const name of names) {
    const benchmark = benchmarks[name];
    if (benchmark === undefined) throw new Error(`no benchmark ${name}\n${usage}`);
    const begun = performance.now();
    const say = (text: string): void => {
      process.stderr.write(`[${name} ${((performance.now() - begun) / 1000).toFixed(0)} s] ${text}\n`);
    };
    try {
      findings.push(
        ...(await benchmark({
          directory: values.directory,
          size: number(values.size),
          repeat: number(values.repeat),
          seconds: number(values.seconds),
          stopSeconds: number(values["stop-seconds"]),
          litestream: values.litestream,
          say,
        })),
      );
    } catch (error) {
      // The others still run: a table with a hole says more than none.
      failed = true;
      say(error instanceof Error ? (error.stack ?? error.message) : String(error));
      findings.push({ what: name, ours: "failed, see above", theirs: "", figure: "", target: "", reached: false });
    }
  }
  process.stdout.write(`${tableOf(findings)}\n`);
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(findings, undefined, 2)}\n`);
  if (failed) process.exitCode = 1;
}

await main();
