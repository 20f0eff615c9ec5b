import { type FSWatcher, readFileSync, watch } from "node:fs";
import { isSystemError } from "../../shared/errors.ts";

/** Why events may have been missed. After it the watcher is closed; whoever needs one makes a new one and scans. */
export type WatchLoss =
  | { readonly kind: "overflow"; readonly events: number }
  | { readonly kind: "limit"; readonly cause: Error }
  | { readonly kind: "failed"; readonly cause: Error };

export interface WatchHandlers {
  /**
   * Something happened to `name` in `directory` (latin1, as given to `add`). `renamed`: it was created, deleted or
   * moved, or it is a directory; else its content or its meta changed. Name "" is the directory itself.
   */
  changed(directory: string, name: string, renamed: boolean): void;
  lost(loss: WatchLoss): void;
}

/**
 * Watches directories one by one (inotify by `fs.watch`; 20 us and 2 KB each), which is what a tree of a million files
 * can bear. One watcher holds one tree; paths are in latin1, relative to its root. Not recursive: whoever lists the
 * tree adds each directory *before* it lists it, so that nothing falls between.
 *
 * The kernel tells of a full event queue by an event that `fs.watch` does not pass on. A queue that overflowed was
 * full, so what arrives in one turn of the event loop shows it: from a quarter of the queue's length on we count it as
 * lost. The queue belongs to the thread, thus all watchers of a thread are counted together.
 */
export class DirectoryWatcher {
  readonly #root: string;
  readonly #handlers: WatchHandlers;
  readonly #watched = new Map<string, { watcher: FSWatcher; identity: number }>();
  #closed = false;

  constructor(root: string, handlers: WatchHandlers) {
    this.#root = root;
    this.#handlers = handlers;
    watchersOfThread.add(this);
  }

  get size(): number {
    return this.#watched.size;
  }

  has(directory: string): boolean {
    return this.#watched.has(directory);
  }

  /**
   * Begins to watch a directory; nothing happens when it is watched already and has the same identity (inode). True
   * when a watch now stands; false when it does not, since the directory is gone or events were lost (see `lost`).
   */
  add(directory: string, identity: number): boolean {
    if (this.#closed) return false;
    const standing = this.#watched.get(directory);
    if (standing?.identity === identity) return true;
    this.remove(directory);
    const path = directory === "" ? this.#root : `${this.#root}/${directory}`;
    try {
      const watcher = watch(Buffer.from(path, "latin1"), { persistent: false, encoding: "latin1" });
      // The kernel reports what happens to the directory itself under the directory's own name.
      const ownName = path.slice(path.lastIndexOf("/") + 1);
      watcher.on("change", (kind, name) => this.#event(directory, String(name ?? ""), kind === "rename", ownName));
      watcher.on("error", (error) => this.lose({ kind: "failed", cause: error }));
      this.#watched.set(directory, { watcher, identity });
      return true;
    } catch (error) {
      if (isSystemError(error, "ENOENT", "ENOTDIR", "EACCES", "ENAMETOOLONG")) return false; // Listing it says the same.
      const cause = error instanceof Error ? error : new Error(String(error));
      this.lose({ kind: isSystemError(error, "ENOSPC", "EMFILE", "ENFILE", "ENOMEM") ? "limit" : "failed", cause });
      return false;
    }
  }

  remove(directory: string): void {
    this.#watched.get(directory)?.watcher.close();
    this.#watched.delete(directory);
  }

  /** Ends the watches of a directory and of all below it. */
  removeTree(directory: string): void {
    if (!this.#watched.has(directory)) return; // A file, mostly. What is below was watched after its parent.
    const below = directory === "" ? "" : `${directory}/`;
    for (const path of this.#watched.keys()) if (path === directory || path.startsWith(below)) this.remove(path);
  }

  close(): void {
    this.#closed = true;
    watchersOfThread.delete(this);
    for (const { watcher } of this.#watched.values()) watcher.close();
    this.#watched.clear();
  }

  lose(loss: WatchLoss): void {
    if (this.#closed) return;
    this.close();
    this.#handlers.lost(loss);
  }

  #event(directory: string, name: string, renamed: boolean, ownName: string): void {
    if (this.#closed) return;
    countEvent();
    if (this.#closed) return;
    if (name !== "") this.#handlers.changed(directory, name, renamed);
    if (name === "" || name === ownName) this.#handlers.changed(directory, "", renamed);
  }
}

const watchersOfThread = new Set<DirectoryWatcher>();
let eventsInTurn = 0;
let eventsInTurnMax: number | undefined;

function countEvent(): void {
  if (eventsInTurn++ === 0) {
    setImmediate(() => {
      eventsInTurn = 0;
    });
  }
  eventsInTurnMax ??= queueLength() / 4;
  if (eventsInTurn < eventsInTurnMax) return;
  for (const watcher of [...watchersOfThread]) watcher.lose({ kind: "overflow", events: eventsInTurn });
}

function queueLength(): number {
  try {
    return Number(readFileSync("/proc/sys/fs/inotify/max_queued_events", "latin1"));
  } catch (error) {
    // A container may hide it: the kernel's default.
    if (isSystemError(error, "ENOENT", "EACCES", "EPERM")) return 16384;
    throw error;
  }
}
