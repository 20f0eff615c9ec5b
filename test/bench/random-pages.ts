import { closeSync, fsyncSync, mkdirSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { absent, atMost, type Benchmark, mebibytes, milliseconds, noted } from "./benchmark.ts";
import { makeLargeFile } from "./large-file.ts";
import { missingTools, rsync, startSsh } from "./other-tools.ts";
import { type Agent, firstCopy, inStep, metricIn, preparePair } from "./pair.ts";
import { median, randomNoise, Scratch, settleDisk, until } from "./scratch.ts";

const pages = 1000;
const pageBytes = 4096;
const limitMs = 120_000;

/** A thousand random pages of a large file: what goes over the wire for each changed byte, and the time until applied. */
export const randomPages: Benchmark = async ({ directory, size = 10 ** 9, repeat = 3, say }) => {
  using scratch = new Scratch(directory, "random-pages");
  await using cleanup = new AsyncDisposableStack();
  const missing = missingTools(["ssh", "sshd", "rsync"]);
  const ssh = missing.length > 0 ? undefined : await startSsh(scratch.path, cleanup);
  const source = join(scratch.path, "source");
  const file = join(source, "large.bin");
  mkdirSync(source);
  makeLargeFile(file, size);
  settleDisk();
  const pair = await preparePair(scratch.path, { tree: { kind: "files", path: source } });
  await using replica = pair.start("bravo");
  await replica.ready();
  await using primary = pair.start("alpha");
  await firstCopy(primary, replica, limitMs);
  const copy = join(scratch.path, "rsync");
  if (ssh !== undefined) await rsync(ssh, `${source}/`, copy);
  const ours: { ms: number; wireBytes: number }[] = [];
  const theirs: { ms: number; wireBytes: number }[] = [];
  for (let round = 0; round < repeat; round++) {
    settleDisk();
    await new Promise((resolve) => setTimeout(resolve, 3000));
    await until("all is quiet", () => inStep(primary, replica), limitMs, 100);
    const before = await exchanged(primary);
    let appliedAt = 0;
    const stop = replica.onLog(({ event, atMs }) => {
      if (event === "batch.applied") appliedAt = atMs;
    });
    const begun = performance.now();
    changePages(file, size);
    await until("the pages are applied", async () => appliedAt > 0 && (await inStep(primary, replica)), limitMs, 50);
    stop();
    ours.push({ ms: appliedAt - begun, wireBytes: (await exchanged(primary)) - before });
    if (ssh !== undefined) theirs.push(await rsync(ssh, `${source}/`, copy));
    say(`round ${round}: understudy ${mebibytes(ours.at(-1)!.wireBytes)} in ${milliseconds(ours.at(-1)!.ms)}`);
  }
  const changedBytes = pages * pageBytes;
  const wire = median(ours.map((each) => each.wireBytes));
  const what = `${pages} random pages of ${mebibytes(size)}`;
  const text = mebibytes(wire);
  if (ssh === undefined)
    return [atMost(`${what}: wire / changed`, text, "", wire / changedBytes, 1.2), absent(what, missing)];
  const byRsync = median(theirs.map((each) => each.wireBytes));
  const [mine, his] = [median(ours.map((each) => each.ms)), median(theirs.map((each) => each.ms))];
  return [
    atMost(`${what}: wire / changed`, text, `rsync ${mebibytes(byRsync)}`, wire / changedBytes, 1.2),
    noted(`${what}: time, rsync`, milliseconds(mine), milliseconds(his), (mine / his).toFixed(2)),
  ];
};

/** Bytes of frames that left the primary so far; acknowledgements are some fifty bytes each. */
async function exchanged(primary: Agent): Promise<number> {
  return metricIn(await primary.control.metrics(), "shipped_bytes_total");
}

function changePages(path: string, size: number): void {
  const noise = randomNoise(pages * pageBytes);
  const count = Math.floor(size / pageBytes);
  const file = openSync(path, "r+");
  try {
    const done = new Set<number>();
    while (done.size < pages) {
      const page = Math.floor(Math.random() * count);
      if (done.has(page)) continue;
      const from = done.size * pageBytes;
      writeSync(file, noise, from, pageBytes, page * pageBytes);
      done.add(page);
    }
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
