import { lstat } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import { type FSWatcher, watch } from "chokidar";
import { isSystemError } from "../../shared/errors.ts";

const missingDelayMs = 100;
/** More events than this within the time are a flood: each costs the writer too. */
const floodEvents = 60;
const floodMs = 100;
/** Then the file is not watched for a while, twice as long each time, and its consumer is told to look at this pace. */
const rideMs = 200;
const rideMsMax = 3200;
const rideDelayMs = 2;

/**
 * Calls `wake` within a fraction of a millisecond of any write to one of a few files, and when one appears, vanishes or
 * is replaced; often more than once. Watches chokidar's `raw` events, since its cooked ones come at most every 50 ms,
 * and the files themselves, since a watched directory is listed anew for each event. What does not exist yet is looked
 * for every 100 ms. Under a flood of writes the calls come every 2 ms, from no watch, since that would slow the writer. A
 * hint, never the truth: no call means nothing.
 */
export async function watchHotFiles(paths: string[], wake: () => void): Promise<AsyncDisposable> {
  const files = paths.map((path) => new HotFile(path, wake));
  await Promise.all(files.map((file) => file.appear()));
  return {
    async [Symbol.asyncDispose]() {
      await Promise.all(files.map((file) => file.close()));
    },
  };
}

class HotFile {
  readonly #path: string;
  readonly #wake: () => void;
  readonly #closing = new AbortController();
  #watcher: FSWatcher | undefined;
  #nextRideMs = rideMs;
  #settled: Promise<void> = Promise.resolve();

  constructor(path: string, wake: () => void) {
    this.#path = path;
    this.#wake = wake;
  }

  /** Watches the file if it is there; else goes on looking for it on its own. */
  async appear(): Promise<void> {
    if (!(await this.#watchIfThere())) this.#settled = this.#lookForIt();
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#settled;
    await this.#watcher?.close();
  }

  async #lookForIt(): Promise<void> {
    try {
      do {
        await delay(missingDelayMs, undefined, { ref: false, signal: this.#closing.signal });
      } while (!(await this.#watchIfThere()));
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      throw error;
    }
    this.#wake();
  }

  async #watchIfThere(): Promise<boolean> {
    try {
      await lstat(this.#path);
    } catch (error) {
      if (isSystemError(error, "ENOENT", "ENOTDIR")) return false;
      throw error;
    }
    const watcher = watch(this.#path, { ignoreInitial: true });
    const ready = new Promise<void>((resolve) => watcher.once("ready", () => resolve()));
    // The inode has lost its name: another one may get it, which this watch would never see.
    const lost = () => {
      if (this.#watcher === watcher) this.#settled = this.#replace(watcher);
    };
    let events = 0;
    let countedFrom = performance.now();
    watcher.on("raw", (event) => {
      this.#wake();
      if (event === "rename") lost();
      if (++events < floodEvents) return;
      const now = performance.now();
      if (now - countedFrom >= floodMs) this.#nextRideMs = rideMs;
      else if (this.#watcher === watcher) this.#settled = this.#ride(watcher);
      countedFrom = now;
      events = 0;
    });
    // While somebody holds the file open, its removal is raw only as a change: this one comes from a look at the name.
    watcher.on("unlink", () => {
      this.#wake();
      lost();
    });
    // Out of watches, say. The consumer still looks at its files at its own interval.
    watcher.on("error", () => this.#wake());
    await ready;
    this.#watcher = watcher;
    return true;
  }

  async #replace(watcher: FSWatcher): Promise<void> {
    this.#watcher = undefined;
    await watcher.close();
    await this.#watchAgain();
  }

  /** Looks at a steady pace while there is too much to be told one by one. */
  async #ride(watcher: FSWatcher): Promise<void> {
    this.#watcher = undefined;
    await watcher.close();
    const end = performance.now() + this.#nextRideMs;
    this.#nextRideMs = Math.min(2 * this.#nextRideMs, rideMsMax);
    while (performance.now() < end && !this.#closing.signal.aborted) {
      await delay(rideDelayMs, undefined, { ref: false });
      this.#wake();
    }
    await this.#watchAgain();
  }

  async #watchAgain(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    if (await this.#watchIfThere()) this.#wake();
    else await this.#lookForIt();
  }
}
