import { type Paused, type PauseParts, pausedText, pausing, resuming } from "../../shared/session/paused.ts";
import type { PauseOptions } from "../control/api.ts";
import { type GroupWorkers, WrongRole } from "./group-workers.ts";

/** What a person holds back for maintenance, durably: loud as long as it lasts, since it is what is forgotten. */
export class GroupPausing {
  readonly #workers: GroupWorkers;

  constructor(workers: GroupWorkers) {
    this.#workers = workers;
  }

  get paused(): Paused | undefined {
    return this.#workers.standing?.paused;
  }

  /** @throws {WrongRole} where there is nothing of that kind to pause */
  async pause(options: PauseOptions): Promise<void> {
    const { by } = options;
    await this.#change("group.paused", options, (before, parts) =>
      pausing(before, parts, by, new Date().toISOString()),
    );
  }

  async resume(options: PauseOptions): Promise<void> {
    await this.#change("group.resumed", options, resuming);
  }

  async #change(
    event: "group.paused" | "group.resumed",
    options: PauseOptions,
    change: (before: Paused | undefined, parts: PauseParts) => Paused | undefined,
  ): Promise<void> {
    const workers = this.#workers;
    await workers.exclusively(async () => {
      const { role, primary, replica, log } = workers;
      if (role === "unformed") throw new WrongRole("nothing is shipped or taken over yet", role);
      const parts = partsOf(options, role === "primary" || event === "group.resumed");
      if (event === "group.paused" && parts.shipping && role !== "primary")
        throw new WrongRole("shipping is paused on the primary", role);
      const before = this.paused;
      const paused = change(before, parts);
      if (paused === before) return;
      // Who was told so acts on it from then on: cuts, the cluster's agent, the status.
      if (primary !== undefined) await primary.reign.pause(paused);
      else if (replica !== undefined) workers.replicaStanding = await replica.call("pause", { paused });
      workers.following?.acknowledgeAgain();
      const said = { what: pausedText(parts), by: options.by };
      log[event === "group.paused" ? "warn" : "info"](event, said);
      await workers.event(event, said);
    });
  }

  /** What an operator has forgotten is met again at each start. */
  say(): void {
    const { paused } = this;
    if (paused === undefined) return;
    const { name } = this.#workers.config;
    this.#workers.log.warn("group.paused", {
      what: pausedText(paused),
      by: paused.by,
      since: paused.since,
      hint: `understudy resume ${name}`,
    });
  }
}

/** Nothing said means all that this node has. */
function partsOf({ shipping, failover }: PauseParts, ships: boolean): PauseParts {
  return shipping || failover ? { shipping, failover } : { shipping: ships, failover: true };
}
