import { randomBytes } from "node:crypto";
import { exitCodes, UnderstudyError } from "../../shared/errors.ts";
import { hex } from "../../shared/manifest/digest.ts";
import {
  type CandidateFacts,
  claimOf,
  type EngineMemory,
  followerMark,
  grantOf,
  markText,
  rememberedFault,
  scores,
  sealText,
  voteOf,
} from "../../shared/session/engine.ts";
import { type CutId, cutText, epoch, unreachable } from "../../shared/words.ts";
import { jsonNumber } from "../control/api.ts";
import { type HaAnswer, type HaMember, type HaMemory, type HaRequest, haSchema } from "../control/ha-api.ts";
import type { GroupPeers } from "./group-peers.ts";
import type { GroupPromotion } from "./group-promotion.ts";
import type { GroupRoles } from "./group-roles.ts";
import type { GroupService } from "./group-service.ts";
import { type GroupWorkers, WrongRole } from "./group-workers.ts";

/** A cluster manager asks for a group that the configuration gives to nobody but a person. */
class NoEngine extends UnderstudyError {
  readonly code = "NO_ENGINE";
  readonly remedy = "stop";
  readonly state = "Nothing was done.";
  readonly hint =
    "Write `ha: { engine: pacemaker }` into the group's configuration, on every node, and restart the agents.";
  override readonly exitCode = exitCodes.usage;
  constructor(group: string) {
    super(`no cluster decides about group ${group}`);
  }
}

/** The node is primary, and its service does not run: the cluster has to know. */
class ServiceNotStarted extends UnderstudyError {
  readonly code = "SERVICE_NOT_STARTED";
  readonly remedy = "stop";
  readonly state = "This node is primary; its service does not run, or nobody knows.";
  readonly hint = "Look at what start_service says, and run it by hand.";
}

/** What a cluster manager that decides about this group's promotions asks and has done. It holds nothing that lasts. */
export class GroupHa {
  readonly #workers: GroupWorkers;
  readonly #peers: GroupPeers;
  readonly #promotion: GroupPromotion;
  readonly #roles: GroupRoles;
  readonly #service: GroupService;

  constructor(
    workers: GroupWorkers,
    peers: GroupPeers,
    promotion: GroupPromotion,
    roles: GroupRoles,
    service: GroupService,
  ) {
    this.#service = service;
    this.#workers = workers;
    this.#peers = peers;
    this.#promotion = promotion;
    this.#roles = roles;
  }

  async answer(request: HaRequest): Promise<HaAnswer> {
    if (this.#workers.config.ha.engine === "none") throw new NoEngine(this.#workers.config.name);
    const begun = performance.now();
    const seconds = (): number => Math.round(performance.now() - begun) / 1000;
    switch (request.action) {
      case "status":
        return await this.#state(request, {});
      case "monitor":
        await this.#giveUpBelow(request.clusterEpoch ?? 0);
        return await this.#state(request, {});
      case "grant":
        return await this.#grant(request);
      case "promote":
        await this.#promote(request.epoch);
        return await this.#state({ clusterEpoch: request.epoch, mark: "" }, { seconds: seconds() });
      case "demote":
        await this.#demote(request.shipMs);
        return await this.#state({ clusterEpoch: null, mark: "" }, { seconds: seconds() });
      default:
        return unreachable(request);
    }
  }

  /** The cluster has promoted another node: this reign is over, whatever else is heard of it. */
  async #giveUpBelow(granted: number): Promise<void> {
    const { role, standing } = this.#workers;
    if (role !== "primary" || standing === undefined || standing.epoch >= BigInt(granted)) return;
    const fault = rememberedFault(standing, BigInt(granted));
    if (fault !== "") {
      // Nobody was promoted in it, and the service that runs here is the only one.
      const hint = `Write down the epoch of this reign instead: ${standing.epoch}.`;
      this.#workers.log.error("cluster.unbelievable", { reason: fault, hint });
      return;
    }
    await this.#roles.fence(BigInt(granted), "the cluster");
  }

  async #grant(request: Extract<HaRequest, { action: "grant" }>): Promise<HaAnswer> {
    await this.#workers.refresh();
    const decision = grantOf({
      facts: this.#facts(),
      memory: memoryOf(request),
      votes: request.votes,
      seal: request.seal,
      turn: this.#workers.turn,
    });
    this.#workers.log.info("promotion.asked", { decision: decision.kind, clusterEpoch: request.clusterEpoch ?? 0 });
    switch (decision.kind) {
      case "grant":
        return await this.#state(request, { decision: "grant", granted: jsonNumber(decision.epoch) });
      case "give-way": {
        const { to, mark, reason } = decision;
        const giveWay = { decision: "give-way", giveWayTo: to, giveWayMark: markText(mark), why: plain(reason) };
        return await this.#state(request, giveWay);
      }
      case "refuse":
        return await this.#state(request, { decision: "refuse", why: plain(decision.reason) });
      default:
        return unreachable(decision);
    }
  }

  /** In the epoch that was granted, and written down by the cluster: only now the copy is opened for writing. */
  async #promote(granted: number): Promise<void> {
    const workers = this.#workers;
    if (workers.role === "primary") await this.#reignAnew(granted);
    else await this.#promotion.promote({ acceptLoss: true, accept: decidedByTheCluster }, epoch(granted));
    const failure = this.#service.lastStart?.failure ?? "";
    if (failure !== "") throw new ServiceNotStarted(failure);
  }

  /** What was primary before goes on from what it has, in a reign of its own. */
  async #reignAnew(granted: number): Promise<void> {
    const workers = this.#workers;
    await workers.exclusively(async () => {
      if (workers.role !== "primary") throw new WrongRole("the reign goes on", workers.role);
      await workers.closePrimary();
      await workers.becomePrimary({ ...workers.turn, granted: BigInt(granted) });
      this.#peers.closeSessions();
      await workers.event("reign.granted", { epoch: BigInt(granted) });
      await this.#service.update("promote");
    });
  }

  /**
   * The service stops, what it wrote is cut, and shipped as far as that can be done in the time; from then on this node has
   * nothing that the seal does not speak of. @throws {HookFailed} when the service does not stop: then it is in service still
   */
  async #demote(shipMs: number): Promise<void> {
    const workers = this.#workers;
    await workers.exclusively(async () => {
      const { primary } = workers;
      if (primary === undefined) return;
      if (!this.#inService()) {
        // One that was ended while it stopped the service says "not in service", and nobody knows whether that runs.
        if (primary.reign.standing.switchover === undefined) await this.#stopService();
        return;
      }
      // Nobody is sent here any more from now on, whatever the hook takes.
      await primary.reign.confirm("");
      try {
        await this.#stopService();
      } catch (error) {
        await primary.reign.confirm(workers.options.bootId);
        throw error;
      }
      await this.#service.update("promote");
      const limit = AbortSignal.timeout(shipMs);
      try {
        const { cut, standing } = await primary.reign.requestCut({ still: limit });
        const there = this.#others().filter((node) => primary.reign.view(node).state !== "connecting");
        // Shipping ends with the seal, whoever has it by then.
        await primary.reign
          .durableAt(cut, there, limit)
          .catch((error: unknown) => workers.log.warn("seal.unshipped", { replicas: there.join(","), error }));
        const record = { id: randomBytes(8).toString("hex"), to: "", reason: "", step: "handing" } as const;
        await primary.reign.keepSwitchover({ ...record, cut, digest: standing.digest });
        workers.log.info("primary.sealed", { epoch: cut.epoch, seq: cut.seq });
        await workers.event("primary.sealed", { epoch: standing.epoch, cut: cutText(cut) });
      } catch (error) {
        // This node has more than anybody was shipped: so says its vote.
        workers.log.warn("primary.unsealed", { error });
      }
    });
  }

  async #stopService(): Promise<void> {
    const workers = this.#workers;
    const { stopService } = workers.config.hooks;
    if (stopService === undefined) return;
    const environment = { ...workers.environment(), UNDERSTUDY_REASON: "demote" };
    await workers.options.hooks.run("stop_service", stopService, environment);
  }

  #inService(): boolean {
    return this.#service.state.kind === "in-service";
  }

  #others(): string[] {
    return this.#peers.members().filter((member) => member !== this.#workers.options.node);
  }

  async #state(request: HaMemory & { lagSecondsMax?: number }, more: Partial<HaAnswer>): Promise<HaAnswer> {
    await this.#workers.refresh();
    const { config, options, role, standing } = this.#workers;
    const facts = this.#facts();
    const inService = this.#inService();
    const claim = inService
      ? { score: scores.promoted, why: "" }
      : request.clusterEpoch === null
        ? { score: "", why: "" }
        : claimOf(facts, memoryOf(request));
    const { committed } = facts;
    return {
      schema: haSchema,
      group: config.name,
      node: options.node,
      role,
      inService,
      epoch: jsonNumber(standing?.epoch ?? 0n),
      cut: committed.seq === 0n ? "" : cutText(committed),
      seal: this.#seal(),
      vote: inService ? "" : voteOf(facts),
      claim: String(claim.score),
      why: plain(claim.why),
      decision: "",
      granted: 0,
      giveWayTo: "",
      giveWayMark: "",
      seconds: 0,
      members: inService ? this.#members(request.lagSecondsMax ?? 0) : [],
      ...more,
    };
  }

  #seal(): string {
    const { role, standing } = this.#workers;
    const record = standing?.switchover;
    if (role !== "primary" || standing === undefined || record?.step !== "handing") return "";
    return sealText({ reign: standing.epoch, cut: record.cut, digest: hex(record.digest) });
  }

  #members(lagSecondsMax: number): HaMember[] {
    const { reign } = this.#workers.primary ?? {};
    if (reign === undefined) return [];
    const { epoch: at, paused } = reign.standing;
    return this.#others().map((member) => {
      const view = { epoch: at, lagSecondsMax, paused: paused?.failover === true };
      const { mark, score } = followerMark(reign.view(member), view);
      return { member, mark: markText(mark), score: String(score ?? "none") };
    });
  }

  #facts(): CandidateFacts {
    const { role, standing, primary } = this.#workers;
    return {
      role,
      sealed: standing?.switchover?.step === "handing",
      epoch: standing?.epoch ?? epoch(0),
      epochSeen: standing?.epochSeen ?? epoch(0),
      epochs: standing?.epochs ?? [],
      committed: standing?.committed ?? ({ epoch: 0n, seq: 0n } as CutId),
      digest: hex(standing?.digest ?? new Uint8Array(0)),
      barred: primary === undefined ? this.#barOfCopy() : primary.reign.halted,
      paused: standing?.paused?.failover === true,
      primaryAlive: this.#peers.primaryAlive(),
    };
  }

  /** That the primary lives or is lost, and what is lost with it, is what the cluster decides about; the rest is the copy's. */
  #barOfCopy(): string {
    return this.#promotion
      .refusals({ acceptLoss: true, accept: decidedByTheCluster })
      .map(({ message }) => message)
      .join("; ");
  }
}

const decidedByTheCluster = ["bypassed-cluster", "live-primary", "unreachable-primary"] as const;

function memoryOf({ clusterEpoch, mark }: HaMemory): EngineMemory {
  return { epoch: BigInt(clusterEpoch ?? 0), mark };
}

/** For a reader without a JSON parser. */
function plain(text: string): string {
  return text.replaceAll(/["\\\s]+/g, " ").trim();
}
