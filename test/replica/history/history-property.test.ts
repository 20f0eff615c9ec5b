import { rmSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { restore } from "../../../replica/history/restore.ts";
import { dropPoints } from "../../../replica/history/thin.ts";
import { equalBytes } from "../../../shared/manifest/block-hash.ts";
import type { Seq } from "../../../shared/words.ts";
import { seededRandom } from "../../crash/seeded-random.ts";
import type { ModelSource } from "../../model/model-store.ts";
import { describeTree } from "../way.test.ts";
import { HistoryGroup } from "./history-group.ts";

const never = new AbortController().signal;
const rounds = Number(process.env.HISTORY_ROUNDS ?? 12);
const seedOfRun = Number(process.env.HISTORY_SEED ?? Date.now() % 1e9);

/** Any mix of changes: small and large, in place and by name, with gaps of zeros. */
export function changeSource(source: ModelSource, random: () => number): void {
  const below = (limit: number): number => Math.floor(random() * limit);
  const directories = ["", "a", "b", "a/c"].filter((path) => source.nodes.get(path)?.type === "directory");
  const files = [...source.nodes].filter(([, node]) => node.type === "file").map(([path]) => path);
  const within = (directory: string, name: string): string => (directory === "" ? name : `${directory}/${name}`);
  const anyDirectory = directories[below(directories.length)]!;
  const anyPath = within(anyDirectory, `f${below(6)}`);
  const anyFile = files[below(files.length)];
  const bytes = (length: number): Uint8Array => Uint8Array.from({ length }, () => 1 + below(255));
  const gone = (path: string): boolean => source.nodes.get(path)?.type === "directory";
  switch (below(12)) {
    case 0:
    case 1:
      if (!gone(anyPath)) source.replace(anyPath, bytes(below(20_000)));
      return;
    case 2:
    case 3:
    case 4:
      if (anyFile !== undefined) source.write(anyFile, bytes(1 + below(9000)), below(40_000));
      return;
    case 5:
      if (anyFile !== undefined) source.truncate(anyFile, below(40_000));
      return;
    case 6:
      if (anyFile !== undefined) source.write(anyFile, new Uint8Array(4096 * (1 + below(3))), 4096 * below(8));
      return;
    case 7:
      if (anyFile !== undefined) source.remove(anyFile);
      return;
    case 8:
      if (anyFile !== undefined && !gone(anyPath) && anyFile !== anyPath) source.rename(anyFile, anyPath);
      return;
    case 9:
      if (anyFile !== undefined && !source.nodes.has(anyPath)) source.link(anyFile, anyPath);
      return;
    case 10: {
      const path = within(anyDirectory, ["a", "b", "c", "f1"][below(4)]!);
      if (!source.nodes.has(path)) source.makeDirectory(path);
      else if (random() < 0.3) source.remove(path);
      return;
    }
    default:
      if (random() < 0.5) {
        if (!source.nodes.has(anyPath)) source.symlink(anyPath, `to-${below(9)}`);
      } else if (anyFile !== undefined) source.chmod(anyFile, 0o600 + below(0o100));
  }
}

describe("history under any mix of changes, batches and thinning", () => {
  it(`restores every remaining point exactly, after every step (seed ${seedOfRun})`, async function () {
    this.timeout(120_000);
    for (let round = 0; round < rounds; round++) {
      const seed = seedOfRun + round;
      try {
        await liveThrough(seed);
      } catch (error) {
        throw new Error(`HISTORY_SEED=${seed} HISTORY_ROUNDS=1 shows it again`, { cause: error });
      }
    }
  });
});

async function liveThrough(seed: number): Promise<void> {
  const random = seededRandom(seed);
  const batchBytesMax = [1, 60_000, 64 * 1024 * 1024][Math.floor(random() * 3)]!;
  const inlineBytesMax = random() < 0.5 ? 8192 : 512 * 1024;
  const group = new HistoryGroup({ batchBytesMax, inlineBytesMax });
  using reader = group.reader();
  try {
    for (let step = 0; step < 7; step++) {
      const cuts = 1 + Math.floor(random() * 5);
      for (let cut = 0; cut < cuts; cut++) {
        const changes = 1 + Math.floor(random() * 6);
        for (let change = 0; change < changes; change++) changeSource(group.source, random);
        await group.cut();
        if (random() < 0.5) group.commit();
        if (random() < 0.3) {
          group.commit();
          group.applyAll();
        }
      }
      group.commit();
      group.applyAll();
      const points = group.points();
      const wanted = points.filter(() => random() < 0.35);
      const pinned = new Set<Seq>(points.filter(() => random() < 0.1));
      dropPoints(group.replica, wanted, pinned);
      const applied = group.replica.catalog.standing.applied;
      expect(group.points()).to.deep.equal(points.filter((at) => at === applied || pinned.has(at) || !wanted.includes(at)));
      await expectAllPoints(group, reader);
    }
  } finally {
    group.close();
  }
}

export async function expectAllPoints(group: HistoryGroup, reader: HistoryGroup["replica"]): Promise<void> {
  for (const at of group.points()) {
    const to = group.newTarget();
    await restore(reader, { at, to }, () => {}, never);
    expect(describeTree(join(to, "tree")), `as of cut ${at}`).to.deep.equal(group.described.get(at));
    rmSync(to, { recursive: true });
  }
  const { committed, digest } = group.replica.catalog.standing;
  expect(committed).to.deep.equal(group.primary.catalog.standing.committed);
  expect(equalBytes(digest, group.primary.catalog.standing.digest)).to.equal(true);
}
