const beatMs = 50;
/** A little late is whoever shares a machine. */
const lateMsMin = 50;

/** What the machine keeps this process waiting for: nothing that is measured beside it can be judged by the same time. */
export class Metronome implements Disposable {
  readonly #late: { readonly from: number; readonly to: number }[] = [];
  #timer: NodeJS.Timeout;
  #dueAt = Date.now() + beatMs;

  constructor() {
    this.#timer = setTimeout(() => this.#beat(), beatMs);
  }

  #beat(): void {
    const now = Date.now();
    if (now - this.#dueAt > lateMsMin) this.#late.push({ from: this.#dueAt, to: now });
    this.#dueAt = now + beatMs;
    this.#timer = setTimeout(() => this.#beat(), beatMs);
  }

  /** How much of that time stood still, ms. */
  lateWithin(from: number, to: number): number {
    return this.#late.reduce((sum, late) => sum + Math.max(0, Math.min(late.to, to) - Math.max(late.from, from)), 0);
  }

  get latestMs(): number {
    return Math.max(0, ...this.#late.map(({ from, to }) => to - from));
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
