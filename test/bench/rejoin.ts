import { closeSync, ftruncateSync, mkdirSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { type Benchmark, mebibytes, noted, seconds } from "./benchmark.ts";
import { agentEnvironment, agentProgram, firstCopy, inStep, preparePair } from "./pair.ts";
import { randomNoise, run, Scratch, until } from "./scratch.ts";

const limitMs = 1_800_000;
const pageBytes = 4096;
const pages = 1000;

/**
 * What crosses the line when a former primary comes back that has changed a thousand pages of a large file after its last
 * cut: by birth, nothing is compared. Sparse, since only what is there needs room.
 */
export const rejoin: Benchmark = async ({ directory, size = 10 * 2 ** 30, say }) => {
  using scratch = new Scratch(directory, "rejoin");
  const source = join(scratch.path, "files");
  mkdirSync(source);
  const path = join(source, "large");
  changePages(path, size, pages);
  const pair = await preparePair(scratch.path, { files: { kind: "files", path: source } }, "    rejoin: manual\n");
  await using bravo = pair.start("bravo");
  await bravo.ready();
  const alpha = pair.start("alpha");
  await firstCopy(alpha, bravo, limitMs);
  await alpha.stop("SIGKILL");
  // Nobody follows these: they are alpha's alone.
  changePages(path, size, pages);
  const promoted = [
    "promote",
    "app",
    "--yes",
    "--accept-loss",
    "--accept-unreachable-primary",
    "--accept-live-primary",
  ];
  await command([...promoted, "--state", bravo.state]);
  await using again = pair.start("alpha");
  await again.ready();
  await until("alpha is fenced", async () => (await again.group()).role === "fenced", limitMs);
  const before = await bravo.metric("shipped_bytes_total");
  const begun = performance.now();
  await command(["rejoin", "app", "--state", again.state]);
  await until(
    "alpha follows",
    async () => (await again.group()).role === "replica" && (await inStep(bravo, again)),
    limitMs,
  );
  const ms = performance.now() - begun;
  const bytes = (await bravo.metric("shipped_bytes_total")) - before;
  say(`${mebibytes(bytes)} in ${seconds(ms)}`);
  const changed = pages * pageBytes;
  return [
    noted(
      `rejoin after ${pages} changed pages of ${mebibytes(size)}`,
      mebibytes(bytes),
      `changed: ${mebibytes(changed)}`,
      `${(bytes / changed).toFixed(2)}, ${seconds(ms)}`,
    ),
  ];
};

async function command(words: readonly string[]): Promise<void> {
  const { code, out } = await run(agentProgram.path, words, agentEnvironment);
  if (code !== 0) throw new Error(`${words[0]} ended with ${code}: ${out}`);
}

/** At places that are spread over the whole file, the same ones each time: what was there has to come back. */
function changePages(path: string, size: number, count: number): void {
  const file = openSync(path, "a+");
  closeSync(file);
  const open = openSync(path, "r+");
  try {
    ftruncateSync(open, size);
    const noise = randomNoise(count * pageBytes);
    const step = Math.floor(size / pageBytes / count);
    for (let page = 0; page < count; page++)
      writeSync(open, noise, page * pageBytes, pageBytes, page * step * pageBytes);
  } finally {
    closeSync(open);
  }
}
