import { type ObjectVersion, splitPath } from "../../shared/catalog/manifest.ts";
import { isSystemError } from "../../shared/errors.ts";
import type { Directory } from "../../shared/ports/disk.ts";
import type { ObjectId, StorePath } from "../../shared/words.ts";
import { isDamaged } from "../repair/damage.ts";
import { moveToStrangers } from "../repair/put-aside.ts";
import { homeOf, objectFileName, type ReplicaContext } from "../replica-context.ts";
import { setMetaAsPermitted } from "../set-meta.ts";
import type { StoreHome } from "../store-home.ts";
import { failing } from "../sync.ts";
import { ForeignChange, inodeOf, locateOrFail, locatePrivate } from "./locate.ts";
import { PayloadReader } from "./payload-reader.ts";
import {
  type Batch,
  builtAtTop,
  type ChangedObject,
  type ChangedPath,
  onlyBorn,
  pendingExtents,
  stagedAt,
} from "./plan-batch.ts";
import { type Stamps, stampsOf } from "./stamps.ts";
import { writeZeros } from "./write-zeros.ts";

/** Who is quicker than that with files in our way does it on purpose. */
const putAsideRoundsMax = 8;

/** What the writing found and left. */
export interface Written {
  /**
   * Of every object that was touched and still has a path, for the catalog's `seen`; looked at while it is asked for,
   * once, since a first copy may have any number of them.
   */
  readonly seen: Iterable<{ readonly object: ObjectId; readonly store: number; readonly stat: Stamps }>;
  readonly kept: readonly { readonly object: ObjectId; readonly store: number; readonly bytes: number }[];
  /** Strangers' files that stood in the way and were put aside, as paths in the copy. */
  readonly strangers: readonly string[];
  /** Objects whose owner or mode this process may not set. */
  readonly metadataPartial: number;
}

/**
 * Writes a batch into the copy. Every step looks at what is there, by inode, before it acts: run again from its start
 * after a crash anywhere in it, it ends the same.
 */
export function writeCopy(context: ReplicaContext, batch: Batch, keepHistory: boolean, redo: boolean): Written {
  return new CopyWriter(context, batch, keepHistory, redo).run();
}

type PrivateDirectory = "staging" | "first" | "limbo" | "kept" | "strangers";

class CopyWriter {
  readonly #context: ReplicaContext;
  readonly #batch: Batch;
  readonly #keepHistory: boolean;
  readonly #redo: boolean;
  /** Per store, what must be synced: directories by path in the tree, how many files, and whether symlinks. */
  readonly #directories = new Map<number, Set<StorePath>>();
  readonly #files = new Map<number, number>();
  readonly #symlinks = new Set<number>();
  readonly #privateTouched = new Map<number, Set<PrivateDirectory>>();
  readonly #strangers: string[] = [];
  #metadataPartial = 0;
  #vacated = false;
  /** A stranger's file was put aside since the last sync. */
  #aside = false;

  constructor(context: ReplicaContext, batch: Batch, keepHistory: boolean, redo: boolean) {
    this.#context = context;
    this.#batch = batch;
    this.#keepHistory = keepHistory;
    this.#redo = redo;
  }

  run(): Written {
    const { paths, objects } = this.#batch;
    if (this.#batch.from === 0n) this.#takeFirstTrees();
    for (const path of paths) this.#vacate(path);
    // A name that moved to limbo must be there for good before another file takes its place: a disk may keep the
    // second rename and lose the first.
    if (this.#vacated) this.#sync();
    const byDepth = [...paths].sort((a, b) => depth(a.path) - depth(b.path));
    for (const path of byDepth.toReversed()) this.#removeDirectory(path);
    this.#settleAside();
    for (const path of byDepth) this.#makeDirectory(path);
    for (const changed of objects) if (changed.type === "file") this.#writeExtents(changed);
    this.#placeAll(paths);
    for (const path of paths) this.#dropSpareLink(path);
    const kept = objects.flatMap((changed) => this.#retire(changed));
    for (const changed of objects) if (changed.type !== "directory") this.#setMeta(changed);
    for (const changed of objects) if (changed.type === "directory") this.#setMeta(changed);
    this.#sync();
    return { seen: this.#look(), kept, strangers: this.#strangers, metadataPartial: this.#metadataPartial };
  }

  /** What was built of a first copy is renamed into the empty copy. */
  #takeFirstTrees(): void {
    const { disk } = this.#context;
    for (const home of this.#context.homes.values()) {
      const { root: from } = home.firstTree;
      const { root } = home.tree;
      home.firstTree.forget();
      const names = disk.list(from);
      for (const name of names) if (disk.stat(root, name) !== undefined) this.#putAside(home, name as StorePath);
      this.#settleAside();
      for (const name of names) disk.rename(from, name, root, name);
      if (names.length === 0) continue;
      this.#touchDirectory(home.number, "" as StorePath);
      this.#touchPrivate(home.number, "first");
    }
  }

  /** Takes away the file or symlink that loses this name: to limbo, since another path may want it, or wants it still. */
  #vacate({ store, path, before, after }: ChangedPath): void {
    if (before === undefined || before.type === "directory") return;
    const { disk } = this.#context;
    const home = homeOf(this.#context, store);
    const place = home.tree.place(path);
    if (place === undefined) return;
    const stat = disk.stat(place.directory, place.name);
    // A directory here is what came after the file, and may have its number if the file is gone for good.
    if (stat === undefined || stat.type === "directory") return;
    if (after !== undefined && stat.inode === inodeOf(this.#context, after.object)) return;
    if (stat.inode !== inodeOf(this.#context, before.object)) {
      // Neither what was here nor what comes: somebody else's, or what a renewed object had until he came.
      this.#putAside(home, path);
      this.#vacated = true;
      return;
    }
    const name = objectFileName(before.object);
    if (disk.stat(home.limbo, name)?.inode === stat.inode) {
      // A rename of one link over another of the same file does nothing: POSIX. The name goes by itself.
      disk.unlink(place.directory, place.name);
    } else {
      disk.rename(place.directory, place.name, home.limbo, name);
    }
    this.#touchPrivate(store, "limbo");
    this.#touchParent(store, path);
    this.#vacated = true;
  }

  #removeDirectory({ store, path, before, after }: ChangedPath): void {
    if (before?.type !== "directory" || after?.type === "directory") return;
    const { disk } = this.#context;
    const home = homeOf(this.#context, store);
    home.tree.forget();
    const place = home.tree.place(path);
    if (place === undefined || disk.stat(place.directory, place.name)?.type !== "directory") return;
    try {
      disk.removeDirectory(place.directory, place.name);
    } catch (error) {
      if (!isSystemError(error, "ENOTEMPTY", "EEXIST")) throw error;
      this.#putAside(home, path);
    }
    this.#touchParent(store, path);
  }

  #makeDirectory({ store, path, after }: ChangedPath): void {
    if (after?.type !== "directory" || path === "") return;
    const { disk } = this.#context;
    const home = homeOf(this.#context, store);
    let place = this.#placeOf(home, path);
    const stat = disk.stat(place.directory, place.name);
    if (stat?.type === "directory") return;
    if (stat !== undefined) {
      this.#putAside(home, path);
      this.#settleAside();
      place = this.#placeOf(home, path);
    }
    disk.makeDirectory(place.directory, place.name, 0o700);
    this.#touchParent(store, path);
    this.#touchDirectory(store, path);
  }

  #writeExtents(changed: ChangedObject): void {
    const { disk } = this.#context;
    const { object, store } = changed;
    // Nobody wants its last bytes, and before a crash it may have been removed already.
    if (changed.after === undefined && !this.#keepHistory) return;
    if (onlyBorn(changed)) return;
    // What was there at the birth is in the materialized file already.
    const birth = stagedAt(changed)?.seq;
    const after = birth ?? this.#batch.from;
    const steps = changed.steps.filter((step) => step.seq > after && step.version !== undefined);
    const extents = [...pendingExtents(this.#context, object, after, this.#batch.to)];
    const sizeBefore =
      birth === undefined ? changed.before?.size : changed.steps.find((step) => step.seq === birth)?.version?.size;
    if (steps.length === 0) return;
    if (extents.length === 0 && steps.every((step) => step.version?.size === sizeBefore)) return;
    const found = locateOrFail(this.#context, object, store, this.#batch.from, this.#batch.to);
    // As it is: what a run before a crash left, or a stranger where that is accepted, may be shorter or longer.
    let { size } = found.stat;
    using payloads = new PayloadReader(this.#context);
    const file = disk.openFile(found.directory, found.name, "write");
    try {
      for (const step of steps) {
        const target = step.version!.size;
        // In the order of the cuts, since what is cut off and grown again in a later cut reads as zeros.
        if (target !== size) disk.truncate(file, target);
        size = target;
        for (const extent of extents) {
          if (extent.seq !== step.seq) continue;
          if (extent.place === "zero")
            writeZeros(disk, file, extent.offset, Math.min(extent.length, target - extent.offset));
          else disk.write(file, payloads.read(store, extent), extent.offset);
        }
      }
      // What loses its last path is kept for recovery points and gets no meta: its bytes are synced here.
      if (changed.after === undefined) failing(() => disk.syncFile(file));
    } finally {
      disk.closeFile(file);
    }
  }

  /** Where a stranger's file was in the way, its name is taken only when that is put aside for good. */
  #placeAll(paths: readonly ChangedPath[]): void {
    let left = paths;
    for (let round = 0; left.length > 0; round++) {
      if (round > putAsideRoundsMax) throw new ForeignChange(`somebody puts files where ${left[0]?.path} belongs`);
      left = left.filter((path) => !this.#place(path));
      this.#settleAside();
    }
  }

  /** False when a stranger's file was put aside: to be called again. */
  #place({ store, path, after }: ChangedPath): boolean {
    if (after === undefined || after.type === "directory") return true;
    const { disk } = this.#context;
    const home = homeOf(this.#context, store);
    const place = this.#placeOf(home, path);
    const inode = inodeOf(this.#context, after.object);
    const stat = disk.stat(place.directory, place.name);
    if (stat !== undefined && stat.inode === inode) return true;
    if (stat !== undefined) {
      this.#putAside(home, path);
      return false;
    }
    const name = objectFileName(after.object);
    const found =
      disk.stat(home.staging, name)?.inode === inode
        ? { directory: home.staging, name, where: "staging" as const }
        : locateOrFail(this.#context, after.object, store, this.#batch.from, this.#batch.to);
    if (found.where === "tree") {
      disk.link(found.directory, found.name, place.directory, place.name);
    } else {
      disk.rename(found.directory, found.name, place.directory, place.name);
      this.#touchPrivate(store, found.where);
    }
    this.#touchParent(store, path);
    return true;
  }

  /** A hard link less: the name that went to limbo is not wanted, since the object has its other names still. */
  #dropSpareLink({ store, before }: ChangedPath): void {
    if (before === undefined || before.type === "directory") return;
    const { disk, manifest } = this.#context;
    if (!manifest.hasPath(before.object, this.#batch.to)) return;
    const { limbo } = homeOf(this.#context, store);
    const name = objectFileName(before.object);
    const stat = disk.stat(limbo, name);
    if (stat === undefined || stat.inode !== inodeOf(this.#context, before.object)) return;
    disk.unlink(limbo, name);
    this.#touchPrivate(store, "limbo");
  }

  /** An object without a path: kept whole while a recovery point may want it, else removed. */
  #retire(changed: ChangedObject): { object: ObjectId; store: number; bytes: number }[] {
    if (changed.after !== undefined || changed.type === "directory") return [];
    const { disk } = this.#context;
    const { object, store } = changed;
    // Its names are vacated. A file in the tree with its inode would be another's, which got the number of one that a
    // run before the crash removed.
    const found = locatePrivate(this.#context, object, store);
    if (found === undefined || found.where === "tree") return [];
    const home = homeOf(this.#context, store);
    this.#touchPrivate(store, found.where);
    if (changed.renewed === undefined && isDamaged(this.#context.catalog, object)) {
      // What a stranger made of it is not ours to remove.
      moveToStrangers(this.#context, home, found.directory, found.name);
      this.#strangers.push(this.#context.manifest.pathsOf(object, this.#batch.from)[0]?.path ?? "");
      this.#touchPrivate(store, "strangers");
      return [];
    }
    if (!this.#keepHistory) {
      disk.unlink(found.directory, found.name);
      return [];
    }
    if (found.where !== "kept") {
      disk.rename(found.directory, found.name, home.kept, objectFileName(object));
      this.#touchPrivate(store, "kept");
    }
    return [{ object, store, bytes: found.stat.size }];
  }

  #setMeta(changed: ChangedObject): void {
    const { after, object, store } = changed;
    if (after === undefined) return;
    const { disk } = this.#context;
    if (changed.type === "directory") {
      this.#setDirectoryMeta(changed, after);
      return;
    }
    // A file that was only born has had its meta since it was staged.
    if (onlyBorn(changed)) return;
    const place = locateOrFail(this.#context, object, store, this.#batch.from, this.#batch.to);
    const { owners } = homeOf(this.#context, store).placement;
    if (changed.type === "symlink") {
      if (!setMetaAsPermitted((meta) => disk.setMeta(place.directory, place.name, meta), after, owners))
        this.#metadataPartial++;
      this.#symlinks.add(store);
      return;
    }
    const file = disk.openFile(place.directory, place.name, "read");
    try {
      if (!setMetaAsPermitted((meta) => disk.setFileMeta(file, meta), after, owners)) this.#metadataPartial++;
      // A sync covers meta only through the handle that set it, and with it the data that was written before.
      const files = (this.#files.get(store) ?? 0) + 1;
      this.#files.set(store, files);
      if (files <= this.#context.limits.singleSyncsMax) failing(() => disk.syncFile(file));
    } finally {
      disk.closeFile(file);
    }
  }

  #setDirectoryMeta(changed: ChangedObject, after: ObjectVersion): void {
    const { disk, manifest } = this.#context;
    const home = homeOf(this.#context, changed.store);
    for (const { path } of manifest.pathsOf(changed.object, this.#batch.to)) {
      const directory = path === "" ? home.tree.root : home.tree.directory(path);
      if (directory === undefined) continue;
      if (!setMetaAsPermitted((meta) => disk.setDirectoryMeta(directory, meta), after, home.placement.owners))
        this.#metadataPartial++;
      this.#touchDirectory(changed.store, path);
    }
  }

  #sync(): void {
    const { disk, homes, limits } = this.#context;
    for (const home of homes.values()) {
      const directories = this.#directories.get(home.number) ?? new Set();
      const privates = this.#privateTouched.get(home.number) ?? new Set();
      const files = this.#files.get(home.number) ?? 0;
      const symlinks = this.#symlinks.has(home.number);
      if (directories.size + privates.size + files === 0 && !symlinks && !this.#redo) continue;
      failing(() => {
        // What a killed program did is found done and was perhaps never synced: nothing but the whole will do.
        if (this.#redo) {
          disk.syncFilesystem(home.home);
          return;
        }
        // Files up to the bound were synced through the handle that set their meta.
        if (directories.size > limits.singleSyncsMax || files > limits.singleSyncsMax || symlinks) {
          disk.syncFilesystem(home.home);
          return;
        }
        for (const path of directories) {
          const directory = home.tree.directory(path);
          if (directory !== undefined) disk.syncDirectory(directory);
        }
        for (const part of privates) disk.syncDirectory(part === "first" ? home.firstTree.root : home[part]);
      });
    }
    this.#directories.clear();
    this.#privateTouched.clear();
    this.#symlinks.clear();
    this.#files.clear();
  }

  /** How everything that was touched stands now: compared before it is touched the next time. */
  *#look(): Generator<{ object: ObjectId; store: number; stat: Stamps }> {
    const done = new Set<ObjectId>();
    const { from, to, paths, objects } = this.#batch;
    const lookAt = (object: ObjectId, store: number, path: StorePath): Stamps | undefined => {
      done.add(object);
      const stat = homeOf(this.#context, store).tree.stat(path);
      return stat && stampsOf(stat);
    };
    const look = (object: ObjectId, store: number): Stamps | undefined => {
      if (done.has(object)) return undefined;
      const entry = this.#context.manifest.pathsOf(object, to)[0];
      return entry && lookAt(object, store, homeOf(this.#context, store).local(entry.path));
    };
    // A hard link that came or went changes the ctime of an object whose row did not change.
    for (const { after, store, path } of paths) {
      if (after === undefined || done.has(after.object)) continue;
      const stat = lookAt(after.object, store, path);
      if (stat !== undefined) yield { object: after.object, store, stat };
    }
    for (const { before, store } of paths) {
      const stat = before && look(before.object, store);
      if (stat !== undefined) yield { object: before!.object, store, stat };
    }
    for (const { object, store } of objects) {
      const stat = look(object, store);
      if (stat !== undefined) yield { object, store, stat };
    }
    // A rename changes the ctime of what is renamed, and of nothing below it.
    if (from === 0n) {
      for (const row of builtAtTop(this.#context, to)) {
        const [object, store] = [Number(row.object) as ObjectId, Number(row.store)];
        const stat = homeOf(this.#context, store).tree.stat(String(row.name) as StorePath);
        if (stat !== undefined) yield { object, store, stat: stampsOf(stat) };
      }
    }
    for (const home of this.#context.homes.values()) home.tree.forget();
  }

  #placeOf(home: StoreHome, path: StorePath): { directory: Directory; name: string } {
    const place = home.tree.place(path);
    if (place !== undefined) return place;
    // A stranger replaced a directory on the way by something else: put it aside and make ours again.
    const { dir } = splitPath(path);
    let parent = this.#placeOf(home, dir as StorePath);
    const { disk } = this.#context;
    const stat = disk.stat(parent.directory, parent.name);
    if (stat !== undefined && stat.type !== "directory") {
      this.#putAside(home, dir as StorePath);
      this.#settleAside();
      parent = this.#placeOf(home, dir as StorePath);
    }
    if (stat?.type !== "directory") {
      disk.makeDirectory(parent.directory, parent.name, 0o755);
      this.#strangers.push(`${dir} (made again)`);
      this.#touchParent(home.number, dir as StorePath);
    }
    const again = home.tree.place(path);
    if (again === undefined) throw new ForeignChange(`somebody takes directory ${dir} away as soon as it is made`);
    return again;
  }

  /**
   * Moves a stranger's file or directory out of the way, never over anything, never away for good. Directories that were
   * open are closed, since one of them may be what goes: a place that the caller has is looked for anew.
   */
  #putAside(home: StoreHome, path: StorePath): void {
    const { disk } = this.#context;
    home.tree.forget();
    const place = home.tree.place(path);
    if (place === undefined) throw new ForeignChange(`somebody takes the directory of ${path} away while we look`);
    for (let attempt = 0; ; attempt++) {
      const name = `${this.#batch.to}-${attempt}`;
      if (disk.stat(home.strangers, name) !== undefined) continue;
      disk.rename(place.directory, place.name, home.strangers, name);
      break;
    }
    this.#strangers.push(path);
    this.#touchPrivate(home.number, "strangers");
    this.#touchParent(home.number, path);
    this.#aside = true;
  }

  /** As with what is vacated: what was put aside must be there for good before something else takes its name. */
  #settleAside(): void {
    if (!this.#aside) return;
    this.#aside = false;
    this.#sync();
  }

  #touchParent(store: number, path: StorePath): void {
    this.#touchDirectory(store, splitPath(path).dir as StorePath);
  }

  #touchDirectory(store: number, path: StorePath): void {
    let paths = this.#directories.get(store);
    if (paths === undefined) {
      paths = new Set();
      this.#directories.set(store, paths);
    }
    paths.add(path);
  }

  #touchPrivate(store: number, part: PrivateDirectory): void {
    let parts = this.#privateTouched.get(store);
    if (parts === undefined) {
      parts = new Set();
      this.#privateTouched.set(store, parts);
    }
    parts.add(part);
  }
}

function depth(path: StorePath): number {
  let count = path === "" ? 0 : 1;
  for (let i = 0; i < path.length; i++) if (path.charCodeAt(i) === 0x2f) count++;
  return count;
}
