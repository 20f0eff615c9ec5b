import { spawn } from "node:child_process";
import { type BigIntStats, closeSync, constants, fdatasync, openSync } from "node:fs";
import { promisify } from "node:util";
import { isSystemError } from "../../../shared/errors.ts";
import { nativePath } from "./source-path.ts";
import { statSource } from "./source-stat.ts";
import { hasNothingToSync, openFile } from "./steady-file.ts";

/** One by one a sync costs 60 us even of a clean file, and as much as the disk is busy; of all at once, 5 ms to seconds. */
export const singleSyncsMax = 1000;
const singleSyncsMin = 64;
const singleSyncsMs = 100;
const timeoutMs = 20_000;
/** A larger file waits for its own bytes, not for a turn; and one that is being written would be synced twice. */
const aheadBytesMax = 2 ** 20;
const syncDescriptor = promisify(fdatasync);
/** A coarse clock may stamp a change this much too early. */
const clockTickNs = 20_000_000n;

/**
 * One `sync -f` in place of an fdatasync for each file. It cleans and write-protects every page of the filesystem, so
 * a file that has not changed since (its ctime is older) hides no store through mmap. Holds for one view only, lest the
 * clock is set back meanwhile.
 */
export class FilesystemSync {
  readonly #now: () => number;
  #files = 0;
  #spentMs = 0;
  readonly #syncedAtNs = new Map<bigint, bigint>();

  constructor(now: () => number) {
    this.#now = now;
  }

  /** True when so many files of this filesystem were synced by themselves that all at once are cheaper. */
  isDue(stat: BigIntStats): boolean {
    if (this.#syncedAtNs.has(stat.dev)) return false;
    return this.#files >= singleSyncsMax || (this.#files >= singleSyncsMin && this.#spentMs >= singleSyncsMs);
  }

  /** Counts a file that was synced by itself. */
  spent(ms: number): void {
    this.#files++;
    this.#spentMs += ms;
  }

  /** Syncs the filesystem that holds the file. */
  async run(latin1: string, stat: BigIntStats, signal: AbortSignal): Promise<void> {
    const begunNs = BigInt(this.#now()) * 1_000_000n;
    // When it fails (no coreutils, too slow) no file's ctime is below 0, so each is synced by itself as before.
    this.#syncedAtNs.set(stat.dev, (await syncFilesystem(latin1, signal)) ? begunNs - clockTickNs : 0n);
  }

  /**
   * Syncs what is a file of a few paths (latin1) at once, and gives those that failed. A file just written waits for its
   * filesystem's journal, and all that wait together get the same turn of it: one by one, ten files took ten turns. Each
   * is synced again when it is read, which takes no time then.
   */
  async ahead(paths: readonly string[]): Promise<Map<string, Error>> {
    const failed = new Map<string, Error>();
    if (paths.length < 2 || paths.length > singleSyncsMin) return failed;
    const sync = async (latin1: string): Promise<void> => {
      let descriptor: number | undefined;
      try {
        const stat = statSource(latin1);
        if (stat?.isFile() && stat.size <= aheadBytesMax) descriptor = openFile(latin1);
        if (descriptor !== undefined) await syncDescriptor(descriptor);
      } catch (error) {
        if (!hasNothingToSync(error)) failed.set(latin1, error as Error);
      } finally {
        if (descriptor !== undefined) closeSync(descriptor);
      }
    };
    await Promise.all(paths.map(sync));
    return failed;
  }

  covers(stat: BigIntStats): boolean {
    const syncedAtNs = this.#syncedAtNs.get(stat.dev);
    return syncedAtNs !== undefined && stat.ctimeNs < syncedAtNs;
  }
}

async function syncFilesystem(latin1: string, signal: AbortSignal): Promise<boolean> {
  let directory: number;
  try {
    directory = openSync(nativePath(latin1.slice(0, Math.max(1, latin1.lastIndexOf("/")))), constants.O_RDONLY);
  } catch (error) {
    if (isSystemError(error, "ENOENT", "ENOTDIR", "EACCES")) return false; // Whoever reads the file meets it again.
    throw error;
  }
  try {
    return await new Promise<boolean>((resolve) => {
      // An argument can only be text, and names are bytes: the child stands in the directory instead.
      const cwd = `/proc/${process.pid}/fd/${directory}`;
      const child = spawn("sync", ["-f", "."], { cwd, stdio: "ignore", timeout: timeoutMs, signal });
      child.on("error", () => resolve(false));
      child.on("exit", (code) => resolve(code === 0));
    });
  } finally {
    closeSync(directory);
  }
}
