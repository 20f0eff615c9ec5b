import { type BigIntStats, closeSync, readlinkSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import { assert, isSystemError } from "../../../shared/errors.ts";
import type {
  Entry,
  Found,
  FoundEntry,
  Seen,
  SeenEntry,
  SeenIndex,
  StoreView,
  ViewSummary,
} from "../../../shared/ports/store-adapter.ts";
import { pathBytesMax } from "../../../shared/store-path.ts";
import type { Consistency, StorePath } from "../../../shared/words.ts";
import type { DirectoryWatcher } from "../../watch/directory-watcher.ts";
import { SourceUnusable } from "../source-unusable.ts";
import { type DirtyPaths, dirtyHow, dirtyPathsMax, markDirty } from "./dirty-paths.ts";
import type { Exclude } from "./exclude.ts";
import { FilesystemSync } from "./filesystem-sync.ts";
import { type ClonedFile, cloneFirstBytesMin, type Reflinks, writtenLatelyMs } from "./reflink.ts";
import { RoundIndex } from "./round-index.ts";
import { ancestorsOf, baseName, joinPath, nativePath, parentPath, rootPath } from "./source-path.ts";
import { identityOf, identityOfPath, isForeign, listSource, microseconds, statSource, typeOf } from "./source-stat.ts";
import { type Opened, openFile, readFully, SteadyFile } from "./steady-file.ts";
import { TreeProof } from "./tree-proof.ts";

/** A file whose ctime is younger than this when it is read may change once more without a new one. */
const youngMs = 2000;
const readTriesMax = 3;
const wastedBytesMax = 64 * 2 ** 20;
const hardLinksKeptMax = 100_000;
const inodePathsBatch = 1000;
const inodePathsMax = 200_000;
const turnMs = 20;
/** More are not listed: the status says how many there are at least. */
const excludedKeptMax = 1000;

/** Where a view reads, and how what it finds is to be judged. */
export interface ViewSource {
  /** Absolute, in latin1: the live tree or a snapshot of it. */
  readonly root: string;
  readonly rootStat: BigIntStats;
  /** `copied`: a snapshot whose inodes and ctimes are its own; then path, size and mtime identify a file. */
  readonly stamps: "live" | "copied";
  /** What holds the tree still while it is read. */
  readonly stillness: "snapshot" | "frozen" | "none";
  readonly exclude: Exclude;
  /** Undefined where files are never cloned. */
  readonly reflinks: Reflinks | undefined;
  /** Directories are watched before they are listed. Undefined where that is done elsewhere, or not at all. */
  readonly watcher: DirectoryWatcher | undefined;
  /** Fifos, sockets and devices met so far; kept over views. */
  readonly special: Set<StorePath>;
  /** What is excluded now and was cut before, as the last scan met it; kept over views. */
  readonly excluded: Set<StorePath>;
  /** All that is given as gone. */
  readonly prune: boolean;
  readonly now: () => number;
}

export type Round = { readonly kind: "scan" } | { readonly kind: "changes"; readonly dirty: DirtyPaths };

/** What a view leaves to those after it. */
export interface ViewRemainder {
  /** False when the last round was not consumed to its end: nothing that it found counts. */
  readonly complete: boolean;
  /** Moved while they were read. */
  readonly behind: Set<StorePath>;
  /** To be read again from then on (wall clock, ms); the root stands for everything. */
  readonly young: Map<StorePath, number>;
  /** Could not be read, with the reason. */
  readonly unreadable: Map<StorePath, Error>;
}

/** Something found, or what to wait for before it goes on. */
type Step = Found | Promise<unknown>;

interface Candidate {
  readonly path: StorePath;
  readonly stat: BigIntStats;
  readonly seen: SeenEntry | undefined;
  readonly why: "differs" | "meta";
}

interface Visit {
  readonly path: StorePath;
  readonly stat: BigIntStats;
  /** Descend into directories that look as they were seen, too. */
  readonly deep: boolean;
  readonly seen: SeenEntry | undefined;
}

interface Listing {
  readonly gone: StorePath[];
  readonly candidates: Candidate[];
  readonly directories: (Visit & { readonly fresh: boolean })[];
}

/**
 * One look at a tree. Every directory is handled by itself: list it, lstat what is in it, compare with what was seen,
 * make sure that it still is the same directory, then hand out what differs. Memory is that of one directory.
 */
export class FilesView implements StoreView {
  readonly #source: ViewSource;
  readonly #seen: SeenIndex;
  readonly #signal: AbortSignal;
  readonly #nextRound: (rounds: number) => Promise<Round>;
  readonly #onLeave: (outcome: "taken" | "dropped", remainder: ViewRemainder) => Promise<void>;
  readonly #sync: FilesystemSync;
  #index: RoundIndex;
  /** Nothing was cut yet, and no path can come up a second time so far. */
  #allAnew: boolean;
  #rounds = 0;
  #complete = false;
  #proof: TreeProof | undefined;
  #proven = false;
  readonly #behind = new Set<StorePath>();
  readonly #young = new Map<StorePath, number>();
  readonly #unreadable = new Map<StorePath, Error>();
  /** By native path: a sync that failed says nothing the second time, so these are not read in this round. */
  readonly #unsynced = new Map<string, Error>();
  /** Inodes with several links whose content was handed out in this round: under which path, and the ctime that it had. */
  readonly #offeredLinks = new Map<number, { readonly path: StorePath; readonly ctimeNs: bigint }>();
  /** To be looked at before the round ends: old paths of inodes that were met elsewhere, and what changed its type. */
  #again: DirtyPaths = new Map();
  readonly #againSeen = new Set<StorePath>();
  #open: SteadyFile | ClonedFile | undefined;
  #held: { path: StorePath; descriptor: number } | undefined;
  #turnAt = performance.now();
  #left = false;

  constructor(
    source: ViewSource,
    seen: SeenIndex,
    signal: AbortSignal,
    /** Gives the work of a round, the first being 0. */
    nextRound: (rounds: number) => Promise<Round>,
    onLeave: (outcome: "taken" | "dropped", remainder: ViewRemainder) => Promise<void>,
  ) {
    this.#source = source;
    this.#seen = seen;
    this.#signal = signal;
    this.#nextRound = nextRound;
    this.#onLeave = onLeave;
    this.#sync = new FilesystemSync(source.now);
    this.#index = new RoundIndex(seen);
    this.#allAnew = !seen.everCut();
  }

  /**
   * The ways through the tree are plain generators: as asynchronous ones, four of them within each other, they cost as
   * much for each file as opening it does.
   */
  async *changes(): AsyncGenerator<Found> {
    assert(!this.#left, "a view that was left is not read");
    this.#complete = false;
    this.#proven = false;
    if (this.#rounds > 0) this.#allAnew = false;
    let round = await this.#nextRound(this.#rounds++);
    const startOver = this.#rounds > 1 && this.#index.overflowed;
    if (startOver) {
      // More was found than is kept: what the consumer holds by now is not known here.
      this.#index = new RoundIndex(this.#seen, { empty: true });
      round = { kind: "scan" };
      yield { kind: "gone", path: rootPath };
    }
    this.#offeredLinks.clear();
    this.#againSeen.clear();
    this.#again = new Map();
    const behind = [...this.#behind];
    this.#behind.clear();
    this.#unreadable.clear();
    this.#unsynced.clear();

    for (const step of this.#steps(round, behind)) {
      if (step instanceof Promise) await step;
      else yield step;
    }
    this.#checkRoot();
    this.#proven =
      this.#behind.size === 0 && this.#unreadable.size === 0 && (this.#proof?.holds(this.#source) ?? false);
    this.#complete = true;
  }

  read(path: StorePath, offset: number, length: number): Uint8Array | undefined {
    assert(!this.#left, "a view that was left is not read");
    const descriptor = this.#source.reflinks?.descriptorOf(path) ?? this.#hold(path);
    if (descriptor === undefined) return undefined;
    const buffer = new Uint8Array(length);
    try {
      return buffer.subarray(0, readFully(descriptor, buffer, offset));
    } catch (error) {
      if (!isSystemError(error, "EIO", "ESTALE")) throw error;
      return undefined;
    }
  }

  summary(): ViewSummary {
    assert(this.#complete, "a summary is asked for when all was consumed");
    const behind = [...new Set([...this.#behind, ...this.#unreadable.keys()])];
    return { consistency: this.#consistency(behind.length), position: "", behind, skipped: this.#source.special.size };
  }

  async leave(outcome: "taken" | "dropped"): Promise<void> {
    if (this.#left) return;
    this.#left = true;
    this.#open?.settle(); // The consumer may have stopped in the midst of a file.
    this.#letGo();
    this.#source.reflinks?.release();
    await this.#onLeave(outcome, {
      complete: this.#complete,
      behind: this.#behind,
      young: this.#young,
      unreadable: this.#unreadable,
    });
  }

  #consistency(behind: number): Consistency {
    if (behind > 0) return "whole"; // Some files are of an earlier instant.
    if (this.#source.stillness === "snapshot") return "crash";
    if (this.#source.stillness === "frozen") return "quiesced";
    return this.#proven ? "crash" : "whole";
  }

  // ---- The ways through the tree ----

  *#steps(round: Round, behind: readonly StorePath[]): Generator<Step> {
    if (round.kind === "scan") {
      this.#source.special.clear();
      this.#source.excluded.clear();
      this.#proof = new TreeProof(this.#source.now());
      yield* this.#offer(this.#rootCandidates());
      yield* this.#walk([
        { path: rootPath, stat: this.#source.rootStat, deep: true, seen: this.#index.byPath(rootPath) },
      ]);
    } else {
      this.#proof = undefined;
      const dirty = new Map(round.dirty);
      for (const path of behind) markDirty(dirty, path, dirtyHow.changed);
      for (const [path, due] of this.#young) if (due <= this.#source.now()) markDirty(dirty, path, howYoung(path));
      yield* this.#examine(dirty);
    }
    yield* this.#examineAgain();
  }

  /** Lists directories, depth first. */
  *#walk(visits: Visit[]): Generator<Step> {
    for (let visit = visits.pop(); visit !== undefined; visit = visits.pop()) {
      const turn = this.#breathe();
      if (turn !== undefined) yield turn;
      // Before it is listed, or a file created in between would be neither listed nor told.
      this.#source.watcher?.add(visit.path, this.#identity(visit.path, visit.stat));
      const listing = this.#list(visit);
      if (listing === undefined) continue;
      for (const path of listing.gone) yield this.#gone(path);
      yield* this.#offer(listing.candidates);
      for (const child of listing.directories) {
        if (!visit.deep && !child.fresh && this.#isWatched(child.path)) continue;
        visits.push({ ...child, deep: visit.deep || child.fresh });
      }
      if (this.#again.size >= inodePathsBatch) yield* this.#examineAgain();
    }
  }

  /** Looks at single paths, those of one directory together. */
  *#examine(dirty: DirtyPaths): Generator<Step> {
    // First of all: the index may follow what is handed out, and forget the links of a path that went away.
    for (const path of this.#seen.everCut() ? dirty.keys() : []) {
      const turn = this.#breathe();
      if (turn !== undefined) yield turn;
      this.#lookAtOtherPaths(path);
    }
    const how = dirty.get(rootPath) ?? 0;
    if (how !== 0) {
      if (how & dirtyHow.renamed) this.#source.watcher?.remove(rootPath);
      yield* this.#offer(this.#rootCandidates());
      const deep = (how & dirtyHow.deep) !== 0;
      if (how & (dirtyHow.renamed | dirtyHow.deep)) {
        yield* this.#walk([{ path: rootPath, stat: this.#source.rootStat, deep, seen: this.#index.byPath(rootPath) }]);
      }
    }
    yield this.#syncAhead(dirty.keys());
    for (const [directory, names] of byDirectory(dirty)) {
      const turn = this.#breathe();
      if (turn !== undefined) yield turn;
      const listing = this.#look(directory, names);
      if (listing === undefined) continue;
      for (const path of listing.gone) yield this.#gone(path);
      yield* this.#offer(listing.candidates);
      const visits: Visit[] = [];
      for (const child of listing.directories) {
        const how = dirty.get(child.path) ?? 0;
        // The path may have been given to another directory while the watch stayed on the old one.
        if (how & dirtyHow.renamed) this.#source.watcher?.remove(child.path);
        const deep = child.fresh || (how & dirtyHow.deep) !== 0;
        if (deep || how & dirtyHow.renamed || !this.#isWatched(child.path)) visits.push({ ...child, deep });
      }
      yield* this.#walk(visits);
    }
  }

  async #syncAhead(paths: Iterable<StorePath>): Promise<void> {
    const failed = await this.#sync.ahead([...paths].map((path) => this.#native(path)));
    for (const [native, cause] of failed) this.#unsynced.set(native, cause);
  }

  *#examineAgain(): Generator<Step> {
    while (this.#again.size > 0) {
      this.#allAnew = false;
      const again = this.#again;
      this.#again = new Map();
      const proof = this.#proof;
      this.#proof = undefined; // What is met a second time must not count twice.
      yield* this.#examine(again);
      this.#proof = proof;
    }
  }

  /** The source may stand on a snapshot, or be watched elsewhere: then what was seen counts as watched. */
  #isWatched(path: StorePath): boolean {
    return this.#source.watcher?.has(path) ?? true;
  }

  /** Gives the event loop a turn now and then: the kernel's queue of events must not run full meanwhile. */
  #breathe(): Promise<void> | undefined {
    this.#signal.throwIfAborted();
    if (performance.now() - this.#turnAt < turnMs) return undefined;
    return nextTurn().then(() => {
      this.#turnAt = performance.now();
    });
  }

  // ---- One directory ----

  /** Compares a whole directory; undefined when it is not there any more, or cannot be read. */
  #list(visit: Visit): Listing | undefined {
    const directory = visit.path;
    const listing: Listing = { gone: [], candidates: [], directories: [] };
    try {
      const listed = listSource(this.#native(directory));
      if (listed === undefined) return this.#later(directory);
      // A name that is removed and made again meanwhile may be listed twice.
      const names = this.#allAnew ? new Set(listed) : listed;
      const before = visit.seen?.type === "directory" ? this.#index.children(directory) : new Map<string, SeenEntry>();
      this.#refuseLostMount(visit, listed.length, before.size);
      for (const name of names) {
        const path = joinPath(directory, name);
        const stat = statSource(this.#native(path));
        if (stat === undefined) continue; // Gone since: it stays in `before`.
        const seen = before.get(name);
        before.delete(name);
        this.#compare(path, stat, seen, listing);
      }
      for (const [name, seen] of before) {
        const path = joinPath(directory, name);
        if (this.#source.exclude.matches(path, seen.type === "directory")) this.#leaveOut(path, listing);
        else listing.gone.push(path);
      }
      const after = statSource(this.#native(directory));
      if (after === undefined || after.ino !== visit.stat.ino || after.dev !== visit.stat.dev)
        return this.#later(directory);
    } catch (error) {
      return this.#failed(directory, error);
    }
    return listing;
  }

  /** Compares some names of a directory. */
  #look(directory: StorePath, names: string[]): Listing | undefined {
    const { exclude } = this.#source;
    const listing: Listing = { gone: [], candidates: [], directories: [] };
    const hidden = exclude.hides(directory) || exclude.matches(directory, true);
    for (const name of names) {
      const path = joinPath(directory, name);
      try {
        const seen = this.#index.byPath(path);
        const stat = statSource(this.#native(path));
        if (stat === undefined) this.#source.special.delete(path);
        const excluded =
          hidden || exclude.matches(path, (stat && typeOf(stat) === "directory") ?? seen?.type === "directory");
        if (excluded) this.#dropIfReplaced(path, stat, seen, listing);
        else if (stat !== undefined) this.#compare(path, stat, seen, listing);
        else if (seen !== undefined) listing.gone.push(path);
      } catch (error) {
        this.#failed(path, error);
      }
    }
    // Afterwards, since a directory above may become a symlink to somewhere else at any time.
    const broken = this.#notADirectory(directory);
    if (broken === undefined) return listing;
    if (this.#againSeen.has(broken)) this.#behind.add(broken);
    else this.#lookAgain(broken, dirtyHow.renamed);
    return undefined;
  }

  /** A change of configuration deletes nothing: what is excluded newly stays as it was cut, until that is pruned. */
  #leaveOut(path: StorePath, listing: Listing): void {
    if (this.#source.prune) listing.gone.push(path);
    else if (this.#source.excluded.size < excludedKeptMax) this.#source.excluded.add(path);
  }

  /**
   * Newly excluded paths are left as they were seen: a change of configuration deletes nothing. But when the inode of
   * one turned up elsewhere, and it does not have it any more, it is gone in truth.
   */
  #dropIfReplaced(path: StorePath, stat: BigIntStats | undefined, seen: SeenEntry | undefined, listing: Listing): void {
    if (seen === undefined || !this.#againSeen.has(path)) return;
    if (stat === undefined || seen.seen?.inode !== this.#identity(path, stat)) listing.gone.push(path);
  }

  /** The first directory on the way to (and with) this one that is none. */
  #notADirectory(directory: StorePath): StorePath | undefined {
    if (directory === "") return undefined;
    for (const path of [...ancestorsOf(directory), directory]) {
      const stat = statSource(this.#native(path));
      if (stat === undefined || typeOf(stat) !== "directory") return path;
    }
    return undefined;
  }

  #compare(path: StorePath, stat: BigIntStats, seen: SeenEntry | undefined, listing: Listing): void {
    const type = typeOf(stat);
    if (this.#source.exclude.matches(path, type === "directory")) {
      if (seen !== undefined) this.#leaveOut(path, listing);
      return;
    }
    if (path.length > pathBytesMax) {
      this.#unreadable.set(path, new Error(`path of ${path.length} bytes, at most ${pathBytesMax} are taken`));
      return;
    }
    this.#proof?.add(path, stat);
    this.#source.special.delete(path);
    switch (type) {
      case "other":
        this.#source.special.add(path);
        if (seen !== undefined) listing.gone.push(path);
        return;
      case "directory": {
        const known = seen?.type === "directory" ? seen : undefined;
        const fresh = known?.seen?.inode !== this.#identity(path, stat);
        if (fresh || !sameMeta(stat, known)) listing.candidates.push({ path, stat, seen, why: "differs" });
        listing.directories.push({ path, stat, seen, fresh, deep: false });
        return;
      }
      case "file":
      case "symlink": {
        const same = seen !== undefined && seen.type === type && this.#isAsSeen(path, stat, seen.seen);
        if (!same) {
          listing.candidates.push({ path, stat, seen, why: "differs" });
          this.#lookAtOldPaths(path, stat, seen);
        } else if (!sameMeta(stat, seen)) {
          listing.candidates.push({ path, stat, seen, why: "meta" });
        }
        return;
      }
    }
  }

  /** A file may have been changed by this name before the name went away: the event was for this one only. */
  #lookAtOtherPaths(path: StorePath): void {
    const was = this.#seen.byPath(path);
    if (was?.type !== "file") return;
    for (const other of this.#seen.pathsOf(was.object)) {
      if (other !== path && this.#index.byPath(other) !== undefined) this.#lookAgain(other, dirtyHow.changed);
    }
  }

  /**
   * An inode that was seen under other paths. Were their removal missed, a new file could pass for the old one; and of
   * several links, only the one that was used tells of a change.
   */
  #lookAtOldPaths(path: StorePath, stat: BigIntStats, seen: SeenEntry | undefined): void {
    const inode = this.#identity(path, stat);
    if (seen?.seen?.inode === inode && stat.nlink === 1n) return;
    for (const other of this.#index.pathsOfInode(inode)) {
      if (other !== path && this.#index.byPath(other) !== undefined) this.#lookAgain(other, dirtyHow.changed);
    }
  }

  /** Paths under which the inode was seen, and where nothing is any more. */
  #oldPathsGone(path: StorePath, inode: number): StorePath[] {
    if (this.#source.stamps !== "live") return [];
    return this.#index
      .pathsOfInode(inode)
      .filter((other) => other !== path && this.#index.byPath(other) !== undefined && this.#inodeAt(other) === "gone");
  }

  /** Undefined where that cannot be known. */
  #inodeAt(path: StorePath): number | "gone" | undefined {
    try {
      const stat = statSource(this.#native(path));
      return stat === undefined ? "gone" : this.#identity(path, stat);
    } catch (error) {
      return this.#failed(path, error);
    }
  }

  #lookAgain(path: StorePath, how: number): void {
    if (this.#againSeen.has(path)) return;
    if (this.#againSeen.size >= inodePathsMax) {
      this.#behind.add(rootPath); // Everything, in the next view.
      return;
    }
    this.#againSeen.add(path);
    markDirty(this.#again, path, how);
  }

  #isAsSeen(path: StorePath, stat: BigIntStats, seen: SeenEntry["seen"]): boolean {
    if (seen === undefined || BigInt(seen.size) !== stat.size || seen.mtimeNs !== stat.mtimeNs) return false;
    if (seen.inode !== this.#identity(path, stat)) return false;
    return this.#source.stamps === "copied" ? seen.ctimeNs !== 0n : seen.ctimeNs === stat.ctimeNs;
  }

  #identity(path: StorePath, stat: BigIntStats): number {
    return this.#source.stamps === "live" ? identityOf(stat, this.#source.rootStat.dev) : identityOfPath(path);
  }

  #rootCandidates(): Candidate[] {
    const seen = this.#index.byPath(rootPath);
    const stat = this.#checkRoot();
    const same = sameMeta(stat, seen) && seen?.seen?.inode === this.#identity(rootPath, stat);
    return same ? [] : [{ path: rootPath, stat, seen, why: "differs" }];
  }

  // ---- What is handed out ----

  *#offer(candidates: Candidate[]): Generator<Step> {
    for (const { path, stat, seen, why } of candidates) {
      const turn = this.#breathe();
      if (turn !== undefined) yield turn;
      const type = typeOf(stat);
      // A directory goes with all that was below it; what takes its place begins anew.
      if (seen !== undefined && seen.type !== type && (seen.type === "directory" || type === "directory")) {
        yield this.#gone(path);
      }
      if (type === "file" && why !== "meta") {
        yield* this.#offerFile(path, stat);
        continue;
      }
      const entry = this.#entry(path, stat);
      if (entry !== undefined) yield this.#found(path, entry);
    }
  }

  /** Reads a file until it held still meanwhile, a few times. The consumer drops what it read of one that moved. */
  *#offerFile(path: StorePath, lstat: BigIntStats): Generator<Step> {
    const unsynced = this.#unsynced.get(this.#native(path));
    if (unsynced !== undefined) {
      this.#unreadable.set(path, unsynced);
      return;
    }
    let stat: BigIntStats | undefined = lstat;
    let wastedBytes = 0;
    for (let tries = 1; tries <= readTriesMax && wastedBytes <= wastedBytesMax; tries++) {
      const inode = this.#identity(path, stat);
      const linkOf = this.#offeredAs(inode, stat);
      if (linkOf !== undefined) {
        const entry = this.#entry(path, stat);
        if (entry !== undefined) yield { ...this.#found(path, entry), linkOf };
        return;
      }
      if (this.#sync.isDue(stat)) yield this.#sync.run(this.#native(path), stat, this.#signal);
      const openedAt = performance.now();
      const opened: Opened = SteadyFile.open(this.#native(path), stat, (now) => this.#sync.covers(now));
      this.#sync.spent(performance.now() - openedAt);
      if (opened.kind === "unreadable") {
        this.#unreadable.set(path, opened.cause);
        return;
      }
      const file = opened.kind === "replaced" ? undefined : this.#toRead(path, opened, tries);
      if (file !== undefined) {
        this.#open = file;
        // Before the file itself: one that was moved and written to is known for the same only when it has no other path.
        for (const old of this.#oldPathsGone(path, inode)) yield this.#gone(old);
        const entry = "overtaken" in file ? this.#clonedEntry(path, file) : this.#entry(path, file.stat)!;
        const anew = tries === 1 && this.#isAnew(entry);
        yield { kind: "entry", path, entry, content: file, anew, isLink: (other) => this.#inodeAt(other) === inode };
        this.#open = undefined;
        if (file.settle() === "stable") {
          this.#index.found(path, entry);
          if (file.stat.nlink > 1n) this.#rememberLink(path, file.stat);
          return;
        }
        if (file.failure !== undefined) {
          this.#unreadable.set(path, file.failure);
          return;
        }
        wastedBytes += Number(file.stat.size);
      }
      stat = statSource(this.#native(path));
      if (stat === undefined || typeOf(stat) !== "file") {
        this.#againSeen.delete(path);
        this.#lookAgain(path, dirtyHow.renamed);
        return;
      }
    }
    this.#behind.add(path);
  }

  /** The file itself, or a clone of one that was met moving, or that takes long to read. */
  #toRead(
    path: StorePath,
    { kind, file }: Extract<Opened, { file: SteadyFile }>,
    tries: number,
  ): SteadyFile | ClonedFile | undefined {
    const { reflinks } = this.#source;
    const wanted = kind === "busy" || tries > 1 || this.#isLargeAndHot(file.stat);
    reflinks?.drop(path); // Of an earlier round.
    const clone = wanted ? reflinks?.clone(path, this.#native(path), file) : undefined;
    if (clone !== undefined || kind === "opened") return clone ?? file;
    file.settle();
    return undefined;
  }

  #isLargeAndHot({ size, ctimeNs }: BigIntStats): boolean {
    return size >= cloneFirstBytesMin && this.#source.now() - Number(ctimeNs / 1_000_000n) < writtenLatelyMs;
  }

  #found(path: StorePath, entry: Entry): FoundEntry {
    this.#index.found(path, entry);
    return { kind: "entry", path, entry, anew: this.#isAnew(entry) };
  }

  /** A link to what was given before comes by `#found`, too, and has several links itself. */
  #isAnew(entry: Entry): boolean {
    return this.#allAnew && entry.seen.links === 1;
  }

  #gone(path: StorePath): Found {
    this.#source.watcher?.removeTree(path);
    const { special } = this.#source;
    if (special.size > 0) {
      const below = `${path}/`;
      for (const other of special) if (other.startsWith(below)) special.delete(other);
    }
    this.#index.gone(path);
    return { kind: "gone", path };
  }

  /** Undefined when a symlink was replaced while its target was read: whoever replaced it left a new event. */
  #entry(path: StorePath, stat: BigIntStats): Entry | undefined {
    const type = typeOf(stat);
    assert(type !== "other", "what is skipped is not handed out");
    const isDirectory = type === "directory";
    let target = "";
    if (type === "symlink") {
      const text = this.#target(path, stat);
      if (text === undefined) return undefined;
      target = text;
    }
    return {
      type,
      mode: Number(stat.mode) & 0o7777,
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      mtimeUs: isDirectory ? 0 : microseconds(stat.mtimeNs),
      size: type === "file" ? Number(stat.size) : 0,
      target,
      seen: isDirectory ? this.#directorySeen(path, stat) : this.#stamps(path, stat),
    };
  }

  #clonedEntry(path: StorePath, { stat, size, overtaken }: ClonedFile): Entry {
    const entry = this.#entry(path, stat)!;
    // A store through mmap tells nobody: its new stamps are looked for soon, event or not.
    if (overtaken) this.#rememberYoung(path, this.#source.now() + youngMs);
    return { ...entry, size, seen: { ...entry.seen, size } };
  }

  #target(path: StorePath, stat: BigIntStats): string | undefined {
    try {
      const target = readlinkSync(nativePath(this.#native(path)), { encoding: "latin1" });
      const after = statSource(this.#native(path));
      if (after?.ino === stat.ino && after.ctimeNs === stat.ctimeNs) return target;
    } catch (error) {
      if (!isSystemError(error, "ENOENT", "ENOTDIR", "EINVAL")) {
        this.#unreadable.set(path, error as Error);
        return undefined;
      }
    }
    this.#behind.add(path);
    return undefined;
  }

  /** Only the identity of a directory is compared: its times change with every name in it. */
  #directorySeen(path: StorePath, stat: BigIntStats): Seen {
    return { inode: this.#identity(path, stat), size: 0, mtimeNs: 0n, ctimeNs: 0n, links: 1 };
  }

  #stamps(path: StorePath, stat: BigIntStats): Seen {
    const { now, stamps } = this.#source;
    const newest = stamps === "copied" ? stat.mtimeNs : stat.ctimeNs;
    const ageMs = now() - Number(newest / 1_000_000n);
    // A ctime from far in the future (a clock was set back) cannot be met again by chance.
    const young = ageMs < youngMs && ageMs > -youngMs;
    if (young) this.#rememberYoung(path, now() + youngMs - ageMs);
    else this.#young.delete(path);
    return {
      inode: this.#identity(path, stat),
      size: Number(stat.size),
      mtimeNs: stat.mtimeNs,
      ctimeNs: young ? 0n : stat.ctimeNs,
      links: stamps === "copied" ? 1 : Number(stat.nlink),
    };
  }

  /** Beyond what may be kept, the root stands for all: a scan finds those that were young by what was seen of them. */
  #rememberYoung(path: StorePath, dueMs: number): void {
    if (this.#young.size >= dirtyPathsMax) {
      this.#young.clear();
      this.#young.set(rootPath, dueMs);
    }
    this.#young.set(this.#young.has(rootPath) ? rootPath : path, dueMs);
  }

  #rememberLink(path: StorePath, stat: BigIntStats): void {
    if (this.#offeredLinks.size >= hardLinksKeptMax) this.#offeredLinks.clear(); // Then read once more: only slower.
    this.#offeredLinks.set(this.#identity(path, stat), { path, ctimeNs: stat.ctimeNs });
  }

  /** The path under which the same content was handed out in this round, while it is still a link to it. */
  #offeredAs(inode: number, { ctimeNs }: BigIntStats): StorePath | undefined {
    const offered = this.#offeredLinks.get(inode);
    if (offered?.ctimeNs !== ctimeNs) return undefined;
    return this.#inodeAt(offered.path) === inode ? offered.path : undefined;
  }

  // ---- What goes wrong ----

  /** A directory moved away while it was listed: its new place and its old one are looked at in the next view. */
  #later(directory: StorePath): undefined {
    this.#checkRoot();
    this.#behind.add(directory);
    return undefined;
  }

  /** Keeps the previous version of what cannot be read: it is not gone. */
  #failed(path: StorePath, error: unknown): undefined {
    if (!(error instanceof Error) || !("code" in error) || error instanceof SourceUnusable) throw error;
    this.#unreadable.set(path, error);
    return undefined;
  }

  /** @throws SourceUnusable when what was read is not the source any more: then nothing that seems gone is. */
  #checkRoot(): BigIntStats {
    const { root, rootStat } = this.#source;
    const stat = statSource(root);
    if (stat !== undefined && stat.ino === rootStat.ino && stat.dev === rootStat.dev) return stat;
    throw new SourceUnusable(Buffer.from(root, "latin1").toString(), "was moved or unmounted while it was read");
  }

  /** @throws SourceUnusable when a filesystem below the root seems to have gone away. */
  #refuseLostMount(visit: Visit, names: number, seenBefore: number): void {
    if (names > 0 || seenBefore === 0 || this.#source.stamps === "copied") return;
    const wasForeign = isForeign(visit.seen?.seen?.inode ?? 0);
    if (!wasForeign || isForeign(this.#identity(visit.path, visit.stat))) return;
    const path = Buffer.from(this.#native(visit.path), "latin1").toString();
    throw new SourceUnusable(
      path,
      `held a mounted filesystem with ${seenBefore} entries, and is an empty directory now`,
    );
  }

  // ---- Files for `read` ----

  /**
   * Whatever file has the path now. It may be younger than what was seen, and often is: a log that grows all the time
   * would else never be read for a replica that lags. What is read is compared with the hashes of what was seen.
   */
  #hold(path: StorePath): number | undefined {
    if (this.#held?.path === path) return this.#held.descriptor;
    this.#letGo();
    if (this.#index.byPath(path)?.type !== "file" || this.#notADirectory(parentPath(path)) !== undefined)
      return undefined;
    const descriptor = openFile(this.#native(path));
    if (descriptor !== undefined) this.#held = { path, descriptor };
    return descriptor;
  }

  #letGo(): void {
    if (this.#held !== undefined) closeSync(this.#held.descriptor);
    this.#held = undefined;
  }

  #native(path: StorePath): string {
    return path === "" ? this.#source.root : `${this.#source.root}/${path}`;
  }
}

/** How a young path is to be looked at again. */
export function howYoung(path: StorePath): number {
  return path === rootPath ? dirtyHow.changed | dirtyHow.deep : dirtyHow.changed;
}

function sameMeta(stat: BigIntStats, seen: SeenEntry | undefined): boolean {
  return (
    seen !== undefined &&
    seen.mode === (Number(stat.mode) & 0o7777) &&
    seen.uid === Number(stat.uid) &&
    seen.gid === Number(stat.gid)
  );
}

/** Ancestors before what is below them. */
function* byDirectory(dirty: DirtyPaths): Iterable<[StorePath, string[]]> {
  let directory: StorePath | undefined;
  let names: string[] = [];
  for (const path of [...dirty.keys()].sort()) {
    if (path === "") continue;
    const parent = parentPath(path);
    if (directory !== undefined && parent !== directory) {
      yield [directory, names];
      names = [];
    }
    directory = parent;
    names.push(baseName(path));
  }
  if (directory !== undefined) yield [directory, names];
}
