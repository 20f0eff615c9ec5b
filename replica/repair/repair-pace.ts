import type { ObjectId } from "../../shared/words.ts";

const firstMs = 2000;
const longestMs = 3600_000;
/** Who was left alone so long begins with a clean slate. */
const forgottenMs = 4 * 3600_000;

/**
 * How soon an object is repaired that somebody damages again and again: at once the first time, then ever later, up to
 * once an hour. Nothing of it is durable: whoever restarts the agent has perhaps found out who it was.
 */
export class RepairPace {
  readonly #attempts = new Map<ObjectId, { count: number; at: number }>();

  mayBegin(object: ObjectId, nowMs: number): boolean {
    const last = this.#attempts.get(object);
    if (last === undefined) return true;
    const waitMs = Math.min(longestMs, firstMs * 2 ** (last.count - 1));
    return nowMs - last.at >= waitMs;
  }

  /** Gives which attempt in a row it is. */
  begin(object: ObjectId, nowMs: number): number {
    const last = this.#attempts.get(object);
    const count = last === undefined || nowMs - last.at >= forgottenMs ? 1 : last.count + 1;
    this.#attempts.set(object, { count, at: nowMs });
    return count;
  }

  forgetOld(nowMs: number): void {
    for (const [object, { at }] of this.#attempts) if (nowMs - at >= forgottenMs) this.#attempts.delete(object);
  }
}

/** Between attempts at something that fails as a whole: each waits twice as long as the one before. */
export class Backoff {
  readonly #firstMs: number;
  readonly #longestMs: number;
  #waitMs = 0;
  #until = Number.NEGATIVE_INFINITY;

  constructor(firstMs: number, longestMs: number) {
    this.#firstMs = firstMs;
    this.#longestMs = longestMs;
  }

  passed(nowMs: number): boolean {
    return nowMs >= this.#until;
  }

  failed(nowMs: number): void {
    this.#waitMs = Math.min(this.#longestMs, Math.max(this.#firstMs, this.#waitMs * 2));
    this.#until = nowMs + this.#waitMs;
  }

  succeeded(): void {
    this.#waitMs = 0;
    this.#until = Number.NEGATIVE_INFINITY;
  }
}
