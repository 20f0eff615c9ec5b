import { type BigIntStats, closeSync, constants, fdatasyncSync, fstatSync, openSync, readSync } from "node:fs";
import { isSystemError } from "../../../shared/errors.ts";
import type { Content } from "../../../shared/ports/store-adapter.ts";
import { blockSizeFor } from "./block-size.ts";
import { nativePath } from "./source-path.ts";
import { sameStamps, typeOf } from "./source-stat.ts";

const syncTriesMax = 3;
export const bytesBetweenLooks = 8 * 2 ** 20;
const openFlags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

export type Opened =
  | { readonly kind: "opened"; readonly file: SteadyFile }
  /** Nothing, or something else, has the path now. */
  | { readonly kind: "replaced" }
  /** Stores through mmap come faster than it can be synced: only a clone of it is worth reading. */
  | { readonly kind: "busy"; readonly file: SteadyFile }
  | { readonly kind: "unreadable"; readonly cause: Error };

/**
 * A file opened so that a change while it is read cannot stay unseen. It was synced first: a store through mmap into a
 * page that is dirty already changes no time stamp, ever; a sync makes the pages clean and write-protected, so that
 * the next store faults and does. (On tmpfs, which has nothing to sync to, such stores never leave a trace.)
 */
export class SteadyFile implements Content {
  readonly stat: BigIntStats;
  readonly blockSize: number;
  readonly ranges = "all";
  /** Why reading failed, if it did; `settle` then says moved. */
  failure: Error | undefined;
  outcome: "stable" | "moved" | undefined;
  readonly #fd: number;
  #bytesSinceLook = 0;
  #moved = false;

  private constructor(fd: number, stat: BigIntStats) {
    this.#fd = fd;
    this.stat = stat;
    this.blockSize = blockSizeFor(Number(stat.size));
  }

  /**
   * Opens what lstat found at `latin1`, and nothing else. `isSynced` may know that the whole filesystem was synced
   * after the file's last change, which is as good as syncing the file.
   */
  static open(latin1: string, expected: BigIntStats, isSynced: (stat: BigIntStats) => boolean): Opened {
    let fd: number;
    try {
      fd = openSync(nativePath(latin1), openFlags);
    } catch (error) {
      if (isSystemError(error, "ENOENT", "ENOTDIR", "ELOOP", "ENXIO")) return { kind: "replaced" };
      return { kind: "unreadable", cause: error as Error };
    }
    let opened: Opened;
    try {
      opened = SteadyFile.#steady(fd, expected, isSynced);
    } catch (error) {
      opened = { kind: "unreadable", cause: error as Error };
    }
    if (opened.kind === "replaced" || opened.kind === "unreadable") closeSync(fd);
    return opened;
  }

  static #steady(fd: number, expected: BigIntStats, isSynced: (stat: BigIntStats) => boolean): Opened {
    let stat = fstatSync(fd, { bigint: true });
    if (stat.ino !== expected.ino || stat.dev !== expected.dev || typeOf(stat) !== "file") return { kind: "replaced" };
    for (let tries = 0; !isSynced(stat); tries++) {
      syncContent(fd);
      const after = fstatSync(fd, { bigint: true });
      if (sameStamps(stat, after)) break;
      // Something was stored around the sync: its page may be dirty again and take further stores without a trace.
      // A file that changed its size is being written by calls, which the stamps show each time: go on with that one.
      const grew = stat.size !== after.size;
      stat = after;
      if (grew) break;
      if (tries + 1 === syncTriesMax) return { kind: "busy", file: new SteadyFile(fd, stat) };
    }
    return { kind: "opened", file: new SteadyFile(fd, stat) };
  }

  get descriptor(): number {
    return this.#fd;
  }

  read(buffer: Uint8Array, offset: number): number {
    if (this.outcome !== undefined || this.#moved || this.failure !== undefined) return 0;
    if (this.#bytesSinceLook >= bytesBetweenLooks && !this.look()) return 0; // Spares the rest of a large file.
    const wanted = Math.max(0, Math.min(buffer.length, Number(this.stat.size) - offset));
    let filled = 0;
    try {
      filled = readFully(this.#fd, buffer.subarray(0, wanted), offset);
    } catch (error) {
      this.failure = error as Error;
      return 0;
    }
    this.#bytesSinceLook += filled;
    return filled;
  }

  /** True while the file is as it was when it was opened. */
  look(): boolean {
    this.#bytesSinceLook = 0;
    this.#moved ||= this.failure !== undefined || !sameStamps(this.stat, fstatSync(this.#fd, { bigint: true }));
    return !this.#moved;
  }

  settle(): "stable" | "moved" {
    if (this.outcome !== undefined) return this.outcome;
    try {
      this.outcome = this.look() ? "stable" : "moved";
    } finally {
      closeSync(this.#fd);
    }
    return this.outcome;
  }
}

/** A file as it is, without any watch over it; undefined when nothing, or something else, has the path. */
export function openFile(latin1: string): number | undefined {
  let descriptor: number;
  try {
    descriptor = openSync(nativePath(latin1), openFlags);
  } catch (error) {
    if (isSystemError(error, "ENOENT", "ENOTDIR", "ELOOP", "ENXIO", "EACCES")) return undefined;
    throw error;
  }
  if (fstatSync(descriptor).isFile()) return descriptor;
  closeSync(descriptor);
  return undefined;
}

/** Gives how many bytes were read: fewer than the buffer has only at the end of the file. */
export function readFully(descriptor: number, buffer: Uint8Array, offset: number): number {
  let filled = 0;
  while (filled < buffer.length) {
    const count = readSync(descriptor, buffer, filled, buffer.length - filled, offset + filled);
    if (count === 0) break;
    filled += count;
  }
  return filled;
}

function syncContent(fd: number): void {
  try {
    fdatasyncSync(fd);
  } catch (error) {
    if (!hasNothingToSync(error)) throw error;
  }
}

/** Of a filesystem that is read-only, or without the operation. */
export function hasNothingToSync(error: unknown): boolean {
  return isSystemError(error, "EROFS", "EINVAL", "ENOTSUP");
}
