import { type FSWatcher, mkdtempSync, rmSync, unlinkSync, watch, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const timeoutMs = 2000;

/**
 * Proves that all events of the past have been delivered to this thread: creates a cookie file in a watched directory
 * of its own and waits for its event. All watches of a thread share one queue, which the kernel fills in order and
 * before the call that caused an event returns, so the directory need not be in the tree that is watched.
 */
export class EventBarrier {
  readonly #directory: string;
  readonly #watcher: FSWatcher;
  readonly #waiting = new Map<string, () => void>();
  #cookies = 0;

  constructor() {
    this.#directory = mkdtempSync(join(tmpdir(), "understudy-events-"));
    try {
      this.#watcher = watch(this.#directory, { persistent: false });
    } catch (error) {
      rmSync(this.#directory, { recursive: true, force: true });
      throw error;
    }
    this.#watcher.on("change", (_kind, name) => this.#waiting.get(String(name))?.());
    this.#watcher.on("error", () => this.#watcher.close()); // Then no event comes, and `pass` says so.
  }

  /** False when the event did not come in time: then nothing is known. */
  async pass(): Promise<boolean> {
    const name = `cookie-${this.#cookies++}`;
    const cookie = join(this.#directory, name);
    const seen = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => seen.resolve(false), timeoutMs);
    this.#waiting.set(name, () => seen.resolve(true));
    try {
      writeFileSync(cookie, "");
      return await seen.promise;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(name);
      unlinkSync(cookie);
    }
  }

  close(): void {
    this.#watcher.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
