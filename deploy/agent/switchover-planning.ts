import { join } from "node:path";
import { explain } from "../../shared/errors.ts";
import type { SwitchoverRecord } from "../../shared/session/switchover.ts";
import type { SwitchoverOptions, SwitchoverSchedule } from "../control/api.ts";
import type { GroupWorkers } from "./group-workers.ts";
import { type PlannedSwitchover, PlannedSwitchovers } from "./planned-switchover.ts";
import type { SwitchoverAsking } from "./switchover-asking.ts";
import { SwitchoverRefused } from "./switchover-errors.ts";

/** What stands in the way of one at any time to come. */
const lastingObstacles: ReadonlySet<string> = new Set([
  "NOT_PRIMARY",
  "NOT_A_MEMBER",
  "PRIMARY_ALREADY",
  "ENGINE_DECIDES",
  "NO_STOP_SERVICE",
]);

/** The group's plan to begin a switchover at a time to come: who may make one, and what is told of it. */
export class SwitchoverPlanning {
  readonly #workers: GroupWorkers;
  readonly #asking: SwitchoverAsking;
  readonly #plans: PlannedSwitchovers;
  readonly #begin: (options: SwitchoverOptions) => void;

  /** @param begin throws `SwitchoverRefused` where something stands in the way by then */
  constructor(workers: GroupWorkers, asking: SwitchoverAsking, begin: (options: SwitchoverOptions) => void) {
    this.#workers = workers;
    this.#asking = asking;
    this.#begin = begin;
    this.#plans = new PlannedSwitchovers(
      join(workers.directory, "planned-switchover.json"),
      {
        due: async (plan) => await this.#due(plan),
        missed: async (plan) => await this.#missed(plan, "no agent ran then"),
        damaged: async (error) => {
          workers.log.error("switchover.plan_damaged", { error, hint: "Plan it again; the file was put aside." });
          await workers.event("switchover.missed", { to: null, due: null, by: null, reason: explain(error) });
        },
      },
      workers.options.onFatal,
    );
  }

  /** One that is to begin by itself. */
  get planned(): SwitchoverSchedule | undefined {
    const { plan } = this.#plans;
    return plan === undefined ? undefined : { to: plan.to, at: plan.at, by: plan.by };
  }

  async load(): Promise<void> {
    await this.#plans.load();
  }

  /** `record`: one that is under way. @throws {SwitchoverRefused} for what would stand in the way at any time */
  async schedule(
    options: SwitchoverOptions,
    at: string,
    record: SwitchoverRecord | undefined,
  ): Promise<SwitchoverSchedule> {
    const known = this.#plans.plan;
    const obstacles = this.#asking.ownObstacles(options, record).filter(({ code }) => lastingObstacles.has(code));
    if (known !== undefined)
      obstacles.push({
        code: "PLANNED_ALREADY",
        message: `one to ${known.to} is planned for ${known.at}`,
        hint: `understudy switchover ${this.#workers.config.name} --abort takes it back.`,
      });
    if (obstacles.length > 0) throw new SwitchoverRefused(obstacles);
    const { to, accept, by = "" } = options;
    const plan = { to, at, accept: [...accept], by };
    await this.#plans.set(plan);
    this.#workers.log.info("switchover.planned", plan);
    await this.#workers.event("switchover.planned", { to, due: at, by });
    return { to, at, by };
  }

  /** What was taken back; null where nothing was planned. */
  async cancel(by: string): Promise<SwitchoverSchedule | null> {
    const plan = await this.#plans.cancel();
    if (plan === undefined) return null;
    await this.#workers.event("switchover.cancelled", { to: plan.to, due: plan.at, plannedBy: plan.by, by });
    return { to: plan.to, at: plan.at, by: plan.by };
  }

  stop(): void {
    this.#plans.stop();
  }

  async #due({ to, at, accept, by }: PlannedSwitchover): Promise<void> {
    this.#workers.log.info("switchover.due", { to, at, by });
    try {
      this.#begin({ to, accept, by });
    } catch (error) {
      if (!(error instanceof SwitchoverRefused)) throw error;
      await this.#missed({ to, at, accept, by }, explain(error));
    }
  }

  async #missed({ to, at, by }: PlannedSwitchover, reason: string): Promise<void> {
    this.#workers.log.error("switchover.missed", { to, at, by, reason });
    await this.#workers.event("switchover.missed", { to, due: at, by, reason });
  }
}
