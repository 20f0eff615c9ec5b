import { setImmediate, setTimeout } from "node:timers/promises";

const turnMs = 50;

/**
 * Lets a worker that reads for hours answer its port: gives way to the event loop now and then, keeps to a rate, and ends
 * when it is told to.
 */
export class Breath {
  readonly #bytesPerSecond: number;
  readonly #signal: AbortSignal;
  #turnEnds = performance.now() + turnMs;
  readonly #begun = performance.now();
  #bytes = 0;

  constructor(bytesPerSecond: number | undefined, signal: AbortSignal) {
    this.#bytesPerSecond = bytesPerSecond ?? Number.POSITIVE_INFINITY;
    this.#signal = signal;
  }

  /** True when it is time to call `take`: so that nobody waits a turn of the loop for each small file. */
  due(bytes: number): boolean {
    this.#bytes += bytes;
    const now = performance.now();
    return now >= this.#turnEnds || now < this.#dueAt();
  }

  async take(): Promise<void> {
    this.#signal.throwIfAborted();
    const ahead = this.#dueAt() - performance.now();
    if (ahead > 0) await setTimeout(ahead, undefined, { signal: this.#signal });
    else await setImmediate(undefined, { signal: this.#signal });
    this.#turnEnds = performance.now() + turnMs;
  }

  #dueAt(): number {
    return this.#begun + (this.#bytes / this.#bytesPerSecond) * 1000;
  }
}
