import { setTimeout as sleep } from "node:timers/promises";

/** Monotonic time, in milliseconds; a parameter where a test must steer it. */
export interface LinkClock {
  now(): number;
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

export const monotonicClock: LinkClock = {
  now: () => performance.now(),
  sleep: async (ms, signal) => await sleep(ms, undefined, { signal }),
};

/** How much of a second may go out at once after a pause: enough to hide timers' coarseness, not to fill a modem. */
const burstMs = 50;
const sliceMs = 50;
const sliceBytesMin = 512;
const sliceBytesMax = 64 * 1024;

/**
 * One line's budget of bytes for each second, shared by all channels of all groups on it: first come, first served,
 * slice by slice, so that a large payload of one group does not keep the others waiting. A token bucket, kept as the
 * time at which the line will be free again.
 */
export class RateLimiter {
  /** A frame is handed out in slices of this size: some 50 ms of the line each. */
  readonly sliceBytes: number;
  readonly #bytesPerMs: number;
  readonly #clock: LinkClock;
  #freeAt = Number.NEGATIVE_INFINITY;

  constructor(bytesPerSecond: number, clock: LinkClock = monotonicClock) {
    if (!(bytesPerSecond > 0)) throw new RangeError(`a line of ${bytesPerSecond} bytes a second carries nothing`);
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#clock = clock;
    this.sliceBytes = Math.floor(Math.min(sliceBytesMax, Math.max(sliceBytesMin, this.#bytesPerMs * sliceMs)));
  }

  /** Resolves when `bytes` may go out. @throws the signal's reason */
  async take(bytes: number, signal: AbortSignal): Promise<void> {
    const now = this.#clock.now();
    const turn = Math.max(this.#freeAt, now - burstMs);
    this.#freeAt = turn + bytes / this.#bytesPerMs;
    const wait = turn - now;
    if (wait > 0) await this.#clock.sleep(wait, signal);
    signal.throwIfAborted();
  }
}
