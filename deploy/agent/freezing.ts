import { rm, stat, writeFile } from "node:fs/promises";
import type { GroupConfig } from "../../shared/config/config.ts";
import { isSystemError, UnderstudyError } from "../../shared/errors.ts";
import { runHook } from "../../shared/hooks.ts";
import type { Log } from "../../shared/log.ts";

export interface FreezingOptions {
  readonly config: GroupConfig;
  readonly log: Log;
  readonly environment: () => Record<string, string>;
  /** This file is there while the application may be frozen: who starts after a crash thaws it. */
  readonly frozenMarkPath: string;
}

/** The application was thawed before the cut was read: what was read is not one instant. */
class FreezeExceeded extends UnderstudyError {
  readonly code = "FREEZE_EXCEEDED";
  readonly remedy = "retry";
  readonly state = "The application runs again; the cut was dropped, the replicas keep the one before.";
  readonly hint = "Raise limits.snapshot_hold, or look at what makes the freeze long.";
  constructor(limitMs: number) {
    super(`the freeze took longer than ${limitMs} ms`);
  }
}

/** Pauses the application by its hooks for the end of a cut, and never leaves it paused. */
export class Freezing {
  readonly #options: FreezingOptions;
  #frozenAt = 0;
  #timer: NodeJS.Timeout | undefined;
  #thawed: Promise<number> | undefined;
  #exceeded = false;
  #thawOwed = false;

  constructor(options: FreezingOptions) {
    this.#options = options;
  }

  /** When the application was paused last. Monotonic, ms; 0 if it never was. */
  get frozenAt(): number {
    return this.#frozenAt;
  }

  /** The application was frozen, and no thaw has succeeded since. */
  get thawOwed(): boolean {
    return this.#thawOwed;
  }

  /** The application is paused; thawed again at the latest at the limit, whatever the cut does meanwhile. */
  async freeze(): Promise<void> {
    const { config, environment, frozenMarkPath } = this.#options;
    const { freeze } = config.hooks;
    if (freeze === undefined) return;
    const holdMs = config.limits.snapshotHoldMs;
    this.#exceeded = false;
    this.#thawed = undefined;
    await writeFile(frozenMarkPath, "");
    this.#thawOwed = true;
    this.#frozenAt = performance.now();
    // Ended at the limit too: what freezes after the thaw would stay frozen.
    const limited = { ...freeze, timeoutMs: Math.min(freeze.timeoutMs, holdMs) };
    await runHook("freeze", limited, { ...environment(), UNDERSTUDY_REASON: "cut" });
    this.#timer = setTimeout(
      () => {
        this.#exceeded = true;
        this.#options.log.error("freeze.exceeded", { limitMs: holdMs });
        this.#thawed = this.#runThaw("cut");
        this.#thawed.catch((error: unknown) => this.#options.log.debug("thaw.owed", { error }));
      },
      Math.max(0, this.#frozenAt + holdMs - performance.now()),
    );
  }

  /** Gives for how many milliseconds the application was paused. @throws {FreezeExceeded} */
  async thaw(): Promise<number> {
    clearTimeout(this.#timer);
    this.#thawed ??= this.#runThaw("cut");
    const ms = await this.#thawed;
    if (this.#exceeded) throw new FreezeExceeded(this.#options.config.limits.snapshotHoldMs);
    return ms;
  }

  /** Whether the process that ended last left the application frozen. */
  async findOwedThaw(): Promise<void> {
    if (this.#options.config.hooks.thaw === undefined) return;
    try {
      await stat(this.#options.frozenMarkPath);
      this.#thawOwed = true;
    } catch (error) {
      if (!isSystemError(error, "ENOENT")) throw error;
    }
  }

  /** After a thaw that failed, or that nobody was there for. */
  async thawAgain(): Promise<void> {
    await this.#runThaw("recover");
  }

  async #runThaw(reason: string): Promise<number> {
    const { config, environment, frozenMarkPath, log } = this.#options;
    const { thaw } = config.hooks;
    try {
      if (thaw !== undefined) await runHook("thaw", thaw, { ...environment(), UNDERSTUDY_REASON: reason });
    } catch (error) {
      log.error("thaw.failed", { error, hint: "The application may still be paused; thaw is tried again." });
      throw error;
    }
    const ms = performance.now() - this.#frozenAt;
    await rm(frozenMarkPath, { force: true });
    this.#thawOwed = false;
    return ms;
  }
}
