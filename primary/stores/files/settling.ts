import type { StorePath } from "../../../shared/words.ts";

/** Reading less than this once too often costs less than the wait. */
export const settlingBytesMin = 64 * 2 ** 20;
const quietMs = 100;
const waitMsMax = 1000;

/**
 * Large files that are being written. Read at the first sign of it, such a file would be torn, or shipped in part and
 * again as a whole, since its writer is still at work: it is announced when it was quiet for a moment, or for too long
 * was not. Whoever looks for another reason finds it at once. Times are monotonic, in ms.
 */
export class Settling {
  readonly #files = new Map<StorePath, { readonly since: number; last: number }>();

  get size(): number {
    return this.#files.size;
  }

  has(path: StorePath): boolean {
    return this.#files.has(path);
  }

  written(path: StorePath, now: number): void {
    const file = this.#files.get(path);
    if (file === undefined) this.#files.set(path, { since: now, last: now });
    else file.last = now;
  }

  delete(path: StorePath): void {
    this.#files.delete(path);
  }

  clear(): void {
    this.#files.clear();
  }

  /** When the first of them is to be announced; infinite when there is none. */
  dueAt(): number {
    let at = Number.POSITIVE_INFINITY;
    for (const { since, last } of this.#files.values()) at = Math.min(at, last + quietMs, since + waitMsMax);
    return at;
  }
}
