import type { SQLInputValue } from "node:sqlite";
import type { ObjectRow } from "../wire/messages.ts";
import type { ObjectId, Seq, StorePath } from "../words.ts";
import type { Catalog } from "./catalog.ts";
import { splitPath, typeNumbers } from "./manifest.ts";

/** Rows that go in with one statement. */
const rowsOfStatement = 32;

/**
 * Rows that the catalog surely does not have yet: nothing is replaced, and many go in at once. A statement for each row
 * costs as much as the row itself (measured, for the four rows of a file: 8.1 us in place of 4.5). They are there for
 * others after `flush`.
 */
export class NewRows {
  readonly #paths: Inserts;
  readonly #objects: Inserts;
  readonly #runs: Inserts;
  readonly #seen: Inserts;

  constructor(catalog: Catalog) {
    this.#paths = new Inserts(catalog, "path_versions", ["store", "dir", "name", "birth", "object"]);
    this.#objects = new Inserts(catalog, "object_versions", [
      ...["object", "birth", "type", "mode", "uid", "gid", "mtime_us", "size", "block_size", "target", "content"],
    ]);
    this.#runs = new Inserts(catalog, "run_versions", ["object", "run", "birth", "hashes"]);
    this.#seen = new Inserts(catalog, "seen", ["object", "store", "inode", "size", "mtime_ns", "ctime_ns"]);
  }

  path(store: number, path: StorePath, object: ObjectId, birth: Seq): void {
    const { dir, name } = splitPath(path);
    this.#paths.add(store, dir, name, birth, object);
  }

  object(row: ObjectRow, birth: Seq): void {
    const { object, mode, uid, gid, mtimeUs, size, blockSize, target, content } = row;
    this.#objects.add(object, birth, typeNumbers[row.type], mode, uid, gid, mtimeUs, size, blockSize, target, content);
  }

  run(object: ObjectId, run: number, birth: Seq, hashes: Uint8Array): void {
    this.#runs.add(object, run, birth, hashes);
  }

  seen(object: ObjectId, store: number, seen: { inode: number; size: number; mtimeNs: bigint; ctimeNs: bigint }): void {
    this.#seen.add(object, store, seen.inode, seen.size, seen.mtimeNs, seen.ctimeNs);
  }

  flush(): void {
    for (const inserts of [this.#paths, this.#objects, this.#runs, this.#seen]) inserts.flush();
  }
}

class Inserts {
  readonly #catalog: Catalog;
  readonly #one: string;
  readonly #many: string;
  readonly #columns: number;
  #values: SQLInputValue[] = [];

  constructor(catalog: Catalog, table: string, columns: readonly string[]) {
    this.#catalog = catalog;
    this.#columns = columns.length;
    const row = `(${columns.map(() => "?").join(",")})`;
    this.#one = `INSERT INTO ${table} (${columns.join(", ")}) VALUES ${row}`;
    this.#many = `${this.#one}${`,${row}`.repeat(rowsOfStatement - 1)}`;
  }

  add(...values: SQLInputValue[]): void {
    this.#values.push(...values);
    if (this.#values.length < rowsOfStatement * this.#columns) return;
    this.#catalog.run(this.#many, ...this.#values);
    this.#values = [];
  }

  flush(): void {
    for (let at = 0; at < this.#values.length; at += this.#columns) {
      this.#catalog.run(this.#one, ...this.#values.slice(at, at + this.#columns));
    }
    this.#values = [];
  }
}
