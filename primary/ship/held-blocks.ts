import { DatabaseSync, type StatementSync } from "node:sqlite";
import { blocksPerRun, equalBytes, hashBytes, hashInRun } from "../../shared/manifest/block-hash.ts";
import { tagBytes, tagsOf } from "../../shared/wire/staged-list.ts";
import type { ObjectId } from "../../shared/words.ts";

/**
 * What one replica has staged beyond the cuts that it holds, as far as this primary has sent it in this session or was
 * told: of each block the newest. What it says is believed, and checked by whole hashes when a cut counts on it.
 *
 * In a database without a name, which SQLite spills to a temporary file: of a terabyte it is more than belongs in memory.
 */
export class HeldBlocks {
  readonly #db = new DatabaseSync("");
  readonly #find: StatementSync;
  readonly #put: StatementSync;
  /** Objects with a staged file of their own, about which the replica was not asked yet. */
  readonly unasked = new Set<ObjectId>();
  readonly asked = new Set<ObjectId>();
  /** The replica has told what it has from before this session. */
  listed = false;
  #empty = true;

  constructor() {
    this.#db.exec(`PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
      CREATE TABLE held (object INTEGER NOT NULL, run INTEGER NOT NULL, tags BLOB NOT NULL,
        PRIMARY KEY (object, run)) STRICT, WITHOUT ROWID;`);
    this.#find = this.#db.prepare("SELECT tags FROM held WHERE object = ? AND run = ?");
    this.#put = this.#db.prepare("INSERT OR REPLACE INTO held (object, run, tags) VALUES (?,?,?)");
  }

  get empty(): boolean {
    return this.#empty;
  }

  /** Tags of a run's blocks, for `isHeld`. */
  tags(object: ObjectId, run: number): Uint8Array | undefined {
    return this.#empty ? undefined : (this.#find.get(object, run)?.tags as Uint8Array | undefined);
  }

  /** `hashes` of consecutive blocks of one run, the first of them `first` within it. */
  note(object: ObjectId, run: number, first: number, hashes: Uint8Array): void {
    this.noteTags(object, run, first, tagsOf(hashes));
  }

  noteTags(object: ObjectId, run: number, first: number, tags: Uint8Array): void {
    const before = this.tags(object, run);
    const end = first * tagBytes + tags.length;
    const merged = new Uint8Array(Math.max(before?.length ?? 0, Math.min(end, blocksPerRun * tagBytes)));
    if (before !== undefined) merged.set(before);
    merged.set(tags, first * tagBytes);
    this.#put.run(object, run, merged);
    this.#empty = false;
  }

  /** Nothing is known any more: the replica is asked again. */
  forget(): void {
    if (!this.#empty) this.#db.exec("DELETE FROM held");
    this.unasked.clear();
    this.asked.clear();
    this.listed = false;
    this.#empty = true;
  }

  /** A cut took what it wanted, and the replica drops the rest. */
  usedUp(): void {
    this.forget();
    this.listed = true;
  }

  close(): void {
    this.#db.close();
  }
}

/** Whether the block of a run is staged with this hash. */
export function isHeld(tags: Uint8Array | undefined, hashes: Uint8Array, block: number): boolean {
  if (tags === undefined || (block + 1) * tagBytes > tags.length || (block + 1) * hashBytes > hashes.length)
    return false;
  const tag = tags.subarray(block * tagBytes, (block + 1) * tagBytes);
  return equalBytes(tag, hashInRun(hashes, block).subarray(0, tagBytes));
}
