import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { restore } from "../../../replica/history/restore.ts";
import { sweep } from "../../../replica/history/sweep.ts";
import { dropPoints, type Thinned } from "../../../replica/history/thin.ts";
import { verify, verifyManifest } from "../../../replica/history/verify.ts";
import { equalBytes } from "../../../shared/manifest/block-hash.ts";
import type { Seq } from "../../../shared/words.ts";
import { seededRandom } from "../../crash/seeded-random.ts";
import { describeTree } from "../../model/describe-tree.ts";
import type { ModelSource } from "../../model/model-store.ts";
import { HistoryGroup } from "./history-group.ts";

/** That a round thins at all, and in every way. */
const totals: Thinned = { points: 0, images: 0, imageBytes: 0, keptFiles: 0, historyFiles: 0, rewrittenBytes: 0 };

const never = new AbortController().signal;
const rounds = Number(process.env.HISTORY_ROUNDS ?? 5);
const seedOfRun = Number(process.env.UNDERSTUDY_SEED ?? Date.now() % 1e9);

/** Any mix of changes: small and large, in place and by name, with gaps of zeros. */
function changeSource(source: ModelSource, random: () => number): void {
  const below = (limit: number): number => Math.floor(random() * limit);
  const directories = ["", "a", "b", "a/c"].filter((path) => source.nodes.get(path)?.type === "directory");
  const files = [...source.nodes].filter(([, node]) => node.type === "file").map(([path]) => path);
  const within = (directory: string, name: string): string => (directory === "" ? name : `${directory}/${name}`);
  const anyDirectory = directories[below(directories.length)]!;
  const anyPath = within(anyDirectory, `f${below(6)}`);
  const anyFile = files[below(files.length)];
  const bytes = (length: number): Uint8Array => Uint8Array.from({ length }, () => 1 + below(255));
  const gone = (path: string): boolean => source.nodes.get(path)?.type === "directory";
  // Mostly the same few blocks again and again, so that images lie over each other.
  if (random() < 0.6) {
    const hot = `hot${below(2)}`;
    if (!source.nodes.has(hot)) source.replace(hot, bytes(30_000));
    else if (random() < 0.1) source.truncate(hot, below(36_000));
    else source.write(hot, bytes(1 + below(12_288)), random() < 0.7 ? 4096 * below(8) : below(30_000));
    return;
  }
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
    this.timeout(Math.max(120_000, rounds * 20_000));
    for (let round = 0; round < rounds; round++) {
      const seed = seedOfRun + round;
      try {
        await liveThrough(seed);
      } catch (error) {
        throw new Error(`UNDERSTUDY_SEED=${seed} HISTORY_ROUNDS=1 shows it again`, { cause: error });
      }
    }
    if (rounds < 5) return; // One seed, seen again.
    for (const [what, count] of Object.entries(totals)) expect(count, what).to.be.greaterThan(0);
  });
});

async function liveThrough(seed: number): Promise<void> {
  const random = seededRandom(seed);
  const batchBytesMax = [1, 60_000, 64 * 1024 * 1024][Math.floor(random() * 3)]!;
  const inlineBytesMax = random() < 0.5 ? 8192 : 512 * 1024;
  const group = new HistoryGroup({ limits: { batchBytesMax, inlineBytesMax } });
  using reader = group.reader();
  try {
    for (let step = 0; step < 9; step++) {
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
      const wanted = points.filter(() => random() < 0.45);
      const pinned = new Set<Seq>(points.filter(() => random() < 0.1));
      const thinned = dropPoints(group.replica, wanted, pinned);
      for (const key of Object.keys(totals) as (keyof Thinned)[]) totals[key] += thinned[key];
      const applied = group.replica.catalog.standing.applied;
      expect(group.points()).to.deep.equal(
        points.filter((at) => at === applied || pinned.has(at) || !wanted.includes(at)),
      );
      await expectAllPoints(group, reader);
      expectNothingIdle(group);
    }
    dropPoints(group.replica, group.points(), new Set());
    await expectAllPoints(group, reader);
    expectNothingIdle(group);
    expect(group.replica.catalog.all("SELECT * FROM images")).to.deep.equal([]);
    expect(readdirSync(join(group.directory, ".understudy", "app.tree", "history"))).to.deep.equal([]);
    expect(readdirSync(join(group.directory, ".understudy", "app.tree", "kept"))).to.deep.equal([]);
  } finally {
    group.close();
  }
}

async function expectAllPoints(group: HistoryGroup, reader: HistoryGroup["replica"]): Promise<void> {
  for (const at of group.points()) {
    const to = group.newTarget();
    await restore(reader, { at, to }, () => {}, never);
    expect(describeTree(join(to, "tree")), `as of cut ${at}`).to.deep.equal(group.described.get(at));
    rmSync(to, { recursive: true });
  }
  const verified = await verify(reader, {}, () => {}, never);
  expect(verified.differences).to.deep.equal([]);
  expect(verified.digestEqual).to.equal(true);
  expect((await verifyManifest(reader, never)).digestEqual).to.equal(true);
  expect(JSON.stringify(sweep(reader, 0, 1000).changes)).to.equal("[]");
  const { committed, digest } = group.replica.catalog.standing;
  expect(committed).to.deep.equal(group.primary.catalog.standing.committed);
  expect(equalBytes(digest, group.primary.catalog.standing.digest)).to.equal(true);
}

/** Thinning leaves no row and no file that no kept point wants. */
function expectNothingIdle(group: HistoryGroup): void {
  const { catalog } = group.replica;
  const kept = group.points().map(Number);
  const wanted = (from: number, to: number): boolean => kept.some((at) => at >= from && at < to);
  const versions: readonly [string, readonly string[]][] = [
    ["path_versions", ["store", "dir", "name"]],
    ["object_versions", ["object"]],
    ["run_versions", ["object", "run"]],
  ];
  for (const [table, key] of versions) {
    const rows = catalog.all(`SELECT * FROM ${table} ORDER BY ${key.join(", ")}, birth`);
    rows.forEach((row, index) => {
      const next = rows[index + 1];
      if (next === undefined || key.some((column) => next[column] !== row[column])) return;
      expect(wanted(Number(row.birth), Number(next.birth)), `${table} ${JSON.stringify(row)}`).to.equal(true);
    });
  }
  for (const row of catalog.all(
    "SELECT object, died, (SELECT min(birth) FROM object_versions o WHERE o.object = k.object) AS born FROM kept k",
  )) {
    expect(wanted(Number(row.born), Number(row.died)), `kept ${JSON.stringify(row)}`).to.equal(true);
  }
  const oldest = kept[0]!;
  expect(catalog.get("SELECT 1 AS found FROM path_versions WHERE object IS NULL AND birth <= ?", oldest)).to.equal(
    undefined,
  );
  for (const row of catalog.all(
    "SELECT DISTINCT object FROM (SELECT object FROM run_versions UNION SELECT object FROM seen UNION SELECT object FROM kept)",
  )) {
    expect(
      catalog.get("SELECT 1 AS found FROM object_versions WHERE object = ?", Number(row.object)),
      `object ${row.object}`,
    ).not.to.equal(undefined);
  }
  const names = catalog.all("SELECT DISTINCT file FROM images").map((row) => `h${row.file}`);
  expect(readdirSync(join(group.directory, ".understudy", "app.tree", "history")).sort()).to.deep.equal(names.sort());
  const files = catalog.all("SELECT object FROM kept").map((row) => `o${row.object}`);
  expect(readdirSync(join(group.directory, ".understudy", "app.tree", "kept")).sort()).to.deep.equal(files.sort());
  expect(readdirSync(join(group.directory, ".understudy", "app.tree", "limbo"))).to.deep.equal([]);
}
