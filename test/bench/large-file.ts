import { closeSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { absent, atLeast, type Benchmark, type Finding, noted, round as rounded, seconds } from "./benchmark.ts";
import { catOverSsh, missingTools, rsync, startSsh } from "./other-tools.ts";
import { firstCopy, preparePair } from "./pair.ts";
import { median, randomNoise, Scratch, settleDisk } from "./scratch.ts";
import { type Costs, costsOf } from "./small-files.ts";

const pieceBytes = 16 * 2 ** 20;

/** The first copy of one large file, from the birth of the group to applied and synced; cat and a sync over ssh. */
export const largeFile: Benchmark = async ({ directory, size = 2 * 10 ** 9, repeat = 3, say }) => {
  using scratch = new Scratch(directory, "large-file");
  await using cleanup = new AsyncDisposableStack();
  const missing = missingTools(["ssh", "sshd", "rsync"]);
  const source = join(scratch.path, "source");
  mkdirSync(source);
  makeLargeFile(join(source, "large.bin"), size);
  const ssh = missing.length > 0 ? undefined : await startSsh(scratch.path, cleanup);
  const ours: number[] = [];
  const cats: number[] = [];
  const rsyncs: number[] = [];
  let costs: Costs[] = [];
  await new Promise((resolve) => setTimeout(resolve, 3000));
  for (let round = 0; round < repeat; round++) {
    settleDisk();
    const at = join(scratch.path, `round-${round}`);
    mkdirSync(at);
    const pair = await preparePair(at, { tree: { kind: "files", path: source } });
    {
      await using replica = pair.start("bravo");
      await replica.ready();
      await using primary = pair.start("alpha");
      ours.push((await firstCopy(primary, replica, 60_000 + size / 10_000)).ms);
      costs = [await costsOf(primary), await costsOf(replica)];
    }
    say(`round ${round}: understudy ${seconds(ours.at(-1)!)}`);
    rmSync(at, { recursive: true });
    if (ssh === undefined) continue;
    mkdirSync(at);
    settleDisk();
    cats.push(await catOverSsh(ssh, join(source, "large.bin"), join(at, "cat.bin")));
    rmSync(join(at, "cat.bin"));
    settleDisk();
    rsyncs.push((await rsync(ssh, `${source}/`, join(at, "rsync"))).ms);
    say(`round ${round}: cat ${seconds(cats.at(-1)!)}, rsync ${seconds(rsyncs.at(-1)!)}`);
    rmSync(at, { recursive: true });
  }
  const what = `first copy of a file of ${rounded(size / 1e9)} GB`;
  const mine = median(ours);
  const rate = (ms: number): string => `${seconds(ms)}, ${rounded(size / 1e3 / ms)} MB/s`;
  const findings: Finding[] = [];
  if (ssh === undefined) findings.push(noted(what, rate(mine)), absent(what, missing));
  else {
    findings.push(atLeast(`${what}, ssh cat and sync: rate`, rate(mine), rate(median(cats)), median(cats) / mine, 0.9));
    findings.push(noted(`${what}, rsync: time`, rate(mine), rate(median(rsyncs)), (mine / median(rsyncs)).toFixed(2)));
  }
  for (const { node, peakMiB, delaySeconds, cpuSeconds, writtenBytes } of costs) {
    findings.push(
      noted(
        `large file, ${node}: memory, loop delay p99, processor`,
        `${peakMiB.toFixed(0)} MiB, ${(delaySeconds * 1000).toFixed(1)} ms, ${cpuSeconds.toFixed(1)} s`,
        "",
        `${(writtenBytes / size).toFixed(2)} written / content`,
      ),
    );
  }
  return findings;
};

export function makeLargeFile(path: string, size: number): void {
  const noise = randomNoise(pieceBytes);
  const file = openSync(path, "wx");
  try {
    for (let at = 0, n = 1; at < size; at += noise.length, n++) {
      // No block is like another.
      for (let block = 0; block < noise.length; block += 4096)
        noise.writeUInt32LE((n * 1_000_003 + block) >>> 0, block);
      writeSync(file, noise, 0, Math.min(noise.length, size - at));
    }
  } finally {
    closeSync(file);
  }
}
