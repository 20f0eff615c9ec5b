import { createHash } from "node:crypto";
import { basename, dirname } from "node:path";
import { Breath } from "../../shared/breath.ts";
import type { Catalog } from "../../shared/catalog/catalog.ts";
import { blockBirth } from "../../shared/catalog/content-change.ts";
import { joinPath, type Manifest, type ObjectVersion, splitPath } from "../../shared/catalog/manifest.ts";
import { forgottenUpTo } from "../../shared/catalog/notes.ts";
import { fromTheSystem } from "../../shared/durable/system-error.ts";
import { assert, isSystemError, UnderstudyError } from "../../shared/errors.ts";
import { blocksPerRun, equalBytes, hashInRun } from "../../shared/manifest/block-hash.ts";
import { blockHashes } from "../../shared/manifest/block-hashes.ts";
import { hex } from "../../shared/manifest/digest.ts";
import type { Directory, Disk, OpenFile } from "../../shared/ports/disk.ts";
import { inBytes } from "../../shared/store-path.ts";
import { sizeText } from "../../shared/units.ts";
import { type CutId, cutText, type ObjectId, type Seq, type StorePath } from "../../shared/words.ts";
import { SafeTree } from "../safe-tree.ts";
import type { StorePlacement } from "../store-home.ts";
import { failing } from "../sync.ts";
import { writeSparse } from "../write-sparse.ts";
import {
  blocksDirectory,
  decodeForkRecord,
  droppedPrefix,
  encodeForkPath,
  type ForkChange,
  ForkDamaged,
  type ForkEntry,
  type ForkRecord,
  filesDirectory,
  forkFile,
  forkName,
  forkVersion,
  pathsFile,
  readWhole,
  removeTree,
  sha256Hex,
  stagedPrefix,
} from "./fork-bundle.ts";

/** Larger files are kept by their changed blocks. */
const wholeBytesMax = 256 * 2 ** 20;
/** The catalog lives on the same filesystem, and must be able to go on. */
const freeBytesMin = 64 * 2 ** 20;
const lineBytesAtOnce = 256 * 1024;

export interface ForkSource {
  readonly catalog: Catalog;
  readonly manifest: Manifest;
  readonly disk: Disk;
  readonly placements: readonly StorePlacement[];
  readonly nowUs: () => number;
}

/** Where a fork is kept, and whose promotion made it one. */
export interface ForkPlace {
  /** Absolute: where the bundles of the group are. */
  readonly directory: string;
  readonly group: string;
  readonly node: string;
  /** Whose reign goes on from the common cut. */
  readonly promotion: { readonly node: string; readonly epoch: bigint };
}

export interface ForkRequest extends ForkPlace {
  /** The last cut that both have, and that this node had as such: see `lastHad`. */
  readonly common: CutId;
  readonly wholeBytesMax?: number;
  /** Objects whose files are known to be somebody else's: what lies there is kept aside when they are mended. */
  readonly foreign?: ReadonlySet<ObjectId>;
}

/** Somebody still writes into the stores: they are not what the last cut says any more. */
class ForkMoved extends UnderstudyError {
  readonly code = "FORK_MOVED";
  readonly remedy = "retry";
  readonly state = "No bundle was made, and nothing was changed.";
  readonly hint = "Make sure that the service is stopped and nobody else writes into its files, then rejoin again.";
}

/** What was removed after the common cut is not known any more, or other parts of the fork are not. */
class ForkUntold extends UnderstudyError {
  readonly code = "FORK_UNTOLD";
  readonly remedy = "stop";
  readonly state = "No bundle was made, and nothing was changed.";
  readonly hint = "`understudy adopt GROUP` compares everything, and keeps aside what the primary does not have.";
}

class ForkNoRoom extends UnderstudyError {
  readonly code = "FORK_NO_ROOM";
  readonly remedy = "stop";
  readonly state = "No bundle was made, and nothing was changed.";
  readonly hint = "Make room on the filesystem of the state directory, or drop older forks: understudy forks list.";
}

/** What is to be kept cannot be read, or what was kept could not be made durable. */
class ForkFailed extends UnderstudyError {
  readonly code = "FORK_FAILED";
  readonly remedy = "stop";
  readonly state = "No bundle was made, and nothing was changed.";
  readonly hint = "Mend that, then rejoin again: nothing is overwritten before all of the fork is kept.";
}

/**
 * Writes down all that this node has beyond the common cut, as of its own last one, from its catalog and the stores' own
 * files; durable when it returns. The service is stopped, the last cut was just taken, and a database's log is in its file:
 * each block is compared with the manifest on its way. Gives undefined where there is nothing beyond the common cut. A crash leaves
 * no bundle or the whole; the same fork is written once, however often this is called.
 * @throws {ForkMoved} @throws {ForkUntold} @throws {ForkNoRoom} @throws {ForkFailed}
 */
export async function makeFork(
  source: ForkSource,
  request: ForkRequest,
  signal: AbortSignal,
): Promise<ForkRecord | undefined> {
  const { catalog, disk } = source;
  const { committed, lastTakenAtUs, digest } = catalog.standing;
  const forgotten = forgottenUpTo(catalog);
  if (request.common.seq < forgotten) {
    throw new ForkUntold(
      `what was removed up to cut ${forgotten} is no longer known, and the last common cut is ${cutText(request.common)}`,
    );
  }
  if (changesOf(source, request.common.seq).next().done === true) return undefined;
  const last = { epoch: Number(committed.epoch), seq: Number(committed.seq) };
  let at = lastTakenAtUs / 1000;
  const shelf = openShelf(disk, request.directory);
  try {
    let name = forkName(request.group, last, new Date(at));
    for (let there = madeBefore(disk, shelf, name); there !== undefined; there = madeBefore(disk, shelf, name)) {
      // What cannot be read is left to the operator, and this one is kept beside it.
      if (there !== "damaged") {
        assert(there.digest === hex(digest), `bundle ${name} is of another state than the cut that it is named after`);
        if (`${there.common.epoch}.${there.common.seq}` === cutText(request.common)) return there;
      }
      // It begins after another cut, towards another primary: this one has more, or less.
      at += 1000;
      name = forkName(request.group, last, new Date(at));
    }
    clearLeftovers(disk, shelf);
    const staged = `${stagedPrefix}${name}`;
    disk.makeDirectory(shelf, staged, 0o700);
    const directory = disk.openDirectory(shelf, staged);
    let record: ForkRecord;
    try {
      const writer = new ForkWriter(source, request, directory, signal);
      record = await writer.write(name);
      failing(() => disk.syncFilesystem(directory));
    } catch (error) {
      discard(disk, shelf, staged);
      throw error;
    } finally {
      disk.closeDirectory(directory);
    }
    disk.rename(shelf, staged, shelf, name);
    try {
      failing(() => disk.syncDirectory(shelf));
    } catch (error) {
      // Under its name it would be taken for durable.
      disk.rename(shelf, name, shelf, staged);
      throw error;
    }
    return record;
  } catch (error) {
    if (!fromTheSystem(error)) throw error;
    if (isSystemError(error, "ENOSPC", "EDQUOT"))
      throw new ForkNoRoom(`there is no room in ${request.directory} for what is beyond the common cut`, {
        cause: error,
      });
    throw new ForkFailed(`the fork cannot be kept in ${request.directory}`, { cause: error });
  } finally {
    disk.closeDirectory(shelf);
  }
}

function madeBefore(disk: Disk, shelf: Directory, name: string): ForkRecord | "damaged" | undefined {
  if (disk.stat(shelf, name) === undefined) return undefined;
  // Whom a crash interrupted may not have synced its name.
  failing(() => disk.syncFilesystem(shelf));
  const directory = disk.openDirectory(shelf, name);
  try {
    return decodeForkRecord(readWhole(disk, directory, forkFile).toString("utf8"));
  } catch (error) {
    if (error instanceof ForkDamaged || isSystemError(error, "EIO")) return "damaged";
    throw error;
  } finally {
    disk.closeDirectory(directory);
  }
}

/** The catalog, which must be written to, may lie on the same disk. What cannot be removed now goes before the next fork. */
function discard(disk: Disk, shelf: Directory, staged: string): void {
  try {
    removeTree(disk, shelf, staged);
  } catch (error) {
    if (!fromTheSystem(error)) throw error;
  }
}

function clearLeftovers(disk: Disk, shelf: Directory): void {
  for (const name of disk.list(shelf)) {
    if (name.startsWith(stagedPrefix) || name.startsWith(droppedPrefix)) removeTree(disk, shelf, name);
  }
}

/** Each directory on the way is made durable in its parent. */
function openShelf(disk: Disk, path: string): Directory {
  try {
    return disk.openRoot(inBytes(path));
  } catch (error) {
    if (!isSystemError(error, "ENOENT")) throw error;
  }
  const parent = openShelf(disk, dirname(path));
  try {
    const name = inBytes(basename(path));
    disk.makeDirectory(parent, name, 0o700);
    failing(() => disk.syncDirectory(parent));
    return disk.openDirectory(parent, name);
  } finally {
    disk.closeDirectory(parent);
  }
}

interface Change {
  readonly store: number;
  readonly path: StorePath;
  readonly what: ForkChange;
  readonly version: ObjectVersion | undefined;
  /** Whether anything of the object itself is younger than the common cut. */
  readonly touched: boolean;
}

/** What happened after cut `after`, path by path, as of the last cut. */
function* changesOf({ catalog, manifest }: ForkSource, after: Seq): Generator<Change> {
  const upTo = catalog.standing.committed.seq;
  const born = (store: number, path: StorePath): boolean => {
    const { dir, name } = splitPath(path);
    const sql = "SELECT 1 AS found FROM path_versions WHERE store=? AND dir=? AND name=? AND birth>? AND birth<=?";
    return catalog.get(sql, store, dir, name, after, upTo) !== undefined;
  };
  for (const row of manifest.pathsBorn(after, upTo)) {
    const store = Number(row.store);
    const path = joinPath(String(row.dir), String(row.name));
    const version = row.object === null ? undefined : manifest.object(Number(row.object) as ObjectId, upTo);
    const touched = version !== undefined && version.birth > Number(after);
    yield { store, path, what: version === undefined ? "removed" : "created", version, touched };
  }
  for (const version of manifest.objectsChanged(after, upTo)) {
    for (const { store, path } of manifest.pathsOf(version.object, upTo)) {
      if (!born(store, path)) yield { store, path, what: "changed", version, touched: true };
    }
  }
}

/** As it lies on this node. */
interface Place {
  readonly store: string;
  readonly path: StorePath;
}

class ForkWriter {
  readonly #source: ForkSource;
  readonly #request: ForkRequest;
  readonly #directory: Directory;
  readonly #breath: Breath;
  readonly #stores: ReadonlyMap<number, StorePlacement>;
  readonly #trees = new Map<number, SafeTree>();
  readonly #kept = new Map<string, SafeTree>();
  /** Where the content of an object is in the bundle: a further path of it is a link. */
  readonly #written = new Map<
    ObjectId,
    { readonly store: string; readonly path: StorePath; readonly entry: ForkEntry }
  >();
  readonly #counts = { created: 0, changed: 0, removed: 0, files: 0, bytes: 0 };

  constructor(source: ForkSource, request: ForkRequest, directory: Directory, signal: AbortSignal) {
    this.#source = source;
    this.#request = request;
    this.#directory = directory;
    this.#breath = new Breath(undefined, signal);
    const names = source.catalog.storeNames();
    this.#stores = new Map(
      [...names].flatMap(([number, name]) => {
        const placement = source.placements.find((item) => item.name === name);
        return placement === undefined ? [] : [[number, placement] as const];
      }),
    );
  }

  async write(name: string): Promise<ForkRecord> {
    try {
      return await this.#write(name);
    } finally {
      for (const tree of [...this.#trees.values(), ...this.#kept.values()]) {
        tree.forget();
        this.#source.disk.closeDirectory(tree.root);
      }
    }
  }

  async #write(name: string): Promise<ForkRecord> {
    const { catalog, disk, nowUs } = this.#source;
    const { common, group, node, promotion } = this.#request;
    const { groupId, committed, digest, epochs, lastTakenAtUs } = catalog.standing;
    const pathsSha256 = await this.#paths();
    const record: ForkRecord = {
      version: forkVersion,
      name,
      group,
      groupId,
      node,
      madeAt: new Date(nowUs() / 1000).toISOString(),
      common: { epoch: Number(common.epoch), seq: Number(common.seq) },
      last: {
        epoch: Number(committed.epoch),
        seq: Number(committed.seq),
        takenAt: new Date(lastTakenAtUs / 1000).toISOString(),
      },
      digest: hex(digest),
      epochs: epochs.map((start) => ({ epoch: Number(start.epoch), firstSeq: Number(start.firstSeq) })),
      promotion: { node: promotion.node, epoch: Number(promotion.epoch) },
      counts: { ...this.#counts },
      pathsSha256,
    };
    writeNew(disk, this.#directory, forkFile, Buffer.from(`${JSON.stringify(record, undefined, 2)}\n`));
    return record;
  }

  async #paths(): Promise<string> {
    const { disk } = this.#source;
    const digest = createHash("sha256");
    const file = disk.openFile(this.#directory, pathsFile, "create");
    try {
      let at = 0;
      let lines = "";
      const flush = (): void => {
        const bytes = Buffer.from(lines, "utf8");
        digest.update(bytes);
        disk.write(file, bytes, at);
        at += bytes.length;
        lines = "";
      };
      for (const change of changesOf(this.#source, this.#request.common.seq)) {
        lines += await this.#path(change);
        this.#counts[change.what]++;
        if (lines.length >= lineBytesAtOnce) flush();
        if (this.#breath.due(0)) await this.#breath.take();
      }
      if (lines !== "") flush();
    } finally {
      disk.closeFile(file);
    }
    return digest.digest("hex");
  }

  async #path({ store, path, what, version, touched }: Change): Promise<string> {
    const placement = this.#stores.get(store);
    if (placement === undefined) {
      const name = this.#source.catalog.storeNames().get(store);
      throw new ForkFailed(`store ${name} has changed after the common cut and is not in this node's configuration`);
    }
    const local = placement.shape === "tree" ? path : (inBytes(basename(placement.path)) as StorePath);
    const at = { store: placement.name as string, path: local };
    if (version === undefined) return encodeForkPath({ ...at, what, entry: undefined });
    // What has a new name only: under the one that it had, the primary may have removed it meanwhile.
    const entry = await this.#entry(store, at, version, { touched, named: what === "created" });
    return encodeForkPath({ ...at, what, entry });
  }

  async #entry(
    store: number,
    at: Place,
    version: ObjectVersion,
    { touched, named }: { readonly touched: boolean; readonly named: boolean },
  ): Promise<ForkEntry> {
    const { disk } = this.#source;
    const { type, mode, uid, gid, mtimeUs, size, target, object, blockSize } = version;
    const described = { type, mode, uid, gid, mtimeUs, size, target, object, blockSize, digest: hex(version.content) };
    const bare: ForkEntry = { ...described, content: "none", blocks: undefined };
    switch (type) {
      case "directory":
        this.#keep(at.store).directory(at.path);
        return bare;
      case "symlink": {
        const { directory, name } = this.#keep(at.store).place(at.path);
        disk.makeSymlink(directory, name, target);
        return bare;
      }
      case "file": {
        if (this.#request.foreign?.has(object) === true) return bare;
        if (!touched && !named) return { ...bare, content: "same" };
        const before = this.#written.get(object);
        if (before === undefined) {
          const entry = { ...described, ...(await this.#content(store, at, version, named)) };
          this.#written.set(object, { ...at, entry });
          return entry;
        }
        if (before.entry.content === "whole") {
          const from = this.#keep(before.store).place(before.path);
          const to = this.#keep(at.store).place(at.path);
          disk.link(from.directory, from.name, to.directory, to.name);
        }
        return before.entry;
      }
    }
  }

  /** A tree below `files/`. */
  #keep(store: string): KeptTree {
    const { disk } = this.#source;
    let tree = this.#kept.get(store);
    if (tree === undefined) {
      tree = new SafeTree(disk, subdirectory(disk, this.#directory, [filesDirectory, inBytes(store)]));
      this.#kept.set(store, tree);
    }
    return new KeptTree(disk, tree);
  }

  async #content(
    store: number,
    at: Place,
    version: ObjectVersion,
    named: boolean,
  ): Promise<Pick<ForkEntry, "content" | "blocks">> {
    const { disk } = this.#source;
    const { object, size } = version;
    const runs = new Set(this.#touchedRuns(object));
    const small = size <= (this.#request.wholeBytesMax ?? wholeBytesMax);
    if (runs.size === 0 && this.#hasRuns(object) && !(named && small)) return { content: "same", blocks: undefined };
    const file = this.#openSource(store, at.path);
    try {
      // A database's file may have room to grow behind its last page.
      if (this.#stores.get(store)?.shape === "tree" && disk.statFile(file).size !== size)
        throw new ForkMoved(`${at.store}/${readable(at.path)} has another size than in the last cut`);
      this.#counts.files++;
      const whole = await this.#whole(file, at, version, small);
      if (small) {
        assert(whole, "what cannot be cloned is copied");
        this.#counts.bytes += size;
        return { content: "whole", blocks: undefined };
      }
      const blocks = await this.#blocks(file, at, version, runs);
      this.#counts.bytes += blocks.bytes;
      return { content: whole ? "whole" : "blocks", blocks };
    } finally {
      disk.closeFile(file);
    }
  }

  #touchedRuns(object: ObjectId): number[] {
    const { catalog, manifest } = this.#source;
    return manifest.runsBorn(
      object,
      0,
      this.#request.common.seq,
      catalog.standing.committed.seq,
      Number.MAX_SAFE_INTEGER,
    );
  }

  #hasRuns(object: ObjectId): boolean {
    const { catalog } = this.#source;
    return catalog.get("SELECT 1 AS found FROM run_versions WHERE object = ? LIMIT 1", object) !== undefined;
  }

  #openSource(store: number, path: StorePath): OpenFile {
    const { disk } = this.#source;
    const placement = this.#stores.get(store);
    assert(placement !== undefined, "a store of the configuration");
    let tree = this.#trees.get(store);
    if (tree === undefined) {
      const root = placement.shape === "tree" ? placement.path : dirname(placement.path);
      tree = new SafeTree(disk, disk.openRoot(inBytes(root)));
      this.#trees.set(store, tree);
    }
    const place = tree.place(path);
    try {
      if (place !== undefined) return disk.openFile(place.directory, place.name, "read");
    } catch (cause) {
      if (isSystemError(cause, "EACCES", "EPERM", "EIO"))
        throw new ForkFailed(`${placement.name}/${readable(path)} cannot be read`, { cause });
      if (!fromTheSystem(cause)) throw cause;
    }
    throw new ForkMoved(`${placement.name}/${readable(path)} is not there any more`);
  }

  /** False where it is large and the filesystem does not share blocks. */
  async #whole(source: OpenFile, at: Place, version: ObjectVersion, copying: boolean): Promise<boolean> {
    const { disk } = this.#source;
    const { directory, name } = this.#keep(at.store).place(at.path);
    const target = disk.openFile(directory, name, "create");
    try {
      const cloned = disk.cloneFile?.(source, target) === true;
      if (cloned && !copying) return true;
      if (copying) {
        if (!cloned) this.#needRoom(version.size);
        // Of a clone the clone is compared: that is what is kept.
        for (const { offset, bytes } of this.#runs(cloned ? target : source, at, version)) {
          if (!cloned) writeSparse(disk, target, bytes, offset, version.blockSize);
          if (this.#breath.due(bytes.length)) await this.#breath.take();
        }
        disk.truncate(target, version.size);
        return true;
      }
    } finally {
      disk.closeFile(target);
    }
    disk.unlink(directory, name);
    return false;
  }

  async #blocks(
    source: OpenFile,
    at: Place,
    version: ObjectVersion,
    runs: ReadonlySet<number>,
  ): Promise<NonNullable<ForkEntry["blocks"]>> {
    const { disk } = this.#source;
    const { object, blockSize, size } = version;
    const directory = subdirectory(disk, this.#directory, [blocksDirectory, inBytes(at.store)]);
    const digest = createHash("sha256");
    const file = disk.openFile(directory, `o${object}`, "create");
    try {
      let position = 0;
      const extents = new ExtentList();
      const runBytes = blocksPerRun * blockSize;
      const buffer = new Uint8Array(Math.min(runBytes, size));
      for (const run of runs) {
        const inRun = Math.min(blocksPerRun, Math.ceil(size / blockSize) - run * blocksPerRun);
        for (const { first, count } of this.#touchedBlocks(object, run, inRun)) {
          const offset = run * runBytes + first * blockSize;
          const bytes = buffer.subarray(0, Math.min(count * blockSize, size - offset));
          this.#readChecked(source, at, version, { run, first, bytes });
          this.#needRoom(bytes.length);
          disk.write(file, bytes, position);
          digest.update(bytes);
          extents.add(offset, bytes.length);
          position += bytes.length;
          if (this.#breath.due(bytes.length)) await this.#breath.take();
        }
      }
      const list = Buffer.from(extents.text());
      writeNew(disk, directory, `o${object}.extents`, list);
      return { bytes: position, sha256: digest.digest("hex"), extentsSha256: sha256Hex(list) };
    } finally {
      disk.closeFile(file);
      disk.closeDirectory(directory);
    }
  }

  /** Blocks of a run that were written after the common cut; where that is not known of each, all of them. */
  *#touchedBlocks(object: ObjectId, run: number, blocks: number): Generator<{ first: number; count: number }> {
    const { catalog, manifest } = this.#source;
    const row = manifest.runWithBirths(object, run, catalog.standing.committed.seq);
    assert(row !== undefined, "a run that was born has a row");
    const after = Number(this.#request.common.seq);
    const touched = (block: number): boolean => block < blocks && blockBirth(row, block) > after;
    for (let first = 0; first < blocks; ) {
      let end = first;
      while (touched(end)) end++;
      if (end > first) yield { first, count: end - first };
      first = end + 1;
    }
  }

  /** The file's content, run by run, each compared with the manifest. @throws {ForkMoved} */
  *#runs(source: OpenFile, at: Place, version: ObjectVersion): Generator<{ offset: number; bytes: Uint8Array }> {
    const { size, blockSize } = version;
    const runBytes = blocksPerRun * blockSize;
    const buffer = new Uint8Array(Math.min(runBytes, size));
    for (let run = 0, offset = 0; offset < size; run++, offset += runBytes) {
      const bytes = buffer.subarray(0, Math.min(runBytes, size - offset));
      this.#readChecked(source, at, version, { run, first: 0, bytes });
      yield { offset, bytes };
    }
  }

  /** Blocks of a run from `first` on, compared with the manifest. @throws {ForkMoved} */
  #readChecked(
    source: OpenFile,
    at: Place,
    { object, blockSize }: ObjectVersion,
    { run, first, bytes }: { readonly run: number; readonly first: number; readonly bytes: Uint8Array },
  ): void {
    const { catalog, disk, manifest } = this.#source;
    const { committed } = catalog.standing;
    const offset = (run * blocksPerRun + first) * blockSize;
    const count = disk.read(source, bytes, 0, bytes.length, offset);
    const wanted = manifest.run(object, run, committed.seq);
    const hashes = blockHashes(bytes, blockSize);
    for (let block = 0; block * blockSize < bytes.length; block++) {
      const complete = count >= Math.min((block + 1) * blockSize, bytes.length);
      if (complete && equalBytes(hashInRun(hashes, block), hashInRun(wanted, first + block))) continue;
      throw new ForkMoved(
        `${at.store}/${readable(at.path)} is not what it was in cut ${cutText(committed)} (block ${run * blocksPerRun + first + block})`,
      );
    }
  }

  #needRoom(bytes: number): void {
    const free = this.#source.disk.freeBytes(this.#directory);
    if (free - bytes >= freeBytesMin) return;
    throw new ForkNoRoom(
      `the fork needs ${sizeText(bytes)} more in ${this.#request.directory}, where ${sizeText(free)} are free and ${sizeText(freeBytesMin)} must stay so`,
    );
  }
}

/** What goes into `files/<store>`: directories on the way are made as they are needed. */
class KeptTree {
  readonly #disk: Disk;
  readonly #tree: SafeTree;

  constructor(disk: Disk, tree: SafeTree) {
    this.#disk = disk;
    this.#tree = tree;
  }

  directory(path: StorePath): Directory {
    const found = this.#tree.directory(path);
    if (found !== undefined) return found;
    const { dir, name } = splitPath(path);
    this.#disk.makeDirectory(this.directory(dir as StorePath), name, 0o700);
    const made = this.#tree.directory(path);
    assert(made !== undefined, "what was just made is there");
    return made;
  }

  place(path: StorePath): { directory: Directory; name: string } {
    const { dir, name } = splitPath(path);
    return { directory: this.directory(dir as StorePath), name };
  }
}

/** Ranges of a file, those that touch joined. */
class ExtentList {
  readonly #lines: string[] = [];
  #open: { readonly offset: number; length: number } | undefined;

  add(offset: number, length: number): void {
    if (this.#open !== undefined && this.#open.offset + this.#open.length === offset) {
      this.#open.length += length;
      return;
    }
    this.#close();
    this.#open = { offset, length };
  }

  text(): string {
    this.#close();
    return this.#lines.join("");
  }

  #close(): void {
    if (this.#open !== undefined) this.#lines.push(`${this.#open.offset} ${this.#open.length}\n`);
    this.#open = undefined;
  }
}

function subdirectory(disk: Disk, from: Directory, names: readonly string[]): Directory {
  let at = from;
  for (const name of names) {
    if (disk.stat(at, name) === undefined) disk.makeDirectory(at, name, 0o700);
    const next = disk.openDirectory(at, name);
    if (at !== from) disk.closeDirectory(at);
    at = next;
  }
  return at;
}

function writeNew(disk: Disk, directory: Directory, name: string, bytes: Uint8Array): void {
  const file = disk.openFile(directory, name, "create");
  try {
    disk.write(file, bytes, 0);
  } finally {
    disk.closeFile(file);
  }
}

function readable(path: StorePath): string {
  return Buffer.from(path, "latin1").toString("utf8");
}
