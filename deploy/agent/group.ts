import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { choosePoint } from "../../replica/history/choose-point.ts";
import { PromotionRefused, promotionRefusals, type Refusal } from "../../replica/promote/promote.ts";
import type { CutRecord } from "../../shared/catalog/catalog.ts";
import {
  type Config,
  type GroupConfig,
  membersOf,
  nodeNamed,
  type StoreOnNode,
  storeOnNode,
} from "../../shared/config/config.ts";
import { configurationDigest } from "../../shared/config/digest.ts";
import { exitCodes, explain, ProtocolViolation, UnderstudyError } from "../../shared/errors.ts";
import { HookFailed, runHook } from "../../shared/hooks.ts";
import type { Log } from "../../shared/log.ts";
import type { Metrics } from "../../shared/metrics.ts";
import { type Decision, decide, wireMajor, wireMinor } from "../../shared/session/connect.ts";
import { readablePath } from "../../shared/store-path.ts";
import { decodeMessage } from "../../shared/wire/codec.ts";
import type { Hello } from "../../shared/wire/messages.ts";
import {
  type Consistency,
  type CutId,
  cutText,
  type Epoch,
  meets,
  type NodeName,
  type Role,
} from "../../shared/words.ts";
import {
  cutIdOf,
  cutRef,
  jsonNumber,
  type PromoteOptions,
  type RestoreAnswer,
  type RestoreOptions,
  type VerifyAnswer,
  type VerifyOptions,
} from "../control/api.ts";
import { groupDirectory } from "../control/state-layout.ts";
import type { HistoryMainCalls, HistoryWorkerCalls } from "../workers/history-worker.ts";
import { RemoteError } from "../workers/port-peer.ts";
import type { PrimaryMainCalls, PrimaryStanding, PrimaryWorkerCalls } from "../workers/primary-worker.ts";
import type { ReplicaMainCalls, ReplicaStanding, ReplicaWorkerCalls } from "../workers/replica-worker.ts";
import { kindTraits, placementOf } from "../workers/store-adapters.ts";
import { Following } from "./following.ts";
import { hintOf, Reign } from "./reign.ts";
import { RefusedByPeer, type Session } from "./session.ts";
import { WorkerThread } from "./worker-thread.ts";

/** How long whoever asks for the status waits for the catalog's worker. */
const refreshMsMax = 500;

type HistoryWorker = WorkerThread<HistoryMainCalls, HistoryWorkerCalls>;
type PrimaryWorker = WorkerThread<PrimaryMainCalls, PrimaryWorkerCalls>;
type ReplicaWorker = WorkerThread<ReplicaMainCalls, ReplicaWorkerCalls>;

/** This node cannot do that in the role it has. */
export class WrongRole extends UnderstudyError {
  readonly code = "WRONG_ROLE";
  readonly remedy = "stop";
  readonly state = "Nothing was done.";
  readonly hint = "See `understudy status` for the role of each node.";
  override readonly exitCode = exitCodes.refused;
  constructor(what: string, role: Role) {
    super(`${what}: this node is ${role}`);
  }
}

export interface GroupOptions {
  readonly config: Config;
  readonly group: GroupConfig;
  readonly node: NodeName;
  readonly stateDirectory: string;
  readonly software: string;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Something happened after which only a restart through recovery is safe. */
  readonly onFatal: (error: unknown) => void;
}

export interface PeerNote {
  readonly state: "connecting" | "refused" | "idle";
  readonly reason: string;
  /** True when it answered in this run that it has no state for the group. */
  readonly unformed: boolean;
}

/** One group on this node, in whatever role: who it talks to, which worker holds its catalog, what it may become. */
export class GroupAgent {
  readonly config: GroupConfig;
  readonly options: GroupOptions;
  readonly log: Log;
  readonly stores: readonly StoreOnNode[];
  #primary: { readonly worker: PrimaryWorker; readonly reign: Reign } | undefined;
  #replica: ReplicaWorker | undefined;
  #replicaStanding: ReplicaStanding | undefined;
  #following: Following | undefined;
  #coveredAt = performance.now();
  #lastPrimary: string | undefined;
  readonly #sessions = new Set<Session>();
  readonly #peers = new Map<string, PeerNote>();
  #generation = 0n;
  #changing: Promise<unknown> = Promise.resolve();
  #eager = 0;
  #stopped = false;
  #followed = 0;
  copyProblem = "";
  copyHint = "";
  readonly #stopping = new AbortController();

  constructor(options: GroupOptions) {
    this.options = options;
    this.config = options.group;
    this.log = options.log.with({ group: options.group.name });
    this.stores = [...options.group.stores.values()].map((store) => storeOnNode(store, options.node));
  }

  get role(): Role {
    return this.#primary?.reign.standing.role ?? this.#replicaStanding?.role ?? "unformed";
  }

  get standing(): PrimaryStanding | ReplicaStanding | undefined {
    return this.#primary?.reign.standing ?? this.#replicaStanding;
  }

  get reign(): Reign | undefined {
    return this.#primary?.reign;
  }

  get following(): Following | undefined {
    return this.#following;
  }

  get replicaStanding(): ReplicaStanding | undefined {
    return this.#replicaStanding;
  }

  get replicaWorker(): ReplicaWorker | undefined {
    return this.#replica;
  }

  get lastPrimary(): string | undefined {
    return this.#lastPrimary;
  }

  /** Monotonic, ms: everything that the primary had until then is durable here. */
  get coveredAt(): number {
    return this.#following?.coveredAt ?? this.#coveredAt;
  }

  get directory(): string {
    return groupDirectory(this.options.stateDirectory, this.config.name);
  }

  get catalogPath(): string {
    return join(this.directory, "catalog.db");
  }

  peerNote(peer: string): PeerNote | undefined {
    return this.#peers.get(peer);
  }

  members(): NodeName[] {
    return membersOf(this.config);
  }

  /** True for a moment after a change of role: peers should hear of it at once. */
  wantsPeers(): boolean {
    return performance.now() < this.#eager;
  }

  peerUnreachable(peer: string, reason: string): void {
    this.#peers.set(peer, { state: "connecting", reason, unformed: false });
  }

  environment(): Record<string, string> {
    const standing = this.standing;
    return {
      UNDERSTUDY_GROUP: this.config.name,
      UNDERSTUDY_NODE: this.options.node,
      UNDERSTUDY_ROLE: this.role,
      UNDERSTUDY_EPOCH: String(standing?.epoch ?? 0),
      UNDERSTUDY_CUT: standing === undefined ? "" : cutText(standing.committed),
      UNDERSTUDY_REASON: "",
    };
  }

  async start(): Promise<void> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    const standing = await this.#openReplica();
    if (standing.role === "primary") await this.#becomePrimary();
    else if (standing.role === "replica") await this.#openCopy();
    else if (standing.role === "promoting") await this.#exclusively(async () => await this.#resumePromotion(standing));
    // Its service may have been started again meanwhile, or the agent died before it was told to stop.
    else if (standing.role === "fenced") this.#onFenced().catch((error: unknown) => this.options.onFatal(error));
    this.log.info("group.opened", {
      role: this.role,
      epoch: this.standing?.epoch ?? 0,
      seq: this.standing?.committed.seq ?? 0,
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#stopping.abort(new Error("the agent stops"));
    this.#closeSessions();
    await this.#primary?.reign.stop();
    await this.#primary?.worker.close();
    this.#primary = undefined;
    await this.#closeReplica();
  }

  async #openReplica(): Promise<ReplicaStanding> {
    const worker: ReplicaWorker = new WorkerThread<ReplicaMainCalls, ReplicaWorkerCalls>(
      "replica-worker",
      {
        taken: ({ generation, bytes }) => {
          if (this.#following?.generation === generation) this.#following.taken(bytes);
        },
        acknowledged: (message) => {
          if (message.suspect !== "" && this.#replicaStanding?.suspect === "") {
            this.log.error("copy.suspect", {
              reason: message.suspect,
              hint: `understudy verify ${this.config.name}, then understudy adopt ${this.config.name}`,
            });
          }
          if (this.#replicaStanding !== undefined) {
            if (message.suspect !== "" && message.suspect !== this.#replicaStanding.suspect)
              this.log.error("copy.suspect", { reason: message.suspect, seq: message.applied.seq });
            this.#replicaStanding = {
              ...this.#replicaStanding,
              committed: message.durable,
              applied: message.applied.seq,
              suspect: message.suspect,
            };
          }
          this.#following?.acknowledge(message);
        },
        applied: ({ cuts, ms, strangers, metadataPartial }) => {
          if (cuts > 0) this.options.metrics.applySeconds.observe({ group: this.config.name }, ms / 1000);
          this.log.debug("batch.applied", { cuts, ms: Math.round(ms) });
          if (strangers.length > 0)
            this.log.error("stranger.put_aside", { paths: strangers.slice(0, 20).join(", "), count: strangers.length });
          if (metadataPartial > 0) this.log.warn("metadata.partial", { objects: metadataPartial });
        },
        rejected: ({ cut, committed, error }) => {
          this.#following
            ?.reject(cut, committed, error)
            .catch((failure: unknown) => this.log.debug("rejection.unsent", { error: failure }));
        },
        failed: ({ error }) => this.options.onFatal(new RemoteError(error)),
      },
      (error) => {
        if (!this.#stopped) this.options.onFatal(error);
      },
    );
    this.#replica = worker;
    const standing = await worker.call("open", {
      groupName: this.config.name,
      catalogPath: this.catalogPath,
      placements: this.stores.map(placementOf),
      stagingBytesMax: this.config.limits.stagingBytes,
      keepHistory: this.#keepsHistory(),
      retention: this.config.retention,
    });
    this.#replicaStanding = standing;
    // What the primary wrote while this agent did not run is not known here, and no promise was kept in that time: all
    // since the last cut counts as missing until the primary says otherwise.
    const unknownMs = Math.max(0, Date.now() - standing.lastTakenAtUs / 1000);
    if (standing.committed.seq > 0n) this.#coveredAt = performance.now() - unknownMs;
    return standing;
  }

  #keepsHistory(): boolean {
    return Object.values(this.config.retention.keep).some((ms) => ms !== undefined && ms > 0);
  }

  /** A copy that is not there stops this group until it is, and nothing else. */
  async #openCopy(): Promise<void> {
    try {
      await this.#replica?.call("openCopy", undefined);
      this.copyProblem = "";
    } catch (error) {
      this.copyProblem = explain(error);
      this.copyHint = hintOf(error);
      this.log.error("copy.unusable", { error });
    }
  }

  async #becomePrimary(): Promise<void> {
    await this.#closeReplica();
    const worker: PrimaryWorker = new WorkerThread<PrimaryMainCalls, PrimaryWorkerCalls>(
      "primary-worker",
      {
        wake: () => this.#primary?.reign.changed(),
        frame: async (argument) => await this.#primary?.reign.forward(argument),
        stagedRuns: async (argument) =>
          (await this.#primary?.reign.stagedRuns(argument)) ?? { blockSize: 0, digests: new Uint8Array(0) },
        freeze: async () => await this.#primary?.reign.freeze(),
        thaw: async () => (await this.#primary?.reign.thaw()) ?? 0,
        failed: ({ message }) => this.options.onFatal(new Error(message)),
      },
      (error) => {
        if (!this.#stopped) this.options.onFatal(error);
      },
    );
    const standing = await worker.call("open", {
      catalogPath: this.catalogPath,
      stores: this.stores,
      holdSecondsMax: this.config.limits.snapshotHoldMs / 1000,
      environment: this.environment(),
    });
    const reign = new Reign(worker, standing, {
      config: this.config,
      node: this.options.node,
      log: this.log,
      metrics: this.options.metrics,
      environment: () => this.environment(),
      onStanding: () => {},
      frozenMarkPath: join(this.directory, "frozen"),
    });
    reign.compressFor = (peer) => this.#compressFor(peer);
    this.#primary = { worker, reign };
    // Until here whoever asked was told what this node was before.
    this.#replicaStanding = undefined;
    if (standing.role === "primary") await this.#startReign();
  }

  /** From here on nobody asks the worker anything: it has no catalog any more while it closes. */
  async #closeReplica(): Promise<void> {
    const replica = this.#replica;
    this.#replica = undefined;
    await replica?.close();
  }

  async #startReign(): Promise<void> {
    const primary = this.#primary;
    if (primary === undefined) return;
    try {
      await primary.worker.call("start", undefined);
    } catch (error) {
      // The source is not there (yet): the reign stands still, says so, and looks again.
      primary.reign.halted = explain(error);
      primary.reign.haltedHint = hintOf(error);
      this.log.error("source.unusable", { error });
      this.#retryStart();
      return;
    }
    primary.reign.run();
    this.log.info("reign.started", { epoch: primary.reign.standing.epoch, seq: primary.reign.standing.committed.seq });
  }

  #retryStart(): void {
    setTimeout(() => {
      if (this.#stopped || this.#primary === undefined) return;
      this.#startReign().catch((error: unknown) => this.options.onFatal(error));
    }, 3000).unref();
  }

  #compressFor(peer: string): boolean {
    const { config, node } = this.options;
    const lines = [nodeNamed(config, node).line, nodeNamed(config, peer).line];
    if (lines.some((line) => line.compress === "never")) return false;
    if (lines.some((line) => line.compress === "always")) return true;
    // On a fast link compressing costs more than it saves; a line with a rate is a slow one.
    return lines.some((line) => line.rateBytesPerSecond !== undefined);
  }

  async hello(): Promise<Hello> {
    const { node, software } = this.options;
    await this.refresh();
    const standing = this.standing;
    const lastObject =
      this.#replicaStanding?.lastObject ??
      (this.#primary === undefined ? 0 : this.#primary.reign.standing.nextObject - 1);
    this.#generation += 1n;
    return {
      major: wireMajor,
      minor: wireMinor,
      features: this.#replicaStanding?.adopting === true ? ["zstd", "adopting"] : ["zstd"],
      software,
      node,
      group: this.config.name,
      groupId: standing?.groupId ?? "",
      role: this.role,
      epoch: standing?.epoch ?? 0n,
      epochs: standing?.epochs ?? [],
      incarnation: this.#primary?.reign.standing.incarnation ?? "",
      committed: standing?.committed ?? ({ epoch: 0n, seq: 0n } as CutId),
      digest: new Uint8Array(standing?.digest ?? new Uint8Array(0)),
      stores: [...this.config.stores.values()].map((store) => ({
        name: store.name,
        kind: store.kind,
        digest: configurationDigest(store),
      })),
      generation: this.#generation,
      epochSeen: standing?.epochSeen ?? 0n,
      lastObject,
    };
  }

  /** One session from hello to its end. */
  async converse(session: Session): Promise<void> {
    const { peer } = session;
    this.#sessions.add(session);
    try {
      const ours = await this.hello();
      if (session.dialed) await session.greet(ours);
      else await session.welcome(ours);
      const { theirs } = session;
      if (theirs.node !== peer) throw new WrongPeer(peer, theirs.node);
      // Cut off to what a catalog can be asked for: a number beyond it is no cut's, and refused by the table.
      const digest =
        this.#primary === undefined
          ? undefined
          : await this.#primary.worker.call("digestAt", { seq: BigInt.asUintN(53, theirs.committed.seq) });
      const decision = decide(ours, theirs, {
        digestAt: () => digest,
        forgottenUpTo: this.#primary?.reign.standing.forgotten ?? 0n,
        followed: this.#followedMember(),
      });
      this.#peers.set(peer, { state: "idle", reason: "", unformed: theirs.groupId === "" });
      this.log.info("session.opened", { peer, decision: decision.kind, role: this.role, theirRole: theirs.role });
      await this.#act(session, decision);
    } catch (error) {
      this.#peers.set(peer, { state: "refused", reason: explain(error), unformed: false });
      session.channel.close(error instanceof Error ? error : new Error(String(error)));
      if (!this.#stopped) throw error;
    } finally {
      this.#sessions.delete(session);
      session.channel.close();
    }
  }

  /** One that the configuration has no more was renamed, or will not come back: it keeps nobody away. */
  #followedMember(): string | undefined {
    const followed = this.#replicaStanding?.followed;
    return this.members().find((member) => member === followed);
  }

  async #act(session: Session, decision: Decision): Promise<void> {
    const { peer } = session;
    switch (decision.kind) {
      case "ship":
        await this.#primary?.reign.serve(session, decision.base);
        return;
      case "follow":
        await this.#follow(session, decision);
        return;
      case "idle":
        this.#peers.set(peer, { state: "idle", reason: decision.why, unformed: session.theirs.groupId === "" });
        if (session.theirs.role === "primary") this.log.warn("primary.ignored", { peer, reason: decision.why });
        if (this.#mayForm()) {
          await this.#exclusively(async () => {
            if (this.#mayForm()) await this.#form();
          });
          return;
        }
        await this.#drain(session);
        return;
      case "refuse":
        this.#peers.set(peer, { state: "refused", reason: decision.message, unformed: false });
        this.log.error("session.refused", { peer, code: decision.code, reason: decision.message, hint: decision.hint });
        await session.send({ kind: "refusal", code: decision.code, message: decision.message, hint: decision.hint });
        session.channel.close();
        return;
      case "fenced":
        await this.#exclusively(async () => await this.#fence(decision.by, peer));
        return;
      case "replica-newer": {
        const reason = `the replica ${peer} is newer (cut ${cutText(decision.theirs)}) than this primary: promote it`;
        await this.#primary?.reign.standStill(reason);
        this.#peers.set(peer, { state: "refused", reason, unformed: false });
        this.log.error("primary.reverted", {
          peer,
          epoch: decision.theirs.epoch,
          seq: decision.theirs.seq,
          code: "REPLICA_NEWER",
          reason,
        });
        await session.send({
          kind: "refusal",
          code: "REPLICA_NEWER",
          message: reason,
          hint: `On ${peer}: understudy promote ${this.config.name}`,
        });
        session.channel.close();
        return;
      }
    }
  }

  /**
   * Nothing to do for each other: the channel stays open, so that the end of the other side is noticed.
   * @throws {RefusedByPeer | ProtocolViolation} when the other sees that otherwise
   */
  async #drain(session: Session): Promise<void> {
    const frame = await session.next();
    if (frame === undefined) return;
    const message = decodeMessage(frame.header);
    if (message.kind === "refusal") throw new RefusedByPeer(session.peer, message.code, message.message, message.hint);
    throw new ProtocolViolation(`a ${message.kind} came from ${session.peer}, with whom there is nothing to do`);
  }

  async #follow(session: Session, decision: Extract<Decision, { kind: "follow" }>): Promise<void> {
    const { theirs, peer } = session;
    const worker = this.#replica;
    if (worker === undefined) return;
    // A half-open older session can neither stage nor commit from here on.
    this.#replaceFollowing();
    let generation = 0;
    try {
      if (decision.join) {
        await worker.call("join", { groupId: theirs.groupId, epoch: theirs.epoch, epochs: theirs.epochs });
      } else if (decision.adoptEpoch) {
        await worker.call("adoptEpoch", { epoch: theirs.epoch, epochs: theirs.epochs });
      }
      await worker.call("openCopy", undefined);
      generation = ++this.#followed;
      this.#replicaStanding = await worker.call("startSession", {
        incarnation: theirs.incarnation,
        generation,
        primary: peer,
        epoch: theirs.epoch,
      });
      this.copyProblem = "";
    } catch (error) {
      this.copyProblem = explain(error);
      this.copyHint = hintOf(error);
      throw error;
    }
    // Several may have begun while the worker was asked: the last that it heard of is the one.
    if (generation !== this.#followed) throw new ProtocolViolation("a newer session replaced this one");
    this.#replaceFollowing();
    const following = new Following(
      session,
      worker,
      this.config.name,
      generation,
      this.#coveredAt,
      this.log,
      this.options.metrics,
    );
    this.#following = following;
    this.#lastPrimary = peer;
    const standing = this.#replicaStanding;
    following.acknowledge({
      received: standing.committed,
      durable: standing.committed,
      applied: { epoch: standing.committed.epoch, seq: standing.applied },
      suspect: standing.suspect,
      unappliedBytes: standing.unappliedBytes,
    });
    try {
      await following.run();
    } finally {
      if (this.#following === following) {
        this.#coveredAt = following.coveredAt;
        this.#following = undefined;
        if (this.#replica === worker && !this.#stopped)
          this.#replicaStanding = await worker.call("endSession", undefined);
      }
    }
  }

  #replaceFollowing(): void {
    this.#following?.stop(new ProtocolViolation("a newer session replaced this one"));
    this.#following = undefined;
  }

  #closeSessions(): void {
    this.#eager = performance.now() + 5000;
    for (const session of this.#sessions) session.channel.close();
  }

  /** Named primary, nothing here, and every replica has said that it has nothing either. */
  #mayForm(): boolean {
    if (this.role !== "unformed" || this.config.primary !== this.options.node) return false;
    return [...this.config.replicas.keys()].every((replica) => this.#peers.get(replica)?.unformed === true);
  }

  waitingFor(): string[] {
    if (this.role !== "unformed") return [];
    if (this.config.primary !== this.options.node) return [this.config.primary];
    return [...this.config.replicas.keys()].filter((replica) => this.#peers.get(replica)?.unformed !== true);
  }

  async form(alone: boolean): Promise<void> {
    await this.#exclusively(async () => {
      if (this.role !== "unformed") throw new WrongRole("a group is born once", this.role);
      if (this.config.primary !== this.options.node)
        throw new WrongRole(`the configuration names ${this.config.primary} as the group's first primary`, this.role);
      const missing = this.waitingFor();
      if (missing.length > 0 && !alone) throw new NotAnswered(missing);
      await this.#form();
    });
  }

  async #form(): Promise<void> {
    await this.#becomePrimary();
    const primary = this.#primary;
    if (primary === undefined) return;
    const standing = await primary.worker.call("form", undefined);
    this.log.info("group.formed", { id: standing.groupId });
    await primary.worker.close();
    this.#primary = undefined;
    await this.#becomePrimary();
    this.#closeSessions();
  }

  async #fence(by: bigint, peer: string): Promise<void> {
    const primary = this.#primary;
    if (primary === undefined || this.role !== "primary") return;
    this.log.error("primary.fenced", { peer, epoch: primary.reign.standing.epoch, by });
    await primary.worker.call("fence", { by });
    await primary.reign.stop();
    await primary.worker.close();
    this.#primary = undefined;
    await this.#openReplica();
    this.#closeSessions();
    await this.#onFenced();
  }

  async #onFenced(): Promise<void> {
    const { onFenced, stopService } = this.config.hooks;
    const hook = onFenced ?? stopService;
    if (hook === undefined) return;
    const by = this.standing?.epochSeen ?? 0n;
    try {
      await runHook("on_fenced", hook, { ...this.environment(), UNDERSTUDY_REASON: `fenced by epoch ${by}` });
    } catch (error) {
      this.log.error("hook.failed", { hook: "on_fenced", error });
    }
  }

  /** What stands in the way of promoting this node now. */
  refusals(accept: PromoteOptions): Refusal[] {
    const standing = this.#replicaStanding;
    if (standing === undefined) {
      return promotionRefusals({
        role: this.role,
        committed: { epoch: 0n, seq: 0n } as CutId,
        suspect: "",
        halted: "",
        stores: [],
        primaryAlive: false,
        lossKnownEmpty: true,
        lossText: "",
        accept: { loss: true, lossFrom: undefined, suspect: true, consistency: true, livePrimary: true },
      });
    }
    const loss = this.loss();
    return promotionRefusals({
      role: standing.role,
      committed: standing.committed,
      suspect: standing.suspect,
      halted: standing.halted || this.copyProblem,
      stores: (standing.record?.stores ?? []).map((store) => ({
        name: store.name,
        consistency: store.consistency,
        required: this.#required(store),
      })),
      primaryAlive: this.primaryAlive(),
      lossKnownEmpty: loss.empty,
      lossText: `what the primary had after cut ${cutText(standing.committed)} is lost: ${loss.text}`,
      accept: {
        loss: accept.acceptLoss === true,
        lossFrom: typeof accept.acceptLoss === "string" ? accept.acceptLoss : undefined,
        suspect: accept.accept.includes("suspect"),
        consistency: accept.accept.includes("consistency"),
        livePrimary: accept.accept.includes("live-primary"),
      },
    });
  }

  primaryAlive(): boolean {
    const following = this.#following;
    return following !== undefined && performance.now() - following.session.lastHeardAt < 3000;
  }

  loss(): { empty: boolean; text: string; seconds: number; cuts: number | undefined; bytes: number | undefined } {
    const following = this.#following;
    const seconds = following?.lagSeconds() ?? (performance.now() - this.#coveredAt) / 1000;
    const source = following?.source;
    const durable = this.#replicaStanding?.committed;
    if (following !== undefined && source !== undefined && durable !== undefined && this.primaryAlive()) {
      // What the source last said may be older than what came since.
      const cuts = Math.max(0, Number(source.taken.seq - durable.seq));
      return {
        empty: seconds === 0,
        text: `${cuts} cuts and ${source.backlogBytes} bytes known, ${seconds.toFixed(1)} s`,
        seconds,
        cuts,
        bytes: source.backlogBytes,
      };
    }
    return {
      empty: false,
      text: `unknown, since the primary does not answer: at most what it wrote in the last ${seconds.toFixed(1)} s`,
      seconds,
      cuts: undefined,
      bytes: undefined,
    };
  }

  async promote(
    options: PromoteOptions,
  ): Promise<{ epoch: bigint; cut: CutId; seconds: number; loss: ReturnType<GroupAgent["loss"]> }> {
    return await this.#exclusively(async () => {
      const begun = performance.now();
      const worker = this.#replica;
      if (worker === undefined) throw new PromotionRefused(this.refusals(options), false);
      // What kept the copy from being opened may be mended by now, with no primary left to ask for it again.
      if (this.copyProblem !== "") await this.#openCopy();
      this.#replicaStanding = await worker.call("standing", undefined);
      const refusals = this.refusals(options);
      if (refusals.length > 0) throw new PromotionRefused(await this.#withBetterPoint(refusals), false);
      const loss = this.loss();
      const { beforePromote } = this.config.hooks;
      if (beforePromote !== undefined)
        await runHook("before_promote", beforePromote, { ...this.environment(), UNDERSTUDY_REASON: "promote" });
      this.#replicaStanding = await worker.call("seal", undefined);
      this.#following = undefined;
      this.#closeSessions();
      const { epoch, cut } = await this.#finishPromotion(options.accept.includes("suspect"));
      return { epoch, cut, loss, seconds: (performance.now() - begun) / 1000 };
    });
  }

  /** Where the last cut is worth too little: the newest recovery point that is not. */
  async #withBetterPoint(refusals: readonly Refusal[]): Promise<Refusal[]> {
    if (!refusals.some((refusal) => refusal.code === "CONSISTENCY")) return [...refusals];
    const good = (await this.points()).findLast((point) =>
      point.stores.every((store) => meets(store.consistency, this.#required(store))),
    );
    const hint =
      good === undefined
        ? "No recovery point has it; wait for the next cut."
        : `The newest recovery point that has it is ${cutText(good.cut)} of ${new Date(good.takenAtUs / 1000).toISOString()}: understudy restore ${this.config.name} --at ${cutText(good.cut)} --to DIR.`;
    return refusals.map((refusal) => (refusal.code === "CONSISTENCY" ? { ...refusal, hint } : refusal));
  }

  #required(store: { readonly name: string; readonly kind: string }): Consistency {
    const byKind = kindTraits[store.kind as keyof typeof kindTraits]?.require ?? "whole";
    return this.config.require.get(store.name as never) ?? byKind;
  }

  /** The agent ended between seal and epoch. Whether that can be finished or not, it runs, and can be asked. */
  async #resumePromotion(standing: ReplicaStanding): Promise<void> {
    try {
      // With a mark the accepted apply had begun.
      await this.#finishPromotion(standing.suspect !== "" && standing.applying !== undefined);
    } catch (error) {
      this.log.error("promotion.failed", { error });
    }
  }

  /** @throws when it cannot be finished; up to the new epoch the node is a replica again then */
  async #finishPromotion(acceptSuspect: boolean): Promise<{ epoch: bigint; cut: CutId }> {
    const worker = this.#replica;
    if (worker === undefined) throw new WrongRole("a promotion", this.role);
    const { epoch, cut } = await this.#takeOver(worker, acceptSuspect);
    this.log.info("replica.promoted", { epoch, seq: cut.seq });
    await this.#becomePrimary();
    this.#closeSessions();
    this.#discardHistory();
    for (const [name, hook] of [
      ["after_promote", this.config.hooks.afterPromote],
      ["start_service", this.config.hooks.startService],
    ] as const) {
      if (hook === undefined) continue;
      try {
        await runHook(name, hook, { ...this.environment(), UNDERSTUDY_REASON: "promote" });
      } catch (error) {
        if (!(error instanceof HookFailed)) throw error;
        // The node is primary whatever its service does: said loudly, and left to the operator.
        this.log.error("hook.failed", { hook: name, error });
      }
    }
    return { epoch, cut };
  }

  async #takeOver(worker: ReplicaWorker, acceptSuspect: boolean): Promise<{ epoch: Epoch; cut: CutId }> {
    try {
      await worker.call("openCopy", undefined);
      return await worker.call("takeOver", { acceptSuspect });
    } catch (error) {
      this.#replicaStanding = await worker.call("standing", undefined);
      if (this.role === "promoting") {
        this.#replicaStanding = await worker.call("unseal", undefined);
        this.#closeSessions();
      }
      throw error;
    }
  }

  /** Takes what changes by itself (points, backlog) from the worker, for status. */
  async refresh(): Promise<void> {
    const replica = this.#replica;
    if (replica === undefined) return;
    const refreshed = replica.call("standing", undefined).then((standing) => {
      // It may have made room for another role meanwhile.
      if (this.#replica === replica) this.#replicaStanding = standing;
    });
    // A worker that is busy with what a peer sends answers late: then what was known last must do.
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, refreshMsMax);
    try {
      await Promise.race([refreshed, late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  get oldestPointAt(): string | undefined {
    const at = this.#replicaStanding?.oldestPointUs;
    return at === undefined || at === 0 ? undefined : new Date(at / 1000).toISOString();
  }

  async points(): Promise<readonly CutRecord[]> {
    return this.#replica === undefined ? [] : await this.#replica.call("points", undefined);
  }

  /**
   * Takes what lies in the copies' places for a start: compared with the primary, only the difference is shipped. What this
   * node knew of the group's cuts is forgotten, its recovery points with it.
   */
  async adopt(): Promise<void> {
    await this.#exclusively(async () => {
      const worker = this.#replica;
      if (worker === undefined || (this.role !== "replica" && this.role !== "unformed"))
        throw new WrongRole("a copy is adopted by a replica", this.role);
      this.#following = undefined;
      this.#closeSessions();
      this.#replicaStanding = await worker.call("adopt", undefined);
      this.log.warn("copy.adopting", {});
    });
  }

  /** Goes on from what this primary has, although a replica is newer: see Reign.acceptSource. */
  async acceptSource(): Promise<void> {
    const reign = this.reign;
    if (reign === undefined) throw new WrongRole("only a primary has a source to accept", this.role);
    await this.#exclusively(async () => {
      await reign.acceptSource();
      this.log.warn("source.accepted", { epoch: reign.standing.epoch, seq: reign.standing.committed.seq });
      this.#closeSessions();
    });
  }

  async restore(options: RestoreOptions, signal?: AbortSignal): Promise<RestoreAnswer> {
    const points = await this.points();
    const wanted =
      "cut" in options.at ? { cut: cutIdOf(options.at.cut) } : { timeUs: Date.parse(options.at.time) * 1000 };
    const point = choosePoint(points, wanted);
    return await this.#readHistory(point.cut.seq, signal, async (worker) => {
      const restored = await worker.call("restore", { at: point.cut.seq, to: options.to });
      return {
        cut: { ...cutRef(point.cut), takenAt: new Date(point.takenAtUs / 1000).toISOString() },
        to: options.to,
        files: restored.files,
        bytes: restored.bytes,
      };
    });
  }

  async verify(options: VerifyOptions, signal?: AbortSignal): Promise<VerifyAnswer> {
    const begun = performance.now();
    await this.refresh();
    const applied = this.#replicaStanding?.applied ?? 0n;
    return await this.#readHistory(applied, signal, async (worker) => {
      const verified = await worker.call("verify", { at: applied, quick: options.quick });
      const cut = this.#replicaStanding?.committed;
      return {
        ok: verified.differenceCount === 0 && verified.digestEqual,
        cut: { epoch: jsonNumber(cut?.epoch ?? 0n), seq: jsonNumber(verified.at) },
        quick: options.quick,
        files: verified.files,
        bytes: verified.bytes,
        seconds: (performance.now() - begun) / 1000,
        differences: verified.differences.map(({ store, path, what, detail }) => {
          const readable = readablePath(path);
          const named =
            readable === undefined ? { pathB64: Buffer.from(path, "latin1").toString("base64") } : { path: readable };
          return { store, what: detail === "" ? what : `${what}: ${detail}`, ...named };
        }),
        differencesTotal: verified.differenceCount,
      };
    });
  }

  /** In a thread of its own, which reads while apply goes on; the point is kept meanwhile. */
  async #readHistory<T>(
    at: bigint,
    signal: AbortSignal | undefined,
    use: (worker: HistoryWorker) => Promise<T>,
  ): Promise<T> {
    const replica = this.#replica;
    if (replica === undefined || this.role === "unformed" || this.role === "fenced")
      throw new WrongRole("a replica has points and a copy to verify", this.role);
    await replica.call("pin", { seq: at });
    try {
      return await this.#withHistory(use, signal);
    } finally {
      if (this.#replica === replica) await replica.call("unpin", { seq: at });
    }
  }

  /** The service writes over what recovery points were read from: their files go, beside everything else. */
  #discardHistory(): void {
    this.#withHistory(async (worker) => await worker.call("discard", undefined)).then(
      (files) => this.log.info("history.discarded", { files }),
      (error: unknown) => this.log.warn("history.left", { error }),
    );
  }

  async #withHistory<T>(use: (worker: HistoryWorker) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const worker: HistoryWorker = new WorkerThread<HistoryMainCalls, HistoryWorkerCalls>(
      "history-worker",
      {},
      (error) => this.log.error("history.failed", { error }),
    );
    const cancel = (): void => worker.note("cancel", undefined);
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      await worker.call("open", {
        groupName: this.config.name,
        catalogPath: this.catalogPath,
        placements: this.stores.map(placementOf),
      });
      return await use(worker);
    } finally {
      signal?.removeEventListener("abort", cancel);
      await worker.close();
    }
  }

  async abortPromotion(): Promise<void> {
    await this.#exclusively(async () => {
      if (this.#replica === undefined || this.role !== "promoting")
        throw new WrongRole("there is no promotion to abort", this.role);
      this.#replicaStanding = await this.#replica.call("unseal", undefined);
      this.#closeSessions();
    });
  }

  /** Changes of role come one after the other. */
  async #exclusively<T>(change: () => Promise<T>): Promise<T> {
    const turn = this.#changing.then(change, change);
    this.#changing = turn.catch(() => undefined);
    return await turn;
  }
}

class WrongPeer extends UnderstudyError {
  readonly code = "WRONG_PEER";
  readonly remedy = "stop";
  readonly state = "The session is closed.";
  readonly hint = "Each node has its own key; look whether a state directory was copied.";
  constructor(expected: string, said: string) {
    super(`the key belongs to ${expected}, the hello comes from ${said}`);
  }
}

/** A group is not formed while a replica might have it already. */
export class NotAnswered extends UnderstudyError {
  readonly code = "NOT_ANSWERED";
  readonly remedy = "stop";
  readonly state = "The group is still unformed.";
  readonly hint: string;
  override readonly exitCode = exitCodes.refused;
  constructor(missing: readonly string[]) {
    super(`${missing.join(", ")} did not answer yet whether the group exists there`);
    this.hint =
      "Start them, or use `understudy form GROUP --alone` when you know that they have no copy of this group.";
  }
}
