import { hash } from "node:crypto";
import { DatabaseSync, type StatementSync } from "node:sqlite";
import type { Catalog } from "../../shared/catalog/catalog.ts";
import { isSystemError } from "../../shared/errors.ts";
import {
  blockHash,
  blocksPerRun,
  equalBytes,
  hashBytes,
  hashInRun,
  trimRun,
  zeroHash,
} from "../../shared/manifest/block-hash.ts";
import type { OpenFile } from "../../shared/ports/disk.ts";
import type { Extent, StagedPlace } from "../../shared/wire/messages.ts";
import { type StagedTags, tagBytes, tagsOf } from "../../shared/wire/staged-list.ts";
import type { ObjectId, Seq } from "../../shared/words.ts";
import { homeOf, objectFileName, type ReplicaContext } from "../replica-context.ts";
import { CutDamaged, CutMalformed } from "./refusals.ts";

/**
 * What comes ahead of a cut, on a line that cannot carry all of it while the primary holds its stores still.
 *
 * Invariants:
 * - Nothing of it is part of any cut. A cut names what it wants of it, and gets it by whole hashes: bytes of the log are
 *   read and hashed again then, and go the way of bytes that came within the cut.
 * - Blocks of a new large object lie in its own staged file, at their place, as a broken session leaves them. Everything
 *   else is appended to one file a store, and what lies there is never written over.
 * - The catalog knows nothing of the log. It tells of itself, so there is no order of syncs between the two: whoever
 *   finds one reads and hashes all of it, and cuts it off at the first record that is not whole. A power failure costs
 *   what had not reached the disk, and nothing else.
 * - The next commit makes it useless, and removes it: the log's name says for which cut it is the next.
 */
export function aheadName(committed: Seq): string {
  return `a${committed}`;
}

/** magic, blocks, object, offset, length, block size, check; little-endian, then the hashes, then the bytes. */
const headBytes = 40;
const magic = 0x31_48_41_55;
const checkAt = 32;
const listBytesMax = 256 * 1024;

/** Blocks of one object that are staged: in its own file, or as bytes out of the log. */
export interface StagedPiece {
  readonly first: number;
  readonly hashes: Uint8Array;
  /** Undefined: they lie in the object's staged file. */
  readonly bytes: Uint8Array | undefined;
}

interface Log {
  readonly name: string;
  readonly file: OpenFile;
  end: number;
}

const known = new WeakMap<Catalog, Ahead>();

/** What came ahead to this node and is not used up. */
export function aheadOf(context: ReplicaContext): Ahead {
  let found = known.get(context.catalog);
  if (found === undefined) {
    found = new Ahead(context);
    known.set(context.catalog, found);
  }
  return found;
}

export class Ahead {
  readonly #context: ReplicaContext;
  #index: Index | undefined;
  readonly #logs = new Map<number, Log>();
  /** Written to staged files of objects, since they were looked at last. */
  #fileBytes = 0;
  /** There may be logs that nobody has looked for. */
  #unread = true;

  constructor(context: ReplicaContext) {
    this.#context = context;
  }

  /**
   * Stages checked extents; all of them or, where there is no room, none that is told of.
   * @returns why there is no room, or undefined
   * @throws {CutDamaged | CutMalformed}
   */
  take(extents: readonly Extent[], payload: Uint8Array, stores: readonly number[]): string | undefined {
    checkAhead(extents, payload);
    const index = this.#read();
    const refusal = this.#refusal(payload.length, stores);
    if (refusal !== undefined) return refusal;
    try {
      let at = 0;
      for (const extent of extents) {
        const bytes = payload.subarray(at, at + extent.length);
        at += extent.length;
        const store = stores[extent.store];
        if (store === undefined) throw new CutMalformed(`store ${extent.store} of ${stores.length}`);
        if (this.#hasFile(extent, store)) this.#writeFile(index, extent, store, bytes);
        else this.#append(index, extent, store, bytes);
      }
    } catch (error) {
      if (!isSystemError(error, "ENOSPC", "EDQUOT")) throw error;
      return "the disk is full";
    }
    return undefined;
  }

  /**
   * What is staged of these blocks, in order and without a gap. Bytes of the log are as they were read: to be compared
   * with their hashes.
   * @throws {CutDamaged} when one of them is not
   */
  *find(extent: Extent, store: number): Generator<StagedPiece> {
    const { object, blockSize } = extent;
    const index = this.#read();
    const first = extent.offset / blockSize;
    const end = first + Math.ceil(extent.length / blockSize);
    const ownFile = this.#stagedFileOf(object, store, blockSize);
    for (let block = first; block < end; ) {
      const run = Math.floor(block / blocksPerRun);
      const runEnd = Math.min(end, (run + 1) * blocksPerRun);
      const inFile = ownFile ? this.#fileHashes(index, object, run) : undefined;
      const records = index.recordsOf(object, run).filter((record) => record.store === store);
      while (block < runEnd) {
        const at = block % blocksPerRun;
        if (!equalBytes(hashInRun(inFile, at), zeroHash)) {
          let to = at + 1;
          while (run * blocksPerRun + to < runEnd && !equalBytes(hashInRun(inFile, to), zeroHash)) to++;
          yield { first: block, hashes: inFile!.subarray(at * hashBytes, to * hashBytes), bytes: undefined };
          block = run * blocksPerRun + to;
          continue;
        }
        // The newest one that has the block, up to where a newer one begins.
        const newest = records.find((record) => record.first <= at && at < record.first + record.count);
        if (newest === undefined)
          throw new CutDamaged(`block ${block} of object ${object} is not staged as the primary thinks`);
        let to = Math.min(newest.first + newest.count, runEnd - run * blocksPerRun);
        for (const newer of records) {
          if (newer === newest) break;
          if (newer.first > at) to = Math.min(to, newer.first);
        }
        yield this.#readRecord(newest, store, extent, at, to);
        block = run * blocksPerRun + to;
      }
    }
  }

  /** The hash that a block has in the object's staged file, as far as this process has written or read it. */
  fileHash(object: ObjectId, block: number): Uint8Array {
    const run = Math.floor(block / blocksPerRun);
    return hashInRun(this.#fileHashes(this.#read(), object, run), block % blocksPerRun);
  }

  /** All runs that are staged in the object's own file, by number. */
  fileRuns(object: ObjectId): Map<number, Uint8Array> {
    const runs = new Map<number, Uint8Array>();
    for (const row of this.#context.catalog.all("SELECT run, hashes FROM staged_runs WHERE object = ?", object))
      runs.set(Number(row.run), row.hashes as Uint8Array);
    for (const { run, hashes } of this.#index?.runsOfFile(object) ?? []) runs.set(run, hashes);
    return runs;
  }

  /** Tags of what is staged, from a place on: first the log's runs, then the objects with a staged file. */
  list(from: StagedPlace): { readonly entries: readonly StagedTags[]; readonly last: boolean } {
    const index = this.#read();
    if (!from.files) {
      const entries = index.list(from.object, from.run, listBytesMax);
      if (entries.length > 0) return { entries, last: false };
    }
    const { catalog } = this.#context;
    const { seq } = catalog.standing.committed;
    const limit = listBytesMax / 16;
    const rows = catalog.all(
      "SELECT object FROM staged WHERE seq > ? AND object > ? ORDER BY object LIMIT ?",
      seq,
      from.files ? from.object : 0,
      limit,
    );
    const entries = rows.map((row) => ({ object: Number(row.object), run: 0, tags: new Uint8Array(0) }));
    return { entries, last: entries.length < limit };
  }

  /** The staged files are read anew by whoever forgets a cut: what was known of them counts no more. */
  forgetFiles(): void {
    this.#index?.forgetFiles();
    this.#fileBytes = 0;
  }

  /** A cut is durable, and what it wanted of this is in it. */
  clear(): void {
    const { disk } = this.#context;
    if (this.#unread) dropLogs(this.#context);
    for (const [store, { file, name }] of this.#logs) {
      disk.closeFile(file);
      disk.unlink(homeOf(this.#context, store).staging, name);
    }
    this.#logs.clear();
    this.#unread = false;
    this.#fileBytes = 0;
    this.#index?.close();
    this.#index = undefined;
  }

  /** The index of everything; logs that an earlier process left are read and hashed for it. */
  #read(): Index {
    this.#index ??= new Index();
    if (!this.#unread) return this.#index;
    this.#unread = false;
    for (const home of this.#context.homes.values()) this.#readLog(this.#index, home.number);
    return this.#index;
  }

  #readLog(index: Index, store: number): void {
    const { disk } = this.#context;
    const { staging } = homeOf(this.#context, store);
    const name = this.#logName();
    if (disk.stat(staging, name)?.type !== "file") return;
    const file = disk.openFile(staging, name, "write");
    const { size } = disk.statFile(file);
    const log: Log = { name, file, end: 0 };
    this.#logs.set(store, log);
    for (;;) {
      const record = this.#recordAt(log, size);
      if (record === undefined) break;
      index.add({ ...record, store });
      log.end = record.position + record.bytes;
    }
    if (log.end < size) disk.truncate(file, log.end);
  }

  #logName(): string {
    return aheadName(this.#context.catalog.standing.committed.seq);
  }

  /** The record at the end of what is known of a log; undefined when there is none, or none that is whole. */
  #recordAt(log: Log, size: number): (NewRecord & { readonly bytes: number }) | undefined {
    const { disk } = this.#context;
    const head = Buffer.alloc(headBytes);
    if (disk.read(log.file, head, 0, headBytes, log.end) !== headBytes || head.readUInt32LE(0) !== magic)
      return undefined;
    const count = head.readUInt32LE(4);
    const object = Number(head.readBigUInt64LE(8)) as ObjectId;
    const offset = Number(head.readBigUInt64LE(16));
    const length = head.readUInt32LE(24);
    const blockSize = head.readUInt32LE(28);
    const bytes = headBytes + count * hashBytes + length;
    if (count === 0 || count > blocksPerRun || blockSize === 0 || log.end + bytes > size) return undefined;
    const rest = new Uint8Array(bytes - headBytes);
    if (disk.read(log.file, rest, 0, rest.length, log.end + headBytes) !== rest.length) return undefined;
    const hashes = rest.subarray(0, count * hashBytes);
    if (!equalBytes(checkOf(head, hashes), head.subarray(checkAt))) return undefined;
    for (let i = 0; i < count; i++) {
      const from = hashes.length + i * blockSize;
      const block = rest.subarray(from, Math.min(from + blockSize, rest.length));
      if (!equalBytes(blockHash(block), hashInRun(hashes, i))) return undefined;
    }
    const first = offset / blockSize;
    const run = Math.floor(first / blocksPerRun);
    return {
      object,
      run,
      first: first % blocksPerRun,
      count,
      blockSize,
      length,
      position: log.end,
      tags: tagsOf(hashes),
      bytes,
    };
  }

  #refusal(bytes: number, stores: readonly number[]): string | undefined {
    const { disk, limits, homes, catalog } = this.#context;
    // New files of a first copy are the copy, however large; what lies in the log is written once more.
    const fileBytes = catalog.standing.committed.seq === 0n ? 0 : this.#fileBytes;
    const staged = [...this.#logs.values()].reduce((sum, { end }) => sum + end, fileBytes);
    if (staged + bytes > limits.stagingBytesMax)
      return `${staged} bytes are staged ahead of the next cut, and limits.staging is ${limits.stagingBytesMax}`;
    for (const home of homes.values()) {
      if (!stores.includes(home.number)) continue;
      // What lies in the log is written a second time by the cut that takes it.
      const free = disk.freeBytes(home.home);
      const needed = (this.#logs.get(home.number)?.end ?? 0) + 2 * bytes + limits.freeBytesMin;
      if (free < needed) return `${needed} free bytes are needed beside ${home.placement.path}, there are ${free}`;
    }
    return undefined;
  }

  /** Whether a block goes to a staged file of the object's own; one is begun for a new large object. */
  #hasFile({ object, fresh, blockSize }: Extent, store: number): boolean {
    const { catalog, disk, manifest } = this.#context;
    const { seq } = catalog.standing.committed;
    const staged = catalog.get("SELECT store, seq, block_size FROM staged WHERE object = ?", object);
    // One of a committed cut is no longer ours to write to.
    if (staged !== undefined) {
      return Number(staged.seq) > seq && Number(staged.store) === store && Number(staged.block_size) === blockSize;
    }
    if (!fresh || manifest.object(object, seq) !== undefined) return false;
    const { staging } = homeOf(this.#context, store);
    const name = objectFileName(object);
    if (disk.stat(staging, name) !== undefined) disk.unlink(staging, name);
    this.#read().forgetFile(object);
    disk.closeFile(disk.openFile(staging, name, "create"));
    // Known at once: what is rolled back would leave a file that nobody knows, and blocks that somebody counts on.
    if (catalog.inTransaction) catalog.commit("rows");
    catalog.transaction("ahead", () =>
      catalog.run(
        "INSERT INTO staged (object, store, seq, block_size) VALUES (?,?,?,?)",
        object,
        store,
        seq + 1n,
        blockSize,
      ),
    );
    return true;
  }

  #stagedFileOf(object: ObjectId, store: number, blockSize: number): boolean {
    const { catalog } = this.#context;
    const row = catalog.get("SELECT store, seq, block_size FROM staged WHERE object = ?", object);
    return (
      row !== undefined &&
      Number(row.seq) > catalog.standing.committed.seq &&
      Number(row.store) === store &&
      Number(row.block_size) === blockSize
    );
  }

  #writeFile(index: Index, extent: Extent, store: number, bytes: Uint8Array): void {
    const { disk } = this.#context;
    const { object, offset, blockSize, hashes } = extent;
    const first = offset / blockSize;
    const run = Math.floor(first / blocksPerRun);
    const before = this.#fileHashes(index, object, run) ?? new Uint8Array(0);
    const after = new Uint8Array(blocksPerRun * hashBytes);
    after.set(before);
    const file = disk.openFile(homeOf(this.#context, store).staging, objectFileName(object), "write");
    try {
      // Not known from before the first byte of it is written over until all of it is.
      after.fill(0, (first % blocksPerRun) * hashBytes, (first % blocksPerRun) * hashBytes + hashes.length);
      index.putFile(object, run, after);
      disk.write(file, bytes, offset);
    } finally {
      disk.closeFile(file);
    }
    after.set(hashes, (first % blocksPerRun) * hashBytes);
    index.putFile(object, run, after);
    this.#fileBytes += bytes.length;
  }

  #fileHashes(index: Index, object: ObjectId, run: number): Uint8Array | undefined {
    const written = index.fileHashes(object, run);
    if (written !== undefined) return written;
    const row = this.#context.catalog.get("SELECT hashes FROM staged_runs WHERE object = ? AND run = ?", object, run);
    return row === undefined ? undefined : (row.hashes as Uint8Array);
  }

  #append(index: Index, extent: Extent, store: number, bytes: Uint8Array): void {
    const { disk } = this.#context;
    const { object, offset, length, blockSize, hashes } = extent;
    let log = this.#logs.get(store);
    if (log === undefined) {
      const name = this.#logName();
      log = { name, file: disk.openFile(homeOf(this.#context, store).staging, name, "create"), end: 0 };
      this.#logs.set(store, log);
    }
    const count = hashes.length / hashBytes;
    const record = Buffer.alloc(headBytes + hashes.length + length);
    record.writeUInt32LE(magic, 0);
    record.writeUInt32LE(count, 4);
    record.writeBigUInt64LE(BigInt(object), 8);
    record.writeBigUInt64LE(BigInt(offset), 16);
    record.writeUInt32LE(length, 24);
    record.writeUInt32LE(blockSize, 28);
    record.set(checkOf(record.subarray(0, headBytes), hashes), checkAt);
    record.set(hashes, headBytes);
    record.set(bytes, headBytes + hashes.length);
    disk.write(log.file, record, log.end);
    const first = offset / blockSize;
    index.add({
      object,
      run: Math.floor(first / blocksPerRun),
      first: first % blocksPerRun,
      count,
      blockSize,
      length,
      position: log.end,
      store,
      tags: tagsOf(hashes),
    });
    log.end += record.length;
  }

  /** Blocks [from, to) of the run that a record is in, with their hashes. */
  #readRecord(record: IndexedRecord, store: number, extent: Extent, from: number, to: number): StagedPiece {
    const { disk } = this.#context;
    const { blockSize, object } = extent;
    const log = this.#logs.get(store);
    const first = record.run * blocksPerRun + from;
    // The last block of a file may be short, and longer or shorter by now than it was: then its hash tells.
    const length = Math.min((to - from) * blockSize, extent.offset + extent.length - first * blockSize);
    const skipped = (from - record.first) * blockSize;
    const there = Math.min(length, record.length - skipped);
    const hashes = new Uint8Array((to - from) * hashBytes);
    const bytes = new Uint8Array(length);
    const hashesAt = record.position + headBytes + (from - record.first) * hashBytes;
    const bytesAt = record.position + headBytes + record.count * hashBytes + skipped;
    if (
      log === undefined ||
      record.blockSize !== blockSize ||
      disk.read(log.file, hashes, 0, hashes.length, hashesAt) !== hashes.length ||
      disk.read(log.file, bytes, 0, there, bytesAt) !== there
    )
      throw new CutDamaged(`block ${first} of object ${object} is not staged as the primary thinks`);
    return { first, hashes, bytes };
  }
}

/** Removes the logs of whatever cut; they are not open. */
function dropLogs({ disk, homes }: ReplicaContext): void {
  for (const { staging } of homes.values()) {
    for (const name of disk.list(staging)) if (/^a\d+$/.test(name)) disk.unlink(staging, name);
  }
}

function checkOf(head: Uint8Array, hashes: Uint8Array): Uint8Array {
  return hash("sha256", Buffer.concat([head.subarray(0, checkAt), hashes]), "buffer").subarray(0, headBytes - checkAt);
}

/** @throws {CutDamaged | CutMalformed} */
function checkAhead(extents: readonly Extent[], payload: Uint8Array): void {
  let at = 0;
  for (const { object, offset, length, blockSize, hashes } of extents) {
    const first = offset / blockSize;
    const blocks = Math.ceil(length / blockSize);
    if ((first % blocksPerRun) + blocks > blocksPerRun)
      throw new CutMalformed(`blocks of object ${object} at ${offset} came ahead and are not of one run`);
    if (at + length > payload.length)
      throw new CutDamaged(`payload of ${payload.length} bytes is shorter than its extents`);
    for (let i = 0; i < blocks; i++) {
      const block = payload.subarray(at + i * blockSize, at + Math.min((i + 1) * blockSize, length));
      const said = hashInRun(hashes, i);
      if (equalBytes(said, zeroHash) || !equalBytes(blockHash(block), said))
        throw new CutDamaged(`block ${first + i} of object ${object} does not have its hash`);
    }
    at += length;
  }
  if (at !== payload.length) throw new CutDamaged(`payload of ${payload.length} bytes, its extents take ${at}`);
}

interface NewRecord {
  readonly object: ObjectId;
  readonly run: number;
  /** Within its run. */
  readonly first: number;
  readonly count: number;
  readonly blockSize: number;
  readonly length: number;
  /** Of its head in the log. */
  readonly position: number;
  readonly tags: Uint8Array;
}

interface IndexedRecord extends Omit<NewRecord, "tags"> {
  readonly store: number;
}

/**
 * Where what lies: a database without a name, which SQLite keeps in memory and spills to a temporary file. Not in the
 * catalog, whose transactions may be rolled back while the bytes stay.
 */
class Index {
  readonly #db = new DatabaseSync("");
  readonly #add: StatementSync;
  readonly #find: StatementSync;
  readonly #list: StatementSync;
  readonly #putFile: StatementSync;
  readonly #findFile: StatementSync;

  constructor() {
    this.#db.exec(`PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
      CREATE TABLE records (
        id INTEGER PRIMARY KEY, object INTEGER NOT NULL, run INTEGER NOT NULL, first INTEGER NOT NULL,
        count INTEGER NOT NULL, block_size INTEGER NOT NULL, length INTEGER NOT NULL, position INTEGER NOT NULL,
        store INTEGER NOT NULL, tags BLOB NOT NULL) STRICT;
      CREATE INDEX record_runs ON records (object, run, id);
      CREATE TABLE files (
        object INTEGER NOT NULL, run INTEGER NOT NULL, hashes BLOB NOT NULL, PRIMARY KEY (object, run)
      ) STRICT, WITHOUT ROWID;`);
    this.#add = this.#db.prepare(
      "INSERT INTO records (object, run, first, count, block_size, length, position, store, tags) VALUES (?,?,?,?,?,?,?,?,?)",
    );
    this.#find = this.#db.prepare("SELECT * FROM records WHERE object = ? AND run = ? ORDER BY id DESC");
    this.#list = this.#db.prepare(
      "SELECT object, run, first, tags FROM records WHERE (object, run) > (?, ?) ORDER BY object, run, id",
    );
    this.#putFile = this.#db.prepare("INSERT OR REPLACE INTO files (object, run, hashes) VALUES (?,?,?)");
    this.#findFile = this.#db.prepare("SELECT hashes FROM files WHERE object = ? AND run = ?");
  }

  close(): void {
    this.#db.close();
  }

  add(record: NewRecord & { readonly store: number }): void {
    const { object, run, first, count, blockSize, length, position, store, tags } = record;
    this.#add.run(object, run, first, count, blockSize, length, position, store, tags);
  }

  /** Newest first. */
  recordsOf(object: ObjectId, run: number): IndexedRecord[] {
    return (this.#find.all(object, run) as Record<string, unknown>[]).map((row) => ({
      object,
      run,
      first: Number(row.first),
      count: Number(row.count),
      blockSize: Number(row.block_size),
      length: Number(row.length),
      position: Number(row.position),
      store: Number(row.store),
    }));
  }

  putFile(object: ObjectId, run: number, hashes: Uint8Array): void {
    this.#putFile.run(object, run, trimRun(hashes));
  }

  fileHashes(object: ObjectId, run: number): Uint8Array | undefined {
    return this.#findFile.get(object, run)?.hashes as Uint8Array | undefined;
  }

  forgetFiles(): void {
    this.#db.exec("DELETE FROM files");
  }

  forgetFile(object: ObjectId): void {
    this.#db.prepare("DELETE FROM files WHERE object = ?").run(object);
  }

  runsOfFile(object: ObjectId): { run: number; hashes: Uint8Array }[] {
    const rows = this.#db.prepare("SELECT run, hashes FROM files WHERE object = ?").all(object);
    return rows.map((row) => ({ run: Number(row.run), hashes: row.hashes as Uint8Array }));
  }

  /** Whole runs after a place, each with the newest tag of every block, up to about so many bytes. */
  list(object: number, run: number, bytesMax: number): StagedTags[] {
    const entries: StagedTags[] = [];
    let bytes = 0;
    let at: { object: number; run: number; tags: Uint8Array } | undefined;
    for (const row of this.#list.iterate(object, run) as Iterable<Record<string, unknown>>) {
      if (at === undefined || at.object !== Number(row.object) || at.run !== Number(row.run)) {
        if (bytes >= bytesMax) break;
        at = { object: Number(row.object), run: Number(row.run), tags: new Uint8Array(blocksPerRun * tagBytes) };
        entries.push(at);
        bytes += at.tags.length;
      }
      at.tags.set(row.tags as Uint8Array, Number(row.first) * tagBytes);
    }
    return entries.map(({ tags, ...place }) => ({ ...place, tags: trimTags(tags) }));
  }
}

function trimTags(tags: Uint8Array): Uint8Array {
  let end = tags.length;
  while (end > 0 && tags[end - 1] === 0) end--;
  return tags.subarray(0, Math.ceil(end / tagBytes) * tagBytes);
}
