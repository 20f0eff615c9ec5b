import { splitPath } from "../shared/catalog/manifest.ts";
import { isSystemError } from "../shared/errors.ts";
import type { Directory, Disk, Stat } from "../shared/ports/disk.ts";
import type { StorePath } from "../shared/words.ts";

/**
 * A copy's tree, entered only through directories that were opened one by one without following symlinks. Keeps the
 * directories that it opened until `forget`, which the caller calls before a directory is removed or replaced.
 */
export class SafeTree {
  readonly disk: Disk;
  readonly root: Directory;
  readonly #open = new Map<StorePath, Directory>();
  static readonly openMax = 256;

  constructor(disk: Disk, root: Directory) {
    this.disk = disk;
    this.root = root;
  }

  /** The directory at `path`; undefined when it, or something on the way, is not a directory. */
  directory(path: StorePath): Directory | undefined {
    if (path === "") return this.root;
    const known = this.#open.get(path);
    if (known !== undefined) {
      // Used last, closed last: a caller may hold two at once.
      this.#open.delete(path);
      this.#open.set(path, known);
      return known;
    }
    const { dir, name } = splitPath(path);
    const parent = this.directory(dir as StorePath);
    if (parent === undefined) return undefined;
    try {
      const opened = this.disk.openDirectory(parent, name);
      if (this.#open.size >= SafeTree.openMax) this.#closeOldest();
      this.#open.set(path, opened);
      return opened;
    } catch (error) {
      // A missing parent or a stranger's symlink or file in its place: the caller decides, nothing is followed.
      if (isSystemError(error, "ENOENT", "ENOTDIR", "ELOOP")) return undefined;
      throw error;
    }
  }

  /** Where a path lies: the opened parent and the name in it. */
  place(path: StorePath): { directory: Directory; name: string } | undefined {
    const { dir, name } = splitPath(path);
    const directory = this.directory(dir as StorePath);
    return directory === undefined ? undefined : { directory, name };
  }

  stat(path: StorePath): Stat | undefined {
    if (path === "") return this.disk.statDirectory(this.root);
    const place = this.place(path);
    return place === undefined ? undefined : this.disk.stat(place.directory, place.name);
  }

  forget(): void {
    for (const directory of this.#open.values()) this.disk.closeDirectory(directory);
    this.#open.clear();
  }

  #closeOldest(): void {
    // Whoever holds a directory uses it at once and does not keep it, so the oldest half can go.
    let count = SafeTree.openMax / 2;
    for (const [path, directory] of this.#open) {
      if (count-- <= 0) break;
      this.disk.closeDirectory(directory);
      this.#open.delete(path);
    }
  }
}
