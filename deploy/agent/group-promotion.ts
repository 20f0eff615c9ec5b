import {
  type AcceptedCopy,
  type PromotionCase,
  PromotionRefused,
  promotionRefusals,
  type Refusal,
} from "../../replica/promote/promote.ts";
import { isForkOf } from "../../replica/rejoin/fork-bundle.ts";
import type { OwnCut } from "../../shared/catalog/touched.ts";
import { exitCodes, explain, UnderstudyError } from "../../shared/errors.ts";
import { HookFailed } from "../../shared/hooks.ts";
import type { CutStore } from "../../shared/wire/messages.ts";
import { type Consistency, type CutId, cutText, type Epoch, meets } from "../../shared/words.ts";
import type { PromoteOptions } from "../control/api.ts";
import type { ReplicaStanding } from "../workers/replica-calls.ts";
import { kindTraits } from "../workers/store-adapters.ts";
import type { EventFields } from "./event-log.ts";
import type { GroupHistory } from "./group-history.ts";
import type { GroupPeers, Loss } from "./group-peers.ts";
import type { GroupService } from "./group-service.ts";
import { type GroupWorkers, type ReplicaWorker, WrongRole } from "./group-workers.ts";

/** What a node has that rejoins: what it had at its own last cut, if that is known. */
interface RejoiningFrom {
  readonly ownCut: OwnCut | undefined;
  readonly common: CutId;
  /** The bundle in which that is kept. */
  readonly fork: string | undefined;
  /** What it knows to be otherwise was not refused as less than that. */
  readonly proven: boolean;
}

/** Of a store in a cut. */
type Worth = Pick<CutStore, "name" | "kind" | "consistency">;

/** Somebody wanted it ended before its epoch. */
class PromotionAborted extends UnderstudyError {
  readonly code = "PROMOTION_ABORTED";
  readonly remedy = "stop";
  readonly state = "This node is what it was before.";
  readonly hint = "Promote it again when it shall be.";
  override readonly exitCode = exitCodes.refused;
  constructor() {
    super("the promotion was aborted");
  }
}

/** From replica to primary: may it, what does it cost, and the way there, which a restart before its epoch gives up. */
export class GroupPromotion {
  /** The promotion that is on its way to its epoch. */
  #underWay: AbortController | undefined;
  readonly #workers: GroupWorkers;
  readonly #peers: GroupPeers;
  readonly #history: GroupHistory;
  readonly #service: GroupService;

  constructor(workers: GroupWorkers, peers: GroupPeers, history: GroupHistory, service: GroupService) {
    this.#workers = workers;
    this.#peers = peers;
    this.#history = history;
    this.#service = service;
  }

  /** Set by the composition: resolves when nobody stops the service of a former primary any more. */
  serviceQuiesced: () => Promise<void> = async () => {};

  /** What stands in the way of promoting this node now. `answering`: who of the others was asked just now; else all of them. */
  refusals(accept: PromoteOptions, answering?: ReadonlySet<string>): Refusal[] {
    const workers = this.#workers;
    const standing = workers.replicaStanding;
    if (standing === undefined) {
      return promotionRefusals({
        role: workers.role,
        committed: { epoch: 0n, seq: 0n } as CutId,
        suspect: "",
        halted: "",
        stores: [],
        paused: "",
        rejoining: false,
        others: [],
        lossKnownEmpty: true,
        lossText: "",
        accept: {
          loss: true,
          lossFrom: undefined,
          suspect: true,
          consistency: true,
          livePrimary: true,
          unreachablePrimary: true,
          paused: true,
        },
      });
    }
    const loss = this.#peers.loss();
    return promotionRefusals({
      role: standing.role,
      committed: standing.committed,
      suspect: standing.suspect,
      // Why a former primary stood still is over with its reign.
      halted: standing.role === "fenced" ? workers.copyProblem : standing.halted || workers.copyProblem,
      stores: this.#storesHere(standing).map((store) => ({
        name: store.name,
        consistency: store.consistency,
        required: this.required(store),
      })),
      paused: standing.paused?.failover === true ? `by ${standing.paused.by} since ${standing.paused.since}` : "",
      rejoining: standing.rejoining,
      rejoiningText: this.#rejoiningText(loss),
      others: this.#peers.others().map(({ node, says }) => ({
        node,
        says: says === "primary" || (answering?.has(node) ?? true) ? says : undefined,
      })),
      namingOthers: this.#peers.namingOthers(),
      lossKnownEmpty: loss.empty,
      lossText: `what the primary had after cut ${cutText(standing.committed)} is lost: ${loss.text}`,
      engine: workers.config.ha.engine,
      accept: {
        bypassedCluster: accept.accept.includes("bypassed-cluster"),
        fenced: accept.accept.includes("fenced"),
        rejoining: accept.accept.includes("rejoining"),
        loss: accept.acceptLoss === true,
        lossFrom: typeof accept.acceptLoss === "string" ? accept.acceptLoss : undefined,
        suspect: accept.accept.includes("suspect"),
        consistency: accept.accept.includes("consistency"),
        livePrimary: accept.accept.includes("live-primary"),
        unreachablePrimary: accept.accept.includes("unreachable-primary"),
        paused: accept.accept.includes("paused"),
      },
    });
  }

  /** What the stores of this copy are worth: those of its last cut, or of its own one while it rejoins. */
  #storesHere(standing: ReplicaStanding): readonly Worth[] {
    if (!standing.rejoining) return standing.record?.stores ?? [];
    // A node that began to rejoin under an older version has not written it down.
    return (
      standing.ownCut?.stores ?? this.#workers.stores.map(({ name, kind }) => ({ name, kind, consistency: "fuzzy" }))
    );
  }

  /** What a node that rejoins goes on from where it is promoted all the same; undefined where it does not rejoin. */
  rejoiningFrom(): RejoiningFrom | undefined {
    const { config, options, replicaStanding } = this.#workers;
    if (replicaStanding?.rejoining !== true) return undefined;
    const { ownCut, committed, unproven } = replicaStanding;
    const fork = options.forks
      .names(config.name)
      .findLast((name) => ownCut !== undefined && isForkOf(name, config.name, ownCut.cut));
    return { ownCut, common: committed, fork, proven: unproven === undefined };
  }

  #rejoiningText(loss: Loss): PromotionCase["rejoiningText"] {
    const from = this.rejoiningFrom();
    if (from === undefined) return undefined;
    const common = cutText(from.common);
    const { cuts } = loss;
    const known = cuts === undefined ? "how much is not known" : `${cuts} cuts are known of`;
    return {
      has: `what it has since cut ${common}${from.ownCut === undefined ? "" : `, up to its own cut ${cutText(from.ownCut.cut)},`}`,
      becomes: [
        "what is here is whole, and becomes the first cut of this node's new reign",
        `what others wrote after cut ${common} is given up (${known})`,
        from.fork === undefined ? "no fork bundle here has what this node goes on from" : `fork ${from.fork} is kept`,
        ...(from.proven ? [] : ["the other replicas have to adopt, since what is otherwise here was not proven"]),
      ].join("; "),
    };
  }

  /** What of a cut's stores is worth less than the group requires; "" where nothing is. */
  tooPoor(
    stores: readonly { readonly name: string; readonly kind: string; readonly consistency: Consistency }[],
  ): string {
    return stores
      .filter((store) => !meets(store.consistency, this.required(store)))
      .map((store) => `${store.name} ${store.consistency} (required: ${this.required(store)})`)
      .join(", ");
  }

  /** What the group insists on for a store. */
  required(store: { readonly name: string; readonly kind: string }): Consistency {
    const byKind = kindTraits[store.kind as keyof typeof kindTraits]?.require ?? "whole";
    return this.#workers.config.require.get(store.name as never) ?? byKind;
  }

  /**
   * `granted`: the epoch that a cluster has granted; it has decided, and made sure that nobody else is primary. A former primary
   * that reigns again loses nothing of what it has (`loss` is undefined): what it gives up is elsewhere.
   */
  async promote(
    options: PromoteOptions,
    granted?: Epoch,
  ): Promise<{ epoch: bigint; cut: CutId; seconds: number; loss: Loss | undefined }> {
    const workers = this.#workers;
    const promoted = async (): ReturnType<GroupPromotion["promote"]> => {
      const begun = performance.now();
      const worker = workers.replica;
      if (worker === undefined) throw new PromotionRefused(this.refusals(options), false);
      // What kept the copy from being opened may be mended by now, with no primary left to ask for it again.
      if (workers.copyProblem !== "") await workers.openCopy();
      workers.replicaStanding = await worker.call("standing", undefined);
      const refusals = await this.#refusalsNow(options, granted);
      if (refusals.length > 0) throw new PromotionRefused(await this.#withBetterPoint(refusals), false);
      const loss = this.#peers.loss();
      if (granted === undefined) await this.#noteOverridden(options, loss);
      await this.#beforePromote(options, aborted);
      aborted.throwIfAborted();
      if (workers.role === "fenced") {
        const { epoch, cut } = await this.#takeBack(aborted, options.by ?? "");
        return { epoch, cut, loss: undefined, seconds: (performance.now() - begun) / 1000 };
      }
      const { rejoining } = workers.replicaStanding;
      workers.replicaStanding = await worker.call("seal", {
        heard: granted === undefined ? this.#peers.answers.highest : 0n,
      });
      workers.following = undefined;
      this.#peers.closeSessions();
      const { committed } = workers.replicaStanding;
      await workers.event("promotion.sealed", { cut: cutText(committed), by: options.by ?? "" });
      const otherwise =
        rejoining && !workers.replicaStanding.rejoining ? new PromotionRefused([rejoined(committed)], true) : undefined;
      if (aborted.aborted || otherwise !== undefined) await this.#unseal(worker, otherwise ?? new PromotionAborted());
      aborted.throwIfAborted();
      if (otherwise !== undefined) throw otherwise;
      const by = granted === undefined ? (options.by ?? "") : workers.config.ha.engine;
      const accepted = { suspect: options.accept.includes("suspect"), rejoining };
      const { epoch, cut } = await this.#finish(accepted, by, granted);
      return { epoch, cut, loss, seconds: (performance.now() - begun) / 1000 };
    };
    const abort = new AbortController();
    const aborted = abort.signal;
    return await workers.exclusively(async () => {
      this.#underWay = abort;
      try {
        return await this.#peers.aspiring(promoted);
      } finally {
        this.#underWay = undefined;
      }
    });
  }

  /** A hook may take its time: what was accepted before it must be what stands in the way after it. */
  async #beforePromote(options: PromoteOptions, aborted: AbortSignal): Promise<void> {
    const workers = this.#workers;
    const { beforePromote } = workers.config.hooks;
    if (beforePromote === undefined) return;
    try {
      const environment = { ...workers.environment(), UNDERSTUDY_REASON: "promote" };
      await workers.options.hooks.run("before_promote", beforePromote, environment, aborted);
    } catch (error) {
      aborted.throwIfAborted();
      throw error;
    }
    await workers.refresh();
    const refusals = this.refusals(options);
    if (refusals.length > 0) throw new PromotionRefused(await this.#withBetterPoint(refusals), false);
  }

  /** What every other node was when a session began is asked again, unless somebody vouches for those that do not answer. */
  async #refusalsNow(options: PromoteOptions, granted: Epoch | undefined): Promise<Refusal[]> {
    const refusals = this.refusals(options);
    const vouched = granted !== undefined || options.accept.includes("unreachable-primary");
    return refusals.length > 0 || vouched ? refusals : this.refusals(options, await this.#peers.answering());
  }

  /**
   * A former primary goes on from what it has, in a reign above the one that fenced it: whoever reigned then is fenced in its turn
   * when it is met, and what it wrote becomes a fork.
   */
  async #takeBack(aborted: AbortSignal, by: string): Promise<{ epoch: Epoch; cut: CutId }> {
    const workers = this.#workers;
    // A service that is started while it is being stopped would not run for long.
    await this.serviceQuiesced();
    aborted.throwIfAborted();
    try {
      await workers.becomePrimary(workers.turnAbove(this.#peers.answers.highest));
    } catch (error) {
      await workers.closePrimary();
      this.#peers.missingSince(await workers.openReplica());
      throw error;
    }
    const standing = workers.primary?.reign.standing;
    if (standing === undefined) throw new WrongRole("a promotion", workers.role);
    const { epoch, committed: cut } = standing;
    workers.log.info("primary.reinstated", { epoch, seq: cut.seq });
    this.#peers.closeSessions();
    await workers.event("primary.reinstated", { epoch, cut: cutText(cut), by });
    await this.#beginService("promote");
    return { epoch, cut };
  }

  /** What would have been refused, and who went on all the same. */
  async #noteOverridden(options: PromoteOptions, loss: Loss): Promise<void> {
    const workers = this.#workers;
    const cut = workers.replicaStanding?.committed;
    for (const { code, message, flag } of this.refusals({ accept: [] }))
      await workers.overridden({
        verb: "promote",
        code,
        flag: code === "LOSS" && options.acceptLoss === true ? "--accept-loss" : (flag ?? null),
        by: options.by ?? "",
        reason: message,
        cut: cut === undefined ? null : cutText(cut),
        ...(code === "LOSS"
          ? { lossSeconds: loss.seconds, lossCuts: loss.cuts ?? null, lossBytes: loss.bytes ?? null }
          : {}),
      });
  }

  /** Where the last cut is worth too little: the newest recovery point that is not. */
  async #withBetterPoint(refusals: readonly Refusal[]): Promise<Refusal[]> {
    if (!refusals.some((refusal) => refusal.code === "CONSISTENCY")) return [...refusals];
    const good = (await this.#history.points()).findLast((point) =>
      point.stores.every((store) => meets(store.consistency, this.required(store))),
    );
    const { name } = this.#workers.config;
    const hint =
      good === undefined
        ? "No recovery point has it; wait for the next cut."
        : `The newest recovery point that has it is ${cutText(good.cut)} of ${new Date(good.takenAtUs / 1000).toISOString()}: understudy restore ${name} --at ${cutText(good.cut)} --to DIR.`;
    return refusals.map((refusal) => (refusal.code === "CONSISTENCY" ? { ...refusal, hint } : refusal));
  }

  /**
   * The agent ended between seal and epoch. Somebody else may have been promoted since, however short that was, and what was
   * accepted then was accepted of how things stood then: it is given up, and whoever still wants it says so again.
   */
  async giveUp(): Promise<void> {
    const workers = this.#workers;
    await workers.exclusively(async () => {
      workers.replicaStanding = await workers.replica?.call("unseal", undefined);
      const cut = workers.replicaStanding?.committed;
      const reason = "the agent ended before the new epoch began";
      workers.log.error("promotion.given_up", {
        reason,
        hint: `This node is a replica. If it shall still be primary: understudy promote ${workers.config.name}`,
      });
      await workers.event("promotion.given_up", { cut: cut === undefined ? null : cutText(cut), reason });
      await workers.openCopy();
    });
  }

  /** @throws when it cannot be finished; up to the new epoch the node is a replica again then */
  async #finish(accepted: AcceptedCopy, by: string, granted?: Epoch): Promise<{ epoch: bigint; cut: CutId }> {
    const workers = this.#workers;
    const worker = workers.replica;
    if (worker === undefined) throw new WrongRole("a promotion", workers.role);
    const { epoch, cut } = await this.#takeOver(worker, accepted, granted);
    await this.reignBegun({ epoch, cut }, "promote", { by });
    return { epoch, cut };
  }

  /**
   * This node's reign began, durably: it takes up what belongs to it. Within a change of role. `fields` go into the event.
   * Gives why its service could not be started, "" when it could, and when that was over.
   */
  async reignBegun(
    { epoch, cut }: { readonly epoch: Epoch; readonly cut: CutId },
    reason: "promote" | "switchover",
    fields: EventFields = {},
  ): Promise<{ readonly failure: string; readonly servedAt: number }> {
    const workers = this.#workers;
    workers.log.info("replica.promoted", { epoch, seq: cut.seq });
    const reign = async (): Promise<void> => {
      await workers.becomePrimary();
      this.#peers.closeSessions();
      this.#history.discard();
    };
    // Nobody is served meanwhile: the service does not wait for who follows it, whose first view compares everything.
    await Promise.all([
      reign(),
      this.#beginService(reason),
      workers.event("replica.promoted", { epoch, cut: cutText(cut), reason, ...fields }),
    ]);
    const { lastStart } = this.#service;
    return { failure: lastStart?.failure ?? "", servedAt: lastStart?.at ?? performance.now() };
  }

  async #beginService(reason: "promote" | "switchover"): Promise<void> {
    const workers = this.#workers;
    const { afterPromote } = workers.config.hooks;
    if (afterPromote !== undefined) {
      try {
        await this.#service.runStart("after_promote", afterPromote, reason);
      } catch (error) {
        if (!(error instanceof HookFailed)) throw error;
        // The node is primary whatever its hooks do: said loudly, and left to the operator.
        workers.log.error("hook.failed", { hook: "after_promote", error });
      }
    }
    await this.#service.update(reason);
  }

  async #takeOver(
    worker: ReplicaWorker,
    accepted: AcceptedCopy,
    granted: Epoch | undefined,
  ): Promise<{ epoch: Epoch; cut: CutId }> {
    const workers = this.#workers;
    try {
      await worker.call("openCopy", undefined);
      const taken = await worker.call("takeOver", {
        accepted,
        // A cluster that grants an epoch has compared what its nodes know.
        turn: granted === undefined ? workers.turnAbove(this.#peers.answers.highest) : { ...workers.turn, granted },
      });
      workers.replicaStanding = await worker.call("standing", undefined);
      return taken;
    } catch (error) {
      workers.replicaStanding = await worker.call("standing", undefined);
      if (workers.role === "promoting") await this.#unseal(worker, error);
      throw error;
    }
  }

  /** One that is under way ends at its next step before the epoch. */
  async abort(): Promise<void> {
    const workers = this.#workers;
    const underWay = this.#underWay;
    underWay?.abort(new PromotionAborted());
    await workers.exclusively(async () => {
      // A replica, or what it was before: a former primary.
      if (underWay !== undefined && (workers.role === "replica" || workers.role === "fenced")) return;
      if (workers.replica === undefined || workers.role !== "promoting")
        throw new WrongRole("there is no promotion to abort", workers.role);
      await this.#unseal(workers.replica, new PromotionAborted());
    });
  }

  async #unseal(worker: ReplicaWorker, why: unknown): Promise<void> {
    const standing = await worker.call("unseal", undefined);
    this.#workers.replicaStanding = standing;
    this.#peers.closeSessions();
    await this.#workers.event("promotion.aborted", { cut: cutText(standing.committed), reason: explain(why) });
  }
}

/** What was accepted was to go on from what a rejoin was about to undo, and it is undone by now. */
function rejoined(committed: CutId): Refusal {
  return {
    code: "REJOINED",
    message: `the primary's first cut has arrived meanwhile: cut ${cutText(committed)} is here now`,
    hint: "This node is a replica like any other by now: look again at what a promotion would give up.",
    flag: undefined,
  };
}
