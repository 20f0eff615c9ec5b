import { hex } from "../../shared/manifest/digest.ts";
import type { Metrics } from "../../shared/metrics.ts";
import type { Coherency } from "../../shared/words.ts";
import type {
  AbortSwitchoverAnswer,
  AbortSwitchoverOptions,
  AgentStatus,
  ConfirmOptions,
  ControlHandler,
  CutAnswer,
  CutOptions,
  FormOptions,
  IsPrimaryAnswer,
  PausedAnswer,
  PauseOptions,
  PointsAnswer,
  PromoteAnswer,
  PromoteOptions,
  RestoreAnswer,
  RestoreOptions,
  RoleAnswer,
  SwitchoverOptions,
  SwitchoverPlan,
  SwitchoverProgress,
  SwitchoverSchedule,
  VerifyAnswer,
  VerifyOptions,
  WaitAnswer,
  WaitOptions,
} from "../control/api.ts";
import { cutRef, GroupUnknown, jsonNumber, unknownLag } from "../control/api.ts";
import type {
  Caller,
  DropAnswer,
  ExportAnswer,
  ExportOptions,
  ForkAnswer,
  ForksAnswer,
  RejoinAnswer,
} from "../control/fork-answers.ts";
import type { HaAnswer, HaRequest } from "../control/ha-api.ts";
import type { Forks } from "./forks.ts";
import type { GroupAgent } from "./group.ts";
import { WrongRole } from "./group-workers.ts";
import type { Reign } from "./reign.ts";
import { agentStatus, outOfService } from "./status.ts";
import { waitDurable } from "./waiting.ts";

/** Answers the command line: the agent's groups as the control socket shows them. */
export class AgentControl implements ControlHandler {
  readonly #node: string;
  readonly #software: string;
  readonly #startedAt = new Date().toISOString();
  readonly #groups: ReadonlyMap<string, GroupAgent>;
  readonly #forks: Forks;
  readonly #metrics: Metrics;

  constructor(node: string, software: string, groups: ReadonlyMap<string, GroupAgent>, forks: Forks, metrics: Metrics) {
    this.#node = node;
    this.#software = software;
    this.#groups = groups;
    this.#forks = forks;
    this.#metrics = metrics;
    metrics.onCollect(() => this.#collect());
  }

  async status(): Promise<AgentStatus> {
    for (const group of this.#groups.values()) await group.workers.refresh();
    return agentStatus(this.#node, this.#software, this.#startedAt, this.#groups);
  }

  async metrics(): Promise<string> {
    return await this.#metrics.text();
  }

  async isPrimary(name: string): Promise<IsPrimaryAnswer> {
    const group = this.#group(name);
    const { state } = group.service;
    return {
      primary: state.kind === "in-service",
      role: group.role,
      epoch: jsonNumber(group.standing?.epoch ?? 0n),
      why: outOfService(state),
    };
  }

  async cut(name: string, options: CutOptions): Promise<CutAnswer> {
    if (options.accept.includes("source")) await this.#group(name).roles.acceptSource(options.by);
    const taken = await this.#reign(name, "a cut").requestCut({ prune: options.prune ?? false });
    const { standing } = taken;
    return {
      cut: {
        ...cutRef(taken.cut),
        takenAt: new Date(standing.lastTakenAtUs / 1000).toISOString(),
        coherency: standing.coherency as Coherency,
        digest: hex(standing.digest),
      },
      stores: Object.fromEntries(taken.stores.map((store) => [store.name, store.consistency])),
    };
  }

  async wait(name: string, options: WaitOptions, signal?: AbortSignal): Promise<WaitAnswer> {
    const group = this.#group(name);
    const reign = this.#reign(name, "a wait");
    const replicas = group.peers.members().filter((member) => member !== this.#node);
    return await waitDurable(reign, replicas, options, signal);
  }

  async points(name: string): Promise<PointsAnswer> {
    const points = await this.#group(name).history.points();
    return {
      group: name,
      points: points.toReversed().map((record) => ({
        ...cutRef(record.cut),
        takenAt: new Date(record.takenAtUs / 1000).toISOString(),
        coherency: record.coherency,
        stores: Object.fromEntries(record.stores.map((store) => [store.name, store.consistency])),
      })),
    };
  }

  async restore(name: string, options: RestoreOptions, signal?: AbortSignal): Promise<RestoreAnswer> {
    return await this.#group(name).history.restore(options, signal);
  }

  async verify(name: string, options: VerifyOptions, signal?: AbortSignal): Promise<VerifyAnswer> {
    return await this.#group(name).history.verify(options, signal);
  }

  async promote(name: string, options: PromoteOptions): Promise<PromoteAnswer> {
    const { epoch, cut, seconds, loss } = await this.#group(name).promotion.promote(options);
    return {
      epoch: jsonNumber(epoch),
      cut: cutRef(cut),
      loss:
        loss === undefined
          ? unknownLag
          : {
              bytes: loss.bytes ?? null,
              cuts: loss.cuts ?? null,
              seconds: loss.seconds,
              basis: loss.alive ? "scan" : "silence",
            },
      reinstated: loss === undefined,
      seconds,
    };
  }

  async abortPromotion(name: string): Promise<RoleAnswer> {
    const group = this.#group(name);
    await group.promotion.abort();
    return roleAnswer(group);
  }

  async planSwitchover(name: string, options: SwitchoverOptions): Promise<SwitchoverPlan> {
    return await this.#group(name).switchover.plan(options);
  }

  async switchover(name: string, options: SwitchoverOptions): Promise<SwitchoverProgress> {
    return this.#group(name).switchover.begin(options);
  }

  async switchoverProgress(name: string, after: number): Promise<SwitchoverProgress> {
    return await this.#group(name).switchover.progress(after);
  }

  async scheduleSwitchover(name: string, options: SwitchoverOptions, at: string): Promise<SwitchoverSchedule> {
    return await this.#group(name).switchover.schedule(options, at);
  }

  async abortSwitchover(name: string, { accept, by = "" }: AbortSwitchoverOptions): Promise<AbortSwitchoverAnswer> {
    const acceptUnreachable = accept.includes("unreachable-target");
    return await this.#group(name).switchover.abort({ acceptUnreachable, by });
  }

  async form(name: string, options: FormOptions): Promise<RoleAnswer> {
    const group = this.#group(name);
    await group.roles.form(options.alone, options.by);
    return roleAnswer(group);
  }

  async pause(name: string, options: PauseOptions): Promise<PausedAnswer> {
    const group = this.#group(name);
    await group.pausing.pause(options);
    return { paused: group.pausing.paused ?? null };
  }

  async resume(name: string, options: PauseOptions): Promise<PausedAnswer> {
    const group = this.#group(name);
    await group.pausing.resume(options);
    return { paused: group.pausing.paused ?? null };
  }

  async confirm(name: string, options: ConfirmOptions): Promise<RoleAnswer> {
    const group = this.#group(name);
    await group.service.confirm(options);
    return roleAnswer(group);
  }

  async adopt(name: string, caller: Caller = {}): Promise<RoleAnswer> {
    const group = this.#group(name);
    await group.roles.adopt(caller.by);
    return roleAnswer(group);
  }

  async forks(): Promise<ForksAnswer> {
    return await this.#forks.forks();
  }

  async showFork(name: string): Promise<ForkAnswer> {
    return await this.#forks.showFork(name);
  }

  async exportFork(name: string, options: ExportOptions, signal?: AbortSignal): Promise<ExportAnswer> {
    return await this.#forks.exportFork(name, options, signal);
  }

  async dropFork(name: string, caller?: Caller): Promise<DropAnswer> {
    return await this.#forks.dropFork(name, caller);
  }

  async ha(name: string, request: HaRequest): Promise<HaAnswer> {
    return await this.#group(name).ha.answer(request);
  }

  async rejoin(name: string, caller: Caller = {}): Promise<RejoinAnswer> {
    return await this.#group(name).rejoin.rejoin(caller.by ?? "");
  }

  #group(name: string): GroupAgent {
    const group = this.#groups.get(name);
    if (group === undefined) throw new GroupUnknown(name, this.#groups.keys());
    return group;
  }

  #reign(name: string, what: string): Reign {
    const group = this.#group(name);
    if (group.reign === undefined || group.role !== "primary")
      throw new WrongRole(`${what} is asked of the primary`, group.role);
    return group.reign;
  }

  #collect(): void {
    const status = agentStatus(this.#node, this.#software, this.#startedAt, this.#groups);
    const { lagSeconds, lagBytes, lagCuts, rpoBroken, writerWait, durabilityDegraded, storeCounts } = this.#metrics;
    // Whom this node does not follow or lead any more is not spoken of.
    for (const metric of [lagSeconds, lagBytes, lagCuts, rpoBroken, writerWait, durabilityDegraded, storeCounts])
      metric.reset();
    for (const [group, { peers, promotable, durability, history, stores, forks, service, paused }] of Object.entries(
      status.groups,
    )) {
      this.#metrics.inService.set({ group }, service.running ? 1 : 0);
      for (const what of ["shipping", "failover"] as const)
        this.#metrics.paused.set({ group, what }, paused?.[what] === true ? 1 : 0);
      this.#metrics.promotable.set({ group }, promotable.ok ? 1 : 0);
      this.#metrics.historyBytes.set({ group }, history.bytes);
      this.#metrics.forks.set({ group }, forks.count);
      if (durability.degraded !== null) this.#metrics.durabilityDegraded.set({ group }, durability.degraded ? 1 : 0);
      for (const [peer, { lag, rpo }] of Object.entries(peers)) {
        this.#metrics.lagSeconds.set({ group, peer }, lag.seconds ?? Number.NaN);
        this.#metrics.lagBytes.set({ group, peer }, lag.bytes ?? Number.NaN);
        this.#metrics.lagCuts.set({ group, peer }, lag.cuts ?? Number.NaN);
        if (rpo !== null) this.#metrics.rpoBroken.set({ group, peer }, rpo.broken ? 1 : 0);
      }
      for (const [store, { writerWaitMs, counts }] of Object.entries(stores)) {
        if (writerWaitMs !== undefined) {
          const { p50, p99, max } = writerWaitMs;
          for (const [quantile, ms] of Object.entries({ "0.5": p50, "0.99": p99, "1": max }))
            this.#metrics.writerWait.set({ group, store, quantile }, ms / 1000);
        }
        for (const [count, times] of Object.entries(counts ?? {}))
          this.#metrics.storeCounts.inc({ group, store, count }, times);
      }
    }
  }
}

function roleAnswer(group: GroupAgent): RoleAnswer {
  return { role: group.role, epoch: jsonNumber(group.standing?.epoch ?? 0n) };
}
