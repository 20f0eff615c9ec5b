import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { absent, atMost, type Benchmark, type BenchOptions, type Finding, milliseconds, noted } from "./benchmark.ts";
import { missingTools, rsync, type Ssh, startSsh } from "./other-tools.ts";
import { type Agent, firstCopy, preparePair } from "./pair.ts";
import { makeSmallFiles, median, randomNoise, Scratch, settleDisk, smallFilePath } from "./scratch.ts";

const changed = 10;
const limitMs = 60_000;

/**
 * Ten changed files in a large tree, and in one of a tenth of it: from before the first is written to the end of the
 * batch of apply with which all ten are in the copy; rsync from its start to its end, after the writing.
 */
export const fewChanges: Benchmark = async (options) => {
  const { directory, size = 1_000_000 } = options;
  await using cleanup = new AsyncDisposableStack();
  using scratch = new Scratch(directory, "few-changes");
  const missing = missingTools(["ssh", "sshd", "rsync"]);
  const ssh = missing.length > 0 ? undefined : await startSsh(scratch.path, cleanup);
  const findings: Finding[] = [];
  const ours: number[] = [];
  for (const files of [Math.round(size / 10), size]) {
    const at = join(scratch.path, String(files));
    mkdirSync(at);
    const { mine, theirs } = await changesIn(at, files, ssh, options);
    ours.push(mine);
    const what = `${changed} changed of ${files} files`;
    if (theirs === undefined) findings.push(noted(what, milliseconds(mine)), absent(what, missing));
    else findings.push(atMost(`${what}, rsync`, milliseconds(mine), milliseconds(theirs), mine / theirs, 0.1));
  }
  const [few = 0, many = 0] = ours;
  const what = `${changed} changed of ${size} files, against a tenth as many`;
  findings.push(atMost(what, milliseconds(many), milliseconds(few), many / few, 1.3));
  return findings;
};

async function changesIn(
  directory: string,
  files: number,
  ssh: Ssh | undefined,
  { repeat = 5, say }: BenchOptions,
): Promise<{ mine: number; theirs: number | undefined }> {
  const source = join(directory, "source");
  mkdirSync(source);
  say(`making ${files} files`);
  makeSmallFiles(source, files);
  settleDisk();
  const pair = await preparePair(directory, { tree: { kind: "files", path: source } });
  await using replica = pair.start("bravo");
  await replica.ready();
  await using primary = pair.start("alpha");
  const first = await firstCopy(primary, replica, limitMs + files * 3);
  say(`${files} files copied in ${(first.ms / 1000).toFixed(1)} s`);
  const copy = join(directory, "rsync");
  if (ssh !== undefined) await rsync(ssh, `${source}/`, copy);
  const mine: number[] = [];
  const theirs: number[] = [];
  for (let round = 0; round < repeat; round++) {
    settleDisk();
    // What was changed in the last round is looked at again after two seconds; then nothing is left to do.
    await new Promise((resolve) => setTimeout(resolve, 3000));
    const paths = Array.from({ length: changed }, (_, i) => smallFilePath((round * 7919 + i * 104_729) % files));
    const contents = new Map(paths.map((path) => [path, randomNoise(1500)]));
    const begun = performance.now();
    const applied = appliedWith(replica, () => {
      for (const [path, bytes] of contents)
        if (!readFileSync(join(pair.copies.tree!, path)).equals(bytes)) return false;
      return true;
    });
    for (const [path, bytes] of contents) writeFileSync(join(source, path), bytes);
    mine.push((await applied) - begun);
    if (ssh !== undefined) theirs.push((await rsync(ssh, `${source}/`, copy)).ms);
    say(`round ${round}: understudy ${milliseconds(mine.at(-1)!)}, rsync ${milliseconds(theirs.at(-1) ?? Number.NaN)}`);
  }
  return { mine: median(mine), theirs: ssh === undefined ? undefined : median(theirs) };
}

/** When the batch of apply ended after which the copy is as it should be. */
async function appliedWith(replica: Agent, isThere: () => boolean): Promise<number> {
  return (await replica.event("batch.applied", limitMs, isThere)).atMs;
}
