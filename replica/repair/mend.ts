import { type ObjectVersion, splitPath } from "../../shared/catalog/manifest.ts";
import { systemError } from "../../shared/durable/system-error.ts";
import { blockHash, blocksPerRun, equalBytes, hashInRun, isZero } from "../../shared/manifest/block-hash.ts";
import type { Directory, Disk, Stat } from "../../shared/ports/disk.ts";
import type { ObjectId, Seq, StorePath } from "../../shared/words.ts";
import { openReadable } from "../apply/holds-content.ts";
import { type Located, locate } from "../apply/locate.ts";
import { putSeen } from "../apply/seen.ts";
import { stampsOf } from "../apply/stamps.ts";
import { homeOf, objectFileName, type ReplicaContext } from "../replica-context.ts";
import { setMetaAsPermitted } from "../set-meta.ts";
import type { StoreHome } from "../store-home.ts";
import { failing } from "../sync.ts";
import { askFor, clearDamage, type Damage, settleSuspect } from "./damage.ts";
import { moveToStrangers } from "./put-aside.ts";

/** `asked`: only the primary has its bytes. `again`: somebody changes it while we look. */
export type Mended = "mended" | "asked" | "again" | "lost";

/** Bytes that are compared in one step, between which others may work. */
const pieceBytesMax = 1024 * 1024;

/**
 * Mends one damaged object from what this node has: a file whose content still is what the manifest says, an empty file,
 * a directory or a symlink gets its place and its meta again; only bytes that are gone have to come from the primary.
 * What a stranger put in its place goes aside.
 *
 * Nothing here needs the mark: until the last transaction the object counts as damaged, each step looks at what is there,
 * and begun anew after a crash it ends the same.
 */
export function* mend(context: ReplicaContext, damage: Damage): Generator<void, Mended> {
  const { catalog, manifest } = context;
  const { object, store } = damage;
  const home = homeOf(context, store);
  home.tree.forget();
  const { applied } = catalog.standing;
  const version = manifest.object(object, applied);
  if (version === undefined) return forgetKept(context, damage, home);
  switch (version.type) {
    case "directory":
      mendDirectory(context, home, damage, applied);
      return "mended";
    case "symlink":
      mendSymlink(context, home, version, applied);
      return "mended";
    case "file":
      return yield* mendFile(context, home, version, applied);
  }
}

function* mendFile(
  context: ReplicaContext,
  home: StoreHome,
  version: ObjectVersion,
  applied: Seq,
): Generator<void, Mended> {
  const { object } = version;
  const found = locate(context, object, home.number, applied, applied);
  const empty = isZero(version.content);
  if (found === undefined && !empty) {
    askFor(context, object);
    return "asked";
  }
  if (found !== undefined) {
    const same = yield* comparing(context, found, version, applied);
    // Apply may have come to the cut that renews it.
    if (context.catalog.standing.applied !== applied) return "again";
    if (same === "moved") return "again";
    if (same === "equal") {
      settle(context, home, version, applied, found);
      return "mended";
    }
    if (!empty) {
      askFor(context, object);
      return "asked";
    }
  }
  settle(context, home, version, applied, makeEmpty(context, home, version));
  return "mended";
}

/** Compares a whole file with the manifest, in pieces. */
function* comparing(
  context: ReplicaContext,
  found: Located,
  version: ObjectVersion,
  at: Seq,
): Generator<void, "equal" | "differs" | "moved"> {
  const { disk, manifest } = context;
  const { object, blockSize, size } = version;
  if (found.stat.type !== "file" || found.stat.size !== size) return "differs";
  const file = openReadable(disk, found.directory, found.name);
  if (file === undefined) return "differs";
  try {
    const bytes = new Uint8Array(Math.min(Math.max(size, 1), Math.max(blockSize, pieceBytesMax)));
    let run = -1;
    let hashes: Uint8Array | undefined;
    for (let start = 0; start < size; start += bytes.length) {
      const length = disk.read(file, bytes, 0, Math.min(bytes.length, size - start), start);
      for (let offset = 0; offset < length; offset += blockSize) {
        const block = (start + offset) / blockSize;
        if (Math.floor(block / blocksPerRun) !== run) {
          run = Math.floor(block / blocksPerRun);
          hashes = manifest.run(object, run, at);
        }
        const actual = blockHash(bytes.subarray(offset, Math.min(offset + blockSize, length)));
        if (!equalBytes(actual, hashInRun(hashes, block % blocksPerRun))) return "differs";
      }
      yield;
    }
    return unmoved(found.stat, disk.statFile(file)) ? "equal" : "moved";
  } finally {
    disk.closeFile(file);
  }
}

function unmoved(before: Stat, after: Stat): boolean {
  return before.size === after.size && before.mtimeNs === after.mtimeNs && before.ctimeNs === after.ctimeNs;
}

/** A new file of nothing but zeros, in staging, until it gets its place. */
function makeEmpty({ disk }: ReplicaContext, home: StoreHome, version: ObjectVersion): Located {
  const name = objectFileName(version.object);
  if (disk.stat(home.staging, name) !== undefined) disk.unlink(home.staging, name);
  const file = disk.openFile(home.staging, name, "create");
  try {
    disk.truncate(file, version.size);
    failing(() => disk.syncFile(file));
  } finally {
    disk.closeFile(file);
  }
  return { directory: home.staging, name, where: "staging", stat: statOf(disk, { directory: home.staging, name }) };
}

/** Gives a file whose content is right all of its names, and its meta; syncs it, and knows it from here on as it is. */
function settle(context: ReplicaContext, home: StoreHome, version: ObjectVersion, applied: Seq, found: Located): void {
  const { disk, manifest } = context;
  const { object } = version;
  const aside: string[] = [];
  const parents = new Set<StorePath>();
  const paths = manifest.pathsOf(object, applied).map(({ path }) => home.local(path));
  // By its path, and not by the opened directory: what is put aside may be one that is open.
  let held = paths.find((path) => home.tree.stat(path)?.inode === found.stat.inode);
  for (const path of paths) {
    if (home.tree.stat(path)?.inode === found.stat.inode) continue;
    // Before anything is put aside for it.
    if (held === undefined) insistOutsideTree(found);
    const place = clearPlace(context, home, path, applied, aside);
    const source = held === undefined ? found : placeOf(home, held);
    if (held === undefined) disk.rename(source.directory, source.name, place.directory, place.name);
    else disk.link(source.directory, source.name, place.directory, place.name);
    held ??= path;
    parents.add(splitPath(path).dir as StorePath);
  }
  const place = placeOf(home, paths[0]!);
  const file = disk.openFile(place.directory, place.name, "read");
  try {
    setMetaAsPermitted((meta) => disk.setFileMeta(file, meta), version, home.placement.owners);
    failing(() => disk.syncFile(file));
  } finally {
    disk.closeFile(file);
  }
  syncPlaces(context, home, parents, aside);
  finish(context, home, object, statOf(disk, place), aside);
}

function mendSymlink(context: ReplicaContext, home: StoreHome, version: ObjectVersion, applied: Seq): void {
  const { disk, manifest } = context;
  const aside: string[] = [];
  let held: StorePath | undefined;
  for (const path of manifest.pathsOf(version.object, applied).map((entry) => home.local(entry.path))) {
    const stat = home.tree.stat(path);
    const there = home.tree.place(path);
    const same =
      stat?.type === "symlink" &&
      there !== undefined &&
      disk.readSymlink(there.directory, there.name) === version.target &&
      (held === undefined || stat.inode === home.tree.stat(held)?.inode);
    if (!same) {
      const place = clearPlace(context, home, path, applied, aside);
      const first = held === undefined ? undefined : placeOf(home, held);
      if (first === undefined) disk.makeSymlink(place.directory, place.name, version.target);
      else disk.link(first.directory, first.name, place.directory, place.name);
    }
    held ??= path;
  }
  const place = held === undefined ? undefined : home.tree.place(held);
  if (place === undefined) return;
  setMetaAsPermitted((meta) => disk.setMeta(place.directory, place.name, meta), version, home.placement.owners);
  failing(() => disk.syncFilesystem(home.home));
  finish(context, home, version.object, statOf(disk, place), aside);
}

function mendDirectory(context: ReplicaContext, home: StoreHome, { object }: Damage, applied: Seq): void {
  const aside: string[] = [];
  let stat: Stat | undefined;
  for (const { path } of context.manifest.pathsOf(object, applied)) {
    if (path !== "") ensureDirectory(context, home, path, applied, aside);
    stat = home.tree.stat(path);
  }
  failing(() => context.disk.syncFilesystem(home.home));
  if (stat !== undefined) finish(context, home, object, stat, aside);
}

/** Of a file that only recovery points wanted: they lack it from here on, and a restore of them says so. */
function forgetKept(context: ReplicaContext, { object, what }: Damage, home: StoreHome): Mended {
  const { catalog, disk } = context;
  const name = objectFileName(object);
  const aside: string[] = [];
  const row = catalog.get("SELECT died FROM kept WHERE object = ?", object);
  const seen = catalog.get("SELECT inode FROM seen WHERE object = ?", object);
  const stat = disk.stat(home.kept, name);
  const lost = row !== undefined && stat?.inode !== Number(seen?.inode);
  if (lost && stat !== undefined) {
    aside.push(moveToStrangers(context, home, home.kept, name));
    failing(() => disk.syncFilesystem(home.home));
  }
  catalog.transaction("mended", () => {
    if (lost) {
      catalog.run("DELETE FROM kept WHERE object = ?", object);
      catalog.run("DELETE FROM seen WHERE object = ?", object);
      catalog.event("history.lost", { object, before: Number(row.died), what }, context.nowUs());
    }
    clearDamage(catalog, object);
    settleSuspect(catalog);
  });
  return lost ? "lost" : "mended";
}

function finish(
  context: ReplicaContext,
  home: StoreHome,
  object: ObjectId,
  stat: Stat,
  aside: readonly string[],
): void {
  const { catalog } = context;
  home.tree.forget();
  catalog.transaction("mended", () => {
    putSeen(context, object, home.number, stampsOf(stat));
    const path = context.manifest.pathsOf(object, catalog.standing.applied)[0]?.path ?? "";
    for (const name of aside)
      catalog.event("stranger.put_aside", { store: home.placement.name, path, as: name }, context.nowUs());
    catalog.event("copy.mended", { store: home.placement.name, path }, context.nowUs());
    clearDamage(catalog, object);
    settleSuspect(catalog);
  });
}

interface Place {
  readonly directory: Directory;
  readonly name: string;
}

/** Where a stranger was quicker, an error that says so: it is looked at again. */
function placeOf(home: StoreHome, path: StorePath): Place {
  const place = home.tree.place(path);
  if (place === undefined) throw systemError("ENOENT", "openat", path);
  return place;
}

/** What had a path a moment ago has none now: somebody took it away, and its directory may be closed. */
function insistOutsideTree(found: Located): void {
  if (found.where === "tree") throw systemError("ENOENT", "rename", found.name);
}

function statOf(disk: Disk, { directory, name }: Place): Stat {
  const stat = disk.stat(directory, name);
  if (stat === undefined) throw systemError("ENOENT", "lstat", name);
  return stat;
}

/** The place of a path with nothing in it: directories on the way are made again, what a stranger put there goes aside. */
function clearPlace(context: ReplicaContext, home: StoreHome, path: StorePath, applied: Seq, aside: string[]): Place {
  const { dir } = splitPath(path);
  if (dir !== "") ensureDirectory(context, home, dir as StorePath, applied, aside);
  const place = placeOf(home, path);
  if (context.disk.stat(place.directory, place.name) === undefined) return place;
  aside.push(moveToStrangers(context, home, place.directory, place.name));
  // A disk may keep the rename that takes the place, and lose this one.
  failing(() => {
    context.disk.syncDirectory(home.strangers);
    context.disk.syncDirectory(place.directory);
  });
  home.tree.forget();
  return placeOf(home, path);
}

/** A directory of the manifest is known by its path alone: one that is there is ours, whoever made it. */
function ensureDirectory(
  context: ReplicaContext,
  home: StoreHome,
  path: StorePath,
  applied: Seq,
  aside: string[],
): void {
  const { disk, manifest } = context;
  const object = manifest.objectAtPath(home.number, path, applied);
  const version = object === undefined ? undefined : manifest.object(object, applied);
  const stat = home.tree.stat(path);
  if (stat?.type !== "directory") {
    const place = clearPlace(context, home, path, applied, aside);
    disk.makeDirectory(place.directory, place.name, 0o700);
    failing(() => disk.syncDirectory(place.directory));
  }
  const directory = home.tree.directory(path);
  if (directory === undefined || version === undefined) return;
  setMetaAsPermitted((meta) => disk.setDirectoryMeta(directory, meta), version, home.placement.owners);
}

function syncPlaces(
  { disk }: ReplicaContext,
  home: StoreHome,
  parents: ReadonlySet<StorePath>,
  aside: readonly string[],
): void {
  failing(() => {
    for (const path of parents) {
      const directory = home.tree.directory(path);
      if (directory !== undefined) disk.syncDirectory(directory);
    }
    if (parents.size > 0) disk.syncDirectory(home.staging);
    if (aside.length > 0) disk.syncDirectory(home.strangers);
  });
}
