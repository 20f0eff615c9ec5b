import { spawnSync } from "node:child_process";
import {
  type BigIntStats,
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  fchmodSync,
  fchownSync,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  futimesSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmdirSync,
  statfsSync,
  symlinkSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { assert, isSystemError } from "../errors.ts";
import type { Directory, Disk, FileMeta, OpenFile, Stat } from "../ports/disk.ts";
import { assertName, assertSymlinkTarget, kernelPath } from "./names.ts";
import { systemError } from "./system-error.ts";

const { O_CREAT, O_DIRECT, O_DIRECTORY, O_EXCL, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY, S_IFMT } =
  constants;
const { S_IFDIR, S_IFLNK, S_IFREG } = constants;
/** Node does not name it; the value is the same on every architecture that we ship for. */
const O_PATH = 0o10000000;

/**
 * O_NONBLOCK, or a fifo of this name would hold the worker for ever; it changes nothing for regular files. Writing
 * handles can read too, since old images are read through the handle that then overwrites them.
 */
const openFlags = {
  read: O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY,
  write: O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY,
  create: O_RDWR | O_NOFOLLOW | O_CREAT | O_EXCL,
} as const;

/** What O_DIRECT may ask of offset, length and memory: no filesystem that we meet wants more. */
const directAlignment = 4096;
/** Shorter writes wait for the disk more often than the cache would have cost. */
const directBytesMin = 64 * 1024;
const directPieceBytes = 1024 * 1024;

/** What filesystems without such an operation, or with another one beside them, say of it. */
const cannotClone = ["ENOTSUP", "EOPNOTSUPP", "ENOTTY", "ENOSYS", "EXDEV", "EINVAL"];

/** Staged bytes are nobody else's business until their own mode is set. */
const createMode = 0o600;

/**
 * The machine's own filesystems. Every name is resolved as `/proc/self/fd/N/name`: the kernel begins at the opened
 * directory, which is what openat does, so nobody can turn an earlier component into a symlink meanwhile.
 */
export class RealDisk implements Disk {
  /** Asked of /proc, since `process.umask()` sets it to 0 for an instant in which other threads create files. */
  private readonly umask = readUmask();
  /** What O_DIRECT writes from; made when it is first used. */
  private aligned: Uint8Array | undefined;

  openRoot(path: string): Directory {
    return new RealDirectory(openSync(kernelPath(path), O_RDONLY | O_DIRECTORY));
  }

  openDirectory(parent: Directory, name: string): Directory {
    return new RealDirectory(openSync(pathOf(parent, name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  }

  closeDirectory(directory: Directory): void {
    closeSync(real(directory).release());
  }

  list(directory: Directory): string[] {
    return readdirSync(real(directory).path, "latin1");
  }

  stat(directory: Directory, name: string): Stat | undefined {
    // With bigint it costs the same here (4.2 us, half of it /proc), and only so the times come in nanoseconds.
    const stats = lstatSync(pathOf(directory, name), { bigint: true, throwIfNoEntry: false });
    return stats && toStat(stats);
  }

  statDirectory(directory: Directory): Stat {
    return toStat(fstatSync(real(directory).descriptor, { bigint: true }));
  }

  openFile(
    directory: Directory,
    name: string,
    mode: "read" | "write" | "create",
    permissions: number = createMode,
  ): OpenFile {
    const descriptor = openSync(pathOf(directory, name), openFlags[mode], permissions & 0o777);
    if (mode !== "create" && (fstatSync(descriptor).mode & S_IFMT) !== S_IFREG) {
      closeSync(descriptor);
      throw systemError("EINVAL", "open", `${name}: not a regular file`);
    }
    return new RealFile(descriptor);
  }

  closeFile(file: OpenFile): void {
    const handle = opened(file);
    if (typeof handle.direct === "number") closeSync(handle.direct);
    closeSync(handle.release());
  }

  statFile(file: OpenFile): Stat {
    return toStat(fstatSync(opened(file).descriptor, { bigint: true }));
  }

  read(file: OpenFile, buffer: Uint8Array, offset: number, length: number, position: number): number {
    const { descriptor } = opened(file);
    let done = 0;
    while (done < length) {
      const count = readSync(descriptor, buffer, offset + done, length - done, position + done);
      if (count === 0) break;
      done += count;
    }
    return done;
  }

  write(file: OpenFile, bytes: Uint8Array, position: number): void {
    const { descriptor } = opened(file);
    let done = 0;
    while (done < bytes.length) {
      const count = writeSync(descriptor, bytes, done, bytes.length - done, position + done);
      if (count === 0) throw systemError("EIO", "write", `nothing of ${bytes.length - done} bytes was taken`);
      done += count;
    }
  }

  /**
   * O_DIRECT, through an opening of its own. A first copy of a large file through the page cache costs as much processor
   * time for its pages as all other work on it, and leaves a burst for the sync at its end.
   */
  writeUncached(file: OpenFile, bytes: Uint8Array, position: number): boolean {
    const handle = opened(file);
    if (bytes.length < directBytesMin || position % directAlignment !== 0 || bytes.length % directAlignment !== 0)
      return false;
    if (handle.direct === undefined) handle.direct = openDirect(handle.descriptor);
    if (handle.direct === "refused") return false;
    const asItLies = beginsAtPage(bytes);
    if (!asItLies) this.aligned ??= alignedMemory(directPieceBytes);
    for (let at = 0; at < bytes.length; ) {
      const length = Math.min(directPieceBytes, bytes.length - at);
      if (!asItLies) this.aligned!.set(bytes.subarray(at, at + length));
      let count: number;
      try {
        count = writeSync(handle.direct, asItLies ? bytes : this.aligned!, asItLies ? at : 0, length, position + at);
      } catch (error) {
        if (!isSystemError(error, "EINVAL", "EOPNOTSUPP")) throw error;
        count = 0;
      }
      at += count;
      if (count === length) continue;
      // The filesystem wants more alignment than it was given, or its end is near: what that means a plain write tells.
      closeSync(handle.direct);
      handle.direct = "refused";
      if (at === 0) return false;
      this.write(file, bytes.subarray(at), position + at);
      break;
    }
    return true;
  }

  cloneFile(from: OpenFile, to: OpenFile): boolean {
    const [source, target] = [from, to].map((file) => `/proc/self/fd/${opened(file).descriptor}`);
    try {
      copyFileSync(source!, target!, constants.COPYFILE_FICLONE_FORCE);
      return true;
    } catch (error) {
      if (isSystemError(error, ...cannotClone)) return false;
      throw error;
    }
  }

  truncate(file: OpenFile, size: number): void {
    ftruncateSync(opened(file).descriptor, size);
  }

  setFileMeta(file: OpenFile, meta: Partial<FileMeta>): void {
    const handle = opened(file);
    handle.metaChanged = true;
    setDescriptorMeta(handle.descriptor, meta);
  }

  /** fdatasync leaves owner, mode and times out, so what this handle set of them needs the whole fsync. */
  syncFile(file: OpenFile): void {
    const handle = opened(file);
    if (handle.metaChanged) fsyncSync(handle.descriptor);
    else fdatasyncSync(handle.descriptor);
    handle.metaChanged = false;
  }

  /**
   * Through an opening of its own: the kernel tells a failed write once to each opening, so what this one is told, and
   * nobody hears, `syncFile` is told again.
   */
  startWriteback(file: OpenFile): void {
    const handle = opened(file);
    if (handle.writingBack) return;
    const descriptor = openSync(`/proc/self/fd/${handle.descriptor}`, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    handle.writingBack = true;
    fdatasync(descriptor, () => {
      handle.writingBack = false;
      closeSync(descriptor);
    });
  }

  rename(fromDirectory: Directory, from: string, toDirectory: Directory, to: string): void {
    renameSync(pathOf(fromDirectory, from), pathOf(toDirectory, to));
  }

  link(fromDirectory: Directory, from: string, toDirectory: Directory, to: string): void {
    linkSync(pathOf(fromDirectory, from), pathOf(toDirectory, to));
  }

  unlink(directory: Directory, name: string): void {
    unlinkSync(pathOf(directory, name));
  }

  makeDirectory(parent: Directory, name: string, mode: number): void {
    const path = pathOf(parent, name);
    mkdirSync(path, mode & 0o777);
    // Otherwise the umask takes bits away, or a parent with the setgid bit adds that.
    const inherits = (fstatSync(real(parent).descriptor).mode & 0o2000) !== 0;
    if (!inherits && (mode & (this.umask | 0o7000)) === 0) return;
    const descriptor = openSync(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    try {
      fchmodSync(descriptor, mode);
    } finally {
      closeSync(descriptor);
    }
  }

  removeDirectory(parent: Directory, name: string): void {
    rmdirSync(pathOf(parent, name));
  }

  makeSymlink(directory: Directory, name: string, target: string): void {
    assertSymlinkTarget(target);
    symlinkSync(kernelPath(target), pathOf(directory, name));
  }

  readSymlink(directory: Directory, name: string): string {
    return readlinkSync(pathOf(directory, name), "latin1");
  }

  setMeta(directory: Directory, name: string, meta: Partial<FileMeta>): void {
    const path = pathOf(directory, name);
    if (meta.uid !== undefined || meta.gid !== undefined) lchownSync(path, meta.uid ?? -1, meta.gid ?? -1);
    if (meta.mode !== undefined) chmodUnfollowed(path, meta.mode);
    if (meta.mtimeUs !== undefined) {
      const seconds = utimesSeconds(meta.mtimeUs);
      lutimesSync(path, seconds, seconds);
    }
  }

  setDirectoryMeta(directory: Directory, meta: Partial<FileMeta>): void {
    setDescriptorMeta(real(directory).descriptor, meta);
  }

  syncDirectory(directory: Directory): void {
    fsyncSync(real(directory).descriptor);
  }

  /**
   * Node has no syncfs(2). The child gets the directory as its standard input, so that it syncs the filesystem that we
   * opened, whatever has been mounted over the path since. Whatever goes wrong is an EIO: with another code, such as
   * the ENOENT of a missing program, it could pass for a file that is gone.
   */
  syncFilesystem(directory: Directory): void {
    const { descriptor } = real(directory);
    const child = spawnSync("sync", ["-f", "/proc/self/fd/0"], {
      stdio: [descriptor, "ignore", "pipe"],
      encoding: "utf8",
    });
    if (child.error) throw systemError("EIO", "sync -f", "could not be run", { cause: child.error });
    if (child.status !== 0) {
      throw systemError("EIO", "sync -f", `ended with ${child.status ?? child.signal}: ${child.stderr.trim()}`);
    }
  }

  freeBytes(directory: Directory): number {
    const { bavail, bsize } = statfsSync(real(directory).path);
    return bavail * bsize;
  }
}

class RealDirectory implements Directory {
  readonly handle: number;
  /** Leads to the directory itself; the trailing slash makes it the prefix of its names. */
  readonly path: string;
  private open = true;

  constructor(descriptor: number) {
    this.handle = descriptor;
    this.path = `/proc/self/fd/${descriptor}/`;
  }

  get descriptor(): number {
    assert(this.open, "a directory is not used after it was closed");
    return this.handle;
  }

  release(): number {
    const { descriptor } = this;
    this.open = false;
    return descriptor;
  }
}

class RealFile implements OpenFile {
  readonly handle: number;
  metaChanged = false;
  writingBack = false;
  /** A second descriptor, for writing past the page cache. */
  direct: number | "refused" | undefined;
  private open = true;

  constructor(descriptor: number) {
    this.handle = descriptor;
  }

  get descriptor(): number {
    assert(this.open, "a file is not used after it was closed");
    return this.handle;
  }

  release(): number {
    const { descriptor } = this;
    this.open = false;
    return descriptor;
  }
}

/** The descriptor of a closed handle may be another file by now: reading it there would be the worst of bugs. */
function real(directory: Directory): RealDirectory {
  assert(directory instanceof RealDirectory, "the directory was opened by this kind of disk");
  assert(directory.descriptor >= 0, "the directory is open");
  return directory;
}

function opened(file: OpenFile): RealFile {
  assert(file instanceof RealFile, "the file was opened by this kind of disk");
  return file;
}

function pathOf(directory: Directory, name: string): string | Buffer {
  assertName(name);
  return kernelPath(real(directory).path + name);
}

function openDirect(descriptor: number): number | "refused" {
  try {
    return openSync(`/proc/self/fd/${descriptor}`, O_WRONLY | O_DIRECT | O_NONBLOCK | O_NOCTTY);
  } catch (error) {
    if (isSystemError(error, "EINVAL", "EOPNOTSUPP", "EACCES")) return "refused";
    throw error;
  }
}

function beginsAtPage({ buffer, byteOffset }: Uint8Array): boolean {
  return buffer instanceof ArrayBuffer && buffer.resizable && byteOffset % directAlignment === 0;
}

/** Only of a resizable buffer is it certain that it begins at a page: it is mapped, not taken from a heap. */
function alignedMemory(length: number): Uint8Array {
  return new Uint8Array(new ArrayBuffer(length, { maxByteLength: length }), 0, length);
}

/** Owner first: changing it clears the setuid and setgid bits. */
function setDescriptorMeta(descriptor: number, meta: Partial<FileMeta>): void {
  if (meta.uid !== undefined || meta.gid !== undefined) fchownSync(descriptor, meta.uid ?? -1, meta.gid ?? -1);
  if (meta.mode !== undefined) fchmodSync(descriptor, meta.mode);
  if (meta.mtimeUs !== undefined) {
    const seconds = utimesSeconds(meta.mtimeUs);
    futimesSync(descriptor, seconds, seconds);
  }
}

/**
 * There is no lchmod: the inode is pinned by O_PATH, which needs no permission on it and never opens a device, and
 * changed through the descriptor's magic link. The mode of a symlink means nothing and is left alone.
 */
function chmodUnfollowed(path: string | Buffer, mode: number): void {
  const descriptor = openSync(path, O_PATH | O_NOFOLLOW);
  try {
    if ((fstatSync(descriptor).mode & S_IFMT) !== S_IFLNK) chmodSync(`/proc/self/fd/${descriptor}`, mode);
  } finally {
    closeSync(descriptor);
  }
}

/**
 * libuv takes seconds as a double and cuts it off: aiming at the middle of the microsecond survives the rounding of the
 * division, and whole seconds, which archives leave behind, are exact as they are. Right up to the year 2242, when a
 * double has no such resolution any more; what a filesystem cannot hold it bends by itself (ext4: before December
 * 1901). Node turns a negative number into "now" without a word, but takes the same number as text.
 */
function utimesSeconds(mtimeUs: number): number | string {
  assert(Number.isSafeInteger(mtimeUs), "mtimeUs is a whole number");
  const whole = Math.floor(mtimeUs / 1e6);
  const rest = mtimeUs - whole * 1e6;
  const seconds = rest === 0 ? whole : whole + (rest + 0.5) / 1e6;
  return seconds < 0 ? String(seconds) : seconds;
}

function toStat(stats: BigIntStats): Stat {
  const mode = Number(stats.mode);
  const inode = Number(stats.ino);
  assert(Number.isSafeInteger(inode), "inode numbers are safe integers");
  const ns = stats.mtimeNs;
  return {
    type: typeOf(mode & S_IFMT),
    mode: mode & 0o7777,
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    mtimeUs: Number(ns >= 0n ? ns / 1000n : (ns - 999n) / 1000n),
    size: Number(stats.size),
    inode,
    device: Number(stats.dev),
    links: Number(stats.nlink),
    mtimeNs: ns,
    ctimeNs: stats.ctimeNs,
    allocated: Number(stats.blocks) * 512,
  };
}

function typeOf(format: number): Stat["type"] {
  if (format === S_IFREG) return "file";
  if (format === S_IFDIR) return "directory";
  return format === S_IFLNK ? "symlink" : "other";
}

function readUmask(): number {
  const line = /^Umask:\s*([0-7]+)$/m.exec(readFileSync("/proc/self/status", "latin1"));
  assert(line?.[1] !== undefined, "/proc/self/status names the umask");
  return Number.parseInt(line[1], 8);
}
