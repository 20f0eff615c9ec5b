import { join } from "node:path";
import type { ForkRecord } from "../../replica/rejoin/fork-bundle.ts";
import type { ForkPlace } from "../../replica/rejoin/make-fork.ts";
import {
  type Config,
  type GroupConfig,
  keepsHistory,
  membersOf,
  nodeNamed,
  type StoreOnNode,
  storeOnNode,
} from "../../shared/config/config.ts";
import { assert, exitCodes, explain, hintOf, UnderstudyError } from "../../shared/errors.ts";
import type { Log } from "../../shared/log.ts";
import type { Metrics } from "../../shared/metrics.ts";
import type { Turn } from "../../shared/session/epochs.ts";
import type { ReplicaReport } from "../../shared/wire/messages.ts";
import { waitAtMost } from "../../shared/within.ts";
import { type CutId, cutText, type NodeName, type Role, sameCut } from "../../shared/words.ts";
import { groupDirectory } from "../control/state-layout.ts";
import type { CopyPlaces } from "../workers/own-copies.ts";
import { RemoteError } from "../workers/port-peer.ts";
import type { Demoted, PrimaryMainCalls, PrimaryStanding, PrimaryWorkerCalls } from "../workers/primary-calls.ts";
import type { ReplicaMainCalls, ReplicaStanding, ReplicaWorkerCalls } from "../workers/replica-calls.ts";
import { excludesOf, placementOf } from "../workers/store-adapters.ts";
import { type EventFields, type EventLog, fieldsText } from "./event-log.ts";
import type { Following } from "./following.ts";
import type { Forks } from "./forks.ts";
import { FormerEpoch } from "./former-epoch.ts";
import type { HookLedger } from "./hook-ledger.ts";
import { LastVerified } from "./last-verified.ts";
import { Reign } from "./reign.ts";
import type { ScrubState } from "./scrub-state.ts";
import { Scrubbing } from "./scrubbing.ts";
import { WorkerThread } from "./worker-thread.ts";

/** How long whoever asks for the status waits for the catalog's worker. */
const refreshMsMax = 500;
const retryStartMs = 3000;
const foreignEvents = {
  damaged: "copy.damaged",
  mended: "copy.mended",
  lost: "history.lost",
  "put-aside": "stranger.put_aside",
  again: "copy.damaged_again",
} as const;

export type PrimaryWorker = WorkerThread<PrimaryMainCalls, PrimaryWorkerCalls>;
export type ReplicaWorker = WorkerThread<ReplicaMainCalls, ReplicaWorkerCalls>;

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

/** This node has what the common cut has not, and nobody said where that is to be kept. */
export class ForkNotKept extends UnderstudyError {
  readonly code = "FORK_NOT_KEPT";
  readonly remedy = "stop";
  readonly state = "The node is what it was; nothing was given up.";
  readonly hint = "Run `understudy rejoin GROUP`: what lies beyond the common cut is kept as a fork.";
  override readonly exitCode = exitCodes.refused;
}

/** What became of an ex-primary. */
export interface Demotion extends Demoted {
  /** Its own last cut, which is beyond `cut` where it had a fork. */
  readonly own: CutId;
  /** What it had beyond `cut`, as it is kept; undefined where that was nothing. */
  readonly fork: ForkRecord | undefined;
}

export interface GroupOptions {
  readonly config: Config;
  readonly group: GroupConfig;
  readonly node: NodeName;
  readonly stateDirectory: string;
  readonly software: string;
  readonly log: Log;
  readonly events: EventLog;
  readonly forks: Forks;
  readonly hooks: HookLedger;
  /** Of the machine since it was started; "" where that cannot be told. */
  readonly bootId: string;
  readonly metrics: Metrics;
  /** Something happened after which only a restart through recovery is safe. */
  readonly onFatal: (error: unknown) => void;
}

/** What becomes of what lies beyond the common cut. */
export interface KeepFork {
  readonly place: ForkPlace;
  /** Up to this cut whoever is followed has forgotten what was removed. */
  readonly reach: bigint;
  /** It is durable, and nothing of it is given up yet. */
  kept(fork: ForkRecord): Promise<void>;
}

const demoteAttemptsMax = 3;

function asReplica(standing: PrimaryStanding): ReplicaStanding {
  return {
    ...standing,
    lastObject: standing.nextObject - 1,
    record: undefined,
    unappliedBytes: 0,
    pointCount: 0,
    historyBytes: 0,
    oldestPointUs: 0,
    adopting: false,
    rejoining: false,
    ownCut: undefined,
    unproven: undefined,
    damaged: [],
    followed: undefined,
  };
}

function isStillWritten(error: unknown): boolean {
  return error instanceof RemoteError && error.code === "STILL_WRITTEN";
}

/** The worker that holds the group's catalog on this node, of the kind that its role wants, and what it said last. */
export class GroupWorkers {
  readonly config: GroupConfig;
  readonly options: GroupOptions;
  readonly log: Log;
  readonly stores: readonly StoreOnNode[];
  readonly lastVerified: LastVerified;
  readonly formerEpoch: FormerEpoch;
  #primary: { readonly worker: PrimaryWorker; readonly reign: Reign } | undefined;
  #replica: ReplicaWorker | undefined;
  /** What the replica's worker said last: whoever makes it change something keeps its answer here. */
  replicaStanding: ReplicaStanding | undefined;
  /** The session whose frames the replica's worker takes: it hears what became of them. */
  following: Following | undefined;
  /** A reign of this node begins. */
  onReign: (reign: Reign) => void = () => {};
  copyProblem = "";
  copyHint = "";
  #scrubbing: Scrubbing | undefined;
  #stopped = false;
  #begun = false;
  /** A sync of this node's own files has failed, and the kernel says nothing the second time. */
  #unsynced = false;
  #changing: Promise<unknown> = Promise.resolve();
  #becoming: Promise<void> = Promise.resolve();

  constructor(options: GroupOptions) {
    this.options = options;
    this.config = options.group;
    this.log = options.log.with({ group: options.group.name });
    this.lastVerified = new LastVerified(join(this.directory, "verified.json"), this.log);
    this.formerEpoch = new FormerEpoch(join(this.directory, "former-epoch.json"), this.log);
    this.stores = [...options.group.stores.values()].map((store) => storeOnNode(store, options.node));
  }

  get role(): Role {
    return this.#primary?.reign.standing.role ?? this.replicaStanding?.role ?? "unformed";
  }

  get standing(): PrimaryStanding | ReplicaStanding | undefined {
    return this.#primary?.reign.standing ?? this.replicaStanding;
  }

  get primary(): { readonly worker: PrimaryWorker; readonly reign: Reign } | undefined {
    return this.#primary;
  }

  get replica(): ReplicaWorker | undefined {
    return this.#replica;
  }

  /** How far the source's scrub is. */
  scrubState(store: string): ScrubState | undefined {
    return this.#scrubbing?.state(store);
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  get directory(): string {
    return groupDirectory(this.options.stateDirectory, this.config.name);
  }

  /** For whom this node follows: what its operator wants to know. */
  report(): ReplicaReport {
    const { verified } = this.lastVerified;
    return {
      verifiedAtUs: verified === null ? 0 : Date.parse(verified.at) * 1000,
      differed: verified?.ok === false,
      forks: this.options.forks.names(this.config.name).length,
      paused: this.standing?.paused?.failover === true,
    };
  }

  get catalogPath(): string {
    return join(this.directory, "catalog.db");
  }

  /** What a hook is told. */
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

  /** For the operator's record of who was what; that it cannot be written is loud, and stops nothing. */
  async event(name: string, fields: EventFields): Promise<void> {
    try {
      await this.options.events.append(name, { group: this.config.name, ...fields });
    } catch (error) {
      // Who overrode what is somewhere, whatever disk is full.
      this.log.error("events.unwritten", { name, fields: fieldsText(fields), error });
    }
  }

  /** Somebody went on although that was refused. */
  async overridden(
    refusal: { verb: string; code: string; flag: string | null; by: string } & EventFields,
  ): Promise<void> {
    await this.event("refusal.overridden", refusal);
  }

  /** Which epochs are this node's to begin. */
  get turn(): Turn {
    const turn = this.turnOf(this.options.node);
    assert(turn !== undefined, "this node is a member of its groups");
    return turn;
  }

  /** The same, of a reign that begins above whatever was heard of, and above what this node may have begun and forgotten. */
  turnAbove(heard: bigint): Turn {
    const { standing, turn } = this;
    return { ...turn, heard: this.formerEpoch.above(heard, standing?.epochSeen ?? 0n) };
  }

  /** Undefined of a node that is no member (any more). */
  turnOf(node: string): Turn | undefined {
    const members: readonly string[] = membersOf(this.config);
    const member = members.indexOf(node);
    return member === -1 ? undefined : { member, members: members.length };
  }

  /** Changes of role come one after the other. */
  async exclusively<T>(change: () => Promise<T>): Promise<T> {
    const turn = this.#changing.then(change, change);
    this.#changing = turn.catch(() => undefined);
    return await turn;
  }

  async openReplica(): Promise<ReplicaStanding> {
    const standing = await this.#orEnd(this.#openReplica());
    this.#begun = true;
    return standing;
  }

  /**
   * What this node is lies in its catalog, which has no worker until that is open: where it cannot be, nobody could say or do
   * anything in its role, while its service may run. The next start begins from what is durable.
   */
  async #orEnd<T>(opening: Promise<T>): Promise<T> {
    try {
      return await opening;
    } catch (error) {
      // Who cannot even start says so to whoever started it.
      if (!this.#stopped && this.#begun) this.options.onFatal(error);
      throw error;
    }
  }

  async #openReplica(): Promise<ReplicaStanding> {
    const worker: ReplicaWorker = new WorkerThread<ReplicaMainCalls, ReplicaWorkerCalls>(
      "replica-worker",
      this.#replicaEvents(),
      (error) => this.#died(error),
    );
    this.#replica = worker;
    const standing = await worker.call("open", {
      groupName: this.config.name,
      catalogPath: this.catalogPath,
      placements: this.stores.map(placementOf),
      stagingBytesMax: this.config.limits.stagingBytes,
      keepHistory: keepsHistory(this.config.retention),
      retention: this.config.retention,
      exclude: excludesOf(this.stores),
      sweepEveryMs: this.config.limits.sweepMs,
      bootId: this.options.bootId,
    });
    this.replicaStanding = standing;
    return standing;
  }

  #replicaEvents(): ReplicaMainCalls {
    return {
      taken: ({ generation, bytes, memory }) => {
        if (this.following?.generation === generation) this.following.taken(bytes, memory);
      },
      acknowledged: (message) => {
        if (this.replicaStanding !== undefined) {
          const { committed, rejoining } = this.replicaStanding;
          this.#tellSuspect(this.replicaStanding.suspect, message.suspect);
          this.replicaStanding = {
            ...this.replicaStanding,
            committed: message.durable,
            applied: message.applied.seq,
            suspect: message.suspect,
            // The first cut that is committed brings right what was otherwise.
            rejoining: rejoining && sameCut(committed, message.durable),
          };
        }
        this.following?.acknowledge(message);
      },
      foreign: ({ what, paths }) => {
        const event = foreignEvents[what];
        this.log[what === "mended" ? "warn" : "error"](event, { paths: paths.join(", ") });
      },
      applied: ({ cuts, ms, strangers, repaired, metadataPartial }) => {
        if (cuts > 0) this.options.metrics.applySeconds.observe({ group: this.config.name }, ms / 1000);
        this.log.debug("batch.applied", { cuts, ms: Math.round(ms) });
        if (strangers.length > 0)
          this.log.error("stranger.put_aside", { paths: strangers.slice(0, 20).join(", "), count: strangers.length });
        if (repaired.length > 0)
          this.log.warn("copy.repaired", { paths: repaired.slice(0, 20).join(", "), count: repaired.length });
        if (metadataPartial > 0) this.log.warn("metadata.partial", { objects: metadataPartial });
      },
      rejected: ({ cut, committed, error }) => {
        this.following
          ?.reject(cut, committed, error)
          .catch((failure: unknown) => this.log.debug("rejection.unsent", { error: failure }));
      },
      waiting: ({ error }) => this.log.error("replica.waiting", { error: new RemoteError(error) }),
      aheadRefused: ({ generation, reason }) => {
        if (this.following?.generation === generation) this.following.refuseAhead(reason);
      },
      failed: ({ error }) => this.options.onFatal(new RemoteError(error)),
    };
  }

  #tellSuspect(before: string, now: string): void {
    if (before === "" && now !== "")
      this.log.error("copy.suspect", {
        reason: now,
        hint: `find out who writes there: understudy verify ${this.config.name}`,
      });
    else if (before !== "" && now === "") this.log.info("copy.trusted", {});
    else if (before !== now) this.log.warn("copy.suspect", { reason: now });
  }

  #died(error: Error): void {
    if (!this.#stopped) this.options.onFatal(error);
  }

  /** A copy that is not there stops this group until it is, and nothing else. */
  async openCopy(): Promise<void> {
    try {
      await this.#replica?.call("openCopy", undefined);
      this.copyProblem = "";
    } catch (error) {
      this.copyUnusable(error);
      this.log.error("copy.unusable", { error });
    }
  }

  copyUnusable(error: unknown): void {
    this.copyProblem = explain(error);
    this.copyHint = hintOf(error);
  }

  /** Takes what changes by itself (points, backlog) from the worker, for status. */
  async refresh(): Promise<void> {
    const replica = this.#replica;
    if (replica === undefined) return;
    const refreshed = replica.call("standing", undefined).then((standing) => {
      // It may have made room for another role meanwhile.
      if (this.#replica === replica) this.replicaStanding = standing;
    });
    // A worker that is busy with what a peer sends answers late: then what was known last must do.
    await waitAtMost(refreshed, refreshMsMax);
  }

  /** `granted`: in a new reign, that a cluster has granted. */
  async becomePrimary(granted?: Turn): Promise<void> {
    const becoming = this.#becomePrimary(granted);
    this.#becoming = becoming.catch(() => undefined);
    await becoming;
  }

  /** Until the worker is there that the role wants. */
  async settled(): Promise<void> {
    await this.#becoming;
  }

  async #becomePrimary(granted: Turn | undefined): Promise<void> {
    await this.#orEnd(this.#closeReplica());
    const { worker, standing: opened } = await this.#orEnd(this.#openPrimary());
    let standing = opened;
    let refused: unknown;
    try {
      if (granted !== undefined) standing = await worker.call("reignAnew", { turn: granted });
    } catch (error) {
      // It goes on in the reign that it has: without a worker it could not even say so.
      refused = error;
    }
    const reign = new Reign(worker, standing, {
      config: this.config,
      node: this.options.node,
      log: this.log,
      metrics: this.options.metrics,
      environment: () => this.environment(),
      onStanding: () => {},
      announce: (event, fields) => this.options.events.append(event, { group: this.config.name, ...fields }),
      frozenMarkPath: join(this.directory, "frozen"),
      compressFor: (peer) => this.#compressFor(peer),
    });
    this.#primary = { worker, reign };
    this.onReign(reign);
    this.#scrubbing = this.#scrubbingOf(reign);
    // Until here whoever asked was told what this node was before.
    this.replicaStanding = undefined;
    if (standing.role === "primary") await this.#startReign();
    if (refused !== undefined) throw refused;
  }

  async #openPrimary(): Promise<{ worker: PrimaryWorker; standing: PrimaryStanding }> {
    const worker: PrimaryWorker = new WorkerThread<PrimaryMainCalls, PrimaryWorkerCalls>(
      "primary-worker",
      {
        wake: () => this.#primary?.reign.changed(),
        frame: async (argument) => await this.#primary?.reign.forward(argument),
        stagedRuns: async (argument) =>
          (await this.#primary?.reign.questions.stagedRuns(argument)) ?? { blockSize: 0, digests: new Uint8Array(0) },
        stagedList: async (argument) =>
          (await this.#primary?.reign.questions.stagedList(argument)) ?? { payload: new Uint8Array(0), last: true },
        touchedList: async (argument) => {
          if (this.#primary === undefined) throw new Error("this node is no longer primary");
          return await this.#primary.reign.questions.touchedList(argument);
        },
        aheadProgress: (argument) => this.#primary?.reign.aheadProgress(argument),
        freeze: async () => await this.#primary?.reign.freezing.freeze(),
        thaw: async () => (await this.#primary?.reign.freezing.thaw()) ?? 0,
        failed: ({ error }) => this.options.onFatal(new RemoteError(error)),
      },
      (error) => this.#died(error),
    );
    try {
      const standing = await worker.call("open", {
        catalogPath: this.catalogPath,
        stores: this.stores,
        holdSecondsMax: this.config.limits.snapshotHoldMs / 1000,
        environment: this.environment(),
        bootId: this.options.bootId,
      });
      return { worker, standing };
    } catch (error) {
      await worker.close();
      throw error;
    }
  }

  /** Until it runs, is over or another one has begun. */
  async #startReign(): Promise<void> {
    const primary = this.#primary;
    if (primary === undefined) return;
    const isOver = (): boolean => this.#stopped || this.#primary !== primary;
    try {
      await primary.worker.call("start", undefined);
      if (isOver()) return;
    } catch (error) {
      if (isOver()) return;
      // The source is not there (yet): the reign stands still, says so, and looks again.
      primary.reign.halted = explain(error);
      primary.reign.haltedHint = hintOf(error);
      this.log.error("source.unusable", { error });
      setTimeout(() => {
        if (!isOver()) this.#startReign().catch((failure: unknown) => this.options.onFatal(failure));
      }, retryStartMs).unref();
      return;
    }
    primary.reign.run();
    this.#scrubbing?.start();
    this.log.info("reign.started", { epoch: primary.reign.standing.epoch, seq: primary.reign.standing.committed.seq });
  }

  #scrubbingOf(reign: Reign): Scrubbing | undefined {
    const { scrub } = this.config;
    if (scrub === undefined) return undefined;
    return new Scrubbing({
      scrub,
      stores: this.stores,
      catalogPath: this.catalogPath,
      statePath: join(this.directory, "scrub.json"),
      log: this.log,
      onDiffers: (object) => reign.reread(object),
    });
  }

  #compressFor(peer: string): boolean {
    const { config, node } = this.options;
    const lines = [nodeNamed(config, node).line, nodeNamed(config, peer).line];
    if (lines.some((line) => line.compress === "never")) return false;
    if (lines.some((line) => line.compress === "always")) return true;
    // On a fast link compressing costs more than it saves; a line with a rate is a slow one.
    return lines.some((line) => line.rateBytesPerSecond !== undefined);
  }

  get #places(): CopyPlaces {
    return { groupName: this.config.name, placements: this.stores.map(placementOf), unsynced: this.#unsynced };
  }

  /** Does what makes a copy of the primary's own files, and keeps in mind beyond its worker that they could not be made durable. */
  async #syncing<T>(step: Promise<T>): Promise<T> {
    try {
      return await step;
    } catch (error) {
      if (error instanceof RemoteError && error.code === "FILES_NOT_SYNCED") this.#unsynced = true;
      throw error;
    }
  }

  /**
   * Whether this primary's files could become a replica's copy where they are, as far as that can be known while they are in
   * use; makes the private directories beside them.
   * @throws what stands in the way
   */
  async prepareDemotion(): Promise<void> {
    if (this.#primary === undefined) throw new WrongRole("only a primary is demoted", this.role);
    const { worker, reign } = this.#primary;
    await reign.betweenCuts(async () => await this.#syncing(worker.call("prepareDemotion", this.#places)));
  }

  /**
   * An ex-primary becomes a replica of what it has, at `common`, a cut of its own history; its service is stopped, and
   * whoever asks does so within `exclusively`, and begins every conversation anew afterwards. Before that it takes one more
   * cut, for no replica, and the stores come to an orderly end. What lies beyond `common` then is kept as a fork before it is given
   * up: all of it is in the catalog and in the stores' own files, and nobody changes either. When it fails, the node
   * is what it was. A replica that is ahead of its primary's history goes back to `common` in the same way.
   */
  async demote(common: CutId, keep?: KeepFork): Promise<Demotion> {
    const { role } = this;
    if (role === "replica") return await this.#goBack(common, keep);
    if (role !== "primary" && role !== "fenced") throw new WrongRole("only an ex-primary is demoted", role);
    let worker = await this.#endReign();
    let demotion: Demotion | undefined;
    try {
      for (let attempt = 1; demotion === undefined; attempt++) {
        try {
          demotion = await this.#demote(worker, common, keep);
        } catch (error) {
          if (attempt === demoteAttemptsMax || !isStillWritten(error)) throw error;
          this.log.warn("demotion.retried", { error });
          await worker.close();
          ({ worker } = await this.#openPrimary());
        }
      }
    } finally {
      await worker.close();
      if (demotion === undefined && role === "primary") await this.becomePrimary();
      else await this.openReplica();
    }
    const { touched, fork, ...said } = demotion;
    this.log.info("primary.demoted", {
      ...said,
      fork: fork?.name ?? "",
      own: cutText(demotion.own),
      cut: cutText(demotion.cut),
      ...touched,
    });
    if (demotion.linkedOutside > 0)
      this.log.warn("copy.linked_outside", {
        files: demotion.linkedOutside,
        hint: "They have names outside of the store: what is written into them from here on is seen there as well.",
      });
    await this.event("primary.demoted", {
      cut: cutText(demotion.cut),
      own: cutText(demotion.own),
      touchedPaths: touched.paths,
      touchedBlocks: touched.blocks,
    });
    await this.openCopy();
    return demotion;
  }

  async #demote(worker: PrimaryWorker, common: CutId, keep: KeepFork | undefined): Promise<Demotion> {
    await worker.call("start", undefined);
    const { cut: own } = await worker.call("cut", {
      depth: "scan",
      prune: false,
      freeze: "none",
      preCopyRounds: 0,
      sinks: [],
      forgottenUpTo: 0n,
    });
    if (own.seq > common.seq && keep === undefined)
      throw new ForkNotKept(`this node has cut ${cutText(own)}, the common one is ${cutText(common)}`);
    await this.#syncing(worker.call("settle", this.#places));
    const stands = keep === undefined ? common : await worker.call("lastHad", { common, reach: keep.reach });
    const fork = keep === undefined ? undefined : await worker.call("keepFork", { ...keep.place, common: stands });
    if (fork !== undefined) await keep?.kept(fork);
    const demoted = await worker.call("demote", { common: stands, keepHistory: keepsHistory(this.config.retention) });
    return { ...demoted, own, fork };
  }

  async #goBack(common: CutId, keep: KeepFork | undefined): Promise<Demotion> {
    const worker = this.#replica;
    if (worker === undefined) throw new WrongRole("a replica goes back", this.role);
    // Nobody listens to its frames from here on: whatever becomes of this, its session begins anew.
    this.following?.stop(new Error("this node goes back to a cut in common with another primary"));
    this.following = undefined;
    const { committed: own } = await worker.call("settle", undefined);
    if (own.seq > common.seq && keep === undefined)
      throw new ForkNotKept(`this node has cut ${cutText(own)}, the common one is ${cutText(common)}`);
    const stands = keep === undefined ? common : await worker.call("lastHad", { common, reach: keep.reach });
    const fork = keep === undefined ? undefined : await worker.call("keepFork", { ...keep.place, common: stands });
    if (fork !== undefined) await keep?.kept(fork);
    const { touched, standing } = await worker.call("goBack", { common: stands, own }).finally(() => {
      // Who began a session meanwhile is not listened to any more, whatever became of this.
      this.following?.stop(new Error("this node gave up what it had, or was about to"));
      this.following = undefined;
    });
    this.replicaStanding = standing;
    const cut = standing.committed;
    this.log.info("replica.went_back", { own: cutText(own), cut: cutText(cut), ...touched });
    await this.event("replica.went_back", { cut: cutText(cut), own: cutText(own), touchedPaths: touched.paths });
    return { own, cut, fork, touched, filesRead: 0, bytesRead: 0, damaged: 0, linkedOutside: 0 };
  }

  /** The worker of a primary that takes no cuts by itself any more, and whose stores are not followed. */
  async #endReign(): Promise<PrimaryWorker> {
    const primary = this.#primary;
    if (primary !== undefined) {
      await this.#scrubbing?.stop();
      this.#scrubbing = undefined;
      await primary.reign.stop();
      // What this node was is what it says of itself until it is something else.
      this.replicaStanding = asReplica(primary.reign.standing);
      this.#primary = undefined;
      // Its adapters know what was cut of the stores: what they can prove need not be read.
      return primary.worker;
    }
    await this.#closeReplica();
    return (await this.#openPrimary()).worker;
  }

  async closePrimary(): Promise<void> {
    const primary = this.#primary;
    await this.#scrubbing?.stop();
    this.#scrubbing = undefined;
    await primary?.reign.stop();
    // Until another worker is there it says that it is fenced, not that it is nothing.
    if (primary?.reign.standing.role === "fenced") this.replicaStanding = asReplica(primary.reign.standing);
    this.#primary = undefined;
    await primary?.worker.close();
  }

  /** From here on nobody asks the worker anything: it has no catalog any more while it closes. */
  async #closeReplica(): Promise<void> {
    const replica = this.#replica;
    this.#replica = undefined;
    await replica?.close();
  }

  /** The agent stops: what ends from here on ends because of that. */
  stopping(): void {
    this.#stopped = true;
  }

  async stop(): Promise<void> {
    this.stopping();
    await this.closePrimary();
    await this.#closeReplica();
  }
}
