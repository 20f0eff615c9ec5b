import { rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { z } from "zod";
import { readJsonFile, replaceFile, StateFileDamaged, syncDirectory } from "../../shared/durable/durable-files.ts";
import { assert } from "../../shared/errors.ts";

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
  /** There was one, and nobody can read it. */
  damaged(error: StateFileDamaged): Promise<void>;
}

/** At most one plan, durable over restarts. It is forgotten before it begins, so that no crash begins it twice. */
export class PlannedSwitchovers {
  readonly #path: string;
  readonly #events: PlanEvents;
  readonly #onFatal: (error: unknown) => void;
  #plan: PlannedSwitchover | undefined;
  #timer: NodeJS.Timeout | undefined;
  #keeping: Promise<void> = Promise.resolve();

  constructor(path: string, events: PlanEvents, onFatal: (error: unknown) => void) {
    this.#path = path;
    this.#events = events;
    this.#onFatal = onFatal;
  }

  get plan(): PlannedSwitchover | undefined {
    return this.#plan;
  }

  /** One that cannot be read is put aside: nobody is moved by it, and the node does what it is there for. */
  async load(): Promise<void> {
    try {
      this.#plan = await readJsonFile(this.#path, (value) => planned.parse(value));
    } catch (error) {
      if (!(error instanceof StateFileDamaged)) throw error;
      await rename(this.#path, `${this.#path}.damaged`);
      await syncDirectory(dirname(this.#path));
      await this.#events.damaged(error);
    }
    this.#wait();
  }

  /** Where there is none yet: whoever looks sees it from the call on. */
  async set(plan: PlannedSwitchover): Promise<void> {
    assert(this.#plan === undefined, "there is one plan at a time");
    this.#plan = plan;
    try {
      await this.#keep();
    } catch (error) {
      if (this.#plan === plan) this.#plan = undefined;
      throw error;
    }
    this.#wait();
  }

  /** What holds by then, one after the other. */
  async #keep(): Promise<void> {
    const keep = async (): Promise<void> => {
      if (this.#plan !== undefined) {
        await replaceFile(this.#path, `${JSON.stringify(this.#plan)}\n`);
        return;
      }
      await rm(this.#path, { force: true });
      await syncDirectory(dirname(this.#path));
    };
    const turn = this.#keeping.then(keep, keep);
    this.#keeping = turn.catch(() => undefined);
    await turn;
  }

  async cancel(): Promise<PlannedSwitchover | undefined> {
    const plan = this.#plan;
    this.#plan = undefined;
    clearTimeout(this.#timer);
    if (plan === undefined) return undefined;
    await this.#keep();
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
