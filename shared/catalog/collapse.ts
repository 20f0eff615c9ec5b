import { assert } from "../errors.ts";
import { blocksPerRun } from "../manifest/block-hash.ts";
import { bitmapBytes, wholeObject } from "../wire/touched-list.ts";
import type { Seq } from "../words.ts";
import type { Catalog } from "./catalog.ts";

const diedAfter = `SELECT o.object FROM object_versions o WHERE o.type = 0 AND o.birth > ? AND NOT EXISTS (
  SELECT 1 FROM object_versions n WHERE n.object = o.object AND n.birth > o.birth)`;

/** What a node has otherwise than the cut that it stands at. */
export interface Touched {
  readonly paths: number;
  readonly objects: number;
  readonly blocks: number;
}

const allBlocks = new Uint8Array(bitmapBytes).fill(0xff);

/**
 * Within a transaction: what this node has beyond `common` counts as of `common` from here on, and is written down as
 * touched: the paths that changed, and of each object that changed the blocks. What a row of `touched_blocks` says:
 * - `run` from 0 on: the blocks of that run; a row without any block says that the object's own row changed.
 * - `wholeObject`: it died here, so all of it has to come.
 *
 * The set's digest stays what it was: the manifest is the same, only since when it holds is told otherwise. Everything that
 * is not the newest version goes, and with it what only recovery points wanted.
 */
export function collapse(catalog: Catalog, common: Seq): Touched {
  assert(catalog.inTransaction, "a collapse is one transaction");
  defineFunctions(catalog);
  noteTouched(catalog, common);
  // What died here and is alive at the common cut comes as one that this node never had.
  catalog.run(`DELETE FROM run_versions WHERE object IN (${diedAfter})`, common);
  catalog.run(`DELETE FROM seen WHERE object IN (${diedAfter})`, common);
  catalog.run(`DELETE FROM object_versions WHERE object IN (${diedAfter})`, common);
  dropSuperseded(catalog);
  catalog.run("UPDATE path_versions SET birth = ? WHERE birth > ?", common, common);
  catalog.run("UPDATE object_versions SET birth = ? WHERE birth > ?", common, common);
  catalog.run(
    "UPDATE run_versions SET births = births_up_to(births, ?), birth = ? WHERE birth > ?",
    common,
    common,
    common,
  );
  catalog.run("DELETE FROM cuts WHERE seq > ?", common);
  return touched(catalog);
}

function noteTouched(catalog: Catalog, common: Seq): void {
  catalog.run(
    `INSERT OR IGNORE INTO touched_paths (store, dir, name)
       SELECT DISTINCT store, dir, name FROM path_versions WHERE birth > ?`,
    common,
  );
  catalog.run(
    `INSERT INTO touched_blocks (object, run, blocks)
       SELECT object, run, blocks_born_after(births, ?) FROM run_versions WHERE birth > ?
       ON CONFLICT (object, run) DO UPDATE SET blocks = blocks_of_both(blocks, excluded.blocks)`,
    common,
    common,
  );
  catalog.run(
    `INSERT OR IGNORE INTO touched_blocks (object, run, blocks)
       SELECT DISTINCT object, 0, zeroblob(${bitmapBytes}) FROM object_versions WHERE birth > ?`,
    common,
  );
  catalog.run(`DELETE FROM touched_blocks WHERE object IN (${diedAfter})`, common);
  catalog.run(
    `INSERT INTO touched_blocks (object, run, blocks) SELECT object, ${wholeObject}, x'' FROM (${diedAfter})`,
    common,
  );
}

/**
 * Within a transaction: of every path, object and run only the newest version stays. A primary has only those, but for
 * what it was promoted with and has not changed since.
 */
export function dropSuperseded(catalog: Catalog): void {
  catalog.run(
    `DELETE FROM path_versions AS p WHERE EXISTS (SELECT 1 FROM path_versions n
       WHERE n.store = p.store AND n.dir = p.dir AND n.name = p.name AND n.birth > p.birth)`,
  );
  catalog.run(
    `DELETE FROM object_versions AS o WHERE EXISTS (SELECT 1 FROM object_versions n
       WHERE n.object = o.object AND n.birth > o.birth)`,
  );
  catalog.run(
    `DELETE FROM run_versions AS r WHERE EXISTS (SELECT 1 FROM run_versions n
       WHERE n.object = r.object AND n.run = r.run AND n.birth > r.birth)`,
  );
  catalog.run("DELETE FROM run_versions WHERE object IN (SELECT object FROM object_versions WHERE type = 0)");
}

/** What is touched now; nothing on a node that does not rejoin. */
export function touched(catalog: Catalog): Touched {
  const count = (sql: string): number => Number(catalog.get(sql)?.n ?? 0);
  let blocks = 0;
  for (const row of catalog.statement("SELECT blocks FROM touched_blocks").iterate()) {
    for (const byte of (row as { blocks: Uint8Array }).blocks) blocks += bitsOf(byte);
  }
  return {
    paths: count("SELECT count(*) AS n FROM touched_paths"),
    objects: count("SELECT count(DISTINCT object) AS n FROM touched_blocks"),
    blocks,
  };
}

export function anyTouched(catalog: Catalog): boolean {
  return (
    catalog.get(
      "SELECT 1 AS found WHERE EXISTS (SELECT 1 FROM touched_paths) OR EXISTS (SELECT 1 FROM touched_blocks)",
    ) !== undefined
  );
}

function bitsOf(byte: number): number {
  let bits = 0;
  for (let rest = byte; rest > 0; rest &= rest - 1) bits++;
  return bits;
}

function defineFunctions({ db }: Catalog): void {
  const options = { deterministic: true, directOnly: true };
  db.function("blocks_born_after", options, (births, after) => blocksBornAfter(births, Number(after)));
  db.function("births_up_to", options, (births, last) => birthsUpTo(births, Number(last)));
  db.function("blocks_of_both", options, (a, b) => blocksOfBoth(a as Uint8Array, b as Uint8Array));
}

/** Without births of their own, all blocks have the row's, which is above. */
function blocksBornAfter(births: unknown, after: number): Uint8Array {
  if (!(births instanceof Uint8Array)) return allBlocks;
  const view = new DataView(births.buffer, births.byteOffset, births.byteLength);
  const blocks = new Uint8Array(bitmapBytes);
  for (let index = 0; index < blocksPerRun; index++) {
    if (Number(view.getBigUint64(index * 8, true)) > after) blocks[index >> 3]! |= 1 << (index & 7);
  }
  return blocks;
}

function birthsUpTo(births: unknown, last: number): Uint8Array | null {
  if (!(births instanceof Uint8Array)) return null;
  const capped = Uint8Array.from(births);
  const view = new DataView(capped.buffer);
  for (let index = 0; index < blocksPerRun; index++) {
    if (Number(view.getBigUint64(index * 8, true)) > last) view.setBigUint64(index * 8, BigInt(last), true);
  }
  return capped;
}

function blocksOfBoth(a: Uint8Array, b: Uint8Array): Uint8Array {
  return a.map((byte, index) => byte | (b[index] ?? 0));
}
