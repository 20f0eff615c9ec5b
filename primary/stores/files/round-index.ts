import type { Entry, SeenEntry, SeenIndex } from "../../../shared/ports/store-adapter.ts";
import type { StorePath } from "../../../shared/words.ts";
import { ancestorsOf, baseName, joinPath, parentPath } from "./source-path.ts";

const entriesKeptMax = 20_000;

/**
 * What was seen as of now: the index of the last cut with what this view found laid over it, so that a later round, or
 * a path that is met twice, is compared with what the consumer was told last. Keeps at most `entriesKeptMax` paths:
 * memory must not grow with the tree. Beyond that it is `overflowed`, answers as of the last cut, and another round
 * has to start over.
 */
export class RoundIndex {
  readonly #base: SeenIndex;
  readonly #kept = new Map<StorePath, SeenEntry>();
  readonly #keptBelow = new Map<StorePath, Set<string>>();
  readonly #gone = new Set<StorePath>();
  readonly #emptyBase: boolean;
  #overflowed = false;

  constructor(base: SeenIndex, options: { empty?: boolean } = {}) {
    this.#base = base;
    this.#emptyBase = (options.empty ?? false) || !base.everCut();
  }

  get overflowed(): boolean {
    return this.#overflowed;
  }

  byPath(path: StorePath): SeenEntry | undefined {
    return this.#kept.get(path) ?? (this.#hidden(path) ? undefined : this.#base.byPath(path));
  }

  /** Children of a directory by name, in a map of the caller's own. */
  children(directory: StorePath): Map<string, SeenEntry> {
    const children = new Map<string, SeenEntry>();
    if (!this.#hidden(directory)) {
      for (const { name, entry } of this.#base.children(directory)) {
        if (this.#gone.size === 0 || !this.#gone.has(joinPath(directory, name))) children.set(name, entry);
      }
    }
    for (const name of this.#keptBelow.get(directory) ?? []) {
      const entry = this.#kept.get(joinPath(directory, name));
      if (entry !== undefined) children.set(name, entry);
    }
    return children;
  }

  /** Other paths that the last cut knew under this inode. */
  pathsOfInode(inode: number): StorePath[] {
    return this.#emptyBase ? [] : (this.#base.pathsOfInode?.(inode) ?? []);
  }

  found(path: StorePath, entry: Entry): void {
    if (!this.#mayKeep()) return;
    const { type, mode, uid, gid, mtimeUs, size, target, seen } = entry;
    this.#kept.set(path, { object: 0, type, mode, uid, gid, mtimeUs, size, target, seen });
    // Up to the root, so that `gone` of any directory above finds it.
    for (let child = path; child !== ""; child = parentPath(child)) {
      const directory = parentPath(child);
      const names = this.#keptBelow.get(directory);
      names?.add(baseName(child));
      if (names !== undefined) break;
      this.#keptBelow.set(directory, new Set([baseName(child)]));
    }
  }

  gone(path: StorePath): void {
    if (!this.#mayKeep()) return;
    this.#forget(path);
    this.#gone.add(path);
  }

  #forget(path: StorePath): void {
    this.#kept.delete(path);
    this.#keptBelow.get(parentPath(path))?.delete(baseName(path));
    for (const name of this.#keptBelow.get(path) ?? []) this.#forget(joinPath(path, name));
    this.#keptBelow.delete(path);
  }

  #hidden(path: StorePath): boolean {
    if (this.#emptyBase) return true;
    if (this.#gone.size === 0) return false;
    if (this.#gone.has(path)) return true;
    for (const directory of ancestorsOf(path)) if (this.#gone.has(directory)) return true;
    return false;
  }

  #mayKeep(): boolean {
    if (this.#overflowed) return false;
    if (this.#kept.size + this.#gone.size < entriesKeptMax) return true;
    this.#overflowed = true;
    this.#kept.clear();
    this.#keptBelow.clear();
    this.#gone.clear();
    return false;
  }
}
