import { type BigIntStats, type Dir, opendirSync, realpathSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import { assert, explain, isSystemError } from "../../../shared/errors.ts";
import type {
  SeenIndex,
  StoreAdapter,
  StoreHealth,
  StoreView,
  ViewRequest,
} from "../../../shared/ports/store-adapter.ts";
import { checkStorePath, privateName } from "../../../shared/store-path.ts";
import type { StorePath } from "../../../shared/words.ts";
import { DirectoryWatcher, type WatchLoss } from "../../watch/directory-watcher.ts";
import { EventBarrier } from "../../watch/event-barrier.ts";
import { SourceUnusable } from "../source-unusable.ts";
import { addDirty, type DirtyPaths, dirtyHow, dirtyPathsMax, markDirty } from "./dirty-paths.ts";
import { compileExclude, type Exclude } from "./exclude.ts";
import { FilesView, howYoung, type Round, type ViewRemainder, type ViewSource } from "./files-view.ts";
import { peekFile } from "./peek-file.ts";
import { Reflinks } from "./reflink.ts";
import { Settling, settlingBytesMin } from "./settling.ts";
import { openSnapshot, type SnapshotHooks, type SnapshotTree } from "./snapshot-tree.ts";
import { joinPath, nativePath, rootPath } from "./source-path.ts";
import { statSource, typeOf } from "./source-stat.ts";
import { watchTree } from "./watch-tree.ts";

const unreadableRetryMs = 30_000;
const watchRetryMs = 600_000;
const pollMs = 1000;
const backlogSamplesMax = 64;
const unnamedName = /^#\d+$/;

export interface FilesStoreOptions {
  /** Absolute. A symlink is resolved once, at start. */
  readonly path: string;
  /** Globs as in .gitignore. */
  readonly exclude: readonly string[];
  /** Wall clock in ms; the one that stamps files. */
  readonly now?: () => number;
  /** A filesystem or volume snapshot that is made for each view and read in place of the live tree. */
  readonly snapshot?: SnapshotHooks;
  /** The application itself says what changed since it was last asked; then nothing is watched. */
  readonly list?: () => Promise<readonly StorePath[] | "everything">;
  /** Read files that move, and large ones, from a clone where the filesystem can; not with `snapshot`. */
  readonly reflink?: boolean;
  /** In a freeze, believe the watcher (once a cookie's event has proven that all earlier ones were seen). */
  readonly trustWatcher?: boolean;
}

export interface FilesStore extends StoreAdapter {
  readonly health: StoreHealth;
}

/** Synchronous file access throughout: for worker threads only. */
export function createFilesStore(options: FilesStoreOptions): FilesStore {
  return new WatchedTree(options);
}

class WatchedTree implements FilesStore {
  readonly kind = "files";
  readonly defaultRequire = "whole";
  readonly #options: FilesStoreOptions;
  readonly #exclude: Exclude;
  readonly #now: () => number;
  #wake: () => void = () => {};
  #wakePending = false;
  #root = "";
  #rootStat: BigIntStats | undefined;
  #watcher: DirectoryWatcher | undefined;
  #watchRetryAt = 0;
  #losses = 0;
  #lossReason = "directories are not watched yet";
  #barrier: EventBarrier | undefined;
  /** Why the next view must compare everything; undefined while events tell. */
  #scanDue: string | undefined = "the tree was not read yet";
  /** Changes that no view has taken. */
  #pending: DirtyPaths = new Map();
  /** Those of them that are not announced yet. */
  readonly #settling = new Settling();
  #settlingTimer: NodeJS.Timeout | undefined;
  /** What the open view took, until it is known whether the cut holds it. */
  #taken: DirtyPaths = new Map();
  #takenScan: string | undefined;
  #scanned = false;
  /** Paths to look at again from a wall-clock time on, young ones above all. */
  readonly #due = new Map<StorePath, { atMs: number; how: number }>();
  #dueFirstMs = Number.POSITIVE_INFINITY;
  /** A scan that nobody asked for is not announced before this (monotonic, ms): scanning must not eat a processor. */
  #scanNotBefore = 0;
  #timer: NodeJS.Timeout | undefined;
  readonly #special = new Set<StorePath>();
  readonly #excludedLater = new Set<StorePath>();
  #unreadable: ReadonlyMap<StorePath, string> = new Map();
  readonly #reflinks: Reflinks | undefined;
  #view:
    | { readonly view: FilesView; readonly enteredAt: number; readonly snapshot: SnapshotTree | undefined }
    | undefined;
  #entering = false;
  #closed = false;

  constructor(options: FilesStoreOptions) {
    this.#options = options;
    this.#exclude = compileExclude(options.exclude);
    this.#reflinks = options.reflink === true && options.snapshot === undefined ? new Reflinks() : undefined;
    this.#now = options.now ?? Date.now;
  }

  get health(): StoreHealth {
    const scanning = this.#scanDue ?? (this.#isWatching() ? undefined : this.#lossReason);
    return {
      mode: this.#options.list ? "listing" : scanning === undefined ? "watching" : "scanning",
      reason: this.#options.list ? "" : (scanning ?? ""),
      watchedDirectories: this.#watcher?.size ?? 0,
      losses: this.#losses,
      unreadable: this.#unreadable,
      skipped: this.#special.size,
      excluded: [...this.#excludedLater],
      reflink: this.#reflinks && { cloned: this.#reflinks.cloned, reason: this.#reflinks.reason },
    };
  }

  async start(wake: () => void): Promise<void> {
    const { path } = this.#options;
    try {
      this.#root = realpathSync.native(path, { encoding: "latin1" });
    } catch (error) {
      if (!isSystemError(error, "ENOENT", "ENOTDIR", "EACCES", "ELOOP")) throw error;
      throw new SourceUnusable(path, "cannot be reached", { cause: error });
    }
    const stat = statSource(this.#root);
    if (stat === undefined || typeOf(stat) !== "directory") throw new SourceUnusable(path, "is not a directory");
    this.#rootStat = stat;
    this.#wake = wake;
    this.#signalWake();
  }

  dirty(): boolean {
    if (this.#pending.size > this.#settling.size) return true;
    if (this.#settling.dueAt() <= performance.now()) return true;
    if (this.#dueFirstMs <= this.#now()) return true;
    const blind = this.#scanDue !== undefined || (!this.#isWatching() && this.#view === undefined);
    return blind && performance.now() >= this.#scanNotBefore;
  }

  backlogBytes(): number {
    let bytes = 0;
    let samples = 0;
    for (const path of this.#pending.keys()) {
      if (samples++ === backlogSamplesMax) return Math.round((bytes / backlogSamplesMax) * this.#pending.size);
      try {
        const stat = statSource(this.#native(path));
        if (stat !== undefined && typeOf(stat) === "file") bytes += Number(stat.size);
      } catch (error) {
        if (!isSystemError(error, "EACCES", "ELOOP", "ENAMETOOLONG")) throw error; // Not to be read: no backlog either.
      }
    }
    return bytes;
  }

  peek(path: StorePath, offset: number, length: number): Uint8Array | undefined {
    return peekFile(nativePath(this.#native(path)), offset, length);
  }

  async enter(seen: SeenIndex, request: ViewRequest, signal: AbortSignal): Promise<StoreView> {
    assert(this.#view === undefined && !this.#entering && !this.#closed, "one view of a store is open at a time");
    this.#entering = true;
    let snapshot: SnapshotTree | undefined;
    try {
      signal.throwIfAborted();
      this.#rootStat = this.#checkSource(seen, this.#root);
      const scan = await this.#mustScan(seen.everCut(), request);
      if (scan !== undefined) this.#watchAnew();
      if (this.#options.snapshot) {
        snapshot = await this.#enterSnapshot(this.#options.snapshot, scan !== undefined);
        this.#checkSource(seen, snapshot.root);
      } else {
        this.#take();
      }
      signal.throwIfAborted();
      const view = this.#openView(seen, request, signal, scan, snapshot);
      this.#view = { view, enteredAt: performance.now(), snapshot };
      return view;
    } catch (error) {
      this.#putBack();
      await snapshot?.remove();
      throw error;
    } finally {
      this.#entering = false;
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#view?.view.leave("dropped");
    clearTimeout(this.#timer);
    clearTimeout(this.#settlingTimer);
    this.#watcher?.close();
    this.#barrier?.close();
  }

  // ---- Entering ----

  /**
   * The root as it stands.
   * @throws SourceUnusable when it vanished, or looks like a mount that went away: nothing is ever deleted for that
   */
  #checkSource(seen: SeenIndex, root: string): BigIntStats {
    const text = Buffer.from(root, "latin1").toString();
    const stat = statSource(root);
    if (stat === undefined) throw new SourceUnusable(text, "has vanished");
    if (typeOf(stat) !== "directory") throw new SourceUnusable(text, "is not a directory any more");
    const moved = root === this.#root && stat.dev !== this.#rootStat?.dev;
    if ((moved || isEmpty(root)) && seen.everCut() && seen.count() > 1) {
      const entries = seen.count();
      if (moved) {
        throw new SourceUnusable(
          text,
          `is on another filesystem than when the agent started, and the last cut has ${entries} entries. If that is meant, start the agent again`,
        );
      }
      throw new SourceUnusable(
        text,
        `is empty, but the last cut has ${entries} entries. If it was emptied on purpose, create any file in it`,
      );
    }
    if (root === this.#root && stat.ino !== this.#rootStat?.ino) this.#loseWatch("the root was replaced");
    return stat;
  }

  /** Why this view must compare everything, or undefined. All events of the past have been seen afterwards. */
  async #mustScan(everCut: boolean, request: ViewRequest): Promise<string | undefined> {
    await deliverEvents();
    if (!everCut) return "the store was never cut";
    if (request.depth !== "changes") return "asked for";
    if (this.#scanDue !== undefined) return this.#scanDue;
    if (this.#options.list) return await this.#askApplication(this.#options.list);
    if (!this.#isWatching()) return this.#lossReason;
    if (!request.frozen) return undefined;
    if (!this.#options.trustWatcher) return "the application is frozen";
    this.#barrier ??= new EventBarrier();
    if (!(await this.#barrier.pass())) return "events are late";
    return this.#scanDue;
  }

  /** Marks what the application lists; a reason when that is everything. */
  async #askApplication(list: () => Promise<readonly StorePath[] | "everything">): Promise<string | undefined> {
    const paths = await list();
    if (paths === "everything") return "the application says so";
    for (const path of paths) this.#mark(checkStorePath(path), dirtyHow.changed | dirtyHow.deep);
    return this.#scanDue;
  }

  /** Snapshots hold what happened before they were made; what happened meanwhile may be in it or not. */
  async #enterSnapshot(hooks: SnapshotHooks, scan: boolean): Promise<SnapshotTree> {
    // New directories are watched now: after the snapshot, what happens in them would be neither in it nor told.
    if (this.#watcher !== undefined) {
      const renamed = [...this.#pending.keys()].filter((path) => this.#pending.get(path)! & dirtyHow.renamed);
      // A watch may stand on what had the path before: a new one is put, or all below the path are ended.
      for (const path of renamed) {
        if (statSource(this.#native(path))?.isDirectory()) this.#watcher.remove(path);
        else this.#watcher.removeTree(path);
      }
      for (const path of scan ? [rootPath] : renamed) {
        const found = watchTree(this.#root, path, this.#rootStat!.dev, this.#watcher, this.#exclude);
        if (found) markDirty(this.#pending, path, dirtyHow.deep);
      }
    }
    await deliverEvents();
    this.#take();
    const snapshot = await openSnapshot(hooks, this.#root);
    try {
      await deliverEvents();
      for (const [path, how] of this.#pending) markDirty(this.#taken, path, how); // And they stay pending.
      return snapshot;
    } catch (error) {
      await snapshot.remove();
      throw error;
    }
  }

  #openView(
    seen: SeenIndex,
    request: ViewRequest,
    signal: AbortSignal,
    scan: string | undefined,
    snapshot: SnapshotTree | undefined,
  ): FilesView {
    this.#scanned = scan !== undefined;
    this.#takenScan = scan;
    if (scan !== undefined) {
      this.#scanDue = undefined;
      if (snapshot === undefined) this.#unwatchRenamed(this.#taken);
    }
    const source: ViewSource = {
      root: snapshot?.root ?? this.#root,
      rootStat: snapshot?.rootStat ?? this.#rootStat!,
      stamps: snapshot?.stamps ?? "live",
      stillness: request.frozen ? "frozen" : snapshot ? "snapshot" : "none",
      exclude: this.#exclude,
      reflinks: this.#reflinks,
      watcher: snapshot ? undefined : this.#watcher,
      special: this.#special,
      excluded: this.#excludedLater,
      prune: request.prune ?? false,
      now: this.#now,
    };
    const first: Round = scan === undefined ? { kind: "changes", dirty: new Map(this.#taken) } : { kind: "scan" };
    const nextRound = async (rounds: number) => (rounds === 0 ? first : await this.#laterRound(request, snapshot));
    return new FilesView(source, seen, signal, nextRound, (outcome, remainder) => this.#leave(outcome, remainder));
  }

  /** A snapshot does not change; of the live tree, what the events since the last round tell. */
  async #laterRound(request: ViewRequest, snapshot: SnapshotTree | undefined): Promise<Round> {
    if (snapshot) return { kind: "changes", dirty: new Map() };
    const scan = await this.#mustScan(true, { ...request, depth: "changes" });
    if (scan !== undefined) {
      this.#takenScan ??= scan;
      this.#scanDue = undefined;
      this.#scanned = true;
      this.#watchAnew();
      this.#unwatchRenamed(this.#take());
      return { kind: "scan" };
    }
    return { kind: "changes", dirty: this.#take() };
  }

  /** A watch may stand on what had the path before; the scan puts a new one. */
  #unwatchRenamed(paths: DirtyPaths): void {
    for (const [path, how] of paths) if (how & dirtyHow.renamed) this.#watcher?.remove(path);
  }

  /** Moves what is pending to what the view took, and gives the new part. */
  #take(): DirtyPaths {
    const now = this.#now();
    for (const [path, { atMs, how }] of this.#due) {
      if (atMs > now) continue;
      this.#due.delete(path);
      markDirty(this.#pending, path, how);
    }
    this.#findFirstDue();
    const taken = this.#pending;
    this.#pending = new Map();
    this.#settling.clear();
    addDirty(this.#taken, taken);
    return taken;
  }

  #putBack(): void {
    addDirty(this.#pending, this.#taken);
    this.#taken = new Map();
    this.#scanDue ??= this.#takenScan;
    this.#takenScan = undefined;
  }

  // ---- Leaving ----

  async #leave(outcome: "taken" | "dropped", remainder: ViewRemainder): Promise<void> {
    const { enteredAt, snapshot } = this.#view!;
    this.#view = undefined;
    if (outcome === "taken" && remainder.complete) this.#settle(remainder);
    else this.#putBack();
    const tookMs = performance.now() - enteredAt;
    if (!this.#isWatching()) this.#scanNotBefore = performance.now() + Math.max(pollMs, 10 * tookMs);
    else if (this.#scanned) this.#scanNotBefore = performance.now() + 3 * tookMs;
    this.#schedule();
    if (this.dirty()) this.#signalWake();
    await snapshot?.remove();
  }

  #settle(remainder: ViewRemainder): void {
    const unreadable = new Map([...remainder.unreadable].map(([path, cause]) => [path, explain(cause)]));
    if (!this.#scanned) {
      // What was not looked at again is as unreadable as it was.
      for (const [path, why] of this.#unreadable) if (!this.#taken.has(path)) unreadable.set(path, why);
    }
    this.#unreadable = unreadable;
    if (this.#scanned) this.#due.clear();
    else for (const path of this.#taken.keys()) this.#due.delete(path);
    this.#taken = new Map();
    this.#takenScan = undefined;
    const everything = dirtyHow.changed | dirtyHow.renamed | dirtyHow.deep;
    for (const path of remainder.behind) {
      const known = this.#pending.has(path);
      this.#mark(path, everything);
      // It moved while it was read: it may go on moving.
      if (!known && this.#isLarge(path)) this.#awaitQuiet(path);
    }
    for (const [path, atMs] of remainder.young) this.#later(path, atMs, howYoung(path));
    const retryAt = this.#now() + unreadableRetryMs;
    for (const path of remainder.unreadable.keys()) this.#later(path, retryAt, everything);
  }

  #later(path: StorePath, atMs: number, how: number): void {
    // Too many to keep: the root stands for all.
    if (this.#due.size >= dirtyPathsMax) {
      this.#due.clear();
      this.#due.set(rootPath, { atMs: this.#now() + 2000, how: dirtyHow.changed | dirtyHow.deep });
    }
    const root = this.#due.get(rootPath);
    if (root !== undefined && root.how & dirtyHow.deep)
      this.#due.set(rootPath, { atMs: Math.max(root.atMs, atMs), how: root.how | how });
    else this.#due.set(path, { atMs, how });
  }

  // ---- Events ----

  /** A watcher for this scan to fill, if there is none and there may be one. */
  #watchAnew(): void {
    if (this.#watcher !== undefined || this.#options.list || performance.now() < this.#watchRetryAt) return;
    this.#watcher = new DirectoryWatcher(this.#root, {
      changed: (directory, name, renamed) => this.#event(directory as StorePath, name, renamed),
      lost: (loss) => {
        if (loss.kind !== "overflow") this.#watchRetryAt = performance.now() + watchRetryMs;
        this.#loseWatch(lossText(loss));
      },
    });
  }

  #isWatching(): boolean {
    return this.#watcher !== undefined;
  }

  #event(directory: StorePath, name: string, renamed: boolean): void {
    const path = name === "" ? directory : joinPath(directory, name);
    // A pattern that means directories only is judged when the path is looked at.
    if (path === privateName || path.startsWith(`${privateName}/`) || this.#exclude.matches(path, false)) return;

    if (!renamed && this.#isUnnamed(path, name)) return;
    const known = this.#pending.has(path);
    this.#mark(path, renamed ? dirtyHow.changed | dirtyHow.renamed : dirtyHow.changed);
    if (renamed) this.#settling.delete(path);
    else if (known ? this.#settling.has(path) : this.#isLarge(path)) {
      this.#awaitQuiet(path);
      return;
    }
    this.#signalWake();
  }

  #isLarge(path: StorePath): boolean {
    try {
      const stat = statSource(this.#native(path));
      return stat !== undefined && typeOf(stat) === "file" && stat.size >= settlingBytesMin;
    } catch (error) {
      if (!isSystemError(error, "EACCES", "ELOOP", "ENAMETOOLONG")) throw error;
      return false; // The next view meets the same, and says so.
    }
  }

  /** A large file that is being written is announced when it is quiet. */
  #awaitQuiet(path: StorePath): void {
    if (!this.#pending.has(path)) return; // Events were lost: a scan takes its place.
    this.#settling.written(path, performance.now());
    if (this.#settlingTimer === undefined) this.#announceSettled();
  }

  #announceSettled(): void {
    const inMs = this.#settling.dueAt() - performance.now();
    this.#settlingTimer = undefined;
    if (this.#closed || inMs === Number.POSITIVE_INFINITY) return;
    if (inMs <= 0) {
      this.#signalWake();
      return;
    }
    this.#settlingTimer = setTimeout(() => this.#announceSettled(), Math.ceil(inMs)).unref();
  }

  /**
   * A file without a name (O_TMPFILE), as our own clones are: the kernel tells of it under its number. Were it to wake
   * us, each cut would bring about the next. A file that really had this name and lost it is told of as renamed, too.
   */
  #isUnnamed(path: StorePath, name: string): boolean {
    if (!unnamedName.test(name)) return false;
    try {
      return statSource(this.#native(path)) === undefined;
    } catch (error) {
      if (!isSystemError(error, "EACCES", "ELOOP", "ENAMETOOLONG")) throw error;
      return false;
    }
  }

  #mark(path: StorePath, how: number): void {
    markDirty(this.#pending, path, how);
    if (this.#pending.size > dirtyPathsMax) this.#loseWatch(`more than ${dirtyPathsMax} paths changed`);
  }

  /** What is known is not all: a scan takes its place, and a new watcher. */
  #loseWatch(reason: string): void {
    this.#losses++;
    this.#lossReason = reason;
    this.#watcher?.close();
    this.#watcher = undefined;
    this.#pending.clear();
    this.#settling.clear();
    this.#scanDue = reason;
    this.#schedule();
    this.#signalWake();
  }

  /** Once a turn of the event loop, however many events came. */
  #signalWake(): void {
    if (this.#wakePending || this.#closed) return;
    this.#wakePending = true;
    setImmediate(() => {
      this.#wakePending = false;
      if (!this.#closed) this.#wake();
    });
  }

  /** Wakes when the first of what is due later comes due. */
  #schedule(): void {
    clearTimeout(this.#timer);
    if (this.#closed || this.#view !== undefined) return;
    this.#findFirstDue();
    let inMs = this.#dueFirstMs - this.#now();
    if (this.#scanDue !== undefined || !this.#isWatching())
      inMs = Math.min(inMs, this.#scanNotBefore - performance.now());
    if (inMs === Number.POSITIVE_INFINITY) return;
    this.#timer = setTimeout(() => this.#signalWake(), Math.max(0, Math.ceil(inMs) + 1));
    this.#timer.unref();
  }

  #findFirstDue(): void {
    this.#dueFirstMs = Number.POSITIVE_INFINITY;
    for (const { atMs } of this.#due.values()) this.#dueFirstMs = Math.min(this.#dueFirstMs, atMs);
  }

  #native(path: StorePath): string {
    return path === "" ? this.#root : `${this.#root}/${path}`;
  }
}

/**
 * Lets every event that the kernel holds reach its handler. It queues one before the call that caused it returns, and
 * a turn of the event loop reads the whole queue; two, since the first may be the rest of the present one.
 */
async function deliverEvents(): Promise<void> {
  await nextTurn();
  await nextTurn();
}

function isEmpty(root: string): boolean {
  const directory = openRoot(root);
  try {
    for (let entry = directory.readSync(); entry !== null; entry = directory.readSync()) {
      if (entry.name !== privateName) return false;
    }
    return true;
  } finally {
    directory.closeSync();
  }
}

function openRoot(root: string): Dir {
  try {
    return opendirSync(nativePath(root) as string, { encoding: "latin1" });
  } catch (error) {
    if (!isSystemError(error, "ENOENT", "ENOTDIR", "EACCES", "EIO", "ESTALE", "ENOTCONN")) throw error;
    throw new SourceUnusable(Buffer.from(root, "latin1").toString(), "cannot be read", { cause: error });
  }
}

function lossText(loss: WatchLoss): string {
  switch (loss.kind) {
    case "overflow":
      return `${loss.events} events came at once, some may have been lost`;
    case "limit":
      return `no more directories can be watched (fs.inotify.max_user_watches?): ${explain(loss.cause)}`;
    case "failed":
      return `watching failed: ${explain(loss.cause)}`;
  }
}
