import { basename, dirname } from "node:path";
import type { Catalog } from "../shared/catalog/catalog.ts";
import { dropNote, keepNote, noteOf } from "../shared/catalog/notes.ts";
import { isSystemError, UnderstudyError } from "../shared/errors.ts";
import type { Directory, Disk } from "../shared/ports/disk.ts";
import { inBytes, privateName, trialName } from "../shared/store-path.ts";
import type { GroupId, StoreKind, StoreName, StorePath } from "../shared/words.ts";
import { SafeTree } from "./safe-tree.ts";
import { failing } from "./sync.ts";

/** The copy's filesystem is not there, or not the one that the catalog speaks of. */
export class CopyNotThere extends UnderstudyError {
  readonly code = "COPY_NOT_THERE";
  readonly remedy = "stop";
  readonly state = "Nothing was written; what was received and committed is kept in the state directory.";
  readonly hint = "Mount the filesystem of the copy and start the agent again.";
}

/** Something is already where the copy should go. */
class CopyOccupied extends UnderstudyError {
  readonly code = "COPY_OCCUPIED";
  readonly remedy = "stop";
  readonly state = "Nothing was changed.";
  readonly hint =
    "Move it away, or run `understudy adopt GROUP`: it is compared, and what the first cut lacks is kept aside.";
}

/** How one store lies on this node. */
export interface StorePlacement {
  readonly name: StoreName;
  readonly kind: StoreKind;
  /** `file`: the store is the single file at `path`, called `singleFileName` in the manifest. */
  readonly shape: "tree" | "file";
  /** Absolute path of the tree's root or of the file. */
  readonly path: string;
  /** Beside a single file: suffixes of files that belong to its service and must never be replayed into the copy. */
  readonly sidecars: readonly string[];
  /** `ignore`: everything belongs to whoever runs the agent. */
  readonly owners?: "numeric" | "ignore";
}

/** What a store of a single file calls it in the manifest, wherever it lies on a node. */
export const singleFileName = "database" as StorePath;

const privateParts = ["staging", "first", "limbo", "kept", "history", "strangers"] as const;
type PrivatePart = (typeof privateParts)[number];

/**
 * A store's copy and its private directory, on one mount: `.understudy/<group>.<store>` beside the copy, or inside it
 * where the copy is itself a mount point (proved by a trial rename). A marker in it tells a mounted copy from an empty
 * mount point.
 */
export class StoreHome {
  readonly placement: StorePlacement;
  readonly number: number;
  readonly tree: SafeTree;
  readonly staging: Directory;
  /** What of the first copy is complete, as it will lie in the copy. */
  readonly firstTree: SafeTree;
  readonly limbo: Directory;
  readonly kept: Directory;
  readonly history: Directory;
  readonly strangers: Directory;
  readonly home: Directory;
  readonly #disk: Disk;

  constructor(
    disk: Disk,
    number: number,
    placement: StorePlacement,
    root: Directory,
    home: Directory,
    parts: Record<PrivatePart, Directory>,
  ) {
    this.#disk = disk;
    this.number = number;
    this.placement = placement;
    this.tree = new SafeTree(disk, root);
    this.home = home;
    this.staging = parts.staging;
    this.firstTree = new SafeTree(disk, parts.first);
    this.limbo = parts.limbo;
    this.kept = parts.kept;
    this.history = parts.history;
    this.strangers = parts.strangers;
  }

  /** The manifest's path as it lies in this node's tree. */
  local(path: StorePath): StorePath {
    if (this.placement.shape === "tree") return path;
    return localName(this.placement);
  }

  close(): void {
    this.tree.forget();
    this.firstTree.forget();
    for (const directory of [
      this.staging,
      this.firstTree.root,
      this.limbo,
      this.kept,
      this.history,
      this.strangers,
      this.home,
      this.tree.root,
    ]) {
      this.#disk.closeDirectory(directory);
    }
  }
}

function localName(placement: StorePlacement): StorePath {
  return inBytes(basename(placement.path)) as StorePath;
}

/**
 * Opens the homes of a group's stores, making them where the group has no copy yet. With an applied cut the marker must
 * be there; without one the copy's place must be empty unless `adopt`.
 * @throws {CopyNotThere} @throws {CopyOccupied} @throws {SyncFailed}
 */
export function openStoreHomes(
  disk: Disk,
  catalog: Catalog,
  groupName: string,
  placements: readonly StorePlacement[],
  adopt: boolean,
): Map<number, StoreHome> {
  const homes = new Map<number, StoreHome>();
  try {
    for (const placement of placements) {
      const number = catalog.storeNumber(placement.name, placement.kind);
      homes.set(number, openStoreHome(disk, catalog, groupName, number, placement, adopt));
    }
    return homes;
  } catch (error) {
    for (const home of homes.values()) home.close();
    throw error;
  }
}

function openStoreHome(
  disk: Disk,
  catalog: Catalog,
  groupName: string,
  number: number,
  placement: StorePlacement,
  adopt: boolean,
): StoreHome {
  const groupId = catalog.standing.groupId as GroupId;
  const marker = `marker.${groupId}`;
  const begun = noteOf(catalog, homeNote(placement)) !== undefined;
  const rootPath = placement.shape === "tree" ? placement.path : dirname(placement.path);
  const parentPath = dirname(placement.path);
  const homeName = `${groupName}.${placement.name}`;

  let root = openExisting(disk, rootPath);
  if (root === undefined) {
    if (begun) throw new CopyNotThere(`the copy of store ${placement.name} is gone: ${rootPath} does not exist`);
    root = makeRoot(disk, rootPath);
  }
  const inside = noteOf(catalog, homeNote(placement)) === "inside";
  const choices: ("beside" | "inside")[] = begun
    ? [inside ? "inside" : "beside"]
    : placement.shape === "tree"
      ? ["beside", "inside"]
      : ["inside"];
  for (const choice of choices) {
    const at = choice === "beside" ? disk.openRoot(inBytes(parentPath)) : root;
    const holder = ensureDirectory(disk, at, privateName, !begun);
    const home = holder === undefined ? undefined : ensureDirectory(disk, holder, homeName, !begun);
    if (holder !== undefined) disk.closeDirectory(holder);
    if (choice === "beside") disk.closeDirectory(at);
    if (home === undefined) {
      throw new CopyNotThere(
        `no private directory for store ${placement.name} beside ${placement.path}: is its filesystem mounted?`,
      );
    }
    const openParts = (): Record<PrivatePart, Directory> =>
      Object.fromEntries(
        privateParts.map((part) => [part, ensureDirectory(disk, home, part, true) as Directory]),
      ) as Record<PrivatePart, Directory>;
    if (begun) {
      if (disk.stat(home, marker) === undefined) {
        throw new CopyNotThere(
          `no marker of this group for store ${placement.name} beside ${placement.path}: is its filesystem mounted?`,
        );
      }
    } else {
      if (!sameMount(disk, home, root)) continue;
      if (!adopt) refuseOccupied(disk, root, placement);
      // All directories are there before the sync that the beginning rests on: one that is found later, made by a
      // program that was killed, might never have been synced.
      const parts = openParts();
      begin(disk, catalog, home, marker, placement, choice);
      return new StoreHome(disk, number, placement, root, home, parts);
    }
    return new StoreHome(disk, number, placement, root, home, openParts());
  }
  throw new CopyNotThere(`no directory on the mount of ${placement.path} can hold the private files`);
}

/** Within a transaction: where the private directories are is not known any more, and they are made anew. */
export function forgetStoreHomes(catalog: Catalog, placements: readonly StorePlacement[]): void {
  for (const placement of placements) dropNote(catalog, homeNote(placement));
}

function homeNote(placement: StorePlacement): `home.${string}` {
  return `home.${placement.name}`;
}

function begin(
  disk: Disk,
  catalog: Catalog,
  home: Directory,
  marker: string,
  placement: StorePlacement,
  choice: string,
): void {
  if (disk.stat(home, marker) === undefined) {
    const file = disk.openFile(home, marker, "create");
    try {
      disk.syncFile(file);
    } finally {
      disk.closeFile(file);
    }
  }
  failing(() => disk.syncFilesystem(home));
  const write = (): void => keepNote(catalog, homeNote(placement), choice);
  if (catalog.inTransaction) write();
  else catalog.transaction("home", write);
}

function openExisting(disk: Disk, path: string): Directory | undefined {
  try {
    return disk.openRoot(inBytes(path));
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return undefined;
    throw error;
  }
}

function makeRoot(disk: Disk, path: string): Directory {
  const missing: string[] = [];
  let at = path;
  let found = openExisting(disk, at);
  while (found === undefined) {
    missing.unshift(inBytes(basename(at)));
    at = dirname(at);
    found = openExisting(disk, at);
  }
  for (const name of missing) {
    disk.makeDirectory(found, name, 0o755);
    disk.syncDirectory(found);
    const next = disk.openDirectory(found, name);
    disk.closeDirectory(found);
    found = next;
  }
  return found;
}

function ensureDirectory(disk: Disk, parent: Directory, name: string, create: boolean): Directory | undefined {
  try {
    return disk.openDirectory(parent, name);
  } catch (error) {
    if (!isSystemError(error, "ENOENT")) throw error;
  }
  if (!create) return undefined;
  disk.makeDirectory(parent, name, 0o700);
  disk.syncDirectory(parent);
  return disk.openDirectory(parent, name);
}

/** A bind mount has the same device number and still answers EXDEV: only a rename tells. */
function sameMount(disk: Disk, home: Directory, root: Directory): boolean {
  const name = trialName;
  if (disk.stat(home, name) === undefined) disk.closeFile(disk.openFile(home, name, "create"));
  try {
    disk.rename(home, name, root, name);
    disk.unlink(root, name);
    return true;
  } catch (error) {
    if (!isSystemError(error, "EXDEV")) throw error;
    disk.unlink(home, name);
    return false;
  }
}

function refuseOccupied(disk: Disk, root: Directory, placement: StorePlacement): void {
  if (placement.shape === "file") {
    if (disk.stat(root, localName(placement)) !== undefined) {
      throw new CopyOccupied(`${placement.path} exists and was not written by this group`);
    }
    return;
  }
  const names = disk.list(root).filter((name) => name !== privateName && name !== "lost+found" && name !== trialName);
  if (names.length > 0) {
    throw new CopyOccupied(
      `${placement.path} is not empty (${names.length} entries) and was not written by this group`,
    );
  }
}
