import type { Catalog } from "../../shared/catalog/catalog.ts";
import { noteOf } from "../../shared/catalog/notes.ts";
import { blockHash, blocksPerRun, hashBytes, trimRun } from "../../shared/manifest/block-hash.ts";
import { runTerm } from "../../shared/manifest/digest.ts";
import type { ObjectId } from "../../shared/words.ts";
import { homeOf, objectFileName, type ReplicaContext } from "../replica-context.ts";
import { aheadName, aheadOf } from "./ahead.ts";
import { clearFirstTrees } from "./first-tree.ts";

/** True while the copy's place holds files that no cut of this group has written and that may be reused. */
export function adopting(catalog: Catalog): boolean {
  return noteOf(catalog, "adopting") !== undefined;
}

/**
 * Forgets the cut that a broken session left, in one transaction. Larger staged files are kept with the hashes of what
 * they really hold, so that the next session sends only what differs. They are read for it: the rows that the cut
 * brought say less than the files hold (the last of them are rolled back) and, after an unclean stop, also more.
 */
export function forgetOpenCut(context: ReplicaContext): void {
  const { catalog, manifest, disk, limits } = context;
  const open = catalog.cuts("receiving");
  const committed = catalog.standing.committed.seq;
  const unlinked: (() => void)[] = [];
  catalog.transaction("forget", () => {
    for (const row of catalog.all("SELECT object, store, block_size FROM staged WHERE seq > ?", committed)) {
      const object = Number(row.object) as ObjectId;
      const staging = homeOf(context, Number(row.store)).staging;
      const stat = disk.stat(staging, objectFileName(object));
      catalog.run("DELETE FROM staged_runs WHERE object = ?", object);
      if (stat !== undefined && stat.type === "file" && stat.size >= limits.resumeBytesMin) {
        rehashStaged(context, object, Number(row.store), Number(row.block_size));
        continue;
      }
      catalog.run("DELETE FROM staged WHERE object = ?", object);
      if (stat !== undefined) unlinked.push(() => disk.unlink(staging, objectFileName(object)));
    }
    for (const cut of open) {
      manifest.dropBirth(cut.cut.seq);
      catalog.run("DELETE FROM extents WHERE seq = ?", cut.cut.seq);
      catalog.run("DELETE FROM cuts WHERE seq = ?", cut.cut.seq);
    }
    // What a first cut has built is known by what was seen of it, and there is nothing else yet.
    if (committed === 0n) catalog.run("DELETE FROM seen");
  });
  for (const unlink of unlinked) unlink();
  if (committed === 0n) clearFirstTrees(context);
}

/** After an unclean stop: forgets the open cut, and removes files that the catalog does not know. */
export function recoverStaging(context: ReplicaContext): void {
  const { catalog, disk, homes } = context;
  forgetOpenCut(context);
  // With the mark, newborn objects that were made of inline payload wait here to be placed.
  const newborn = catalog.standing.applying === undefined ? "" : " UNION ALL SELECT 1 FROM seen WHERE object = ?1";
  for (const home of homes.values()) {
    for (const name of disk.list(home.staging)) {
      if (name === aheadName(catalog.standing.committed.seq)) continue; // What comes ahead tells of itself.
      if (name.startsWith("a")) {
        disk.unlink(home.staging, name); // It came ahead of a cut that is there.
        continue;
      }
      const known = name.startsWith("o")
        ? catalog.get(`SELECT 1 AS found FROM staged WHERE object = ?1${newborn}`, Number(name.slice(1)))
        : catalog.get("SELECT 1 AS found FROM cuts WHERE seq = ? AND state = 'committed'", Number(name.slice(1)));
      if (known === undefined) disk.unlink(home.staging, name);
    }
  }
}

/**
 * Everything that is staged for cuts which will never come. Rows first, durably: a file without its row is removed at the
 * next start as a replica.
 */
export function dropStaged(context: ReplicaContext): void {
  const { catalog, disk } = context;
  const staged = catalog.all("SELECT object, store FROM staged");
  if (staged.length === 0) return;
  catalog.transaction("drop staged", () => {
    catalog.run("DELETE FROM staged_runs");
    catalog.run("DELETE FROM staged");
  });
  for (const { object, store } of staged) {
    const { staging } = homeOf(context, Number(store));
    const name = objectFileName(Number(object));
    if (disk.stat(staging, name) !== undefined) disk.unlink(staging, name);
  }
}

/**
 * After a sync that failed: what is staged and not committed reads as it was written, and may not be on the disk. No
 * later sync would tell, so it must never be resumed. Files without their row are removed at the next start.
 */
export function distrustStaging({ catalog }: ReplicaContext): void {
  catalog.rollback();
  const { seq } = catalog.standing.committed;
  catalog.transaction("distrust", () => {
    catalog.run("DELETE FROM staged_runs WHERE object IN (SELECT object FROM staged WHERE seq > ?)", seq);
    catalog.run("DELETE FROM staged WHERE seq > ?", seq);
  });
}

/** Writes down the hashes of what a staged file really holds, within the open transaction. */
export function rehashStaged(context: ReplicaContext, object: ObjectId, store: number, blockSize: number): void {
  const { catalog, disk } = context;
  const staging = homeOf(context, store).staging;
  const file = disk.openFile(staging, objectFileName(object), "read");
  try {
    const { size } = disk.statFile(file);
    const bytes = new Uint8Array(blocksPerRun * blockSize);
    for (let run = 0; run * bytes.length < size; run++) {
      const length = disk.read(file, bytes, 0, bytes.length, run * bytes.length);
      const hashes = new Uint8Array(Math.ceil(length / blockSize) * hashBytes);
      for (let at = 0; at < length; at += blockSize) {
        hashes.set(blockHash(bytes.subarray(at, Math.min(at + blockSize, length))), (at / blockSize) * hashBytes);
      }
      const trimmed = trimRun(hashes);
      if (trimmed.length > 0)
        catalog.run("INSERT INTO staged_runs (object, run, hashes) VALUES (?,?,?)", object, run, trimmed);
    }
  } finally {
    disk.closeFile(file);
  }
}

/** What the primary compares before it sends a new object: 32 bytes for each run, zeros where nothing is staged. */
export function stagedRunDigests(
  context: ReplicaContext,
  object: ObjectId,
): { blockSize: number; digests: Uint8Array } {
  const { catalog } = context;
  const staged = catalog.get("SELECT block_size FROM staged WHERE object = ?", object);
  if (staged === undefined) return { blockSize: 0, digests: new Uint8Array(0) };
  const runs = aheadOf(context).fileRuns(object);
  const digests = new Uint8Array([...runs.keys()].reduce((most, run) => Math.max(most, run + 1), 0) * 32);
  for (const [run, hashes] of runs) {
    const term = runTerm(run, hashes);
    if (term !== undefined) digests.set(term, run * 32);
  }
  return { blockSize: Number(staged.block_size), digests };
}
