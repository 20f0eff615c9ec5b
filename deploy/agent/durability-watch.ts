import { explain } from "../../shared/errors.ts";
import type { Log } from "../../shared/log.ts";
import {
  type Begun,
  decideDurability,
  protectedCut,
  type SemiSync,
  stillBegun,
} from "../../shared/session/durability.ts";
import type { CutId } from "../../shared/words.ts";
import type { EventFields } from "./event-log.ts";

export interface DurabilityWatchOptions {
  readonly settings: SemiSync;
  readonly log: Log;
  /** Resolves when it is durable. */
  readonly announce: (event: string, fields: EventFields) => Promise<void>;
  /** The last durable cut of each replica of which it is known. */
  readonly durable: () => readonly CutId[];
  readonly nowMs?: () => number;
  /** An announcement that could not be written down is tried again after this. */
  readonly announceAgainMs?: number;
}

/**
 * Watches over `durability: semi_sync` in one reign. Whoever waits is let go without protection only after the degradation
 * was announced, durably; its end is announced as well.
 */
export class DurabilityWatch {
  readonly #options: DurabilityWatchOptions;
  readonly #nowMs: () => number;
  #begun: Begun[] = [];
  readonly #asked = new Set<{ readonly atMs: number }>();
  /** As it was announced. */
  #degraded: { readonly sinceMs: number; readonly at: string } | undefined;
  #announcing = false;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;
  readonly #waiting = new Set<() => void>();

  constructor(options: DurabilityWatchOptions) {
    this.#options = options;
    this.#nowMs = options.nowMs ?? (() => performance.now());
  }

  get settings(): SemiSync {
    return this.#options.settings;
  }

  /** Since when, as ISO 8601; undefined while it is not. */
  get degradedSince(): string | undefined {
    return this.#degraded?.at;
  }

  /** A cut was taken that was begun then. */
  taken(cut: CutId, atMs: number): void {
    this.#begun.push({ cut, atMs });
    this.look();
  }

  /** Somebody waits from now on for what no cut may have yet; until the answer is disposed. */
  ask(): Disposable {
    const asked = { atMs: this.#nowMs() };
    this.#asked.add(asked);
    this.look();
    return {
      [Symbol.dispose]: () => {
        this.#asked.delete(asked);
        this.look();
      },
    };
  }

  /** Resolves when it is degraded, and that is announced. */
  async untilDegraded(signal: AbortSignal): Promise<void> {
    while (this.#degraded === undefined) {
      signal.throwIfAborted();
      await new Promise<void>((resolve) => {
        const done = (): void => {
          this.#waiting.delete(done);
          signal.removeEventListener("abort", done);
          resolve();
        };
        this.#waiting.add(done);
        signal.addEventListener("abort", done, { once: true });
      });
    }
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  /** Called at whatever may change it: a cut, an acknowledgement, a question, its time. */
  look(): void {
    if (this.#stopped || this.#announcing) return;
    clearTimeout(this.#timer);
    const { settings } = this.#options;
    const durable = this.#options.durable();
    this.#begun = stillBegun(this.#begun, protectedCut(durable, settings.replicas));
    const asked = [...this.#asked].map(({ atMs }): Begun => ({ cut: undefined, atMs }));
    const begun = [...this.#begun, ...asked].sort((a, b) => a.atMs - b.atMs);
    const decision = decideDurability(
      { durable, begun, degraded: this.#degraded !== undefined },
      settings,
      this.#nowMs(),
    );
    if (decision.kind === "waiting") this.#lookAgain(decision.untilMs - this.#nowMs());
    if (decision.kind === "degraded" && this.#degraded === undefined) this.#announceThat(decision.sinceMs);
    if (decision.kind !== "degraded" && this.#degraded !== undefined) this.#announceThat(undefined);
  }

  #lookAgain(ms: number): void {
    this.#timer = setTimeout(() => this.look(), Math.max(1, Math.ceil(ms)));
  }

  #announceThat(sinceMs: number | undefined): void {
    const { log, settings } = this.#options;
    const { replicas, timeoutMs } = settings;
    const fields =
      sinceMs === undefined
        ? { degradedMs: Math.round(this.#nowMs() - (this.#degraded?.sinceMs ?? 0)) }
        : { waitedMs: Math.round(this.#nowMs() - sinceMs) };
    const name = sinceMs === undefined ? "durability.restored" : "durability.degraded";
    this.#announcing = true;
    this.#options.announce(name, { replicas, timeoutMs, ...fields }).then(
      () => {
        this.#announcing = false;
        if (sinceMs === undefined) log.info(name, { replicas, timeoutMs, ...fields });
        else log.error(name, { replicas, timeoutMs, ...fields });
        this.#degraded = sinceMs === undefined ? undefined : { sinceMs, at: new Date().toISOString() };
        if (this.#degraded !== undefined) for (const done of [...this.#waiting]) done();
        this.look();
      },
      (error: unknown) => {
        this.#announcing = false;
        log.error("durability.unannounced", { event: name, reason: explain(error) });
        if (!this.#stopped) this.#lookAgain(this.#options.announceAgainMs ?? 1000);
      },
    );
  }
}
