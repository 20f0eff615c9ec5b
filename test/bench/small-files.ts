import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { absent, atMost, type Benchmark, type Finding, mebibytes, noted, seconds } from "./benchmark.ts";
import { missingTools, rsync, startSsh, tarOverSsh } from "./other-tools.ts";
import { type Agent, firstCopy, metricIn, preparePair } from "./pair.ts";
import { makeSmallFiles, median, Scratch, settleDisk, timed } from "./scratch.ts";

/**
 * The first copy of many small files. Ours runs from the birth of the group (both agents are up and know each other) to
 * the moment when all of it is applied and synced; rsync and tar from start to end of the program, not synced. Nothing is
 * removed between the rounds: ext4 looks for minutes at each inode that was freed before it gives one out again.
 */
export const smallFiles: Benchmark = async ({ directory, size = 100_000, repeat = 3, say }) => {
  using scratch = new Scratch(directory, "small-files");
  await using cleanup = new AsyncDisposableStack();
  const missing = missingTools(["ssh", "sshd", "rsync", "tar"]);
  const source = join(scratch.path, "source");
  mkdirSync(source);
  say(`making ${size} files`);
  const bytes = makeSmallFiles(source, size);
  const ssh = missing.length > 0 ? undefined : await startSsh(scratch.path, cleanup);
  const limitMs = 60_000 + size * 3;
  const ours: number[] = [];
  const theirs: Record<"rsync" | "sync" | "tar", number[]> = { rsync: [], sync: [], tar: [] };
  let costs: Costs[] = [];
  // The files must not be young any more, and the disk quiet.
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
      const { ms } = await firstCopy(primary, replica, limitMs);
      ours.push(ms);
      costs = [await costsOf(primary), await costsOf(replica)];
      say(`round ${round}: understudy ${seconds(ms)}`);
    }
    if (ssh === undefined) continue;
    settleDisk();
    theirs.rsync.push((await rsync(ssh, `${source}/`, join(at, "rsync"))).ms);
    theirs.sync.push(await timed("sync", ["-f", at]));
    theirs.tar.push(await tarOverSsh(ssh, source, join(at, "tar")));
    say(`round ${round}: rsync ${seconds(theirs.rsync.at(-1)!)}, tar ${seconds(theirs.tar.at(-1)!)}`);
  }
  const what = `first copy of ${size} small files`;
  const mine = median(ours);
  const findings: Finding[] = [];
  if (ssh === undefined) {
    findings.push(noted(what, seconds(mine)), absent(what, missing));
  } else {
    const byRsync = median(theirs.rsync);
    const synced = byRsync + median(theirs.sync);
    findings.push(atMost(`${what}, rsync`, seconds(mine), seconds(byRsync), mine / byRsync, 0.6));
    findings.push(noted(`${what}, rsync and sync`, seconds(mine), seconds(synced), (mine / synced).toFixed(2)));
    const byTar = median(theirs.tar);
    findings.push(noted(`${what}, tar over ssh`, seconds(mine), seconds(byTar), (mine / byTar).toFixed(2)));
  }
  for (const { node, peakMiB, delaySeconds, worstSeconds, writtenBytes, cpuSeconds, exchangedBytes } of costs) {
    const about = `${size} files, ${node}`;
    findings.push(
      atMost(`${about}: memory, peak of all its processes`, `${peakMiB.toFixed(0)} MiB`, "", peakMiB, 250, " MiB"),
    );
    findings.push(
      atMost(
        `${about}: event loop delay p99`,
        `worst ${(worstSeconds * 1000).toFixed(0)} ms`,
        "",
        delaySeconds * 1000,
        20,
        " ms",
      ),
    );
    findings.push(
      noted(
        `${about}: written to disk, on the wire, processor`,
        `${mebibytes(writtenBytes)}, ${mebibytes(exchangedBytes)}, ${cpuSeconds.toFixed(1)} s`,
        `content ${mebibytes(bytes)}`,
        `${(writtenBytes / exchangedBytes).toFixed(2)} written / shipped`,
      ),
    );
  }
  return findings;
};

export interface Costs {
  readonly node: string;
  readonly peakMiB: number;
  readonly delaySeconds: number;
  readonly worstSeconds: number;
  readonly writtenBytes: number;
  readonly cpuSeconds: number;
  readonly exchangedBytes: number;
}

/** What an agent has cost so far; the event loop's delay since the metrics were last read. */
export async function costsOf(agent: Agent): Promise<Costs> {
  const text = await agent.control.metrics();
  return {
    node: agent.name,
    peakMiB: agent.peakMiB(),
    delaySeconds: metricIn(text, "event_loop_delay_seconds", 'quantile="0.99"'),
    worstSeconds: metricIn(text, "event_loop_delay_seconds", 'quantile="1"'),
    writtenBytes: agent.writtenBytes(),
    cpuSeconds: agent.cpuSeconds(),
    exchangedBytes: metricIn(text, "shipped_bytes_total") + metricIn(text, "received_bytes_total"),
  };
}
