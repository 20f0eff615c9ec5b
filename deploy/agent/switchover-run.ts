import { waitAtMost } from "../../shared/within.ts";
import type { SwitchoverProgress, SwitchoverStep } from "../control/api.ts";

/** One switchover as its caller follows it: every step with its time, and how it ended. It is kept until the next one. */
export class SwitchoverRun {
  readonly id: string;
  readonly from: string;
  readonly to: string;
  readonly #begun = performance.now();
  readonly #steps: SwitchoverStep[] = [];
  #outcome: SwitchoverProgress["outcome"] = null;
  #reason = "";
  #hint = "";
  #stoppedAt: number | undefined;
  #handedAt: number | undefined;
  #pauseMs: number | null = null;
  #news = Promise.withResolvers<void>();

  constructor(id: string, from: string, to: string) {
    this.id = id;
    this.from = from;
    this.to = to;
  }

  get over(): boolean {
    return this.#outcome !== null;
  }

  step(step: string, text: string): void {
    const ms = Math.round(performance.now() - this.#begun);
    this.#steps.push({ at: new Date().toISOString(), ms, step, text });
    this.#tell();
  }

  /** From here on nobody is served. */
  pauseBegins(): void {
    this.#stoppedAt ??= performance.now();
  }

  handedOver(): void {
    this.#handedAt ??= performance.now();
  }

  /** Somebody is served again: now, or so long after it was handed over. */
  pauseEnds(msAfterwards?: number): void {
    const handedAt = msAfterwards === undefined ? undefined : this.#handedAt;
    const at = handedAt === undefined ? performance.now() : handedAt + (msAfterwards ?? 0);
    if (this.#stoppedAt !== undefined) this.#pauseMs ??= Math.round(at - this.#stoppedAt);
  }

  end(outcome: NonNullable<SwitchoverProgress["outcome"]>, reason = "", hint = ""): void {
    if (this.over) return;
    this.#outcome = outcome;
    this.#reason = reason;
    this.#hint = hint;
    this.#tell();
  }

  /** What is in doubt may be resolved later: then it goes on. */
  goesOn(): void {
    if (this.#outcome === "in-doubt") this.#outcome = null;
  }

  /** All from the step with this number on. */
  progress(after: number): SwitchoverProgress {
    const { id, from, to } = this;
    const steps = this.#steps.slice(after);
    const ended = { outcome: this.#outcome, reason: this.#reason, hint: this.#hint, pauseMs: this.#pauseMs };
    return { id, from, to, steps, next: this.#steps.length, ...ended };
  }

  /** Until there is a step with this number, or the end, or the time has passed. */
  async news(after: number, waitMs: number): Promise<void> {
    if (this.#steps.length > after || this.over) return;
    await waitAtMost(this.#news.promise, waitMs);
  }

  #tell(): void {
    this.#news.resolve();
    this.#news = Promise.withResolvers();
  }
}
