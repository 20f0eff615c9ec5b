import { assertName, assertSymlinkTarget } from "../../shared/durable/names.ts";
import { type SystemErrorCode, systemError } from "../../shared/durable/system-error.ts";
import { assert } from "../../shared/errors.ts";
import type { Directory, Disk, FileMeta, OpenFile, Stat } from "../../shared/ports/disk.ts";
import { describeTree, type Planted, type Tree } from "./disk-tree.ts";
import { chunkBytes } from "./simulated-content.ts";
import { type Inode, type InodeMeta, Mount, type Owner, type PowerLossMode, withMeta } from "./simulated-mount.ts";

export { type PowerLossMode, powerLossModes } from "./simulated-mount.ts";

/**
 * What a crash can fall before or after. The list is closed: a method that is new in the port does not compile here
 * before it is decided whether it changes the disk.
 */
export const operationKinds = [
  "create",
  "write",
  "truncate",
  "setFileMeta",
  "syncFile",
  "rename",
  "link",
  "unlink",
  "makeDirectory",
  "removeDirectory",
  "makeSymlink",
  "setMeta",
  "setDirectoryMeta",
  "syncDirectory",
  "syncFilesystem",
] as const;
export type OperationKind = (typeof operationKinds)[number];

/** Which methods of the port are operations, and of which kind; the others only read. */
export const operationOfMethod = {
  openRoot: "reads",
  openDirectory: "reads",
  closeDirectory: "reads",
  list: "reads",
  stat: "reads",
  statDirectory: "reads",
  openFile: "create", // Only in the mode of this name.
  closeFile: "reads",
  statFile: "reads",
  read: "reads",
  write: "write",
  // What was not synced is as uncertain as it is in a cache.
  writeUncached: "write",
  cloneFile: "write",
  truncate: "truncate",
  setFileMeta: "setFileMeta",
  syncFile: "syncFile",
  rename: "rename",
  link: "link",
  unlink: "unlink",
  makeDirectory: "makeDirectory",
  removeDirectory: "removeDirectory",
  makeSymlink: "makeSymlink",
  readSymlink: "reads",
  setMeta: "setMeta",
  setDirectoryMeta: "setDirectoryMeta",
  syncDirectory: "syncDirectory",
  syncFilesystem: "syncFilesystem",
  // Promises nothing: this disk keeps or loses what was not synced as chance will have it, told to or not.
  startWriteback: "reads",
  freeBytes: "reads",
} as const satisfies Record<keyof Disk, OperationKind | "reads">;

export interface Operation {
  /** Counted from 0 since the disk was made or came up again. */
  readonly index: number;
  readonly kind: OperationKind;
  /** The paths concerned, and for writes the range. */
  readonly detail: string;
}

export type OperationHook = (operation: Operation & { readonly when: "before" | "after" }) => void;

/** Thrown by a hook where the power is to fail. From then on the disk answers nothing else. */
export class PowerLoss extends Error {
  override readonly name = "PowerLoss";
}

export interface MountOptions {
  /** Absolute; its parent is on a mount named before. */
  readonly path: string;
  readonly capacityBytes?: number;
}

export interface SimulatedDiskOptions {
  /** Filesystems besides the one at "/". */
  readonly mounts?: readonly MountOptions[];
  readonly capacityBytes?: number;
  /** Who the program is; root, so that it may give files away. */
  readonly user?: { readonly uid: number; readonly gid: number };
  readonly onOperation?: OperationHook;
}

type Failure = (operation: Operation) => SystemErrorCode | undefined;

/** An inode of one of the mounts. */
interface Place {
  readonly mount: number;
  readonly key: number;
}

interface DirectoryHandle extends Place {
  readonly path: string;
}

interface FileHandle extends Place {
  readonly path: string;
  readonly mode: "read" | "write" | "create";
  metaChanged: boolean;
}

interface MountPoint {
  readonly path: string;
  /** The directory that it covers; undefined for "/". */
  readonly on: Place | undefined;
  present: boolean;
}

const nameBytesMax = 255;
const symlinkBytesMax = 4095;
const symlinksFollowedMax = 40;
const unlimitedBytes = 2 ** 40;

/**
 * A disk in memory that forgets, tears and reorders what was not synced when the power fails, as harshly as any
 * filesystem may:
 *
 * - `syncFile` covers data and size, and owner, mode and times only where `setFileMeta` was called on that very handle;
 *   it never makes a name durable.
 * - `syncDirectory` covers the directory's own owner, mode and times, and the changes of its names; a rename over two
 *   directories becomes durable with either. It does not cover the directory's own name, nor what the names lead to:
 *   the metadata of a symlink has no other sync than that of the filesystem.
 * - `syncFilesystem` covers everything on that mount.
 *
 * Inode numbers are used again at once.
 */
export class SimulatedDisk implements Disk {
  onOperation: OperationHook | undefined;
  /**
   * What becomes of names whose directory could not be synced. False: no sync covers them any more, as with a journal
   * that is broken, after which nobody may write. True: the next sync of the directory has nothing to do and succeeds,
   * as with one that failed on its way, until something else changes there; one of the whole filesystem covers them.
   */
  goesOn = false;
  /** Whether files can share blocks. */
  clones = false;
  private readonly user: { readonly uid: number; readonly gid: number };
  private mounts: Mount[] = [];
  private mountPoints: MountPoint[] = [];
  private directories = new Map<number, DirectoryHandle>();
  private files = new Map<number, FileHandle>();
  private owner: Owner = {};
  private nextHandle = 1;
  private nextIndex = 0;
  private now = 1_700_000_000_000_000_000n;
  private failures: Failure[] = [];
  private powered = true;
  private strangers = 0;

  constructor(options: SimulatedDiskOptions = {}) {
    this.onOperation = options.onOperation;
    this.user = options.user ?? { uid: 0, gid: 0 };
    this.addMount(undefined, { path: "/", ...options });
    for (const mount of options.mounts ?? []) {
      this.asStranger(() => this.makeDirectories(mount.path));
      const on = this.resolve(mount.path);
      this.addMount(on, mount);
    }
    this.settle();
  }

  /** How many operations there were. */
  get operations(): number {
    return this.nextIndex;
  }

  // The port: what only reads.

  openRoot(path: string): Directory {
    this.insistOnPower();
    return this.openPlace(this.resolve(path), path);
  }

  openDirectory(parent: Directory, name: string): Directory {
    this.insistOnPower();
    const from = this.directory(parent);
    const found = this.find(from, name, "open");
    if (found.type !== "directory") throw systemError("ENOTDIR", "open", join(from.path, name));
    return this.openPlace(this.crossing({ mount: from.mount, key: found.key }), join(from.path, name));
  }

  closeDirectory(directory: Directory): void {
    const { mount, key } = this.directory(directory);
    this.directories.delete(directory.handle);
    this.releaseIfUnused(mount, key);
  }

  list(directory: Directory): string[] {
    this.insistOnPower();
    const { mount, key } = this.directory(directory);
    return [...this.inode(mount, key).entries.keys()];
  }

  stat(directory: Directory, name: string): Stat | undefined {
    this.insistOnPower();
    const from = this.directory(directory);
    checkName(name);
    const found = this.mount(from.mount).lookup(from.key, name);
    if (!found) return undefined;
    const { mount, key } = this.crossing({ mount: from.mount, key: found.key });
    return this.mount(mount).stat(this.inode(mount, key));
  }

  statDirectory(directory: Directory): Stat {
    this.insistOnPower();
    const { mount, key } = this.directory(directory);
    return this.mount(mount).stat(this.inode(mount, key));
  }

  openFile(directory: Directory, name: string, mode: "read" | "write" | "create", permissions = 0o600): OpenFile {
    this.insistOnPower();
    const from = this.directory(directory);
    const path = join(from.path, name);
    if (mode === "create") {
      return this.perform("create", path, () => {
        this.insistOnNew(from, name, "open");
        const file = this.addNamed(from, name, "file", permissions & 0o777);
        return this.openInode({ mount: from.mount, key: file.key, path, mode, metaChanged: false });
      });
    }
    const found = this.find(from, name, "open");
    if (found.type === "symlink") throw systemError("ELOOP", "open", path);
    if (found.type === "directory") throw systemError(mode === "read" ? "EINVAL" : "EISDIR", "open", path);
    return this.openInode({ mount: from.mount, key: found.key, path, mode, metaChanged: false });
  }

  closeFile(file: OpenFile): void {
    const { mount, key } = this.file(file);
    this.files.delete(file.handle);
    this.releaseIfUnused(mount, key);
  }

  statFile(file: OpenFile): Stat {
    this.insistOnPower();
    const { mount, key } = this.file(file);
    return this.mount(mount).stat(this.inode(mount, key));
  }

  read(file: OpenFile, buffer: Uint8Array, offset: number, length: number, position: number): number {
    this.insistOnPower();
    const { mount, key } = this.file(file);
    return this.inode(mount, key).content.read(buffer, offset, length, position);
  }

  readSymlink(directory: Directory, name: string): string {
    this.insistOnPower();
    const from = this.directory(directory);
    const found = this.find(from, name, "readlink");
    if (found.type !== "symlink") throw systemError("EINVAL", "readlink", join(from.path, name));
    return found.target;
  }

  freeBytes(directory: Directory): number {
    this.insistOnPower();
    const { chunksMax, chunksUsed } = this.mount(this.directory(directory).mount);
    return (chunksMax - chunksUsed) * chunkBytes;
  }

  // The port: what changes files.

  write(file: OpenFile, bytes: Uint8Array, position: number): void {
    const { mount, key, path, mode } = this.file(file);
    this.perform("write", `${path} ${position}+${bytes.length}`, () => {
      if (mode === "read") throw systemError("EBADF", "write", path);
      if (bytes.length === 0) return;
      const changed = this.mountToChange(mount);
      const inode = changed.change(key);
      const room = changed.roomFor(inode, position, bytes.length, chunkBytes);
      if (room > 0) {
        changed.write(inode, bytes.subarray(0, room), position);
        this.touch(changed, inode);
      }
      if (room < bytes.length) throw systemError("ENOSPC", "write", path);
    });
  }

  writeUncached(file: OpenFile, bytes: Uint8Array, position: number): boolean {
    this.write(file, bytes, position);
    return true;
  }

  cloneFile(from: OpenFile, to: OpenFile): boolean {
    if (!this.clones || this.file(from).mount !== this.file(to).mount) return false;
    const bytes = new Uint8Array(this.statFile(from).size);
    this.read(from, bytes, 0, bytes.length, 0);
    this.write(to, bytes, 0);
    return true;
  }

  truncate(file: OpenFile, size: number): void {
    const { mount, key, path, mode } = this.file(file);
    this.perform("truncate", `${path} to ${size}`, () => {
      if (mode === "read") throw systemError("EINVAL", "ftruncate", path);
      const changed = this.mountToChange(mount);
      const inode = changed.change(key);
      changed.truncate(inode, size);
      this.touch(changed, inode);
    });
  }

  setFileMeta(file: OpenFile, meta: Partial<FileMeta>): void {
    const handle = this.file(file);
    this.perform("setFileMeta", handle.path, () => {
      handle.metaChanged = true;
      this.changeMeta(handle, meta);
    });
  }

  startWriteback(file: OpenFile): void {
    this.insistOnPower();
    this.file(file);
  }

  syncFile(file: OpenFile): void {
    const handle = this.file(file);
    const { mount, key, path } = handle;
    this.perform(
      "syncFile",
      path,
      () => {
        const changed = this.mountToChange(mount);
        changed.syncFile(changed.change(key), handle.metaChanged);
        handle.metaChanged = false;
      },
      () => {
        const changed = this.mountToChange(mount);
        changed.failToSyncFile(changed.change(key));
      },
    );
  }

  // The port: what changes names.

  rename(fromDirectory: Directory, from: string, toDirectory: Directory, to: string): void {
    const source = this.directory(fromDirectory);
    const target = this.directory(toDirectory);
    const detail = `${join(source.path, from)} to ${join(target.path, to)}`;
    this.perform("rename", detail, () => {
      if (source.mount !== target.mount) throw systemError("EXDEV", "rename", detail);
      checkName(to);
      const moved = this.find(source, from, "rename");
      if (this.inode(target.mount, target.key).links === 0) throw systemError("ENOENT", "rename", detail);
      const replaced = this.mount(source.mount).lookup(target.key, to);
      if (source.key !== target.key) {
        // A directory can neither go into itself nor replace one that it lies in.
        if (this.lineage(target).includes(moved.key)) throw systemError("EINVAL", "rename", detail);
        if (replaced && this.lineage(source).includes(replaced.key)) throw systemError("ENOTEMPTY", "rename", detail);
      }
      if (replaced?.key === moved.key) return;
      if (replaced) {
        if (moved.type === "directory" && replaced.type !== "directory") throw systemError("ENOTDIR", "rename", detail);
        if (moved.type !== "directory" && replaced.type === "directory") throw systemError("EISDIR", "rename", detail);
      }
      if (this.isMountPoint(source.mount, moved.key)) throw systemError("EBUSY", "rename", detail);
      if (replaced && this.isMountPoint(source.mount, replaced.key)) throw systemError("EBUSY", "rename", detail);
      if (replaced && replaced.entries.size > 0) throw systemError("ENOTEMPTY", "rename", detail);
      this.setNames(source.mount, [
        { directory: source.key, name: from, inode: moved },
        { directory: target.key, name: to, inode: moved },
      ]);
    });
  }

  link(fromDirectory: Directory, from: string, toDirectory: Directory, to: string): void {
    const source = this.directory(fromDirectory);
    const target = this.directory(toDirectory);
    const detail = `${join(source.path, from)} to ${join(target.path, to)}`;
    this.perform("link", detail, () => {
      const linked = this.find(source, from, "link");
      this.insistOnNew(target, to, "link");
      if (source.mount !== target.mount) throw systemError("EXDEV", "link", detail);
      if (linked.type === "directory") throw systemError("EPERM", "link", detail);
      this.setNames(source.mount, [{ directory: target.key, name: to, inode: linked }]);
    });
  }

  unlink(directory: Directory, name: string): void {
    const from = this.directory(directory);
    const path = join(from.path, name);
    this.perform("unlink", path, () => {
      const found = this.find(from, name, "unlink");
      if (found.type === "directory") throw systemError("EISDIR", "unlink", path);
      this.setNames(from.mount, [{ directory: from.key, name, inode: undefined }]);
    });
  }

  makeDirectory(parent: Directory, name: string, mode: number): void {
    const from = this.directory(parent);
    const path = join(from.path, name);
    this.perform("makeDirectory", path, () => {
      this.insistOnNew(from, name, "mkdir");
      const { chunksMax, chunksUsed } = this.mount(from.mount);
      if (chunksUsed >= chunksMax) throw systemError("ENOSPC", "mkdir", path);
      this.addNamed(from, name, "directory", mode & 0o7777);
    });
  }

  removeDirectory(parent: Directory, name: string): void {
    const from = this.directory(parent);
    const path = join(from.path, name);
    this.perform("removeDirectory", path, () => {
      const found = this.find(from, name, "rmdir");
      if (found.type !== "directory") throw systemError("ENOTDIR", "rmdir", path);
      if (this.isMountPoint(from.mount, found.key)) throw systemError("EBUSY", "rmdir", path);
      if (found.entries.size > 0) throw systemError("ENOTEMPTY", "rmdir", path);
      this.setNames(from.mount, [{ directory: from.key, name, inode: undefined }]);
    });
  }

  makeSymlink(directory: Directory, name: string, target: string): void {
    const from = this.directory(directory);
    const path = join(from.path, name);
    assertSymlinkTarget(target);
    this.perform("makeSymlink", path, () => {
      if (target === "") throw systemError("ENOENT", "symlink", path);
      if (target.length > symlinkBytesMax) throw systemError("ENAMETOOLONG", "symlink", path);
      this.insistOnNew(from, name, "symlink");
      this.addNamed(from, name, "symlink", 0o777, target);
    });
  }

  setMeta(directory: Directory, name: string, meta: Partial<FileMeta>): void {
    const from = this.directory(directory);
    checkName(name);
    this.perform("setMeta", join(from.path, name), () => {
      if (Object.values(meta).every((value) => value === undefined)) return;
      const found = this.find(from, name, "setMeta");
      this.changeMeta(this.crossing({ mount: from.mount, key: found.key }), meta);
    });
  }

  setDirectoryMeta(directory: Directory, meta: Partial<FileMeta>): void {
    const place = this.directory(directory);
    this.perform("setDirectoryMeta", place.path, () => this.changeMeta(place, meta));
  }

  syncDirectory(directory: Directory): void {
    const { mount, key, path } = this.directory(directory);
    this.perform(
      "syncDirectory",
      path,
      () => this.mountToChange(mount).syncDirectory(key),
      () => this.mountToChange(mount).failToSyncDirectory(key, this.goesOn),
    );
  }

  syncFilesystem(directory: Directory): void {
    const { mount, path } = this.directory(directory);
    this.perform(
      "syncFilesystem",
      path,
      () => this.mountToChange(mount).syncAll(),
      () => this.mountToChange(mount).failToSyncAll(),
    );
  }

  // For the tests: power, snapshots, faults.

  /**
   * The disk as it comes up again, with what survives in `mode`; handles, hook and faults are gone. This one is
   * unchanged and can lose its power again in another way.
   *
   * lose-all: only what was synced. keep-all: everything. torn: all names, any sectors, sizes and metadata.
   * reordered: any operations that do not build upon lost ones, any sectors. prefix: names, sizes and metadata up to
   * one point of the journal, any sectors.
   */
  afterPowerLoss(mode: PowerLossMode, random: () => number): SimulatedDisk {
    const after = this.withoutHandles();
    after.boots = this.boots + 1;
    after.mounts = this.mounts.map((mount) => mount.afterPowerLoss(after.owner, mode, random));
    this.disown();
    return after;
  }

  /** How often the machine was started. */
  boots = 0;

  /** An independent disk in the same state, its unsynced changes and open handles included, without hook and faults. */
  clone(): SimulatedDisk {
    const clone = this.withoutHandles();
    clone.mounts = [...this.mounts];
    clone.boots = this.boots;
    clone.directories = new Map(this.directories);
    for (const [handle, file] of this.files) clone.files.set(handle, { ...file });
    clone.nextHandle = this.nextHandle;
    clone.nextIndex = this.nextIndex;
    this.disown();
    return clone;
  }

  /** Everything becomes durable, as after a quiet hour. */
  settle(): void {
    for (const index of this.mounts.keys()) this.mountToChange(index).syncAll();
  }

  /**
   * The pages whose sync failed leave the memory: from now on they are read as the disk has them. What is read before
   * is what was written.
   */
  dropCaches(): void {
    for (const index of this.mounts.keys()) this.mountToChange(index).forgetPages();
  }

  /** The next operation of this kind fails without effect; a failed sync drops what it should have written. */
  failNext(kind: OperationKind, code: SystemErrorCode): void {
    let pending = true;
    this.failWhen((operation) => {
      if (!pending || operation.kind !== kind) return undefined;
      pending = false;
      return code;
    });
  }

  /** Every operation for which `failure` names a code fails with it. */
  failWhen(failure: Failure): void {
    this.failures.push(failure);
  }

  stopFailing(): void {
    this.failures = [];
  }

  /** The filesystem at `path` goes, so that the empty directory under it shows, or comes back. */
  setMounted(path: string, present: boolean): void {
    const point = this.mountPoints.find((candidate) => candidate.path === path);
    assert(point?.on, `a filesystem is configured at ${path}`);
    point.present = present;
  }

  /** What `change` does is not counted, not announced and not failed: somebody else's hands, or the test's. */
  asStranger<T>(change: () => T): T {
    this.strangers++;
    try {
      return change();
    } finally {
      this.strangers--;
    }
  }

  // For the tests: looking and planting.

  /** What is at this absolute path now, also after the power was lost; see `describeTree`. */
  tree(path: string): Tree {
    const { powered } = this;
    this.powered = true;
    const root = this.openRoot(path);
    try {
      return describeTree(this, root);
    } finally {
      this.closeDirectory(root);
      this.powered = powered;
    }
  }

  /** As a stranger, makes the directory at `path` with its parents and adds to it what is planted. Nothing is synced. */
  writeTree(path: string, entries: Readonly<Record<string, Planted>>): void {
    this.asStranger(() => {
      this.makeDirectories(path);
      const root = this.openRoot(path);
      for (const [name, planted] of Object.entries(entries)) this.plant(root, name, planted);
      this.closeDirectory(root);
    });
  }

  /** As a stranger, removes what is at `path`/`name`, with everything below. Nothing is synced. */
  removeTree(path: string, name: string): void {
    this.asStranger(() => {
      const root = this.openRoot(path);
      this.removeAll(root, name);
      this.closeDirectory(root);
    });
  }

  private plant(directory: Directory, name: string, planted: Planted): void {
    if (typeof planted === "string" || planted instanceof Uint8Array) {
      this.plant(directory, name, { type: "file", bytes: planted });
      return;
    }
    switch (planted.type) {
      case "file": {
        const file = this.openFile(directory, name, this.stat(directory, name) ? "write" : "create");
        const { bytes } = planted;
        this.truncate(file, 0);
        this.write(file, typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes, 0);
        this.setFileMeta(file, { mode: 0o644, ...metaOf(planted) });
        this.closeFile(file);
        return;
      }
      case "symlink":
        if (this.stat(directory, name)) this.unlink(directory, name);
        this.makeSymlink(directory, name, planted.target);
        this.setMeta(directory, name, metaOf(planted));
        return;
      case "directory": {
        if (!this.stat(directory, name)) this.makeDirectory(directory, name, 0o755);
        const inner = this.openDirectory(directory, name);
        for (const [innerName, innerPlanted] of Object.entries(planted.entries)) {
          this.plant(inner, innerName, innerPlanted);
        }
        this.closeDirectory(inner);
        this.setMeta(directory, name, metaOf(planted));
      }
    }
  }

  private removeAll(directory: Directory, name: string): void {
    if (this.stat(directory, name)?.type !== "directory") {
      this.unlink(directory, name);
      return;
    }
    const inner = this.openDirectory(directory, name);
    for (const innerName of this.list(inner)) this.removeAll(inner, innerName);
    this.closeDirectory(inner);
    this.removeDirectory(directory, name);
  }

  private makeDirectories(path: string): void {
    let directory = this.openRoot("/");
    for (const name of path.split("/").filter((part) => part !== "")) {
      if (!this.stat(directory, name)) this.makeDirectory(directory, name, 0o755);
      const inner = this.openDirectory(directory, name);
      this.closeDirectory(directory);
      directory = inner;
    }
    this.closeDirectory(directory);
  }

  // Operations.

  private perform<T>(kind: OperationKind, detail: string, action: () => T, whenFailed?: () => void): T {
    this.insistOnPower();
    this.now += 1000n;
    if (this.strangers > 0) return action();
    const operation = { index: this.nextIndex++, kind, detail };
    this.announce(operation, "before");
    for (const failure of this.failures) {
      const code = failure(operation);
      if (code === undefined) continue;
      whenFailed?.();
      throw systemError(code, kind, detail);
    }
    const result = action();
    this.announce(operation, "after");
    return result;
  }

  private announce(operation: Operation, when: "before" | "after"): void {
    try {
      this.onOperation?.({ ...operation, when });
    } catch (error) {
      if (error instanceof PowerLoss) this.powered = false;
      throw error;
    }
  }

  /** Whatever a dying program still tries must not reach the disk; only its handles can be closed. */
  private insistOnPower(): void {
    if (!this.powered) throw new PowerLoss("the power is off");
  }

  private changeMeta(place: Place, meta: Partial<FileMeta>): void {
    const changed = this.mountToChange(place.mount);
    const inode = changed.change(place.key);
    if (meta.mtimeUs !== undefined) assert(Number.isSafeInteger(meta.mtimeUs), "mtimeUs is a whole number");
    if (Object.values(meta).every((value) => value === undefined)) return;
    changed.setMeta(inode, withMeta(inode.meta, meta, inode.type, this.now), true);
  }

  private touch(mount: Mount, inode: Inode): void {
    mount.setMeta(inode, { ...inode.meta, mtimeNs: this.now, ctimeNs: this.now }, false);
  }

  private addNamed(from: DirectoryHandle, name: string, type: Inode["type"], mode: number, target = ""): Inode {
    const parent = this.inode(from.mount, from.key).meta;
    const meta = this.newMeta(mode);
    const inherited = parent.mode & 0o2000 ? { ...meta, gid: parent.gid } : meta;
    const inode = this.mountToChange(from.mount).addInode(type, inherited, target);
    this.setNames(from.mount, [{ directory: from.key, name, inode }]);
    return inode;
  }

  /** Two sets are a rename: the first names what leaves, the second what comes. */
  private setNames(mountIndex: number, sets: readonly { directory: number; name: string; inode: Inode | undefined }[]) {
    const mount = this.mountToChange(mountIndex);
    const last = sets.at(-1);
    assert(last, "there is a name to set");
    const replaced = mount.lookup(last.directory, last.name);
    mount.setNames(
      sets.length === 1 ? sets : sets.map((set, index) => (index === 0 ? { ...set, inode: undefined } : set)),
    );
    for (const { directory } of sets) this.touch(mount, mount.change(directory));
    for (const key of new Set([replaced?.key, last.inode?.key])) {
      if (key === undefined) continue;
      const inode = mount.change(key);
      mount.setMeta(inode, { ...inode.meta, ctimeNs: this.now }, false);
    }
    if (replaced) this.releaseIfUnused(mountIndex, replaced.key);
  }

  private newMeta(mode: number): InodeMeta {
    return { mode, ...this.user, mtimeNs: this.now, ctimeNs: this.now };
  }

  // Places and handles.

  private find(from: DirectoryHandle, name: string, syscall: string): Inode {
    checkName(name);
    const found = this.mount(from.mount).lookup(from.key, name);
    if (!found) throw systemError("ENOENT", syscall, join(from.path, name));
    return found;
  }

  private insistOnNew(from: DirectoryHandle, name: string, syscall: string): void {
    checkName(name);
    const path = join(from.path, name);
    if (this.mount(from.mount).lookup(from.key, name)) throw systemError("EEXIST", syscall, path);
    if (this.inode(from.mount, from.key).links === 0) throw systemError("ENOENT", syscall, path);
  }

  /** Follows symlinks, as the kernel does for an absolute path. */
  private resolve(path: string): Place {
    assert(path.startsWith("/"), `an absolute path: ${path}`);
    const left = path.split("/").reverse();
    let followed = 0;
    let at: Place = { mount: 0, key: this.mount(0).rootKey };
    while (left.length > 0) {
      const name = left.pop();
      if (name === undefined || name === "" || name === ".") continue;
      if (name === "..") {
        at = this.above(at);
        continue;
      }
      const found = this.mount(at.mount).lookup(at.key, name);
      if (!found) throw systemError("ENOENT", "open", path);
      if (found.type === "symlink") {
        if (++followed > symlinksFollowedMax) throw systemError("ELOOP", "open", path);
        left.push(...found.target.split("/").reverse());
        if (found.target.startsWith("/")) at = { mount: 0, key: this.mount(0).rootKey };
        continue;
      }
      if (found.type !== "directory") throw systemError("ENOTDIR", "open", path);
      at = this.crossing({ mount: at.mount, key: found.key });
    }
    return at;
  }

  private above(place: Place): Place {
    const { rootKey } = this.mount(place.mount);
    if (place.key !== rootKey) return { mount: place.mount, key: this.inode(place.mount, place.key).parent };
    const on = this.mountPoints[place.mount]?.on;
    return on ? this.above(on) : place;
  }

  /** The root of what is mounted on this directory, or the directory itself. */
  private crossing(place: Place): Place {
    const index = this.mountPoints.findIndex(
      ({ on, present }) => present && on?.mount === place.mount && on.key === place.key,
    );
    return index === -1 ? place : { mount: index, key: this.mount(index).rootKey };
  }

  private isMountPoint(mount: number, key: number): boolean {
    return this.crossing({ mount, key }).mount !== mount;
  }

  /** The directory and all those that it lies in, on its filesystem. */
  private lineage({ mount, key }: Place): number[] {
    const keys = [key];
    for (let at = key; at !== this.mount(mount).rootKey && at !== 0; ) {
      at = this.inode(mount, at).parent;
      keys.push(at);
    }
    return keys;
  }

  private openPlace(place: Place, path: string): Directory {
    const handle = this.nextHandle++;
    this.directories.set(handle, { ...place, path });
    return { handle };
  }

  private openInode(file: FileHandle): OpenFile {
    const handle = this.nextHandle++;
    this.files.set(handle, file);
    return { handle };
  }

  private directory({ handle }: Directory): DirectoryHandle {
    const directory = this.directories.get(handle);
    assert(directory, "the directory is open on this disk");
    return directory;
  }

  private file({ handle }: OpenFile): FileHandle {
    const file = this.files.get(handle);
    assert(file, "the file is open on this disk");
    return file;
  }

  private releaseIfUnused(mount: number, key: number): void {
    const inode = this.inode(mount, key);
    if (inode.links > 0) return;
    const handles = inode.type === "directory" ? this.directories : this.files;
    for (const handle of handles.values()) if (handle.mount === mount && handle.key === key) return;
    this.mountToChange(mount).release(inode);
  }

  private mount(index: number): Mount {
    const mount = this.mounts[index];
    assert(mount, "the mount exists");
    return mount;
  }

  private inode(mount: number, key: number): Inode {
    return this.mount(mount).inode(key);
  }

  /** A mount that was shared with a snapshot is copied before its first change. */
  private mountToChange(index: number): Mount {
    const mount = this.mount(index);
    if (mount.owner === this.owner) return mount;
    const copy = mount.copy(this.owner);
    this.mounts[index] = copy;
    return copy;
  }

  /** From now on everything is shared, and this disk, too, copies what it changes. */
  private disown(): void {
    this.owner = {};
  }

  private withoutHandles(): SimulatedDisk {
    const disk = new SimulatedDisk({ user: this.user });
    disk.mountPoints = this.mountPoints.map((point) => ({ ...point }));
    disk.now = this.now;
    disk.goesOn = this.goesOn;
    disk.nextHandle = this.nextHandle; // A handle from before the power loss must not open something else.
    return disk;
  }

  private addMount(on: Place | undefined, { path, capacityBytes = unlimitedBytes }: MountOptions): void {
    const device = this.mounts.length + 1;
    this.mounts.push(Mount.empty(this.owner, device, Math.floor(capacityBytes / chunkBytes), this.newMeta(0o755)));
    this.mountPoints.push({ path, on, present: true });
  }
}

function checkName(name: string): void {
  assertName(name);
  if (name.length > nameBytesMax) throw systemError("ENAMETOOLONG", "lookup", name);
}

function join(directory: string, name: string): string {
  return directory === "/" ? `/${name}` : `${directory}/${name}`;
}

function metaOf({ mode, uid, gid, mtimeUs }: Partial<FileMeta>): Partial<FileMeta> {
  return Object.fromEntries(
    Object.entries({ mode, uid, gid, mtimeUs }).filter(([, value]) => value !== undefined),
  ) as Partial<FileMeta>;
}
