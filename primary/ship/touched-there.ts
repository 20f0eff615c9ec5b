import { DatabaseSync, type StatementSync } from "node:sqlite";
import { placeAfter } from "../../shared/catalog/touched.ts";
import { UnderstudyError } from "../../shared/errors.ts";
import type { TouchedPlace } from "../../shared/wire/messages.ts";
import { unpackTouchedList, wholeObject } from "../../shared/wire/touched-list.ts";
import type { ObjectId, StorePath } from "../../shared/words.ts";

/** Of one page from a replica's worker; what it does not get to, the next page has. */
export type AskTouched = (from: TouchedPlace) => Promise<{ readonly payload: Uint8Array; readonly last: boolean }>;

/** More than this is no help any more: a comparison costs about as much. */
const listBytesMax = 256 * 1024 * 1024;
const pageRows = 500;

/** What a replica that rejoins has otherwise cannot be learned from it. */
class TouchedUnknown extends UnderstudyError {
  readonly code = "TOUCHED_UNKNOWN";
  readonly remedy = "retry";
  readonly state = "Nothing was shipped; the replica keeps what it has.";
  readonly hint = "It is asked again. If that goes on: `understudy adopt GROUP` on the replica compares all of it.";
}

/**
 * What a replica that rejoins has otherwise than the cut that it stands at, as it says itself. Nothing of it is believed in
 * the sense that matters: what it leaves out, the digest at the end of its cut finds.
 *
 * In a database without a name, which SQLite spills to a temporary file: of a large fork it is more than belongs in memory.
 */
export class TouchedThere {
  readonly #ask: AskTouched;
  readonly #db = new DatabaseSync("");
  readonly #blocks: StatementSync;
  readonly #whole: StatementSync;
  #asking: Promise<void> | undefined;
  #listed = false;

  constructor(ask: AskTouched) {
    this.#ask = ask;
    this.#db.exec(`PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
      CREATE TABLE paths (store TEXT NOT NULL, path TEXT NOT NULL, PRIMARY KEY (store, path)) STRICT, WITHOUT ROWID;
      CREATE TABLE blocks (object INTEGER NOT NULL, run INTEGER NOT NULL, blocks BLOB NOT NULL,
        PRIMARY KEY (object, run)) STRICT, WITHOUT ROWID;`);
    this.#blocks = this.#db.prepare("SELECT blocks FROM blocks WHERE object = ? AND run = ?");
    this.#whole = this.#db.prepare(`SELECT 1 AS found FROM blocks WHERE object = ? AND run = ${wholeObject}`);
  }

  /** The replica has told all of it. */
  get listed(): boolean {
    return this.#listed;
  }

  /** @throws {TouchedUnknown} */
  async list(): Promise<void> {
    if (this.#listed) return;
    this.#asking ??= this.#askAll().finally(() => {
      this.#asking = undefined;
    });
    await this.#asking;
  }

  async #askAll(): Promise<void> {
    const putPath = this.#db.prepare("INSERT OR REPLACE INTO paths (store, path) VALUES (?,?)");
    const putBlocks = this.#db.prepare("INSERT OR REPLACE INTO blocks (object, run, blocks) VALUES (?,?,?)");
    let from = placeAfter(undefined);
    for (let bytes = 0; ; ) {
      const { payload, last } = await this.#ask(from);
      const entries = unpackTouchedList(payload);
      if (entries === undefined)
        throw new TouchedUnknown("the replica lists what it has otherwise in bytes that are no list");
      bytes += payload.length;
      if (bytes > listBytesMax)
        throw new TouchedUnknown(`the replica lists more than ${listBytesMax} bytes of what it has otherwise`);
      for (const entry of entries) {
        if (entry.kind === "path") putPath.run(entry.store, entry.path);
        else putBlocks.run(entry.object, entry.run, entry.blocks);
      }
      if (last) break;
      // A page of nothing would be asked for without end.
      if (entries.length === 0) throw new TouchedUnknown("the replica does not get on with what it has otherwise");
      from = placeAfter(entries.at(-1));
    }
    this.#listed = true;
  }

  /** The replica has nothing of the object. */
  lacksAll(object: ObjectId): boolean {
    return this.#whole.get(object) !== undefined;
  }

  /** It says something of the object. */
  names(object: ObjectId): boolean {
    return this.#db.prepare("SELECT 1 AS found FROM blocks WHERE object = ? LIMIT 1").get(object) !== undefined;
  }

  /** The blocks of a run that it has otherwise; undefined where it says nothing of the run. */
  blocks(object: ObjectId, run: number): Uint8Array | undefined {
    return this.#blocks.get(object, run)?.blocks as Uint8Array | undefined;
  }

  /** Runs of an object of which it has something otherwise, from one on, at most `limit`. */
  runs(object: ObjectId, from: number, limit: number): number[] {
    const rows = this.#db
      .prepare("SELECT run FROM blocks WHERE object = ? AND run >= ? ORDER BY run LIMIT ?")
      .all(object, Math.max(0, from), limit);
    return rows.map((row) => Number(row.run));
  }

  /** Objects of which the row, a block or everything is otherwise there. */
  *objects(): Generator<ObjectId> {
    for (let after = 0; ; ) {
      const rows = this.#db
        .prepare("SELECT DISTINCT object FROM blocks WHERE object > ? ORDER BY object LIMIT ?")
        .all(after, pageRows);
      for (const row of rows) yield Number(row.object) as ObjectId;
      const last = rows.at(-1);
      if (last === undefined || rows.length < pageRows) return;
      after = Number(last.object);
    }
  }

  /** Paths that lead to something else there. */
  *paths(): Generator<{ readonly store: string; readonly path: StorePath }> {
    let last = { store: "", path: "" };
    let first = true;
    for (;;) {
      const rows = this.#db
        .prepare(
          `SELECT store, path FROM paths WHERE (store, path) ${first ? ">=" : ">"} (?, ?) ORDER BY store, path LIMIT ?`,
        )
        .all(last.store, last.path, pageRows) as { store: string; path: string }[];
      for (const { store, path } of rows) yield { store, path: path as StorePath };
      const end = rows.at(-1);
      if (end === undefined || rows.length < pageRows) return;
      last = end;
      first = false;
    }
  }

  close(): void {
    this.#db.close();
  }
}
