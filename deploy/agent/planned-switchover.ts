import { rm } from "node:fs/promises";
import { dirname } from "node:path";
import { z } from "zod";
import { readJsonFile, replaceFile, syncDirectory } from "../../shared/durable/durable-files.ts";

const planned = z.object({
  to: z.string(),
  at: z.iso.datetime(),
  accept: z.array(z.string()),
  by: z.string(),
});

/** A switchover that is to begin by itself. */
export type PlannedSwitchover = Readonly<z.output<typeof planned>>;

/** An agent that was away at the time begins nothing this much later: whoever chose it chose a quiet hour. */
const lateMsMax = 60_000;
/** Looked at anew after so long: the clock may have been set. */
const lookMsMax = 30_000;

export interface PlanEvents {
  due(plan: PlannedSwitchover): Promise<void>;
  /** The time has passed without this agent. */
  missed(plan: PlannedSwitchover): Promise<void>;
}

/** At most one plan, durable over restarts. It is forgotten before it begins, so that no crash begins it twice. */
export class PlannedSwitchovers {
  readonly #path: string;
  readonly #events: PlanEvents;
  readonly #onFatal: (error: unknown) => void;
  #plan: PlannedSwitchover | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(path: string, events: PlanEvents, onFatal: (error: unknown) => void) {
    this.#path = path;
    this.#events = events;
    this.#onFatal = onFatal;
  }

  get plan(): PlannedSwitchover | undefined {
    return this.#plan;
  }

  async load(): Promise<void> {
    this.#plan = await readJsonFile(this.#path, (value) => planned.parse(value));
    this.#wait();
  }

  async set(plan: PlannedSwitchover): Promise<void> {
    await replaceFile(this.#path, `${JSON.stringify(plan)}\n`);
    this.#plan = plan;
    this.#wait();
  }

  async cancel(): Promise<PlannedSwitchover | undefined> {
    const plan = this.#plan;
    this.#plan = undefined;
    clearTimeout(this.#timer);
    if (plan === undefined) return undefined;
    await rm(this.#path, { force: true });
    await syncDirectory(dirname(this.#path));
    return plan;
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #wait(): void {
    clearTimeout(this.#timer);
    const plan = this.#plan;
    if (plan === undefined) return;
    const ms = Math.min(Math.max(0, Date.parse(plan.at) - Date.now()), lookMsMax);
    this.#timer = setTimeout(() => {
      if (this.#plan !== plan) return;
      if (Date.parse(plan.at) > Date.now()) this.#wait();
      else this.#begin(plan).catch(this.#onFatal);
    }, ms);
    this.#timer.unref();
  }

  async #begin(plan: PlannedSwitchover): Promise<void> {
    await this.cancel();
    if (Date.now() - Date.parse(plan.at) > lateMsMax) await this.#events.missed(plan);
    else await this.#events.due(plan);
  }
}
