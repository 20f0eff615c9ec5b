import { joinPath } from "../../shared/catalog/manifest.ts";
import { dropNote, keepNote, noteOf } from "../../shared/catalog/notes.ts";
import { isSystemError } from "../../shared/errors.ts";
import type { Extent, ObjectRow } from "../../shared/wire/messages.ts";
import type { ObjectId, Seq, StorePath } from "../../shared/words.ts";
import { putSeen } from "../apply/seen.ts";
import { stampsOf } from "../apply/stamps.ts";
import { homeOf, objectFileName, type ReplicaContext } from "../replica-context.ts";
import type { SafeTree } from "../safe-tree.ts";
import { setMetaAsPermitted } from "../set-meta.ts";
import type { StoreHome } from "../store-home.ts";

/** Bytes that wait in memory for the rows of their objects. */
const heldBytesMax = 8 * 1024 * 1024;
const chunkBytes = 1024 * 1024;
/** Objects that wait, with bytes or without. */
const heldObjectsMax = 8192;

/** A new file or symlink that waits in memory until it is known where it belongs. */
export interface Held {
  readonly store: number;
  readonly blockSize: number;
  readonly extents: { readonly offset: number; readonly bytes: Uint8Array }[];
  length: number;
  /** Once it has come. */
  row: ObjectRow | undefined;
}

/**
 * A first copy as it grows beside the copy: what is small is created in its place at once, with its meta, and apply has
 * only to rename what lies at the top. Everything here is of the cut that is being received, the first one that this node
 * ever has: when its session breaks, all of it is removed.
 *
 * An object is *built* when it has a row in `seen`; all of its paths are in the tree then, and nothing of it is
 * in staging. Whatever happens to a built object a second time within the cut takes it back to staging, where everything
 * else waits for apply.
 */
export class FirstTree {
  readonly #context: ReplicaContext;
  readonly #seq: Seq;
  readonly #held = new Map<ObjectId, Held>();
  /** A frame's own memory goes back to the link as soon as the frame was taken. */
  readonly #memory: Uint8Array[] = [];
  #heldBytes = 0;
  #chunk = 0;
  #used = 0;
  /** Directories that lost their name at some time. */
  readonly #doubtful = new Map<number, Set<StorePath>>();
  readonly #gaveBack: (object: ObjectId, store: number) => void;
  /** Built objects whose owner or mode this process may not set. */
  metadataPartial = 0;

  /** `gaveBack` is told of each file that was built and lies in staging again. */
  constructor(context: ReplicaContext, seq: Seq, gaveBack: (object: ObjectId, store: number) => void) {
    this.#context = context;
    this.#seq = seq;
    this.#gaveBack = gaveBack;
  }

  takes(store: number): boolean {
    return homeOf(this.#context, store).placement.shape === "tree";
  }

  /** Too much waits: everything has to go to staging. */
  get full(): boolean {
    return this.#heldBytes > heldBytesMax || this.#held.size > heldObjectsMax;
  }

  get held(): Iterable<ObjectId> {
    return this.#held.keys();
  }

  /** Keeps the bytes of a new object; false when it is too large, or is being written again. */
  hold({ object, offset, length, zero, blockSize }: Extent, store: number, bytes: Uint8Array): boolean {
    const held = this.#held.get(object) ?? { store, blockSize, extents: [], length: 0, row: undefined };
    if (held.row !== undefined || held.length + length > this.#context.limits.builtBytesMax) return false;
    held.length += length;
    if (!zero) {
      held.extents.push({ offset, bytes: this.#ownCopy(bytes) });
    }
    this.#held.set(object, held);
    return true;
  }

  /** The row of a new file or symlink: all of its bytes have come. */
  row(row: ObjectRow, store: number): void {
    const held = this.#held.get(row.object);
    if (held === undefined)
      this.#held.set(row.object, { store, blockSize: row.blockSize, extents: [], length: 0, row });
    else held.row = row;
  }

  /** Forgets what waits of an object, and gives it. */
  release(object: ObjectId): Held | undefined {
    const held = this.#held.get(object);
    this.#held.delete(object);
    if (this.#held.size === 0) {
      this.#heldBytes = 0;
      this.#chunk = 0;
      this.#used = 0;
    }
    return held;
  }

  /** In memory that is used again as soon as nothing waits any more. */
  #ownCopy(bytes: Uint8Array): Uint8Array {
    if (this.#used + bytes.length > chunkBytes) {
      this.#chunk++;
      this.#used = 0;
    }
    const chunk = this.#memory[this.#chunk] ?? new Uint8Array(Math.max(chunkBytes, bytes.length));
    this.#memory[this.#chunk] = chunk;
    const copy = chunk.subarray(this.#used, this.#used + bytes.length);
    copy.set(bytes);
    this.#used += bytes.length;
    this.#heldBytes += bytes.length;
    return copy;
  }

  /** A directory has this path now. */
  makeDirectory(store: number, path: StorePath): void {
    const home = homeOf(this.#context, store);
    this.#intoPlace(home, path, (directory, name) => this.#context.disk.makeDirectory(directory, name, 0o700), true);
  }

  /**
   * A file or symlink has this path now. False when it could not be put there: it waits for apply, and what is held of
   * it goes to staging.
   */
  place(store: number, path: StorePath, object: ObjectId): boolean {
    const home = homeOf(this.#context, store);
    const row = this.#held.get(object)?.row;
    if (row === undefined) return this.#placeAgain(home, path, object);
    const held = this.#held.get(object)!;
    const build = row.type === "symlink" ? this.#buildSymlink : this.#buildFile;
    if (!this.#intoPlace(home, path, (directory, name) => build.call(this, home, directory, name, held, row)))
      return false;
    this.release(object);
    return true;
  }

  /** Nothing of this cut has this path any more. */
  vacate(store: number, path: StorePath): void {
    const { manifest } = this.#context;
    const before = manifest.objectAtPath(store, path, this.#seq);
    if (before === undefined) return;
    if (manifest.object(before, this.#seq)?.type !== "directory") {
      this.giveBack(before);
      return;
    }
    const paths = this.#doubtful.get(store) ?? new Set();
    this.#doubtful.set(store, paths.add(path));
  }

  /** Takes a thing that was built out of the tree: a file goes to staging, a symlink is made again by apply. */
  giveBack(object: ObjectId): void {
    const { catalog, disk, manifest } = this.#context;
    const seen = catalog.get("SELECT store, inode FROM seen WHERE object = ?", object);
    if (seen === undefined) return;
    const store = Number(seen.store);
    const home = homeOf(this.#context, store);
    let moved = false;
    for (const { path } of manifest.pathsOf(object, this.#seq)) {
      const place = home.firstTree.place(path);
      const stat = place === undefined ? undefined : disk.stat(place.directory, place.name);
      if (place === undefined || stat === undefined || stat.inode !== Number(seen.inode)) continue;
      if (moved || stat.type !== "file") {
        disk.unlink(place.directory, place.name);
      } else {
        disk.rename(place.directory, place.name, home.staging, objectFileName(object));
        moved = true;
      }
    }
    catalog.run("DELETE FROM seen WHERE object = ?", object);
    if (!moved) return;
    catalog.run(
      "INSERT OR REPLACE INTO staged (object, store, seq, block_size) VALUES (?,?,?,?)",
      object,
      store,
      this.#seq,
      manifest.object(object, this.#seq)?.blockSize ?? 0,
    );
    this.#gaveBack(object, store);
  }

  /** The cut has come whole and its shape was checked: what has no path any more is not wanted. */
  end(): void {
    const { disk, manifest } = this.#context;
    this.#held.clear();
    for (const [store, paths] of this.#doubtful) {
      const { firstTree } = homeOf(this.#context, store);
      firstTree.forget();
      // What is below a directory sorts behind it.
      for (const path of [...paths].sort().reverse()) {
        const now = manifest.objectAtPath(store, path, this.#seq);
        if (now !== undefined && manifest.object(now, this.#seq)?.type === "directory") continue;
        firstTree.forget();
        const place = firstTree.place(path);
        if (place !== undefined && disk.stat(place.directory, place.name)?.type === "directory")
          disk.removeDirectory(place.directory, place.name);
      }
    }
    for (const { firstTree } of this.#context.homes.values()) firstTree.forget();
  }

  #placeAgain(home: StoreHome, path: StorePath, object: ObjectId): boolean {
    const { disk, manifest } = this.#context;
    const source = (): { directory: Parameters<typeof disk.link>[0]; name: string } | undefined => {
      if (!this.#isBuilt(object)) return undefined;
      const [first] = manifest.pathsOf(object, this.#seq);
      return first === undefined ? undefined : home.firstTree.place(first.path);
    };
    if (source() === undefined) {
      // It waits in staging; what it takes the name from must not be found there by apply.
      this.vacate(home.number, path);
      return false;
    }
    const linked = this.#intoPlace(home, path, (directory, name) => {
      // What had the name may have been this very object.
      const from = source();
      if (from === undefined) return;
      disk.link(from.directory, from.name, directory, name);
      putSeen(this.#context, object, home.number, stampsOf(disk.stat(directory, name)!));
    });
    if (!linked) this.giveBack(object);
    return this.#isBuilt(object);
  }

  #isBuilt(object: ObjectId): boolean {
    return this.#context.catalog.get("SELECT 1 AS found FROM seen WHERE object = ?", object) !== undefined;
  }

  /** Runs `put`, which fails with EEXIST where there is something; false when it cannot be there, now or ever. */
  #intoPlace(
    home: StoreHome,
    path: StorePath,
    put: (directory: NonNullable<ReturnType<SafeTree["directory"]>>, name: string) => void,
    directory = false,
  ): boolean {
    const { disk } = this.#context;
    for (let attempt = 0; ; attempt++) {
      const place = home.firstTree.place(path);
      if (place === undefined) return false;
      try {
        put(place.directory, place.name);
        return true;
      } catch (error) {
        if (!isSystemError(error, "EEXIST")) throw error;
        if (directory && disk.stat(place.directory, place.name)?.type === "directory") return true;
        if (attempt > 0) return false;
        this.vacate(home.number, path);
      }
    }
  }

  #buildFile(
    home: StoreHome,
    directory: NonNullable<ReturnType<SafeTree["directory"]>>,
    name: string,
    { extents }: Held,
    row: ObjectRow,
  ): void {
    const { disk } = this.#context;
    const { owners } = home.placement;
    const file = disk.openFile(directory, name, "create", row.mode & 0o777);
    try {
      let end = 0;
      for (const { offset, bytes } of extents) {
        disk.write(file, bytes, offset);
        end = Math.max(end, offset + bytes.length);
      }
      if (end !== row.size) disk.truncate(file, row.size);
      disk.setFileMeta(file, { mtimeUs: row.mtimeUs });
      let stat = disk.statFile(file);
      // Most are ours already, with the mode that they were created with.
      const owned = owners === "ignore" || (stat.uid === row.uid && stat.gid === row.gid);
      if (!owned || stat.mode !== row.mode) {
        if (!setMetaAsPermitted((meta) => disk.setFileMeta(file, meta), row, owners)) this.metadataPartial++;
        stat = disk.statFile(file);
      }
      putSeen(this.#context, row.object, home.number, stampsOf(stat));
    } finally {
      disk.closeFile(file);
    }
  }

  #buildSymlink(
    home: StoreHome,
    directory: NonNullable<ReturnType<SafeTree["directory"]>>,
    name: string,
    _held: Held,
    row: ObjectRow,
  ): void {
    const { disk } = this.#context;
    disk.makeSymlink(directory, name, row.target);
    if (!setMetaAsPermitted((meta) => disk.setMeta(directory, name, meta), row, home.placement.owners))
      this.metadataPartial++;
    putSeen(this.#context, row.object, home.number, stampsOf(disk.stat(directory, name)!));
  }
}

/** Removes what a first cut that never was has built. */
export function clearFirstTrees({ disk, homes }: ReplicaContext): void {
  for (const { firstTree } of homes.values()) {
    firstTree.forget();
    const directories: StorePath[] = ["" as StorePath];
    for (let index = 0; index < directories.length; index++) {
      const path = directories[index]!;
      const directory = firstTree.directory(path);
      if (directory === undefined) continue;
      for (const name of disk.list(directory)) {
        if (disk.stat(directory, name)?.type === "directory") directories.push(joinPath(path, name));
        else disk.unlink(directory, name);
      }
    }
    for (const path of directories.slice(1).reverse()) {
      firstTree.forget();
      const place = firstTree.place(path);
      if (place !== undefined) disk.removeDirectory(place.directory, place.name);
    }
    firstTree.forget();
  }
}

/** Written with the cut, for apply to tell. */
export function rememberPartial({ catalog }: ReplicaContext, objects: number): void {
  if (objects > 0) keepNote(catalog, "firstTreePartial", objects);
}

/** How many objects were built whose owner or mode this process may not set; asked once. */
export function takePartial({ catalog }: ReplicaContext): number {
  const objects = noteOf(catalog, "firstTreePartial");
  if (objects !== undefined) dropNote(catalog, "firstTreePartial");
  return Number(objects ?? 0);
}
