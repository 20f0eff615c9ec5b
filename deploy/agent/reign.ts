import { framePayloadBytes } from "../../primary/ship/frame-memory.ts";
import { replicaSettings } from "../../shared/config/config.ts";
import { assert, explain, hintOf, ProtocolViolation } from "../../shared/errors.ts";
import type { Metrics } from "../../shared/metrics.ts";
import type { StoreCosts, StoreHealth } from "../../shared/ports/store-adapter.ts";
import type { Turn } from "../../shared/session/epochs.ts";
import type { Paused } from "../../shared/session/paused.ts";
import { type SwitchoverRecord, takesCuts } from "../../shared/session/switchover.ts";
import { decodeMessage } from "../../shared/wire/codec.ts";
import type { Acknowledgement, Message, SwitchoverMessage } from "../../shared/wire/messages.ts";
import { type CutId, compareCuts, cutText, type NodeName, type ObjectId, sameCut, seq } from "../../shared/words.ts";
import type {
  AheadState,
  CutResult,
  PrimaryMainCalls,
  PrimaryStanding,
  PrimaryWorkerCalls,
  SinkState,
} from "../workers/primary-calls.ts";
import { paceAfter, unpaced } from "./cut-pace.ts";
import { DurabilityWatch, type DurabilityWatchOptions } from "./durability-watch.ts";
import {
  aheadReason,
  checkAcknowledgement,
  type Follower,
  type FollowerView,
  isRejoining,
  newFollower,
  rejoinReason,
  type SuccessorFacts,
  toRenew,
} from "./follower.ts";
import { Freezing, type FreezingOptions } from "./freezing.ts";
import {
  HandedOver,
  ReignOver,
  ReplicaLeft,
  revertedHint,
  ServiceMoves,
  ShippingPaused,
  SourceReverted,
  WrittenMeanwhile,
} from "./reign-errors.ts";
import { answerQuestion, endQuestions, ReplicaQuestions } from "./replica-questions.ts";
import { configurationWait } from "./schedule.ts";
import type { Session } from "./session.ts";
import type { WorkerThread } from "./worker-thread.ts";

/** Cuts that may be unacknowledged at one replica; a new one is taken when there are fewer. */
const inFlightMax = 4;
const sourceStateMs = 1000;
const retryMs = 3000;
/** A replica says again each second what is damaged there: a cut for nothing else is taken no more often. */
const renewEveryMs = 1000;
/** A replica that has no room for what comes ahead gets no more of it for so long, unless a cut made room. */
const aheadRefusedMs = 30_000;
/** After a pass that found nothing to send: what it would send changes all the time. */
const aheadPauseMs = 1000;
const aheadBytesMin = 1024 * 1024;
const scanEveryMs = 3600_000;
const preCopyRounds = 2;

interface CutRequest {
  readonly answer: PromiseWithResolvers<CutResult>;
  readonly prune: boolean;
  /** Set: nothing moves until that. */
  readonly still: AbortSignal | undefined;
}

export interface ReignOptions extends FreezingOptions {
  readonly node: NodeName;
  readonly metrics: Metrics;
  readonly onStanding: (standing: PrimaryStanding) => void;
  readonly announce: DurabilityWatchOptions["announce"];
  /** Line settings are the node's: the group's configuration does not know them. */
  readonly compressFor: (peer: string) => boolean;
}

/** The primary's side of a group: takes cuts whenever there is something new and somebody who can take it. */
export class Reign {
  readonly #options: ReignOptions;
  readonly #worker: WorkerThread<PrimaryMainCalls, PrimaryWorkerCalls>;
  readonly freezing: Freezing;
  /** Undefined: the group's durability is asynchronous. */
  readonly semiSync: DurabilityWatch | undefined;
  readonly #followers = new Map<string, Follower>();
  /** What the cut worker asks them. */
  readonly questions = new ReplicaQuestions((of) => this.#follower(of));
  #sessions = 0;
  /** The last that was known of each replica, also while it is away. */
  readonly #known = new Map<string, { durable: CutId; applied: CutId; coveredAt: number }>();
  /** Why each refused the last cut that it was sent; until one is durable there. */
  readonly #rejections = new Map<string, string>();
  #standing: PrimaryStanding;
  /** How far a switchover is, where that is not in the catalog yet. */
  #held: { readonly record: SwitchoverRecord | undefined } | undefined;
  #dirty = true;
  #dirtySince = performance.now();
  #depth: "changes" | "scan" = "scan";
  #scannedAt = performance.now();
  #requested: CutRequest[] = [];
  /** Ends what counts on a service that stands still. */
  #still = new AbortController();
  /** Until no such cut is being taken. */
  #takingStill: Promise<void> = Promise.resolve();
  /** What waits for the end of the cut that is being taken. */
  #between: (() => Promise<void>)[] = [];
  #wake: (() => void) | undefined;
  #awake = false;
  #cutting = false;
  /** What the cut that is being taken has to bring came up then; undefined when there is no such cut. */
  #cuttingSince: number | undefined;
  #stopped = false;
  #ended: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #backlogBytes = 0;
  #costs: Readonly<Record<string, StoreCosts>> = {};
  /** Their content is not what their stamps say. */
  readonly #toReread = new Set<ObjectId>();
  #health: ReadonlyMap<string, StoreHealth> = new Map();
  #acknowledged = new Set<() => void>();
  halted = "";
  haltedHint = "";
  /** A replica is newer than this primary: nothing is cut until a person decides. */
  #reverted = false;
  lastFreezeMs: number | undefined;
  lastCutMs: number | undefined;
  /** A replica's session begins; and what one says about a switchover. */
  onJoined: (peer: string) => void = () => {};
  onSwitchover: (peer: string, message: SwitchoverMessage) => void = () => {};

  constructor(
    worker: WorkerThread<PrimaryMainCalls, PrimaryWorkerCalls>,
    standing: PrimaryStanding,
    options: ReignOptions,
  ) {
    this.#worker = worker;
    this.#standing = standing;
    this.#options = options;
    this.freezing = new Freezing(options);
    const { config, log, announce } = options;
    if (config.semiSync !== undefined) {
      const durable = () => [...this.#known.values()].map((known) => known.durable);
      this.semiSync = new DurabilityWatch({ settings: config.semiSync, log, announce, durable });
    }
    this.halted = standing.halted;
    this.#reverted = standing.halted !== "";
    if (this.#reverted) this.haltedHint = revertedHint;
  }

  get standing(): PrimaryStanding {
    return this.#standing;
  }

  get backlogBytes(): number {
    return this.#backlogBytes;
  }

  /** By store, as of the last second. */
  get costs(): Readonly<Record<string, StoreCosts>> {
    return this.#costs;
  }

  /** By store, as of a second ago at most. */
  get health(): ReadonlyMap<string, StoreHealth> {
    return this.#health;
  }

  get dirty(): boolean {
    return this.#dirty;
  }

  run(): void {
    assert(this.#ended === undefined, "a reign runs once");
    this.#ended = this.#loop();
    this.#ended.catch((error: unknown) => this.#options.log.error("reign.failed", { error }));
    this.#tick();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.semiSync?.stop();
    for (const follower of this.#followers.values()) this.#release(follower, new ReignOver());
    for (const { answer } of this.#requested.splice(0)) answer.reject(new ReignOver());
    // Whoever waits for what comes no more.
    for (const done of [...this.#acknowledged]) done();
    this.#stir();
    await this.#ended;
    for (const change of this.#between.splice(0)) await change();
  }

  /** Runs `change` while no cut is being taken. @throws what it throws, and when this reign is over */
  async betweenCuts<T>(change: () => Promise<T>): Promise<T> {
    const done = Promise.withResolvers<T>();
    this.#between.push(async () => {
      if (this.#stopped) done.reject(new ReignOver());
      else await change().then(done.resolve, done.reject);
    });
    if (this.#ended === undefined) for (const each of this.#between.splice(0)) await each();
    this.#stir();
    return await done.promise;
  }

  /** How far a switchover is, durably. @throws {WrittenMeanwhile} when what is handed over is not all that there is */
  async keepSwitchover(record: SwitchoverRecord | undefined): Promise<void> {
    const keep = async (): Promise<void> => {
      const standing = await this.#worker.call("switchover", { record });
      this.#held = undefined;
      this.#hear(standing);
    };
    if (record?.step !== "handing") await keep();
    else
      await this.betweenCuts(async () => {
        const { committed } = this.#standing;
        if (!sameCut(record.cut, committed)) throw new WrittenMeanwhile(committed);
        await keep();
      });
    this.#stir();
  }

  /** Where there is no room for it in the catalog: until the agent ends, and it is written later. */
  holdSwitchover(record: SwitchoverRecord | undefined): void {
    this.#held = { record };
    this.#hear(this.#standing);
  }

  /** What the worker says, which knows nothing of what its catalog had no room for. */
  #hear(standing: PrimaryStanding): void {
    this.#standing = this.#held === undefined ? standing : { ...standing, switchover: this.#held.record };
  }

  /** Whoever has a store open although the service is stopped, in words; "" when nobody is known to. */
  async usedBy(): Promise<string> {
    const used = await this.#worker.call("users", undefined);
    return used.map(({ store, pids }) => `store ${store} is open in process ${pids.join(", ")}`).join("; ");
  }

  /** Whether there is any sign of something that is in no cut. */
  async looksWritten(): Promise<boolean> {
    const { dirty, bytes } = await this.#worker.call("backlog", undefined);
    return dirty || bytes > 0;
  }

  /** Leaves a switchover in a reign of its own: see PrimaryWorkerCalls.abandon. */
  async abandonSwitchover(argument: Parameters<PrimaryWorkerCalls["abandon"]>[0]): Promise<void> {
    await this.betweenCuts(async () => {
      const standing = await this.#worker.call("abandon", argument);
      this.#held = undefined;
      this.#hear(standing);
    });
  }

  /** Says something to a replica; false when it is not there. */
  async tell(peer: string, message: SwitchoverMessage): Promise<boolean> {
    const follower = this.#followers.get(peer);
    if (follower === undefined || follower.gone) return false;
    try {
      await follower.session.send(message);
      return true;
    } catch (error) {
      // The session's reading ends with the same error and says so.
      this.#options.log.debug("switchover.unsent", { peer, error });
      return false;
    }
  }

  follower(peer: string): SuccessorFacts | undefined {
    const follower = this.#followers.get(peer);
    if (follower === undefined || follower.gone) return undefined;
    return {
      state: this.view(peer).state,
      features: follower.session.theirs.features,
      software: follower.session.theirs.software,
      suspect: follower.suspect,
      damaged: follower.damaged.length,
      durable: follower.durable,
      lagSeconds: this.#lagSeconds(follower.durable, follower.coveredAt),
    };
  }

  /** Resolves when the replica has applied `cut`. @throws when its session ends before, or its copy is suspect */
  async appliedAt(cut: CutId, peer: string, signal: AbortSignal): Promise<void> {
    const session = this.#followers.get(peer)?.number;
    for (;;) {
      signal.throwIfAborted();
      const follower = this.#followers.get(peer);
      if (follower === undefined || follower.gone || follower.number !== session)
        throw new ReplicaLeft(`the session with ${peer} ended before cut ${cutText(cut)} was applied there`);
      if (follower.suspect !== "") throw new ReplicaLeft(`the copy of ${peer} is suspect: ${follower.suspect}`);
      if (compareCuts(follower.durable, cut) >= 0 && follower.applied.seq >= cut.seq) return;
      await this.#acknowledgement(signal);
    }
  }

  /** Until a replica says something new, or leaves, or the signal. */
  async #acknowledgement(signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => {
      const done = (): void => {
        this.#acknowledged.delete(done);
        signal.removeEventListener("abort", done);
        resolve();
      };
      this.#acknowledged.add(done);
      signal.addEventListener("abort", done, { once: true });
    });
  }

  /** A replica is newer than this primary: it went back in time. Durable, until a person decides. */
  async standStill(reason: string): Promise<void> {
    this.#reverted = true;
    this.halted = reason;
    this.haltedHint = revertedHint;
    this.#hear(await this.#worker.call("halt", { reason }));
  }

  get reverted(): boolean {
    return this.#reverted;
  }

  /** What this primary has counts, in a reign of its own: what a replica had beyond it is given up. */
  async acceptSource(turn: Turn): Promise<void> {
    if (!this.#reverted) return;
    this.#hear(await this.#worker.call("newEpoch", { turn }));
    this.#reverted = false;
    this.halted = "";
    this.#stir();
  }

  /** That this reign is the only one is known, for as long as the machine runs; "": it is not any more. */
  async confirm(bootId: string): Promise<void> {
    this.#hear(await this.#worker.call("confirm", { bootId }));
  }

  /** What a person holds back: a cut that is on its way ends, and what goes ahead of one is ended. */
  async pause(paused: Paused | undefined): Promise<void> {
    this.#hear(await this.#worker.call("pause", { paused }));
    for (const follower of this.#followers.values()) {
      if (this.#paused && follower.shippingAhead)
        this.#worker.note("aheadRefused", { name: follower.session.peer, session: follower.number });
      this.#sendSourceState(follower);
    }
    this.#stir();
  }

  get #paused(): boolean {
    return this.#standing.paused?.shipping === true;
  }

  /** A higher epoch was met: from here on this node is not primary, whatever its worker has still to end. */
  async fence(by: bigint): Promise<void> {
    const standing = await this.#worker.call("fence", { by });
    this.#held = undefined;
    this.#hear(standing);
  }

  /** Called by the cut worker at any sign of change. */
  changed(): void {
    if (!this.#dirty) {
      if (!this.#cutting) this.#coverUpToNow();
      this.#dirty = true;
      this.#dirtySince = performance.now();
    }
    this.#stir();
  }

  /** The next cut reads the object again, and ships what differs. */
  reread(object: ObjectId): void {
    this.#toReread.add(object);
    this.changed();
  }

  /** A replica that stands at `base` joins; returns when its session ends. */
  async serve(session: Session, base: CutId): Promise<void> {
    const { peer } = session;
    const follower = newFollower(session, ++this.#sessions, base, this.#known.get(peer)?.coveredAt ?? 0);
    const before = this.#followers.get(peer);
    if (before !== undefined) {
      this.#release(before, new Error("a newer session replaced this one"));
      before.session.channel.close(new ProtocolViolation("a newer session replaced this one"));
    }
    if (compareCuts(base, this.#standing.committed) >= 0)
      follower.coveredAt = Math.max(follower.coveredAt, this.#waitingSince() ?? 0);
    this.#followers.set(peer, follower);
    this.#remember(peer, follower);
    this.#options.log.info("replica.joined", { peer, epoch: base.epoch, seq: base.seq });
    this.#stir();
    try {
      this.#sendSourceState(follower);
      this.onJoined(peer);
      for (let frame = await session.next(); frame !== undefined; frame = await session.next()) {
        this.#receive(follower, decodeMessage(frame.header), frame.payload);
      }
    } finally {
      this.#release(follower, new Error(`the session with ${peer} ended`));
      if (this.#followers.get(peer) === follower) this.#followers.delete(peer);
      this.#options.log.info("replica.left", { peer, epoch: follower.durable.epoch, seq: follower.durable.seq });
    }
  }

  /** Frames of the cut worker, on their way into the link. */
  async forward(argument: { sink: string; session: number; header: Uint8Array; payload: Uint8Array }): Promise<void> {
    const follower = this.#follower(argument);
    const of = { name: argument.sink, session: argument.session };
    const bytes = argument.header.length + argument.payload.length;
    let memory: ArrayBuffer | undefined;
    try {
      if (follower === undefined) {
        this.#worker.note("sinkGone", of);
        return;
      }
      this.#options.metrics.shippedBytes.inc({ group: this.#options.config.name, peer: argument.sink }, bytes);
      await follower.session.channel.send({ kind: "bulk", header: argument.header, payload: argument.payload });
      const { buffer } = argument.payload;
      if (buffer instanceof ArrayBuffer && buffer.byteLength === framePayloadBytes) memory = buffer;
    } catch {
      // The session's own reading says why it ended; the cut goes on without this replica.
      this.#worker.note("sinkGone", of);
    } finally {
      this.#worker.note("sent", { ...of, bytes, memory }, memory === undefined ? [] : [memory]);
    }
  }

  /** Whose session that is, as long as it lives. */
  #follower({ sink, session }: { readonly sink: string; readonly session: number }): Follower | undefined {
    const follower = this.#followers.get(sink);
    return follower === undefined || follower.gone || follower.number !== session ? undefined : follower;
  }

  aheadProgress({ sink, session, ...ahead }: AheadState & { sink: string; session: number }): void {
    const follower = this.#follower({ sink, session });
    if (follower !== undefined) follower.ahead = ahead;
  }

  /**
   * A cut of everything that was written before the call. `prune`: without what is excluded by now. `still`: until that the
   * service is stopped, so that nothing moves and nobody has to be paused; such a cut is over when this resolves or throws.
   */
  async requestCut(options: { prune?: boolean; still?: AbortSignal } = {}): Promise<CutResult> {
    if (this.#stopped) throw new Error("this node is no longer primary");
    if (this.#reverted) throw new SourceReverted(this.halted);
    const { switchover } = this.#standing;
    if (switchover !== undefined && !takesCuts(switchover)) throw new HandedOver(switchover);
    const still = options.still === undefined ? undefined : AbortSignal.any([options.still, this.#still.signal]);
    still?.throwIfAborted();
    const answer = Promise.withResolvers<CutResult>();
    const request = { answer, prune: options.prune === true, still };
    const drop = (): void => {
      // One that is being taken ends by itself.
      const at = this.#requested.indexOf(request);
      if (at < 0) return;
      this.#requested.splice(at, 1);
      answer.reject(still?.reason);
    };
    still?.addEventListener("abort", drop, { once: true });
    this.#requested.push(request);
    this.#stir();
    try {
      return await answer.promise;
    } finally {
      still?.removeEventListener("abort", drop);
    }
  }

  /** The service is about to run: no cut is taken that counts on it standing still when this resolves. */
  async moving(): Promise<void> {
    this.#still.abort(new ServiceMoves());
    this.#still = new AbortController();
    await this.#takingStill;
  }

  /** What each of the replicas has durable, as far as it is known. */
  durableOn(replicas: readonly string[]): Map<string, CutId> {
    return new Map(
      replicas.flatMap((name) => {
        const known = this.#known.get(name);
        return known === undefined ? [] : [[name, known.durable] as const];
      }),
    );
  }

  /**
   * Resolves with what each of the replicas has when so many of them, or all, have at least `cut` durable.
   * @throws {ReignOver | ShippingPaused} when that cannot come about any more
   */
  async durableAt(
    cut: CutId,
    replicas: readonly string[],
    signal: AbortSignal,
    count = replicas.length,
  ): Promise<Map<string, CutId>> {
    for (;;) {
      signal.throwIfAborted();
      if (this.#paused) throw new ShippingPaused(this.#options.config.name);
      const have = this.durableOn(replicas);
      if ([...have.values()].filter((durable) => compareCuts(durable, cut) >= 0).length >= count) return have;
      if (this.#stopped) throw new ReignOver();
      await this.#acknowledgement(signal);
    }
  }

  view(peer: string): FollowerView {
    const follower = this.#followers.get(peer);
    const known = this.#known.get(peer);
    if (follower === undefined) {
      const seconds = known === undefined ? undefined : this.#lagSeconds(known.durable, known.coveredAt);
      return {
        state: "connecting",
        reason: this.#rejections.get(peer) ?? "",
        received: undefined,
        durable: known?.durable,
        applied: known?.applied,
        lagSeconds: seconds,
        lagCuts: known === undefined ? undefined : this.#lagCuts(known.durable),
        suspect: "",
        unappliedBytes: 0,
        report: undefined,
      };
    }
    const seeding = follower.durable.seq === 0n;
    const behind = this.#lagSeconds(follower.durable, follower.coveredAt);
    const interval = replicaSettings(this.#options.config, peer as NodeName).interval;
    const allowed =
      5 +
      (interval.kind === "every" ? interval.ms / 1000 : interval.kind === "daily" ? 86_400 : 0) +
      (this.#options.config.freezeEveryMs ?? 0) / 1000;
    return {
      state:
        this.halted !== ""
          ? "halted"
          : this.#paused
            ? "paused"
            : seeding
              ? "seeding"
              : behind > allowed
                ? "catching-up"
                : "streaming",
      reason:
        follower.suspect !== ""
          ? follower.suspect
          : [this.#rejections.get(peer) ?? "", aheadReason(follower) || rejoinReason(follower)]
              .filter((reason) => reason !== "")
              .join("; "),
      received: follower.received,
      durable: follower.durable,
      applied: follower.applied,
      lagSeconds: behind,
      lagCuts: this.#lagCuts(follower.durable),
      suspect: follower.suspect,
      unappliedBytes: follower.unappliedBytes,
      report: follower.report,
    };
  }

  /** The one that is due counts. */
  #lagCuts(durable: CutId): number {
    return Number(this.#standing.committed.seq - durable.seq) + (this.#waitingSince() === undefined ? 0 : 1);
  }

  #lagSeconds(durable: CutId, coveredAt: number): number {
    const current = compareCuts(durable, this.#standing.committed) >= 0;
    const waitingSince = this.#waitingSince();
    if (current && waitingSince === undefined) return 0;
    // What was written since the last cut that is durable there was begun; if nothing older is known, since the start.
    const since = current ? Math.max(coveredAt, waitingSince ?? 0) : coveredAt;
    return (performance.now() - since) / 1000;
  }

  /** As long as nothing waits, whoever has the last cut has everything: what comes up from here on is no older than now. */
  #coverUpToNow(): void {
    if (this.#waitingSince() !== undefined) return;
    const now = performance.now();
    for (const [peer, known] of this.#known) {
      if (compareCuts(known.durable, this.#standing.committed) < 0) continue;
      this.#known.set(peer, { ...known, coveredAt: now });
      const follower = this.#followers.get(peer);
      if (follower !== undefined) follower.coveredAt = now;
    }
  }

  /** Since when there is something that no finished cut has; a cut that is being taken may take long to ship. */
  #waitingSince(): number | undefined {
    return this.#cuttingSince ?? (this.#dirty ? this.#dirtySince : undefined);
  }

  #remember(peer: string, follower: Follower): void {
    this.#known.set(peer, { durable: follower.durable, applied: follower.applied, coveredAt: follower.coveredAt });
    this.semiSync?.look();
  }

  #receive(follower: Follower, message: Message, payload: Uint8Array): void {
    if (follower.gone) throw new ProtocolViolation(`a ${message.kind} after the end of what is shipped`);
    switch (message.kind) {
      case "acknowledgement":
        this.#acknowledge(follower, message);
        return;
      case "stagedRuns":
      case "aheadHeld":
      case "touchedHeld":
        answerQuestion(follower, message, payload);
        return;
      case "aheadRefused":
        this.#options.log.warn("ahead.refused", { peer: follower.session.peer, reason: message.reason });
        follower.aheadRefusal = message.reason;
        this.#worker.note("aheadRefused", { name: follower.session.peer, session: follower.number });
        return;
      case "cutRejected": {
        const level = message.remedy === "stop" ? "error" : "warn";
        this.#options.log[level]("cut.rejected", {
          peer: follower.session.peer,
          epoch: message.cut.epoch,
          seq: message.cut.seq,
          code: message.code,
          reason: message.message,
          remedy: message.remedy,
        });
        this.#rejections.set(follower.session.peer, message.message);
        this.#release(follower, new Error(message.message));
        return;
      }
      case "switchoverReady":
      case "handoverAnswer":
        this.onSwitchover(follower.session.peer, message);
        return;
      default:
        throw new ProtocolViolation(`a replica does not send ${message.kind}`);
    }
  }

  #acknowledge(follower: Follower, message: Acknowledgement): void {
    const { durable } = message;
    checkAcknowledgement(message, follower, this.#newestSent(), this.#standing.committed);
    if (compareCuts(durable, follower.durable) > 0) {
      this.#rejections.delete(follower.session.peer);
      this.#options.log.debug("cut.acknowledged", {
        peer: follower.session.peer,
        epoch: durable.epoch,
        seq: durable.seq,
      });
    }
    follower.durable = durable;
    follower.applied = message.applied;
    follower.received = message.received;
    follower.suspect = message.suspect;
    follower.unappliedBytes = message.unappliedBytes;
    follower.report = message.report;
    follower.damaged = message.damaged;
    for (const [object, at] of follower.renewed) if (at <= durable.seq) follower.renewed.delete(object);
    for (const flight of follower.inFlight) {
      if (flight.cut.seq <= durable.seq && flight.begunAt > follower.coveredAt) follower.coveredAt = flight.begunAt;
    }
    follower.inFlight = follower.inFlight.filter((flight) => flight.cut.seq > durable.seq);
    this.#remember(follower.session.peer, follower);
    for (const done of [...this.#acknowledged]) done();
    this.#stir();
  }

  /** A cut that is just being taken may be acknowledged before the worker has said that it is done with it. */
  #newestSent(): CutId {
    const { committed, epoch: reign } = this.#standing;
    // The first cut of a reign is of that one, whatever the last cut before it was of.
    return this.#cutting ? { epoch: reign, seq: seq(committed.seq + 1n) } : committed;
  }

  #release(follower: Follower, error: Error): void {
    if (follower.gone) return;
    follower.gone = true;
    this.#worker.note("sinkGone", { name: follower.session.peer, session: follower.number });
    endQuestions(follower, error);
    for (const done of [...this.#acknowledged]) done();
    this.#stir();
  }

  #stir(): void {
    this.#awake = true;
    this.#wake?.();
  }

  async #sleep(ms: number | undefined): Promise<void> {
    if (this.#awake) {
      this.#awake = false;
      return;
    }
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      if (ms !== undefined) timer = setTimeout(resolve, Math.min(ms, 0x7fff_ffff));
    });
    clearTimeout(timer);
    this.#wake = undefined;
    this.#awake = false;
  }

  async #loop(): Promise<void> {
    let retryAt = 0;
    let restUntil = 0;
    let pace = unpaced;
    let counted = { commits: 0, atMs: performance.now() };
    let thawAt = 0;
    await this.freezing.findOwedThaw();
    while (!this.#stopped) {
      for (const change of this.#between.splice(0)) await change();
      const now = performance.now();
      if (this.freezing.thawOwed) {
        if (now < thawAt) await this.#sleep(thawAt - now);
        else if (!(await this.#thawAgain())) thawAt = performance.now() + retryMs;
        continue;
      }
      const { sinks, waitMs } = this.#candidates(now);
      const lagging = sinks.some(
        (follower) => !sameCut(follower.base, this.#standing.committed) || isRejoining(follower),
      );
      const wanted = this.#dirty || lagging || sinks.some((follower) => toRenew(follower, now).length > 0);
      const free = !this.#reverted && takesCuts(this.#standing.switchover);
      const due = free && (this.#requested.length > 0 || (sinks.length > 0 && wanted));
      // Somebody who asks wants to hear at once what is wrong.
      if (!due || (now < retryAt && this.#requested.length === 0)) {
        const until = now < retryAt && due ? retryAt - now : waitMs;
        await this.#sleep(until);
        continue;
      }
      if (now < restUntil && this.#requested.length === 0) {
        await this.#sleep(restUntil - now);
        continue;
      }
      retryAt = 0;
      const requests = this.#requested.splice(0);
      const stills = requests.flatMap(({ still }) => still ?? []);
      const still = stills.length === 0 ? undefined : AbortSignal.any(stills);
      this.#coverUpToNow();
      const wasDirtySince = this.#dirtySince;
      const wasDirty = this.#dirty;
      this.#dirty = false;
      this.#cuttingSince = wasDirty ? wasDirtySince : undefined;
      try {
        const prune = requests.some((request) => request.prune);
        const taken = await this.#cut(sinks, now, { prune, still });
        this.#cuttingSince = undefined;
        const ended = performance.now();
        pace = paceAfter(pace, {
          tookMs: ended - now,
          overtaken: this.#dirty,
          commits: Math.max(0, taken.commitsCounted - counted.commits),
          sinceMs: ended - counted.atMs,
          rpoMs: this.#rpoMs(),
        });
        counted = { commits: taken.commitsCounted, atMs: ended };
        restUntil = ended + pace.restMs;
        for (const { answer } of requests) answer.resolve(taken);
        if (this.halted !== "" && !this.#reverted) {
          this.halted = "";
          this.#options.log.info("group.resumed", {});
          // They have said that it stands still, and would for up to a second.
          for (const follower of this.#followers.values()) this.#sendSourceState(follower);
        }
      } catch (error) {
        this.#cuttingSince = undefined;
        if (this.#stopped) {
          for (const { answer } of requests) answer.reject(new ReignOver());
          return;
        }
        this.#dirtySince = wasDirty ? wasDirtySince : this.#dirty ? this.#dirtySince : now;
        this.#dirty = true;
        this.#depth = "scan";
        if (still?.aborted === true) {
          // Nothing is wrong, and whoever asked for any cut gets another one.
          for (const { answer, still: until } of requests) if (until?.aborted === true) answer.reject(until.reason);
          this.#requested.unshift(...requests.filter((request) => request.still?.aborted !== true));
          continue;
        }
        for (const { answer } of requests) answer.reject(error);
        // The application was paused for nothing: not again before it would have been anyway.
        const paused = this.freezing.frozenAt >= now ? (this.#options.config.freezeEveryMs ?? 0) : 0;
        retryAt = performance.now() + Math.max(retryMs, paused);
        const reason = explain(error);
        if (reason !== this.halted) this.#options.log.error("cut.failed", { error });
        this.halted = reason;
        this.haltedHint = hintOf(error);
        for (const follower of this.#followers.values()) this.#sendSourceState(follower);
      }
    }
  }

  #rpoMs(): number | undefined {
    const { config } = this.#options;
    const promised = [...config.replicas.keys()].flatMap((name) => replicaSettings(config, name).rpoMs ?? []);
    return promised.length === 0 ? undefined : Math.min(...promised);
  }

  /** Takes one, and lets go of it as soon as what it counts on holds no longer. */
  async #cut(
    sinks: readonly Follower[],
    begunAt: number,
    { prune, still }: { readonly prune: boolean; readonly still: AbortSignal | undefined },
  ): Promise<CutResult> {
    if (still === undefined) return await this.#takeCut(sinks, begunAt, prune, undefined);
    const ended = Promise.withResolvers<void>();
    const drop = (): void => this.#worker.note("dropStill", undefined);
    this.#takingStill = ended.promise;
    still.addEventListener("abort", drop, { once: true });
    try {
      return await this.#takeCut(sinks, begunAt, prune, still);
    } finally {
      still.removeEventListener("abort", drop);
      ended.resolve();
    }
  }

  async #takeCut(
    sinks: readonly Follower[],
    begunAt: number,
    prune: boolean,
    still: AbortSignal | undefined,
  ): Promise<CutResult> {
    const { config, log, metrics, onStanding } = this.#options;
    const freeze = config.hooks.freeze !== undefined && still === undefined;
    if (performance.now() - this.#scannedAt > scanEveryMs) this.#depth = "scan";
    const objects = [...this.#toReread];
    if (objects.length > 0) {
      await this.#worker.call("reread", { objects });
      this.#depth = "scan";
      for (const object of objects) this.#toReread.delete(object);
    }
    const depth = this.#depth;
    const known = [...this.#known.values()].map((follower) => follower.durable.seq);
    const everybody = config.replicas.size === 0 || known.length >= config.replicas.size;
    const forgottenUpTo = everybody && known.length > 0 ? known.reduce((least, at) => (at < least ? at : least)) : 0n;
    const renewing = new Map(sinks.map((follower) => [follower.session.peer, toRenew(follower, begunAt)]));
    still?.throwIfAborted();
    this.#cutting = true;
    let result: CutResult;
    try {
      result = await this.#worker.call("cut", {
        depth,
        prune,
        freeze: still !== undefined ? "still" : freeze ? "hooks" : "none",
        preCopyRounds: freeze ? preCopyRounds : 0,
        sinks: sinks.map((follower) => this.#sinkState(follower, renewing.get(follower.session.peer) ?? [])),
        forgottenUpTo,
      });
      this.#hear(result.standing);
    } finally {
      this.#cutting = false;
    }
    if (depth === "scan") this.#scannedAt = performance.now();
    this.#depth = "changes";
    onStanding(result.standing);
    this.lastCutMs = performance.now() - begunAt;
    for (const sink of result.sinks) {
      const follower = sinks.find((item) => item.session.peer === sink.name);
      if (follower === undefined) continue;
      follower.base = sink.base;
      follower.lastObject = sink.lastObject;
      if (sink.late) {
        const damaged = renewing.get(sink.name) ?? [];
        this.#shipAhead(follower, damaged).catch((error: unknown) =>
          this.#options.log.error("ahead.failed", { error }),
        );
        continue;
      }
      if ((renewing.get(sink.name)?.length ?? 0) > 0) follower.renewAt = performance.now() + renewEveryMs;
      if (result.shippedTo.includes(sink.name)) follower.ahead = undefined;
      follower.dueAt = begunAt + configurationWait(replicaSettings(config, sink.name as NodeName).interval, new Date());
      if (result.shippedTo.includes(sink.name) && compareCuts(sink.base, result.cut) === 0) {
        if (compareCuts(follower.durable, result.cut) < 0) {
          follower.inFlight.push({ cut: result.cut, begunAt });
          for (const object of renewing.get(sink.name) ?? []) follower.renewed.set(object, result.cut.seq);
        }
      } else if (compareCuts(follower.durable, this.#standing.committed) >= 0 && !result.fresh) {
        // Nothing had changed: what it has is everything that was written before this look.
        follower.coveredAt = begunAt;
        this.#remember(sink.name, follower);
      }
    }
    if (result.fresh) {
      this.semiSync?.taken(result.cut, begunAt);
      metrics.cuts.inc({ group: config.name });
      log.info("cut.taken", {
        epoch: result.cut.epoch,
        seq: result.cut.seq,
        payloadBytes: result.payloadBytes,
        replicas: result.shippedTo.join(","),
        positions: result.stores.map((store) => store.position).join(","),
        ms: Math.round(performance.now() - begunAt),
        ...(freeze ? { freezeMs: Math.round(result.freezeMs) } : {}),
      });
      if (freeze) {
        this.lastFreezeMs = result.freezeMs;
        metrics.freezeMilliseconds.observe({ group: config.name }, result.freezeMs);
      }
    }
    return result;
  }

  #sinkState(follower: Follower, damaged: readonly ObjectId[]): SinkState {
    return {
      damaged,
      name: follower.session.peer,
      session: follower.number,
      takesAhead: follower.takesAhead,
      base: follower.base,
      lastObject: follower.lastObject,
      compress: this.#options.compressFor(follower.session.peer),
      resuming: follower.resuming && follower.base.seq === 0n,
      rejoining: isRejoining(follower),
    };
  }

  /** One pass over what a replica lacks; then it may have a cut again, and if that is still too much, another pass. */
  async #shipAhead(follower: Follower, damaged: readonly ObjectId[]): Promise<void> {
    const { log } = this.#options;
    const { peer } = follower.session;
    if (follower.gone || follower.shippingAhead) return;
    follower.shippingAhead = true;
    follower.aheadRefusal = "";
    const begunAt = performance.now();
    let pauseMs = 0;
    try {
      const pass = await this.#worker.call("ahead", { sink: this.#sinkState(follower, damaged) });
      follower.ahead = {
        lackingBytes: Math.max(0, pass.lackingBytes - pass.sentBytes),
        bytesPerSecond: pass.bytesPerSecond,
      };
      log.info("ahead.shipped", {
        peer,
        seq: this.#standing.committed.seq,
        lackingBytes: pass.lackingBytes,
        sentBytes: pass.sentBytes,
        ms: Math.round(performance.now() - begunAt),
      });
      if (pass.refused) pauseMs = aheadRefusedMs;
      else if (pass.sentBytes < Math.min(aheadBytesMin, pass.lackingBytes)) pauseMs = aheadPauseMs;
    } catch (error) {
      // A worker that is gone ends the agent; what else it may be, the next pass meets again.
      if (!this.#stopped && !follower.gone) log.warn("ahead.failed", { peer, error });
      pauseMs = retryMs;
    } finally {
      follower.shippingAhead = false;
      follower.dueAt = pauseMs === 0 ? 0 : performance.now() + pauseMs;
      this.#stir();
    }
  }

  /** Replicas that could take a cut now, and how long to wait until another one can. */
  #candidates(now: number): { sinks: Follower[]; waitMs: number | undefined } {
    const sinks: Follower[] = [];
    let waitMs: number | undefined;
    if (this.#paused) return { sinks, waitMs };
    // A freeze is never for each change, nor for each replica or each of its sessions.
    const { frozenAt } = this.freezing;
    const thawedUntil = frozenAt > 0 ? frozenAt + (this.#options.config.freezeEveryMs ?? 0) : 0;
    for (const follower of this.#followers.values()) {
      if (follower.gone || follower.shippingAhead || follower.inFlight.length >= inFlightMax) continue;
      // What was begun ahead of its first cut waits like any other.
      const first = follower.base.seq === 0n && follower.ahead === undefined;
      const dueAt = Math.max(follower.dueAt, thawedUntil);
      if (!first && dueAt > now && this.#requested.length === 0) {
        waitMs = Math.min(waitMs ?? Number.POSITIVE_INFINITY, dueAt - now);
        continue;
      }
      sinks.push(follower);
    }
    return { sinks, waitMs };
  }

  /** Gives whether the application runs again. */
  async #thawAgain(): Promise<boolean> {
    try {
      await this.freezing.thawAgain();
      return true;
    } catch (error) {
      this.halted = `the application may still be frozen: ${explain(error)}`;
      this.haltedHint = hintOf(error);
      return false;
    }
  }

  #tick(): void {
    this.#timer = setTimeout(() => {
      this.#look()
        .catch((error: unknown) => this.#options.log.warn("backlog.unknown", { error }))
        .finally(() => {
          if (!this.#stopped) this.#tick();
        });
    }, sourceStateMs);
  }

  async #look(): Promise<void> {
    for (const follower of this.#followers.values()) this.#sendSourceState(follower);
    const backlog = await this.#worker.call("backlog", undefined);
    this.#backlogBytes = backlog.bytes;
    this.#costs = backlog.costs;
    this.#health = backlog.health;
    if (backlog.dirty) this.changed();
  }

  /** Nobody waits for a replica that takes nothing just now. */
  #sendSourceState(follower: Follower): void {
    if (follower.gone) return;
    const waitingSince = this.#waitingSince();
    const sent = follower.session.send({
      kind: "sourceState",
      taken: this.#standing.committed,
      backlogBytes: this.#backlogBytes,
      waitingMs: waitingSince === undefined ? 0 : Math.max(1, Math.round(performance.now() - waitingSince)),
      paused: this.#paused,
      halted: this.halted,
    });
    // The session's reading ends with the same error and says so.
    sent.catch((error: unknown) =>
      this.#options.log.debug("source_state.unsent", { peer: follower.session.peer, error }),
    );
  }
}
