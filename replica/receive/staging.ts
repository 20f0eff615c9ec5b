import { assert, isSystemError } from "../../shared/errors.ts";
import { blocksPerRun, equalBytes, hashInRun, isZero, zeroHash } from "../../shared/manifest/block-hash.ts";
import type { Directory, Disk, OpenFile } from "../../shared/ports/disk.ts";
import type { Extent, ObjectRow, ObjectType } from "../../shared/wire/messages.ts";
import { type CutId, cutText, type ObjectId, type Seq, type StorePath } from "../../shared/words.ts";
import { writeZeros } from "../apply/write-zeros.ts";
import { homeOf, objectFileName, type ReplicaContext } from "../replica-context.ts";
import { setMetaAsPermitted } from "../set-meta.ts";
import { failing, SyncFailed } from "../sync.ts";
import { FirstTree, rememberPartial } from "./first-tree.ts";
import { NoRoom } from "./refusals.ts";
import { distrustStaging } from "./resume.ts";

/** After so much of a large file what was written begins to go to the disk, or all of it would at its end. */
const writebackBytes = 32 * 1024 * 1024;
/** Staged files that are open at a time. */
const stagedFilesOpenMax = 300;

/** What one cut has put where, while it is received. */
class StagedCut {
  readonly cut: CutId;
  /** An earlier session left files in staging, or files are adopted. */
  readonly leftovers: boolean;
  /** Set while a first copy is received. */
  readonly firstTree: FirstTree | undefined;
  /** What a first copy stages is the copy, however large: only the filesystem limits that. */
  readonly stagedBytesMax: number;
  /**
   * Where fresh objects are put, decided at their first extent and kept for the whole cut. `held`: in memory, to be built
   * in the first tree, after which nothing is kept of it here.
   */
  readonly fresh = new Map<ObjectId, "inline" | "staged" | "held">();
  /** Of fresh objects that an earlier session has staged: the bytes that lay there at the first extent. */
  readonly resumed = new Map<ObjectId, number>();
  ordinal = 0;
  inlineBytes = 0;
  stagedBytes = 0;
  sinceWriteback = 0;

  constructor(cut: CutId, leftovers: boolean, firstTree: FirstTree | undefined, stagedBytesMax: number) {
    this.cut = cut;
    this.leftovers = leftovers;
    this.firstTree = firstTree;
    this.stagedBytesMax = stagedBytesMax;
  }

  get seq(): Seq {
    return this.cut.seq;
  }
}

interface Segment {
  readonly file: OpenFile;
  size: number;
}

/**
 * Where the bytes of cuts lie until they are applied: small ones in the catalog, those of new objects in files of their
 * own, which a broken session leaves for a resume, others in a segment file of the cut. Knows what of it has to be synced
 * before the commit. What it is given was checked.
 */
export class Staging {
  readonly #context: ReplicaContext;
  #open: StagedCut | undefined;
  readonly #segments = new Map<string, Segment>();
  /** A frame brings the bytes of many small objects and then their rows: each is opened once. */
  readonly #staged = new Map<ObjectId, OpenFile>();
  readonly #touched = new Map<number, Set<string>>();
  readonly #built = new Set<number>();
  /** Written to files that a broken session leaves, since whoever made their rows durable has set it to 0. */
  resumableBytes = 0;

  constructor(context: ReplicaContext) {
    this.#context = context;
  }

  /** Names in each store's staging directory whose bytes the next commit must sync. */
  get touched(): ReadonlyMap<number, ReadonlySet<string>> {
    return this.#touched;
  }

  /** Stores of a first copy: the next commit must sync all that was built and staged there, as one. */
  get built(): ReadonlySet<number> {
    return this.#built;
  }

  /**
   * `leftovers`: an earlier session or an adoption may have staged objects of this cut. `first`: nothing comes before it;
   * `built`: what is small is built beside the copy.
   */
  begin(cut: CutId, options: { leftovers: boolean; first: boolean; built: boolean }): void {
    const gaveBack = (object: ObjectId, store: number): void => {
      this.#open?.fresh.set(object, "staged");
      this.#touch(store, objectFileName(object));
    };
    const firstTree = options.built ? new FirstTree(this.#context, cut.seq, gaveBack) : undefined;
    const stagedBytesMax = options.first ? Number.POSITIVE_INFINITY : this.#context.limits.stagingBytesMax;
    this.#open = new StagedCut(cut, options.leftovers, firstTree, stagedBytesMax);
  }

  /**
   * Puts the bytes of a checked extent where apply finds them, and gives how many rows of the catalog that took. `whole`:
   * of an object that the copy has all comes anew, in a file of its own. `again`: the object's row has come.
   */
  put(
    extent: Extent,
    store: number,
    bytes: Uint8Array,
    { whole, again }: { readonly whole: boolean; readonly again: boolean },
  ): 0 | 1 {
    const open = this.#opened();
    if (open.firstTree?.takes(store) === true) {
      if (again) this.#takeBack(open, open.firstTree, extent.object);
      if (this.#hold(open, open.firstTree, extent, store, bytes)) return 0;
    }
    const { catalog, limits } = this.#context;
    const { object, offset, length } = extent;
    if (extent.fresh) {
      let place = open.fresh.get(object);
      if (place === undefined) {
        place =
          this.#resumes(open, extent, store, whole) ||
          whole ||
          extent.held ||
          open.inlineBytes + length > limits.inlineBytesMax
            ? "staged"
            : "inline";
        open.fresh.set(object, place);
      }
      if (place === "inline" && !extent.zero && open.inlineBytes + length > limits.inlineBytesMax) {
        this.#moveToStaging(open, extent, store);
        place = "staged";
      }
      if (place === "staged") {
        if (extent.held) {
          this.#count(open, length); // What came before the cut takes the same room.
          return 0;
        }
        const { disk } = this.#context;
        const file = this.#stagedFile(open, object, store, extent.blockSize);
        // Beyond its end the file reads as zeros: an extent of many costs nothing, neither here nor on the disk.
        const written = extent.zero ? Math.max(0, Math.min(length, disk.statFile(file).size - offset)) : length;
        let cached = true;
        this.#writeStaged(
          open,
          () => {
            if (extent.zero) writeZeros(disk, file, offset, written);
            else if (offset >= limits.uncachedFrom && disk.writeUncached?.(file, bytes, offset) === true)
              cached = false;
            else disk.write(file, bytes, offset);
          },
          written,
        );
        this.resumableBytes += written;
        if (cached) this.#writeBack(open, file, offset, written);
        return 0;
      }
    }
    let payload: Uint8Array | null = null;
    let position = 0;
    let place = 0;
    if (!extent.zero) {
      if (open.inlineBytes + length <= limits.inlineBytesMax || extent.fresh) {
        open.inlineBytes += length;
        payload = bytes;
        place = 1;
      } else {
        const segment = this.#segment(open, store);
        position = segment.size;
        this.#writeStaged(open, () => this.#context.disk.write(segment.file, bytes, position), length);
        segment.size += length;
        place = 2;
      }
    }
    catalog.run(
      "INSERT INTO extents (seq, ordinal, object, offset, length, place, position, payload) VALUES (?,?,?,?,?,?,?,?)",
      open.seq,
      open.ordinal++,
      object,
      offset,
      length,
      place,
      position,
      payload,
    );
    return 1;
  }

  /** An object that the copy has gets a file of its own, which is empty so far. */
  beginWhole(object: ObjectId, store: number, blockSize: number): void {
    const open = this.#opened();
    this.#discardStaged(object);
    open.fresh.set(object, "staged");
    this.#stagedFile(open, object, store, blockSize);
  }

  /** The row of a file or symlink has come, and with it all of its bytes. `again`: another one came in the same cut. */
  settle(row: ObjectRow, store: number, again: boolean): void {
    const open = this.#opened();
    const { object } = row;
    if (open.firstTree?.takes(store) === true) {
      if (again) this.#takeBack(open, open.firstTree, object);
      else if (open.fresh.get(object) !== "staged") {
        open.firstTree.row(row, store);
        open.fresh.set(object, "held");
        if (open.firstTree.full) for (const waiting of open.firstTree.held) this.#spill(open, open.firstTree, waiting);
        return;
      }
    }
    if (open.fresh.get(object) === "staged") this.#settleStaged(open, row, store);
  }

  #settleStaged(open: StagedCut, row: ObjectRow, store: number): void {
    this.#finishStaged(open, row, store);
    this.#closeStagedFile(row.object);
  }

  /** A path leads to this file, symlink or directory now, or to nothing; its row is not there yet. */
  path(store: number, path: StorePath, to: { object: ObjectId; type: ObjectType } | undefined): void {
    const open = this.#opened();
    const { firstTree } = open;
    if (firstTree?.takes(store) !== true || path === "") return;
    withinRoom(open, () => {
      if (to === undefined) firstTree.vacate(store, path);
      else if (to.type === "directory") firstTree.makeDirectory(store, path);
      else if (firstTree.place(store, path, to.object)) open.fresh.delete(to.object);
      else if (open.fresh.get(to.object) === "held") this.#spill(open, firstTree, to.object);
    });
  }

  /** True when the bytes wait in memory for the place of their object. */
  #hold(open: StagedCut, firstTree: FirstTree, extent: Extent, store: number, bytes: Uint8Array): boolean {
    const { object } = extent;
    let place = open.fresh.get(object);
    if (place === undefined) {
      place = extent.held || this.#resumes(open, extent, store, false) ? "staged" : "held";
      open.fresh.set(object, place);
    }
    if (place !== "held") return false;
    if (firstTree.hold(extent, store, bytes)) {
      this.#count(open, bytes.length);
      if (firstTree.full) for (const waiting of firstTree.held) this.#spill(open, firstTree, waiting);
      return true;
    }
    this.#spill(open, firstTree, object);
    open.fresh.set(object, "staged");
    return false;
  }

  /** What happens to an object a second time happens to its file in staging. */
  #takeBack(open: StagedCut, firstTree: FirstTree, object: ObjectId): void {
    if (open.fresh.get(object) === "held") this.#spill(open, firstTree, object);
    else withinRoom(open, () => firstTree.giveBack(object));
  }

  /** What waits in memory of an object goes to staging; a symlink is made by apply. */
  #spill(open: StagedCut, firstTree: FirstTree, object: ObjectId): void {
    const held = firstTree.release(object);
    open.fresh.delete(object);
    if (held === undefined || held.row?.type === "symlink") return;
    const { disk } = this.#context;
    open.fresh.set(object, "staged");
    const file = this.#stagedFile(open, object, held.store, held.blockSize);
    for (const { offset, bytes } of held.extents) {
      open.stagedBytes -= bytes.length;
      this.#writeStaged(open, () => disk.write(file, bytes, offset), bytes.length);
    }
    if (held.row !== undefined) this.#settleStaged(open, held.row, held.store);
  }

  /** Without extents in this cut nothing of an object is staged: what lies there was another's under the same number. */
  discardLeftover(object: ObjectId): void {
    const open = this.#opened();
    if (open.leftovers && !open.fresh.has(object)) this.#discardStaged(object);
  }

  /** Forgets what came of an object in this cut. */
  drop(object: ObjectId): void {
    const open = this.#opened();
    this.#closeStaged();
    this.#context.catalog.run("DELETE FROM extents WHERE object = ? AND seq = ?", object, open.seq);
    open.resumed.delete(object);
    open.firstTree?.release(object);
    if (open.fresh.delete(object)) this.#discardStaged(object);
  }

  /**
   * What an earlier session staged and this cut has not asked for. Once the cut is whole nobody ever will: it only takes the
   * room that the cut needs, for ever.
   */
  discardUnused(): void {
    const open = this.#opened();
    if (!open.leftovers) return;
    const { catalog } = this.#context;
    for (const row of catalog.all("SELECT object FROM staged WHERE seq > ?", catalog.standing.committed.seq)) {
      const object = Number(row.object) as ObjectId;
      if (!open.fresh.has(object)) this.#discardStaged(object);
    }
  }

  /** All of the cut has come; it waits for its commit with the others. */
  end(): void {
    const open = this.#opened();
    const { firstTree } = open;
    this.#closeStaged();
    if (firstTree !== undefined) {
      withinRoom(open, () => firstTree.end());
      for (const store of this.#context.homes.keys()) if (firstTree.takes(store)) this.#built.add(store);
      rememberPartial(this.#context, firstTree.metadataPartial);
    }
    this.#open = undefined;
  }

  /** What came whole is durable: it has not to be synced again. */
  settled(): void {
    this.#built.clear();
    // The next cut may be half here already: its files are written on, and synced when it is whole.
    const segment = this.#open === undefined ? undefined : segmentName(this.#open.seq);
    for (const [key, { file }] of this.#segments) {
      if (segment !== undefined && key.endsWith(`/${segment}`)) continue;
      this.#context.disk.closeFile(file);
      this.#segments.delete(key);
    }
    for (const names of this.#touched.values()) {
      for (const name of names) {
        const ofOpenCut =
          name === segment || (name.startsWith("o") && this.#open?.fresh.has(Number(name.slice(1)) as ObjectId));
        if (ofOpenCut !== true) names.delete(name);
      }
    }
  }

  /** Closes everything and lets `forget` take back the rows of the cut; then removes what the catalog does not know. */
  abort(forget: () => void): void {
    this.#closeStaged();
    for (const segment of this.#segments.values()) this.#context.disk.closeFile(segment.file);
    this.#segments.clear();
    const touched = [...this.#touched].flatMap(([store, names]) => [...names].map((name) => ({ store, name })));
    this.#touched.clear();
    this.#built.clear();
    this.#open = undefined;
    forget();
    for (const { store, name } of touched) this.#dropUnknown(store, name);
  }

  /** An earlier session staged this object, as the same primary would do it again: else what lies there is another's. */
  #resumes(open: StagedCut, { object, blockSize }: Extent, store: number, whole: boolean): boolean {
    // What lies in the copy is put there when it is asked for, which may be after the cut has begun.
    if (!open.leftovers && !whole) return false;
    const { catalog, disk } = this.#context;
    const staged = catalog.get("SELECT store, block_size FROM staged WHERE object = ?", object);
    if (staged === undefined) return false;
    if (Number(staged.store) !== store || Number(staged.block_size) !== blockSize) {
      this.#discardStaged(object);
      return false;
    }
    const stat = disk.stat(homeOf(this.#context, store).staging, objectFileName(object));
    open.resumed.set(object, stat?.size ?? 0);
    return true;
  }

  #discardStaged(object: ObjectId): void {
    const { catalog, disk } = this.#context;
    const staged = catalog.get("SELECT store FROM staged WHERE object = ?", object);
    if (staged === undefined) return;
    this.#closeStaged();
    const { staging } = homeOf(this.#context, Number(staged.store));
    const name = objectFileName(object);
    if (disk.stat(staging, name) !== undefined) disk.unlink(staging, name);
    this.#touched.get(Number(staged.store))?.delete(name);
    catalog.run("DELETE FROM staged WHERE object = ?", object);
    catalog.run("DELETE FROM staged_runs WHERE object = ?", object);
  }

  /**
   * A new object that turns out to be larger than what the catalog takes: all of it goes to a file of its own, or an
   * older inline piece would be laid over a newer staged one.
   */
  #moveToStaging(open: StagedCut, { object, blockSize }: Extent, store: number): void {
    const { catalog, disk } = this.#context;
    const file = this.#stagedFile(open, object, store, blockSize);
    for (const row of catalog.all(
      "SELECT offset, length, payload FROM extents WHERE seq=? AND object=? ORDER BY ordinal",
      open.seq,
      object,
    )) {
      const [offset, length] = [Number(row.offset), Number(row.length)];
      if (row.payload === null) {
        const written = Math.max(0, Math.min(length, disk.statFile(file).size - offset));
        this.#writeStaged(open, () => writeZeros(disk, file, offset, written), written);
      } else {
        this.#writeStaged(open, () => disk.write(file, row.payload as Uint8Array, offset), length);
        open.inlineBytes -= length;
      }
    }
    catalog.run("DELETE FROM extents WHERE seq=? AND object=?", open.seq, object);
    open.fresh.set(object, "staged");
  }

  #writeStaged(open: StagedCut, write: () => void, length: number): void {
    this.#count(open, length);
    try {
      withinRoom(open, write);
    } catch (error) {
      // The next session has that room, whatever it resumes.
      if (error instanceof NoRoom) this.discardUnused();
      throw error;
    }
  }

  #count(open: StagedCut, length: number): void {
    open.stagedBytes += length;
    if (open.stagedBytes > open.stagedBytesMax)
      throw new NoRoom(`cut ${cutText(open.cut)} needs more than limits.staging (${open.stagedBytesMax} bytes)`);
  }

  #writeBack(open: StagedCut, file: OpenFile, offset: number, written: number): void {
    open.sinceWriteback += written;
    if (open.sinceWriteback < writebackBytes || offset < writebackBytes) return;
    open.sinceWriteback = 0;
    this.#context.disk.startWriteback?.(file);
  }

  #stagedFile(open: StagedCut, object: ObjectId, store: number, blockSize: number): OpenFile {
    const opened = this.#staged.get(object);
    if (opened !== undefined) return opened;
    const [oldest] = this.#staged.keys();
    if (oldest !== undefined && this.#staged.size >= stagedFilesOpenMax) this.#closeStagedFile(oldest);
    const { disk, catalog } = this.#context;
    const staging = homeOf(this.#context, store).staging;
    const name = objectFileName(object);
    const known = catalog.get("SELECT seq FROM staged WHERE object = ?", object);
    const file = withinRoom(open, () =>
      known === undefined ? createAnew(disk, staging, name) : disk.openFile(staging, name, "write"),
    );
    if (known === undefined || Number(known.seq) !== Number(open.seq)) {
      catalog.run(
        "INSERT OR REPLACE INTO staged (object, store, seq, block_size) VALUES (?,?,?,?)",
        object,
        store,
        open.seq,
        blockSize,
      );
    }
    this.#touch(store, name);
    this.#staged.set(object, file);
    return file;
  }

  #closeStaged(): void {
    for (const file of this.#staged.values()) this.#context.disk.closeFile(file);
    this.#staged.clear();
  }

  #closeStagedFile(object: ObjectId): void {
    const file = this.#staged.get(object);
    if (file === undefined) return;
    this.#staged.delete(object);
    this.#context.disk.closeFile(file);
  }

  #segment(open: StagedCut, store: number): Segment {
    const name = segmentName(open.seq);
    const key = `${store}/${name}`;
    let segment = this.#segments.get(key);
    if (segment === undefined) {
      const { disk } = this.#context;
      const staging = homeOf(this.#context, store).staging;
      if (disk.stat(staging, name) !== undefined) disk.unlink(staging, name);
      segment = { file: withinRoom(open, () => disk.openFile(staging, name, "create")), size: 0 };
      this.#segments.set(key, segment);
      this.#touch(store, name);
    }
    return segment;
  }

  #touch(store: number, name: string): void {
    let names = this.#touched.get(store);
    if (names === undefined) {
      names = new Set();
      this.#touched.set(store, names);
    }
    names.add(name);
  }

  #finishStaged(open: StagedCut, row: ObjectRow, store: number): void {
    const { catalog, disk } = this.#context;
    const file = this.#stagedFile(open, row.object, store, row.blockSize);
    const resumed = open.resumed.has(row.object);
    if (resumed) this.#clearResumed(open, row, file);
    if (open.leftovers || resumed) catalog.run("DELETE FROM staged_runs WHERE object = ?", row.object);
    // Most were written to their size exactly, and to cut nothing off takes ten times as long as to look.
    if (disk.statFile(file).size !== row.size) disk.truncate(file, row.size);
    // Here, while the file is open, rather than by name when it is placed: a sync covers the meta only through the
    // handle that set it. Many files are covered by the filesystem's sync before the commit.
    setMetaAsPermitted((meta) => disk.setFileMeta(file, meta), row, homeOf(this.#context, store).placement.owners);
    const touched = this.#touched.get(store)?.size ?? 0;
    // A first copy is synced whole, and thousands may follow the few that come first.
    if (open.firstTree?.takes(store) === true) return;
    if (touched > this.#context.limits.singleSyncsMax) return;
    try {
      failing(() => disk.syncFile(file));
    } catch (error) {
      if (error instanceof SyncFailed) distrustStaging(this.#context);
      throw error;
    }
  }

  /**
   * What an earlier session staged and this one does not have must not shine through. The bytes themselves are asked: the
   * last that were written before that session broke had no hash in the catalog yet.
   */
  #clearResumed(open: StagedCut, row: ObjectRow, file: OpenFile): void {
    const { manifest, disk } = this.#context;
    const end = Math.min(open.resumed.get(row.object) ?? 0, row.size);
    const block = new Uint8Array(row.blockSize);
    let now: Uint8Array | undefined;
    for (let at = 0, index = 0; at < end; at += row.blockSize, index++) {
      if (index % blocksPerRun === 0) now = manifest.run(row.object, index / blocksPerRun, open.seq);
      if (!equalBytes(hashInRun(now, index % blocksPerRun), zeroHash)) continue;
      const length = disk.read(file, block, 0, Math.min(row.blockSize, row.size - at), at);
      if (!isZero(block.subarray(0, length))) withinRoom(open, () => disk.write(file, new Uint8Array(length), at));
    }
    open.resumed.delete(row.object);
  }

  /** What the catalog knows nothing of, nobody would ever ask for again: it would only take room, session by session. */
  #dropUnknown(store: number, name: string): void {
    const { catalog, disk } = this.#context;
    const { staging } = homeOf(this.#context, store);
    const known = name.startsWith("o")
      ? catalog.get("SELECT 1 AS found FROM staged WHERE object = ?", Number(name.slice(1)))
      : catalog.get("SELECT 1 AS found FROM cuts WHERE seq = ?", Number(name.slice(1)));
    if (known === undefined && disk.stat(staging, name) !== undefined) disk.unlink(staging, name);
  }

  #opened(): StagedCut {
    assert(this.#open !== undefined, "bytes come within a cut");
    return this.#open;
  }
}

/** A full disk refuses the cut; everything else goes its way. */
function withinRoom<T>(open: StagedCut, take: () => T): T {
  try {
    return take();
  } catch (error) {
    if (!isSystemError(error, "ENOSPC", "EDQUOT")) throw error;
    throw new NoRoom(`no room to stage cut ${cutText(open.cut)}`, { cause: error });
  }
}

/** The file in a store's staging directory with the payload of one cut for objects that exist already. */
export function segmentName(seq: Seq): string {
  return `s${seq}`;
}

/** A file of this name that the catalog does not know is a leftover of a transaction that never was. */
function createAnew(disk: Disk, directory: Directory, name: string): OpenFile {
  try {
    return disk.openFile(directory, name, "create");
  } catch (error) {
    if (!isSystemError(error, "EEXIST")) throw error;
    disk.unlink(directory, name);
    return disk.openFile(directory, name, "create");
  }
}
