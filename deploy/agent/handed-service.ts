import { setTimeout as sleep } from "node:timers/promises";
import { explain } from "../../shared/errors.ts";
import type { SwitchoverMessage } from "../../shared/wire/messages.ts";
import type { SwitchoverOptions } from "../control/api.ts";
import type { GroupWorkers } from "./group-workers.ts";
import { SwitchoverRefused } from "./switchover-errors.ts";
import type { SwitchoverRun } from "./switchover-run.ts";
import type { SwitchoverStory } from "./switchover-story.ts";

type Started = Extract<SwitchoverMessage, { kind: "serviceStarted" }>;

/** So many limits of a step it may take until a service that did not start is handed back. */
const returnSteps = 3;
const returnLookMs = 100;
/** After one that was refused. */
const returnAgainMs = 1000;

/** One before its first record is durable: what ends it, and when that is over. */
export interface LeadingSwitchover {
  readonly run: SwitchoverRun;
  readonly abort: AbortController;
  readonly ended: Promise<void>;
}

/**
 * What becomes of the service after the handover. The former primary waits to hear that it runs there; the new one hands the
 * group back where it does not start, and that ends the switchover that it came with.
 */
export class HandedService {
  readonly #workers: GroupWorkers;
  readonly #story: SwitchoverStory;
  readonly #begin: (options: SwitchoverOptions) => LeadingSwitchover;
  /** What became of the service there is not known yet. */
  #awaited = false;
  #comesBack = false;
  /** The limit of either. */
  #timer: NodeJS.Timeout | undefined;

  /** @param begin throws `SwitchoverRefused` where something stands in the way */
  constructor(workers: GroupWorkers, story: SwitchoverStory, begin: (options: SwitchoverOptions) => LeadingSwitchover) {
    this.#workers = workers;
    this.#story = story;
    this.#begin = begin;
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  // --- the former primary's side -----------------------------------------------------------------------------------

  /** It did not start there, and the group is on its way back to this node. */
  get comesBack(): boolean {
    return this.#comesBack;
  }

  /** The new primary says so when this node follows it. */
  awaitFrom(to: string): void {
    this.#awaited = true;
    const { limits, hooks } = this.#workers.config;
    const ms = limits.switchoverStepMs + (hooks.afterPromote?.timeoutMs ?? 0) + (hooks.startService?.timeoutMs ?? 0);
    this.#timer = setTimeout(() => this.#unknown(`${to} did not say within ${ms / 1000} s`), ms).unref();
  }

  /** Another switchover begins: what becomes of the one before is nobody's question any more. */
  forget(): void {
    this.#awaited = false;
    clearTimeout(this.#timer);
  }

  /** Who moved it back meanwhile did not wait for the service there. */
  primaryAgain(): void {
    if (this.#awaited && !this.#comesBack) this.#unknown(`${this.#workers.options.node} is primary again`);
  }

  heard(peer: string, { id, ms, reason }: Started): void {
    const { run } = this.#story;
    if (run === undefined || run.id !== id || !this.#awaited) return;
    this.#awaited = false;
    clearTimeout(this.#timer);
    if (reason === "") {
      this.#story.note("started", `the service runs on ${peer}, ${ms} ms after its epoch began`, { ms });
      run.pauseEnds(ms);
      const { pauseMs } = run.progress(0);
      this.#story.mark("done", { id: run.id, to: run.to, pauseMs });
      run.end("done");
      return;
    }
    this.#story.note("start-failed", `the service could not be started on ${peer}, which hands it back: ${reason}`, {
      reason,
    });
    this.#comesBack = true;
    const { limits, hooks } = this.#workers.config;
    const hooksMs = (hooks.stopService?.timeoutMs ?? 0) + (hooks.startService?.timeoutMs ?? 0);
    this.#timer = setTimeout(
      () => {
        this.#comesBack = false;
        run.end("service-failed", reason, `Look there: ${peer} is primary.`);
      },
      returnSteps * limits.switchoverStepMs + hooksMs,
    ).unref();
  }

  /** The service was entered here; whether that is the end of the way back. `failure`: why it does not run; "" where it does. */
  cameBack(failure: string): boolean {
    const { run } = this.#story;
    if (!this.#comesBack || run === undefined) return false;
    this.#comesBack = false;
    clearTimeout(this.#timer);
    this.#story.note(
      "came-back",
      `${this.#workers.options.node} is primary again${failure === "" ? ", and its service runs" : ""}`,
    );
    run.pauseEnds();
    run.end("rolled-back", `the service could not be started on ${run.to}`, failure);
    return true;
  }

  /** Should it be heard all the same, it is an event. */
  #unknown(why: string): void {
    const { run } = this.#story;
    if (run?.over !== false) return;
    const text = `whether the service runs on ${run.to} is not known: ${why}`;
    this.#story.note("service-unknown", text);
    run.end("service-unknown", text, `Look there: \`understudy status\`, and at the service itself.`);
  }

  // --- the new primary's side --------------------------------------------------------------------------------------

  /** The service that this node took over does not start here: as soon as the former primary follows, it gets it back. */
  async handBack(from: string, reason: string): Promise<void> {
    const workers = this.#workers;
    const { log, config } = workers;
    const end = performance.now() + returnSteps * config.limits.switchoverStepMs;
    let told = false;
    let why = config.hooks.stopService === undefined ? "no stop_service is configured" : `${from} does not follow`;
    while (
      config.hooks.stopService !== undefined &&
      !workers.stopped &&
      workers.role === "primary" &&
      performance.now() < end
    ) {
      const follower = workers.primary?.reign.follower(from);
      if (follower?.state === "streaming") {
        if (!told) {
          told = true;
          log.error("switchover.returned", { to: from, reason });
          await workers.event("switchover.returned", { to: from, reason });
        }
        const refused = await this.#giveBack(from);
        if (refused === undefined) return;
        why = refused.why;
        if (refused.aborted) break;
        await sleep(returnAgainMs);
      }
      await sleep(returnLookMs);
    }
    if (workers.stopped) return;
    log.error("switchover.not_returned", {
      to: from,
      reason,
      why,
      hint: "This node is primary: start the service by hand.",
    });
    await workers.event("switchover.not_returned", { to: from, reason, why });
  }

  /** Undefined where it has begun; else why not, and whether a person wanted that. */
  async #giveBack(from: string): Promise<{ readonly why: string; readonly aborted: boolean } | undefined> {
    let leading: LeadingSwitchover;
    try {
      leading = this.#begin({ to: from, accept: [], by: "start_service failed" });
    } catch (error) {
      if (!(error instanceof SwitchoverRefused)) throw error;
      this.#workers.log.warn("switchover.refused", { to: from, error });
      return { why: explain(error), aborted: false };
    }
    await leading.ended;
    const { outcome, reason } = leading.run.progress(0);
    return outcome === "refused" ? { why: reason, aborted: leading.abort.signal.aborted } : undefined;
  }
}
