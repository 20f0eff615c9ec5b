import type { SQLInputValue } from "node:sqlite";
import { assert } from "../errors.ts";
import { pathTerm, runTerm, Sum256 } from "../manifest/digest.ts";
import type { ObjectRow, ObjectType } from "../wire/messages.ts";
import type { ObjectId, Seq, StorePath } from "../words.ts";
import type { Catalog } from "./catalog.ts";

/** An object as of some cut, with the seq that wrote this version. */
export interface ObjectVersion extends Omit<ObjectRow, "store"> {
  readonly birth: number;
}

export interface PathEntry {
  readonly store: number;
  readonly path: StorePath;
  readonly object: ObjectId;
}

export const typeNumbers: Readonly<Record<ObjectType, number>> = { file: 1, directory: 2, symlink: 3 };
/** Rows that are read at a time where there may be as many as files. */
const pageRows = 500;
export const typeNames: readonly (ObjectType | undefined)[] = [undefined, "file", "directory", "symlink"];

/** `dir` and `name` of a path; the root is ("", ""). */
export function splitPath(path: StorePath): { dir: string; name: string } {
  const slash = path.lastIndexOf("/");
  return slash < 0 ? { dir: "", name: path } : { dir: path.slice(0, slash), name: path.slice(slash + 1) };
}

export function joinPath(dir: string, name: string): StorePath {
  return (dir === "" ? name : `${dir}/${name}`) as StorePath;
}

/**
 * The versioned manifest in a catalog: paths to objects, objects to runs of block hashes. Every look-up is as of a seq;
 * every change is a row with the seq of the cut that brings it.
 */
export class Manifest {
  readonly #catalog: Catalog;

  constructor(catalog: Catalog) {
    this.#catalog = catalog;
  }

  objectAtPath(store: number, path: StorePath, at: Seq): ObjectId | undefined {
    const { dir, name } = splitPath(path);
    const row = this.#catalog.get(
      "SELECT object FROM path_versions WHERE store=? AND dir=? AND name=? AND birth<=? ORDER BY birth DESC LIMIT 1",
      store,
      dir,
      name,
      at,
    );
    return row === undefined || row.object === null ? undefined : (Number(row.object) as ObjectId);
  }

  /** The cut that last gave a path to an object, or took it away; 0 where nothing is known of it. */
  pathBirth(store: number, path: StorePath, at: Seq): number {
    const { dir, name } = splitPath(path);
    const row = this.#catalog.get(
      "SELECT max(birth) AS birth FROM path_versions WHERE store=? AND dir=? AND name=? AND birth<=?",
      store,
      dir,
      name,
      at,
    );
    return Number(row?.birth ?? 0);
  }

  /** The object as of `at`; undefined when it was not there or dead. */
  object(object: ObjectId, at: Seq): ObjectVersion | undefined {
    const row = this.#catalog.get(
      "SELECT * FROM object_versions WHERE object=? AND birth<=? ORDER BY birth DESC LIMIT 1",
      object,
      at,
    );
    return row === undefined || row.type === 0 ? undefined : objectVersion(row);
  }

  run(object: ObjectId, run: number, at: Seq): Uint8Array | undefined {
    const row = this.#catalog.get(
      "SELECT hashes FROM run_versions WHERE object=? AND run=? AND birth<=? ORDER BY birth DESC LIMIT 1",
      object,
      run,
      at,
    );
    return row === undefined ? undefined : (row.hashes as Uint8Array);
  }

  /** Hashes and births (undefined: all blocks have the row's birth) of a run as of `at`. */
  runWithBirths(
    object: ObjectId,
    run: number,
    at: Seq,
  ): { hashes: Uint8Array; birth: number; births: Uint8Array | undefined } | undefined {
    const row = this.#catalog.get(
      "SELECT hashes, birth, births FROM run_versions WHERE object=? AND run=? AND birth<=? ORDER BY birth DESC LIMIT 1",
      object,
      run,
      at,
    );
    if (row === undefined) return undefined;
    return {
      hashes: row.hashes as Uint8Array,
      birth: Number(row.birth),
      births: row.births === null ? undefined : (row.births as Uint8Array),
    };
  }

  /** Numbers of runs that changed in (after, upTo], from one on, at most `limit`. */
  runsBorn(object: ObjectId, from: number, after: Seq, upTo: Seq, limit: number): number[] {
    const rows = this.#catalog.all(
      "SELECT DISTINCT run FROM run_versions WHERE object=? AND run>=? AND birth>? AND birth<=? ORDER BY run LIMIT ?",
      object,
      from,
      after,
      upTo,
      limit,
    );
    return rows.map((row) => Number(row.run));
  }

  /** Highest run number + 1 that any version up to `at` has. */
  runCount(object: ObjectId, at: Seq): number {
    const row = this.#catalog.get("SELECT max(run) AS last FROM run_versions WHERE object=? AND birth<=?", object, at);
    return row === undefined || row.last === null ? 0 : Number(row.last) + 1;
  }

  pathsOf(object: ObjectId, at: Seq): PathEntry[] {
    return this.#pathsOf(object, at, at);
  }

  /** Those of `at` that a cut up to `bornUpTo` gave to it. */
  #pathsOf(object: ObjectId, at: Seq, bornUpTo: Seq): PathEntry[] {
    const rows = this.#catalog.all(
      `SELECT p.store, p.dir, p.name FROM path_versions p WHERE p.object=? AND p.birth<=? AND NOT EXISTS (
         SELECT 1 FROM path_versions n WHERE n.store=p.store AND n.dir=p.dir AND n.name=p.name AND n.birth>p.birth AND n.birth<=?)`,
      object,
      bornUpTo,
      at,
    );
    return rows.map((row) => ({
      store: Number(row.store),
      path: joinPath(String(row.dir), String(row.name)),
      object,
    }));
  }

  hasPath(object: ObjectId, at: Seq): boolean {
    return this.pathsOf(object, at).length > 0;
  }

  /** Names directly below a directory with their objects, by name. */
  children(store: number, directory: StorePath, at: Seq): { name: string; object: ObjectId }[] {
    const rows = this.#catalog.all(
      `SELECT name, object FROM path_versions p WHERE store=? AND dir=? AND birth<=? AND object IS NOT NULL AND name<>''
         AND NOT EXISTS (SELECT 1 FROM path_versions n WHERE n.store=p.store AND n.dir=p.dir AND n.name=p.name
           AND n.birth>p.birth AND n.birth<=?) ORDER BY name`,
      store,
      directory,
      at,
      at,
    );
    return rows.map((row) => ({ name: String(row.name), object: Number(row.object) as ObjectId }));
  }

  /** Everything below a path, the path itself not included; deepest last is not promised. */
  *below(store: number, directory: StorePath, at: Seq): Generator<PathEntry> {
    const pending: StorePath[] = [directory];
    for (let dir = pending.pop(); dir !== undefined; dir = pending.pop()) {
      for (const { name, object } of this.children(store, dir, at)) {
        const path = joinPath(dir, name);
        yield { store, path, object };
        if (this.object(object, at)?.type === "directory") pending.push(path);
      }
    }
  }

  /** All paths as of `at`, a directory before what is below it, with their objects. */
  *entries(store: number, at: Seq): Generator<{ path: StorePath; object: ObjectVersion }> {
    const root = this.objectAtPath(store, "" as StorePath, at);
    if (root !== undefined) yield { path: "" as StorePath, object: this.#alive(root, at) };
    for (const entry of this.below(store, "" as StorePath, at)) {
      yield { path: entry.path, object: this.#alive(entry.object, at) };
    }
  }

  #alive(object: ObjectId, at: Seq): ObjectVersion {
    const version = this.object(object, at);
    assert(version !== undefined, `object ${object} has a path at ${at} and no version`);
    return version;
  }

  countPaths(store: number, at: Seq): number {
    const row = this.#catalog.get(
      `SELECT count(*) AS n FROM path_versions p WHERE store=? AND birth<=? AND object IS NOT NULL AND NOT EXISTS (
         SELECT 1 FROM path_versions n WHERE n.store=p.store AND n.dir=p.dir AND n.name=p.name AND n.birth>p.birth AND n.birth<=?)`,
      store,
      at,
      at,
    );
    return Number(row?.n ?? 0);
  }

  putPath(store: number, path: StorePath, object: ObjectId | undefined, birth: Seq): void {
    const { dir, name } = splitPath(path);
    this.#catalog.run(
      "INSERT OR REPLACE INTO path_versions (store, dir, name, birth, object) VALUES (?,?,?,?,?)",
      store,
      dir,
      name,
      birth,
      object ?? null,
    );
  }

  putObject(row: Omit<ObjectRow, "store">, birth: Seq): void {
    this.#catalog.run(
      `INSERT OR REPLACE INTO object_versions (object, birth, type, mode, uid, gid, mtime_us, size, block_size, target, content)
         VALUES (?,?,?,?,?,?,?,?,?,?,?)`,
      row.object,
      birth,
      typeNumbers[row.type],
      row.mode,
      row.uid,
      row.gid,
      row.mtimeUs,
      row.size,
      row.blockSize,
      row.target,
      row.content,
    );
  }

  /** No path leads to the object from `birth` on. */
  putDeath(object: ObjectId, birth: Seq): void {
    this.#catalog.run(
      `INSERT OR REPLACE INTO object_versions (object, birth, type, mode, uid, gid, mtime_us, size, block_size, target, content)
         VALUES (?,?,0,0,0,0,0,0,0,'',x'')`,
      object,
      birth,
    );
  }

  putRun(object: ObjectId, run: number, birth: Seq, hashes: Uint8Array, births?: Uint8Array): void {
    this.#catalog.run(
      "INSERT OR REPLACE INTO run_versions (object, run, birth, hashes, births) VALUES (?,?,?,?,?)",
      object,
      run,
      birth,
      hashes,
      births ?? null,
    );
  }

  /** Paths that changed in (after, upTo], as of `upTo`. Read in pages: they may be all that there are. */
  *pathsBorn(after: Seq, upTo: Seq): Generator<Record<string, unknown>> {
    let last: SQLInputValue[] = [after, Number.MAX_SAFE_INTEGER, "", ""];
    for (;;) {
      const page = this.#catalog.all(
        `SELECT store, dir, name, object, birth FROM path_versions p WHERE (birth, store, dir, name) > (?,?,?,?) AND birth<=?
           AND NOT EXISTS (
             SELECT 1 FROM path_versions n WHERE n.store=p.store AND n.dir=p.dir AND n.name=p.name AND n.birth>p.birth AND n.birth<=?)
         ORDER BY birth, store, dir, name LIMIT ?`,
        ...last,
        upTo,
        upTo,
        pageRows,
      );
      yield* page;
      const end = page.at(-1);
      if (end === undefined || page.length < pageRows) return;
      last = [Number(end.birth), Number(end.store), String(end.dir), String(end.name)];
    }
  }

  /** Objects that live at `upTo` and whose row changed after `after`, the last changed first. Read in pages. */
  *objectsChanged(after: Seq, upTo: Seq): Generator<ObjectVersion> {
    let last: SQLInputValue[] = [upTo, Number.MAX_SAFE_INTEGER];
    for (;;) {
      const page = this.#catalog.all(
        `SELECT * FROM object_versions o WHERE (birth, object) < (?,?) AND birth>? AND type<>0 AND NOT EXISTS (
           SELECT 1 FROM object_versions n WHERE n.object=o.object AND n.birth>o.birth AND n.birth<=?)
         ORDER BY birth DESC, object DESC LIMIT ?`,
        ...last,
        after,
        upTo,
        pageRows,
      );
      for (const row of page) yield objectVersion(row);
      const end = page.at(-1);
      if (end === undefined || page.length < pageRows) return;
      last = [Number(end.birth), Number(end.object)];
    }
  }

  /** Objects whose row changed in (after, upTo], as of `upTo`; dead ones have type undefined in the raw row (0). */
  objectsBorn(after: Seq, upTo: Seq): { object: ObjectId; version: ObjectVersion | undefined }[] {
    const rows = this.#catalog.all(
      "SELECT DISTINCT object FROM object_versions WHERE birth>? AND birth<=? ORDER BY object",
      after,
      upTo,
    );
    return rows.map((row) => {
      const object = Number(row.object) as ObjectId;
      return { object, version: this.object(object, upTo) };
    });
  }

  /** Forgets what an uncommitted cut brought. */
  dropBirth(birth: Seq): void {
    for (const table of ["path_versions", "object_versions", "run_versions"]) {
      this.#catalog.run(`DELETE FROM ${table} WHERE birth = ?`, birth);
    }
  }

  /** Content digest of an object as of `at`, added up anew from its runs. */
  contentOf(object: ObjectId, at: Seq): Uint8Array {
    const sum = new Sum256();
    const runs = this.runCount(object, at);
    for (let run = 0; run < runs; run++) {
      const term = runTerm(run, this.run(object, run, at) ?? new Uint8Array(0));
      if (term !== undefined) sum.add(term);
    }
    return sum.bytes();
  }

  /** Marks as dead, at `birth`, the objects that no path leads to any more in that cut, or never did. */
  settleDeaths(birth: Seq, base: Seq): void {
    // Born and superseded in the same cut: a path that moved while the cut was taken was found twice.
    const unnamed = `SELECT object FROM object_versions o WHERE birth = ? AND type <> 0
      AND NOT EXISTS (SELECT 1 FROM path_versions p WHERE p.object = o.object AND p.birth = o.birth)
      AND NOT EXISTS (SELECT 1 FROM object_versions e WHERE e.object = o.object AND e.birth < o.birth)`;
    for (const row of this.#catalog.all(unnamed, birth)) this.putDeath(Number(row.object) as ObjectId, birth);
    if (base === 0n) return; // Nothing was there that could die.
    const named = this.#catalog.statement("SELECT store, dir, name, object FROM path_versions WHERE birth = ?");
    for (const row of named.iterate(birth) as IterableIterator<Record<string, unknown>>) {
      const before = this.objectAtPath(Number(row.store), joinPath(String(row.dir), String(row.name)), base);
      if (before === undefined || before === row.object) continue;
      if (!this.hasPath(before, birth)) this.putDeath(before, birth);
    }
  }

  /** The set's digest after cut `birth`, from the digest at `base`: what was changed is exchanged. */
  digestAfter(base: Seq, baseDigest: Uint8Array, birth: Seq): Uint8Array {
    const sum = Sum256.from(baseDigest);
    const names = this.#catalog.storeNames();
    const subtract = (store: number, path: StorePath, object: ObjectVersion): void =>
      sum.subtract(pathTerm(nameOf(store), path, object));
    const add = (store: number, path: StorePath, object: ObjectVersion): void =>
      sum.add(pathTerm(nameOf(store), path, object));
    const nameOf = (store: number): string => {
      const name = names.get(store);
      assert(name !== undefined, `store ${store} has no name`);
      return name;
    };
    const fresh = base === 0n;
    if (fresh) {
      // A first copy: nothing to exchange, and no set of every path in memory.
      for (const row of this.#catalog
        .statement(
          `SELECT p.store AS store, p.dir AS dir, p.name AS name, o.* FROM path_versions p
             JOIN object_versions o ON o.object = p.object AND o.birth = p.birth WHERE p.birth = ?`,
        )
        .iterate(birth)) {
        const path = joinPath(String(row.dir), String(row.name));
        add(Number(row.store), path, objectVersion(row as Record<string, unknown>));
      }
      return sum.bytes();
    }
    const paths = this.#catalog.statement("SELECT store, dir, name, object FROM path_versions WHERE birth = ?");
    for (const row of paths.iterate(birth) as IterableIterator<Record<string, unknown>>) {
      const store = Number(row.store);
      const path = joinPath(String(row.dir), String(row.name));
      const before = this.objectAtPath(store, path, base);
      if (before !== undefined) subtract(store, path, this.#alive(before, base));
      if (row.object !== null) add(store, path, this.#alive(Number(row.object) as ObjectId, birth));
    }
    // What changed under the paths that it had before, and has still.
    const objects = this.#catalog.statement("SELECT object FROM object_versions WHERE birth = ? AND type <> 0");
    for (const row of objects.iterate(birth) as IterableIterator<Record<string, unknown>>) {
      const object = Number(row.object) as ObjectId;
      for (const { store, path } of this.#pathsOf(object, birth, base)) {
        subtract(store, path, this.#alive(object, base));
        add(store, path, this.#alive(object, birth));
      }
    }
    return sum.bytes();
  }
}

export function objectVersion(row: Record<string, unknown>): ObjectVersion {
  const type = typeNames[Number(row.type)];
  assert(type !== undefined, `object row of type ${String(row.type)}`);
  return {
    object: Number(row.object) as ObjectId,
    birth: Number(row.birth),
    type,
    mode: Number(row.mode),
    uid: Number(row.uid),
    gid: Number(row.gid),
    mtimeUs: Number(row.mtime_us),
    size: Number(row.size),
    blockSize: Number(row.block_size),
    target: String(row.target),
    content: row.content as Uint8Array,
  };
}
