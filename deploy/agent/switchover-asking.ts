import { randomBytes } from "node:crypto";
import { explain, hintOf } from "../../shared/errors.ts";
import type { SwitchoverRecord } from "../../shared/session/switchover.ts";
import { type Obstacle, sourceObstacles } from "../../shared/session/switchover-plan.ts";
import type { SwitchoverMessage } from "../../shared/wire/messages.ts";
import { within } from "../../shared/within.ts";
import type { SwitchoverOptions, SwitchoverPlan } from "../control/api.ts";
import type { GroupPeers } from "./group-peers.ts";
import type { GroupService } from "./group-service.ts";
import type { GroupWorkers } from "./group-workers.ts";
import type { SwitchoverTimes } from "./switchover-times.ts";

type Ready = Extract<SwitchoverMessage, { kind: "switchoverReady" }>;

/** What applying a small cut and a new epoch take on an ordinary machine: for the plan alone. */
const applyMs = 20;
const takeOverMs = 150;

/** What stands in the way of a switchover from here, and how long nobody would be served: asked before the service is touched. */
export class SwitchoverAsking {
  readonly #workers: GroupWorkers;
  readonly #peers: GroupPeers;
  readonly #service: GroupService;
  readonly #times: SwitchoverTimes;
  /** What targets were asked and have not answered yet. */
  readonly #answers = new Map<string, PromiseWithResolvers<Ready>>();

  constructor(workers: GroupWorkers, peers: GroupPeers, service: GroupService, times: SwitchoverTimes) {
    this.#workers = workers;
    this.#peers = peers;
    this.#service = service;
    this.#times = times;
  }

  /** What would happen, how long nobody would be served, and what stands in the way. */
  async plan(options: SwitchoverOptions, record: SwitchoverRecord | undefined): Promise<SwitchoverPlan> {
    const { config, options: own, primary } = this.#workers;
    const asked = await this.ask(options, record);
    const lastCutMs = primary?.reign.lastCutMs ?? null;
    const { stopMs } = this.#times.known;
    const { rttMs, startMs } = asked;
    const { stopService, startService } = config.hooks;
    const steps: SwitchoverPlan["steps"] = [
      { text: `stop the service on ${own.node}`, ms: stopService === undefined ? 0 : stopMs },
      {
        text: `last cut, applied on ${options.to}`,
        ms: lastCutMs === null || rttMs === null ? null : lastCutMs + applyMs + rttMs,
      },
      { text: `hand over: ${options.to} begins its epoch`, ms: rttMs === null ? null : takeOverMs + rttMs },
      { text: `start the service on ${options.to}`, ms: startService === undefined ? 0 : startMs },
    ];
    const known = steps.every(({ ms }) => ms !== null);
    return {
      from: own.node,
      to: options.to,
      steps: steps.map(({ text, ms }) => ({ text, ms: ms === null ? null : Math.round(ms) })),
      pauseMs: known ? Math.round(steps.reduce((sum, { ms }) => sum + (ms ?? 0), 0)) : null,
      roundTripMs: rttMs === null ? null : Math.round(rttMs * 10) / 10,
      obstacles: asked.obstacles.map(({ code, message, hint, flag }) => ({ code, message, hint, flag: flag ?? null })),
    };
  }

  /** Both sides' view. */
  async ask(
    options: SwitchoverOptions,
    record: SwitchoverRecord | undefined,
  ): Promise<{ obstacles: readonly Obstacle[]; rttMs: number | null; startMs: number | null }> {
    const obstacles = [...this.ownObstacles(options, record), ...(await this.#followObstacles())];
    const { primary, config } = this.#workers;
    if (primary?.reign.follower(options.to) === undefined) return { obstacles, rttMs: null, startMs: null };
    const id = randomBytes(8).toString("hex");
    const answer = Promise.withResolvers<Ready>();
    this.#answers.set(id, answer);
    const begun = performance.now();
    const signal = AbortSignal.timeout(config.limits.switchoverStepMs);
    try {
      if (!(await primary.reign.tell(options.to, { kind: "switchoverPrepare", id })))
        throw new Error("it has just left");
      const ready = await within(answer.promise, signal);
      const rttMs = performance.now() - begun;
      return {
        obstacles: [...obstacles, ...ready.obstacles],
        rttMs,
        startMs: ready.startMs === 0 ? null : ready.startMs,
      };
    } catch (error) {
      const silent: Obstacle = {
        code: "TARGET_SILENT",
        message: `${options.to} does not answer: ${explain(error)}`,
        hint: `On ${options.to}: understudy status`,
      };
      return { obstacles: [...obstacles, silent], rttMs: null, startMs: null };
    } finally {
      this.#answers.delete(id);
    }
  }

  answered(ready: Ready): void {
    this.#answers.get(ready.id)?.resolve(ready);
  }

  stop(): void {
    for (const answer of this.#answers.values()) answer.reject(new Error("the agent stops"));
  }

  /** What stands in the way as far as this node can tell by itself. `record`: the one that is under way. */
  ownObstacles(options: SwitchoverOptions, record: SwitchoverRecord | undefined): Obstacle[] {
    const { config, options: own, role, primary, standing } = this.#workers;
    const { to } = options;
    const follower = primary?.reign.follower(to);
    const halted = primary?.reign.halted ?? "";
    return sourceObstacles({
      group: config.name,
      node: own.node,
      role,
      to,
      members: this.#peers.members(),
      namingOthers: this.#peers.namingOthers(),
      engine: config.ha.engine,
      record,
      halted: primary?.reign.freezing.thawOwed === true ? "the application may still be frozen" : halted,
      paused: standing?.paused !== undefined,
      outOfService: this.#outOfService(record),
      stopsService: config.hooks.stopService !== undefined,
      software: own.software,
      target: follower === undefined ? undefined : { ...follower, everCut: follower.durable.seq > 0n },
      targetReason: this.#peers.note(to)?.reason ?? "",
      lagSecondsMax: config.limits.switchoverStepMs / 1000,
      accept: { runningService: options.accept.includes("running-service") },
    });
  }

  #outOfService(record: SwitchoverRecord | undefined): string {
    const { state } = this.#service;
    return state.kind === "out" && record === undefined ? state.message : "";
  }

  /** Whether this node could follow without copying anything; what a copy needs beside its stores is made for that. */
  async #followObstacles(): Promise<Obstacle[]> {
    if (this.#workers.primary === undefined || this.#workers.role !== "primary") return [];
    try {
      await this.#workers.prepareDemotion();
      return [];
    } catch (error) {
      return [{ code: "CANNOT_FOLLOW", message: `this node could not follow: ${explain(error)}`, hint: hintOf(error) }];
    }
  }
}
