import { closeSync, constants, copyFileSync, fstatSync, openSync, statfsSync } from "node:fs";
import { explain, isSystemError } from "../../../shared/errors.ts";
import type { Content } from "../../../shared/ports/store-adapter.ts";
import type { StorePath } from "../../../shared/words.ts";
import { blockSizeFor } from "./block-size.ts";
import { nativePath } from "./source-path.ts";
import { bytesBetweenLooks, readFully, type SteadyFile } from "./steady-file.ts";

/** Reading so much takes long enough to be overtaken: such a file is cloned before it is read, if it was written lately. */
export const cloneFirstBytesMin = 16 * 2 ** 20;
export const writtenLatelyMs = 60_000;
/**
 * Writers of the file wait while it is cloned: 0.1 ms whatever its size, but 0.1 ms more for each of its extents or so. Of
 * one in very many pieces they do so for at most a twentieth of the time.
 */
const waitingShare = 20;
const slowMsMin = 20;
const slowKeptMax = 1000;
const clonesKeptMax = 64;
/** What a clone must leave free on the filesystem at any time. */
const roomBytesMin = 64 * 2 ** 20;
/** What a filesystem says that has no such operation. */
const neverHere = ["ENOTSUP", "EOPNOTSUPP", "ENOTTY", "ENOSYS", "EISDIR"] as const;
/** What concerns this file, its directory or this moment alone: the file itself is read instead. */
const notThisTime = [
  ...(["EACCES", "EPERM", "EROFS", "EXDEV", "EINVAL", "ETXTBSY", "ENOENT", "ENOTDIR"] as const),
  ...(["ENOSPC", "EDQUOT", "EIO", "EMFILE", "ENFILE"] as const),
];
/** Not among Node's constants. */
const unnamed = 0o20_000_000 | constants.O_DIRECTORY;

/**
 * Clones single files by reflink where the filesystem can (XFS, btrfs, bcachefs). A clone is one instant of the file,
 * taken while writes to it wait, and shares its blocks: so a file that is written all the time is read whole, however
 * long the reading or the line takes. A clone has no name (O_TMPFILE): nothing of it can be left behind, by a crash
 * neither, and nobody else comes across it. It is kept until the view ends, for replicas that need more than what changed.
 */
export class Reflinks {
  /** Filesystems that cannot. */
  readonly #unable = new Set<bigint>();
  readonly #now: () => number;
  /** Monotonic, ms: not to be cloned before. */
  readonly #slowUntil = new Map<StorePath, number>();
  #reason = "";
  /** Of the open view, the oldest first. */
  readonly #kept = new Map<StorePath, ClonedFile>();
  cloned = 0;

  /** `now`: monotonic, ms. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Why a file could not be cloned when that was tried last; "" where it could. */
  get reason(): string {
    return this.#reason;
  }

  /** The file as it is at this instant; undefined when that cannot be had, and it is to be read itself. */
  clone(path: StorePath, latin1: string, file: SteadyFile): ClonedFile | undefined {
    const { dev, size } = file.stat;
    if (this.#unable.has(dev) || this.#isTooSlow(path)) return undefined;
    const directory = nativePath(latin1.slice(0, Math.max(1, latin1.lastIndexOf("/"))));
    let descriptor: number | undefined;
    try {
      if (!this.#hasRoom(directory, Number(size))) {
        this.#reason =
          "too little is free: should the file be written anew meanwhile, its clone needs as much as it has";
        return undefined;
      }
      descriptor = openSync(directory, unnamed | constants.O_RDWR, 0o600);
      // By descriptors: the source is the file that was looked at, whatever has its path by now.
      const [from, to] = [`/proc/self/fd/${file.descriptor}`, `/proc/self/fd/${descriptor}`];
      const begun = this.#now();
      copyFileSync(from, to, constants.COPYFILE_FICLONE_FORCE);
      this.#rememberSlow(path, begun);
      const clone = new ClonedFile(descriptor, file, () => this.#isFull(directory));
      this.#keep(path, clone);
      this.cloned++;
      this.#reason = "";
      return clone;
    } catch (error) {
      if (descriptor !== undefined) closeSync(descriptor);
      if (isSystemError(error, ...neverHere)) this.#unable.add(dev);
      else if (!isSystemError(error, ...notThisTime)) throw error;
      this.#reason = explain(error);
      return undefined;
    }
  }

  #isTooSlow(path: StorePath): boolean {
    const until = this.#slowUntil.get(path);
    if (until === undefined || this.#now() >= until) return false;
    this.#reason =
      "its last clone took long (it lies in many pieces, or the disk is busy), and its writers waited for it";
    return true;
  }

  #rememberSlow(path: StorePath, begun: number): void {
    const ended = this.#now();
    this.#slowUntil.delete(path);
    if (ended - begun < slowMsMin) return;
    const [oldest] = this.#slowUntil.keys();
    if (this.#slowUntil.size >= slowKeptMax && oldest !== undefined) this.#slowUntil.delete(oldest);
    this.#slowUntil.set(path, ended + (ended - begun) * waitingShare);
  }

  /** A clone that the open view read this path from. */
  descriptorOf(path: StorePath): number | undefined {
    return this.#kept.get(path)?.descriptor;
  }

  drop(path: StorePath): void {
    this.#kept.get(path)?.close();
    this.#kept.delete(path);
  }

  /** The view is over. */
  release(): void {
    for (const path of [...this.#kept.keys()]) this.drop(path);
  }

  #keep(path: StorePath, clone: ClonedFile): void {
    this.drop(path);
    const [oldest] = this.#kept.keys();
    if (this.#kept.size >= clonesKeptMax && oldest !== undefined) this.drop(oldest);
    this.#kept.set(path, clone);
  }

  /** Should all that is cloned be written anew while the clones stand, the application must not meet a full disk for it. */
  #hasRoom(directory: string | Buffer, bytes: number): boolean {
    const held = [...this.#kept.values()].reduce((sum, { size }) => sum + size, 0);
    const free = freeBytes(directory) - roomBytesMin - bytes;
    if (free >= held) return true;
    this.release();
    return free >= 0;
  }

  /** Then what is being read counts as moved, and everything is given back. */
  #isFull(directory: string | Buffer): boolean {
    if (freeBytes(directory) >= roomBytesMin) return false;
    this.release();
    return true;
  }
}

export class ClonedFile implements Content {
  readonly descriptor: number;
  /** Of the clone: the source may have another by now. */
  readonly size: number;
  /** The stamps of the source, from before it was cloned: whatever changes it after the clone makes others. */
  readonly stat: SteadyFile["stat"];
  /** The source changed between these stamps and the clone: the content may be newer than they say, never older. */
  readonly overtaken: boolean;
  readonly blockSize: number;
  readonly ranges = "all";
  failure: Error | undefined;
  readonly #isFull: () => boolean;
  #bytesSinceLook = 0;
  #closed = false;
  #lost = false;

  constructor(descriptor: number, source: SteadyFile, isFull: () => boolean) {
    this.descriptor = descriptor;
    this.size = Number(fstatSync(descriptor).size);
    this.stat = source.stat;
    this.overtaken = source.settle() === "moved";
    this.blockSize = blockSizeFor(this.size);
    this.#isFull = isFull;
  }

  read(buffer: Uint8Array, offset: number): number {
    if (this.#bytesSinceLook >= bytesBetweenLooks) {
      this.#bytesSinceLook = 0;
      this.#lost ||= !this.#closed && this.#isFull();
    }
    if (this.#closed || this.failure !== undefined) {
      this.#lost = true;
      return 0;
    }
    const wanted = Math.max(0, Math.min(buffer.length, this.size - offset));
    try {
      const filled = readFully(this.descriptor, buffer.subarray(0, wanted), offset);
      this.#bytesSinceLook += filled;
      return filled;
    } catch (error) {
      this.failure = error as Error;
      this.#lost = true;
      return 0;
    }
  }

  /** What was read stays good; the clone itself is kept for more. */
  settle(): "stable" | "moved" {
    return this.#lost ? "moved" : "stable";
  }

  close(): void {
    if (!this.#closed) closeSync(this.descriptor);
    this.#closed = true;
  }
}

function freeBytes(directory: string | Buffer): number {
  const { bavail, bsize } = statfsSync(directory);
  return bavail * bsize;
}
