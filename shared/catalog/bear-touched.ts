import { assert } from "../errors.ts";
import { blocksPerRun } from "../manifest/block-hash.ts";
import { bitmapBytes, hasBlock, wholeObject } from "../wire/touched-list.ts";
import type { Seq } from "../words.ts";
import type { Catalog } from "./catalog.ts";

/**
 * The opposite of `collapse`, within a transaction: what this node has otherwise than the cut that it stands at is born in a
 * cut of its own, the next one. Whoever stands at that cut gets just this by birth, as from any primary. The manifest stays
 * what it is, and with it the set's digest.
 */
export function bearTouched(catalog: Catalog, birth: Seq): void {
  assert(catalog.inTransaction, "what is touched is born in one transaction");
  assert(birth === catalog.standing.committed.seq + 1n, "what is touched is born in the next cut");
  for (const table of ["path_versions", "object_versions", "run_versions"]) {
    // Rows of half a cut would become part of this one.
    const beyond = catalog.get(`SELECT 1 AS found FROM ${table} WHERE birth >= ? LIMIT 1`, birth);
    assert(beyond === undefined, "nothing is here beyond the cut that this node stands at");
  }
  catalog.db.function("births_with", { deterministic: true, directOnly: true }, birthsWith);
  // There is one version of each: `collapse` has left no other, and two would get the same key here.
  catalog.run(
    `UPDATE path_versions AS p SET birth = ? WHERE EXISTS (
       SELECT 1 FROM touched_paths t WHERE t.store = p.store AND t.dir = p.dir AND t.name = p.name)`,
    birth,
  );
  // What is gone may be forgotten here, as too old for anybody to be told of.
  catalog.run(
    "INSERT OR IGNORE INTO path_versions (store, dir, name, birth, object) SELECT store, dir, name, ?, NULL FROM touched_paths",
    birth,
  );
  catalog.run(
    "UPDATE object_versions SET birth = ? WHERE object IN (SELECT object FROM touched_blocks WHERE run >= 0)",
    birth,
  );
  catalog.run(
    `INSERT OR IGNORE INTO object_versions (object, birth, type, mode, uid, gid, mtime_us, size, block_size, target, content)
       SELECT object, ?, 0, 0, 0, 0, 0, 0, 0, '', x'' FROM touched_blocks WHERE run = ${wholeObject}`,
    birth,
  );
  catalog.run(
    `UPDATE run_versions AS r SET births = births_with(r.births, r.birth, t.blocks, ?1), birth = ?1
       FROM touched_blocks t WHERE t.object = r.object AND t.run = r.run AND t.blocks <> zeroblob(${bitmapBytes})`,
    birth,
  );
}

/** Births of a run's blocks in which those that are marked have a new one; null where that is all of them. */
function birthsWith(births: unknown, before: unknown, blocks: unknown, birth: unknown): Uint8Array | null {
  assert(blocks instanceof Uint8Array, "blocks are marked in bytes");
  if (blocks.every((byte) => byte === 0xff)) return null;
  const changed = births instanceof Uint8Array ? Uint8Array.from(births) : new Uint8Array(blocksPerRun * 8);
  const view = new DataView(changed.buffer);
  for (let index = 0; index < blocksPerRun; index++) {
    if (hasBlock(blocks, index)) view.setBigUint64(index * 8, BigInt(Number(birth)), true);
    else if (!(births instanceof Uint8Array)) view.setBigUint64(index * 8, BigInt(Number(before)), true);
  }
  return changed;
}
