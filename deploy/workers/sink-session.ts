import { HeldBlocks } from "../../primary/ship/held-blocks.ts";
import { type AskTouched, TouchedThere } from "../../primary/ship/touched-there.ts";

/** Frames of one sink that may be on their way to the main thread and from there into its link. */
const windowBytes = 8 * 1024 * 1024;
/** Of what goes ahead so much as the line carries in this time: a cut that comes waits behind it. */
const aheadMs = 1000;
const aheadBytesMin = 256 * 1024;
const measureMs = 500;

/**
 * What may be sent within a cut to a sink that lags, and then waits in memory for its line: so much as that carries in
 * this time, since a cut that a broken session leaves is sent again.
 */
const cutMs = 5000;
const cutBytesMin = 512 * 1024;
const cutBytesUnknown = 1024 * 1024;
/** The same where no pass makes it less, since all of it changes while it is sent. */
const catchUpBytesMost = 48 * 1024 * 1024;
/** A pass that leaves more than this share of what the one before left was none. */
const progressShare = 0.75;

/** What this thread knows of one session with a replica, over all of its cuts. */
export class SinkSession {
  readonly name: string;
  readonly number: number;
  readonly held = new HeldBlocks();
  #touched: TouchedThere | undefined;
  gone = false;
  /** The replica has no room for what goes ahead. */
  refused = false;
  #users = 0;
  /** All that is lacking goes with the next cut: a pass does not make it less. */
  #takesMost = false;
  /** Of the pass that began last. */
  #lackingBytes = Number.POSITIVE_INFINITY;
  #outstanding = 0;
  readonly #waiting = new Set<{ readonly windowBytes: number; readonly resolve: () => void }>();
  #measuredBytes = 0;
  #measuredSince: number | undefined;
  /** What the line carries; undefined until it was known to be the bottleneck for a while. */
  bytesPerSecond: number | undefined;

  constructor(name: string, number: number, bytesPerSecond: number | undefined) {
    this.name = name;
    this.number = number;
    this.bytesPerSecond = bytesPerSecond;
  }

  get full(): boolean {
    return !this.gone && this.#outstanding >= this.cutWindowBytes;
  }

  get catchUpBytesMax(): number {
    if (this.#takesMost) return catchUpBytesMost;
    return this.bytesPerSecond === undefined ? cutBytesUnknown : this.#carriedIn(cutMs, cutBytesMin);
  }

  /** Room for what goes ahead of a cut. */
  get aheadWindowBytes(): number {
    return this.#carriedIn(aheadMs, aheadBytesMin);
  }

  /** For what a cut sends to one that lags: all of it has room. */
  get catchUpWindowBytes(): number {
    return windowBytes + this.catchUpBytesMax;
  }

  get cutWindowBytes(): number {
    return this.bytesPerSecond === undefined ? windowBytes : this.#carriedIn(cutMs, cutBytesMin);
  }

  #carriedIn(ms: number, bytesMin: number): number {
    return Math.min(windowBytes, Math.max(bytesMin, ((this.bytesPerSecond ?? 0) * ms) / 1000));
  }

  left(bytes: number): void {
    this.#measuredSince ??= performance.now();
    this.#outstanding += bytes;
  }

  /** So many bytes are in the link, or lost with it. */
  carried(bytes: number): void {
    this.#outstanding -= bytes;
    this.#measure(bytes);
    for (const waiting of this.#waiting) {
      if (this.#outstanding >= waiting.windowBytes) continue;
      this.#waiting.delete(waiting);
      waiting.resolve();
    }
  }

  /** `given up`: what is sent belongs to nothing that will be, and waits for nobody. */
  async room(windowBytes: number, givenUp?: AbortSignal): Promise<void> {
    if (this.#outstanding < windowBytes || this.gone || givenUp?.aborted === true) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const waiting = { windowBytes, resolve };
    this.#waiting.add(waiting);
    givenUp?.addEventListener("abort", resolve as () => void, { once: true });
    await promise;
    givenUp?.removeEventListener("abort", resolve as () => void);
    this.#waiting.delete(waiting);
  }

  end(): void {
    if (this.gone) return;
    this.gone = true;
    for (const waiting of this.#waiting) waiting.resolve();
    this.#waiting.clear();
    if (this.#users === 0) this.#close();
  }

  #close(): void {
    this.held.close();
    this.#touched?.close();
  }

  /** What the replica has otherwise, where it rejoins: asked once in a session. */
  touchedThere(ask: AskTouched): TouchedThere {
    this.#touched ??= new TouchedThere(ask);
    return this.#touched;
  }

  /** What is known of the replica's staging stays while somebody works with it, also beyond the session's end. */
  inUse(): Disposable {
    this.#users++;
    return {
      [Symbol.dispose]: () => {
        if (--this.#users === 0 && this.gone) this.#close();
      },
    };
  }

  /** What a pass found to be sent, and whether it is worth while: else all of it goes with the next cut. */
  passBegins(lackingBytes: number): boolean {
    const less = lackingBytes <= this.#lackingBytes * progressShare;
    this.#lackingBytes = lackingBytes;
    if (lackingBytes <= this.catchUpBytesMax) return false;
    if (less || lackingBytes > catchUpBytesMost) return true;
    this.#takesMost = true;
    return false;
  }

  /** It has a cut that it lacked, and begins anew. */
  caughtUp(): void {
    this.#lackingBytes = Number.POSITIVE_INFINITY;
    this.#takesMost = false;
  }

  /** Only while something waits all the time does what leaves tell what the line carries. */
  #measure(bytes: number): void {
    const now = performance.now();
    this.#measuredBytes += bytes;
    const ms = now - (this.#measuredSince ?? now);
    if (ms >= measureMs) {
      const measured = (this.#measuredBytes * 1000) / ms;
      this.bytesPerSecond = this.bytesPerSecond === undefined ? measured : this.bytesPerSecond * 0.7 + measured * 0.3;
      this.#measuredBytes = 0;
      this.#measuredSince = now;
    }
    if (this.#outstanding > 0) return;
    this.#measuredSince = undefined;
    this.#measuredBytes = 0;
  }
}
