import { randomInt } from "node:crypto";
import { membersOf } from "../../shared/config/config.ts";
import { configurationDigest, membersDigest } from "../../shared/config/digest.ts";
import { exitCodes, explain, ProtocolViolation, UnderstudyError } from "../../shared/errors.ts";
import { ChannelClosed } from "../../shared/link/link-errors.ts";
import {
  commonText,
  type Decision,
  decide,
  features,
  forgottenFeature,
  membersFeature,
  membersHint,
  namesOtherMembers,
  unbelievableEpoch,
  wireMajor,
  wireMinor,
} from "../../shared/session/connect.ts";
import { takesCuts } from "../../shared/session/switchover.ts";
import { switchoverFeature } from "../../shared/session/switchover-plan.ts";
import { decodeMessage } from "../../shared/wire/codec.ts";
import type { Hello, SourceState, SwitchoverMessage } from "../../shared/wire/messages.ts";
import { type CutId, cutText, type NodeName } from "../../shared/words.ts";
import { RemoteError } from "../workers/port-peer.ts";
import type { ReplicaStanding } from "../workers/replica-calls.ts";
import { Following } from "./following.ts";
import type { GroupWorkers, ReplicaWorker } from "./group-workers.ts";
import { PeerAnswers } from "./peer-answers.ts";
import { RefusedByPeer, type Session } from "./session.ts";

/** After a change of role peers are dialed at once for so long. */
const eagerMs = 5000;
/** A primary that was not heard of for so long does not count as alive. */
const silenceMsMax = 3000;

export interface PeerNote {
  readonly state: "connecting" | "refused" | "idle";
  readonly reason: string;
  /** True when it answered in this run that it has no state for the group. */
  readonly unformed: boolean;
}

/** What a promotion now would lose, as far as this node can know. */
export interface Loss {
  readonly empty: boolean;
  /** The primary answers: what is known is all there is. */
  readonly alive: boolean;
  readonly text: string;
  readonly seconds: number;
  /** Known to be missing here, as the primary said last; undefined where it said nothing in this run. */
  readonly cuts: number | undefined;
  readonly bytes: number | undefined;
}

/** The greatest that is drawn at once. */
const nonceMax = 2 ** 48 - 1;
/** Who does not answer within that is not there. */
const answerMsMax = 2000;

/** A primary that goes on from less than this node has. */
export interface ForkMet {
  readonly session: Session;
  /** Undefined where nothing is common. */
  readonly common: CutId | undefined;
}

/** What a conversation may make of this node. */
export interface RoleChanges {
  /** Nobody has the group, and this node is the one that the configuration names. */
  formAsNamed(): Promise<void>;
  fence(by: bigint, peer: string): Promise<void>;
  /** A member has said what it knows. */
  answered(): void;
  /** What this primary handed over goes on under `peer` or its primary, from exactly the cut that was the last one here. */
  handedOver(by: bigint, peer: string, common: CutId): Promise<void>;
  /** What the primary says of a switchover. */
  switchover(following: Following, message: SwitchoverMessage): Promise<void>;
  /** A primary goes on from less than this node has; until `parted`. */
  forked(met: ForkMet): void;
  parted(session: Session): void;
}

/** The conversations about one group: who is there, what we are for each other, what a primary has that we have not. */
export class GroupPeers {
  readonly #workers: GroupWorkers;
  readonly #sessions = new Set<Session>();
  readonly #notes = new Map<string, PeerNote>();
  readonly answers = new PeerAnswers();
  #lastPrimary: string | undefined;
  #coveredAt = performance.now();
  /** What the primary said last of what it has, also when it is gone. */
  #lastSource: SourceState | undefined;
  /** This node is about to be promoted: it says nothing of itself that another promotion could build upon. */
  #aspiring = false;
  /** Answers that are waited for: what is done when they come. */
  readonly #awaited = new Map<number, { readonly session: Session; readonly answered: () => void }>();
  #generation = 0n;
  #followed = 0;
  #eager = 0;

  constructor(workers: GroupWorkers) {
    this.#workers = workers;
  }

  get lastPrimary(): string | undefined {
    return this.#lastPrimary;
  }

  note(peer: string): PeerNote | undefined {
    return this.#notes.get(peer);
  }

  members(): NodeName[] {
    return membersOf(this.#workers.config);
  }

  /** True for a moment after a change of role: peers should hear of it at once. */
  wanted(): boolean {
    return performance.now() < this.#eager;
  }

  unreachable(peer: string, reason: string): void {
    this.#notes.set(peer, { state: "connecting", reason, unformed: false });
  }

  /** What this node is has changed, or it stops: every conversation begins anew. */
  closeSessions(): void {
    this.#eager = performance.now() + eagerMs;
    for (const session of this.#sessions) session.channel.close();
  }

  /** One session from hello to its end. */
  async converse(session: Session, changes: RoleChanges): Promise<void> {
    const { peer } = session;
    const workers = this.#workers;
    this.#sessions.add(session);
    try {
      const ours = await this.#hello();
      if (session.dialed) await session.greet(ours);
      else await session.welcome(ours);
      const { theirs } = session;
      if (theirs.node !== peer) throw new WrongPeer(peer, theirs.node);
      // Cut off to what a catalog can be asked for: a number beyond it is no cut's, and refused by the table. Whose reign is
      // over is told at once, whatever the catalog's worker has to do.
      const digest =
        workers.primary === undefined || isOver(ours, theirs)
          ? undefined
          : await workers.primary.worker.call("digestAt", { seq: BigInt.asUintN(53, theirs.committed.seq) });
      const decision = decide(ours, theirs, {
        digestAt: () => digest,
        forgottenUpTo: workers.primary?.reign.standing.forgotten ?? 0n,
        followed: this.#followedMember(),
      });
      this.#notes.set(peer, { state: "idle", reason: "", unformed: theirs.groupId === "" });
      // What cannot be is no answer: it ends no reign, and no promotion begins above it.
      if (unbelievableEpoch(ours, theirs) === "")
        this.answers.begun(peer, session, ours, theirs, decision.kind === "refuse");
      changes.answered();
      if (this.namingOthers().includes(peer as NodeName))
        workers.log.error("members.differ", { peer, hint: membersHint });
      workers.log.info("session.opened", {
        peer,
        decision: decision.kind,
        role: workers.role,
        theirRole: theirs.role,
      });
      await this.#act(session, decision, ours.committed, changes);
    } catch (error) {
      const lost =
        error instanceof ChannelClosed ||
        (error instanceof UnderstudyError && error.exitCode === exitCodes.unreachable);
      this.#notes.set(peer, { state: lost ? "connecting" : "refused", reason: explain(error), unformed: false });
      session.channel.close(error instanceof Error ? error : new Error(String(error)));
      if (!workers.stopped) throw error;
    } finally {
      this.#sessions.delete(session);
      this.answers.ended(peer, session);
      session.channel.close();
    }
  }

  async #hello(): Promise<Hello> {
    const workers = this.#workers;
    const { node, software } = workers.options;
    await workers.settled();
    await workers.refresh();
    const { standing, replicaStanding, primary, config } = workers;
    const lastObject =
      replicaStanding?.lastObject ?? (primary === undefined ? 0 : primary.reign.standing.nextObject - 1);
    this.#generation += 1n;
    return {
      major: wireMajor,
      minor: wireMinor,
      features: [
        "zstd",
        features.ahead,
        switchoverFeature,
        features.fork,
        features.role,
        membersFeature(membersDigest(config)),
        ...(primary === undefined ? [] : [forgottenFeature(primary.reign.standing.forgotten)]),
        ...(replicaStanding?.adopting === true ? [features.adopting] : []),
        ...(takesCuts(standing?.switchover) ? [] : [features.sealed]),
        ...(replicaStanding?.rejoining === true && replicaStanding.unproven === undefined ? [features.rejoining] : []),
      ],
      software,
      node,
      group: config.name,
      groupId: standing?.groupId ?? "",
      // On its way to a replica it has nothing to ship any more: its reign is over, whatever is still to be written down.
      role: workers.role === "primary" && primary === undefined ? "fenced" : workers.role,
      epoch: standing?.epoch ?? 0n,
      epochs: standing?.epochs ?? [],
      incarnation: primary?.reign.standing.incarnation ?? "",
      committed: standing?.committed ?? ({ epoch: 0n, seq: 0n } as CutId),
      digest: new Uint8Array(standing?.digest ?? new Uint8Array(0)),
      stores: [...config.stores.values()].map((store) => ({
        name: store.name,
        kind: store.kind,
        digest: configurationDigest(store),
      })),
      generation: this.#generation,
      epochSeen: standing?.epochSeen ?? 0n,
      lastObject,
    };
  }

  /** One that the configuration has no more was renamed, or will not come back: it keeps nobody away. */
  #followedMember(): string | undefined {
    const followed = this.#workers.replicaStanding?.followed;
    return this.members().find((member) => member === followed);
  }

  async #act(session: Session, decision: Decision, said: CutId, changes: RoleChanges): Promise<void> {
    const { peer } = session;
    const { log, config, primary } = this.#workers;
    switch (decision.kind) {
      case "ship":
        await primary?.reign.serve(session, decision.base);
        return;
      case "follow":
        await this.#follow(session, decision, said, changes);
        return;
      case "idle":
        this.#notes.set(peer, { state: "idle", reason: decision.why, unformed: session.theirs.groupId === "" });
        if (session.theirs.role === "primary") log.warn("primary.ignored", { peer, reason: decision.why });
        if (this.mayForm()) await changes.formAsNamed();
        else await this.#drain(session);
        return;
      case "refuse":
        this.#notes.set(peer, { state: "refused", reason: decision.message, unformed: false });
        log.error("session.refused", { peer, code: decision.code, reason: decision.message, hint: decision.hint });
        await this.#refuse(session, decision);
        return;
      case "fenced":
        await changes.fence(decision.by, peer);
        return;
      case "ahead": {
        const reason = `${peer} has cut ${cutText(decision.theirs)}, which is not in this primary's history; ${commonText(decision.common)}`;
        this.#notes.set(peer, { state: "refused", reason, unformed: false });
        log.warn("replica.ahead", { peer, epoch: decision.theirs.epoch, seq: decision.theirs.seq, reason });
        await this.#drain(session);
        return;
      }
      case "demote": {
        const { theirs } = session;
        const by = theirs.epochSeen > theirs.epoch ? theirs.epochSeen : theirs.epoch;
        if (primary !== undefined) await changes.handedOver(by, peer, decision.common);
        // It is being demoted: then every conversation begins anew.
        else if (this.#workers.role === "primary") await this.#drain(session);
        else await this.#forked(session, decision.common, changes);
        return;
      }
      case "fork":
        if (this.#workers.role === "primary") await this.#drain(session);
        else await this.#forked(session, decision.common, changes);
        return;
      case "replica-newer": {
        const reason = `the replica ${peer} is newer (cut ${cutText(decision.theirs)}) than this primary: promote it`;
        if (primary !== undefined) {
          const known = primary.reign.reverted;
          await primary.reign.standStill(reason);
          if (!known) await this.#workers.event("group.halted", { peer, reason });
        }
        this.#notes.set(peer, { state: "refused", reason, unformed: false });
        log.error("primary.reverted", {
          peer,
          epoch: decision.theirs.epoch,
          seq: decision.theirs.seq,
          code: "REPLICA_NEWER",
          reason,
        });
        const hint = `On ${peer}: understudy promote ${config.name}`;
        await this.#refuse(session, { code: "REPLICA_NEWER", message: reason, hint });
        return;
      }
    }
  }

  async #refuse(session: Session, why: { code: string; message: string; hint: string }): Promise<void> {
    const { code, message, hint } = why;
    try {
      await session.send({ kind: "refusal", code, message, hint });
    } catch (error) {
      // Who has refused as well may be gone without having heard it: what was noted stays.
      if (!(error instanceof ChannelClosed)) throw error;
    }
    session.channel.close();
  }

  /** As long as the session lasts it is known from where this node could follow. */
  async #forked(session: Session, common: CutId | undefined, changes: RoleChanges): Promise<void> {
    const { peer } = session;
    const reason = `this node has what the primary ${peer} has not; ${commonText(common)}`;
    this.#notes.set(peer, { state: "refused", reason, unformed: false });
    this.#lastPrimary = peer;
    this.#workers.log.warn("fork.found", { peer, reason });
    changes.forked({ session, common });
    try {
      await this.#drain(session);
    } finally {
      changes.parted(session);
    }
  }

  /**
   * Nothing to do for each other: the channel stays open, so that the end of the other side is noticed, and whether what was
   * said still holds can be asked.
   * @throws {RefusedByPeer | ProtocolViolation} when the other sees that otherwise
   */
  async #drain(session: Session): Promise<void> {
    const said = this.#workers.role;
    for (let frame = await session.next(); frame !== undefined; frame = await session.next()) {
      const message = decodeMessage(frame.header);
      switch (message.kind) {
        case "roleAsked":
          if (!this.#aspiring && this.#workers.role === said)
            await session.send({ kind: "roleHeld", nonce: message.nonce });
          break;
        case "roleHeld": {
          // For itself alone: what one could guess, or was told, is no word of another.
          const question = this.#awaited.get(message.nonce);
          if (question?.session === session) question.answered();
          break;
        }
        case "refusal":
          throw new RefusedByPeer(session.peer, message.code, message.message, message.hint);
        default:
          throw new ProtocolViolation(`a ${message.kind} came from ${session.peer}, with whom there is nothing to do`);
      }
    }
  }

  /**
   * For as long as this node's promotion takes. Of two that are to be promoted at the same time each keeps silent towards the
   * other, so at most one of them finds that nobody objects.
   */
  async aspiring<T>(promotion: () => Promise<T>): Promise<T> {
    this.#aspiring = true;
    try {
      return await promotion();
    } finally {
      this.#aspiring = false;
    }
  }

  /**
   * The members that still are what their hello said: a session that nobody has found broken yet proves nothing of what the
   * other one has become since.
   */
  async answering(): Promise<ReadonlySet<string>> {
    const answering = new Set<string>();
    const limit = AbortSignal.timeout(answerMsMax);
    const asked = [...this.#sessions].filter(
      ({ hello }) => hello !== undefined && hello.role !== "primary" && hello.features.includes(features.role),
    );
    await Promise.all(
      asked.map(async (session) => {
        const nonce = randomInt(nonceMax);
        const answer = Promise.withResolvers<void>();
        const tooLate = (): void => answer.reject(limit.reason);
        limit.addEventListener("abort", tooLate, { once: true });
        this.#awaited.set(nonce, { session, answered: answer.resolve });
        try {
          await session.send({ kind: "roleAsked", nonce });
          await answer.promise;
          answering.add(session.peer);
        } catch (error) {
          this.#workers.log.info("peer.silent", { peer: session.peer, error });
        } finally {
          limit.removeEventListener("abort", tooLate);
          this.#awaited.delete(nonce);
        }
      }),
    );
    return answering;
  }

  async #follow(
    session: Session,
    decision: Extract<Decision, { kind: "follow" }>,
    said: CutId,
    changes: RoleChanges,
  ): Promise<void> {
    const workers = this.#workers;
    const worker = workers.replica;
    if (worker === undefined) return;
    // A half-open older session can neither stage nor commit from here on.
    this.#replaceFollowing();
    const { generation, standing } = await this.#openSession(worker, session, decision, said);
    this.#replaceFollowing();
    const following = new Following(
      session,
      worker,
      workers.config.name,
      generation,
      this.#coveredAt,
      workers.log,
      workers.options.metrics,
    );
    following.report = () => workers.report();
    following.onSwitchover = async (message) => await changes.switchover(following, message);
    workers.following = following;
    this.#lastPrimary = session.peer;
    following.acknowledge({
      received: standing.committed,
      durable: standing.committed,
      applied: { epoch: standing.committed.epoch, seq: standing.applied },
      suspect: standing.suspect,
      unappliedBytes: standing.unappliedBytes,
      damaged: standing.damaged,
    });
    try {
      await following.run();
    } finally {
      if (workers.following === following) {
        this.#coveredAt = following.coveredAt;
        this.#lastSource = following.source ?? this.#lastSource;
        workers.following = undefined;
        if (workers.replica === worker && !workers.stopped)
          workers.replicaStanding = await worker.call("endSession", undefined);
      }
    }
  }

  async #openSession(
    worker: ReplicaWorker,
    { theirs, peer }: Session,
    decision: Extract<Decision, { kind: "follow" }>,
    said: CutId,
  ): Promise<{ generation: number; standing: ReplicaStanding }> {
    const workers = this.#workers;
    let generation = 0;
    let standing: ReplicaStanding;
    try {
      if (decision.join) {
        await worker.call("join", { groupId: theirs.groupId, epoch: theirs.epoch, epochs: theirs.epochs });
        await workers.event("group.joined", { peer, id: theirs.groupId, epoch: theirs.epoch });
      } else if (decision.adoptEpoch) {
        await worker.call("adoptEpoch", { epoch: theirs.epoch, epochs: theirs.epochs, said });
        await workers.event("replica.followed", { peer, epoch: theirs.epoch });
      }
      await worker.call("openCopy", undefined);
      generation = ++this.#followed;
      standing = await worker.call("startSession", {
        incarnation: theirs.incarnation,
        generation,
        primary: peer,
        epoch: theirs.epoch,
      });
      workers.replicaStanding = standing;
      workers.copyProblem = "";
    } catch (error) {
      // Another session may have begun while the worker was asked, and be one that it has ended by now: it begins anew.
      this.#replaceFollowing();
      // Who is not followed says nothing of the copy.
      if (!(error instanceof RemoteError && error.code === "SENDER_REFUSED")) workers.copyUnusable(error);
      throw error;
    }
    // Several may have begun while the worker was asked: the last that it heard of is the one.
    if (generation !== this.#followed) throw new ProtocolViolation("a newer session replaced this one");
    return { generation, standing };
  }

  #replaceFollowing(): void {
    this.#workers.following?.stop(new ProtocolViolation("a newer session replaced this one"));
    this.#workers.following = undefined;
  }

  /** Named primary, nothing here, and every replica has said that it has nothing either. */
  mayForm(): boolean {
    const { role, config, options } = this.#workers;
    if (role !== "unformed" || config.primary !== options.node) return false;
    return this.waitingFor().length === 0;
  }

  /** Whom an unformed group waits for. */
  waitingFor(): string[] {
    const { role, config, options } = this.#workers;
    if (role !== "unformed") return [];
    if (config.primary !== options.node) return [config.primary];
    return [...config.replicas.keys()].filter((replica) => this.#notes.get(replica)?.unformed !== true);
  }

  primaryAlive(): boolean {
    const { following } = this.#workers;
    return following !== undefined && !silent(following.session);
  }

  /** What each other member says of itself in a session that lives; undefined of whom nothing is heard. */
  others(): { readonly node: NodeName; readonly says: string | undefined }[] {
    const { options, following } = this.#workers;
    return this.members()
      .filter((member) => member !== options.node)
      .map((node) => {
        // The newest one counts; each begins with what the node is by then.
        const session = [...this.#sessions].findLast(({ peer, hello }) => peer === node && hello !== undefined);
        // A primary speaks each second.
        const heard = session !== undefined && !(session === following?.session && silent(session));
        return { node, says: heard ? session.hello?.role : undefined };
      });
  }

  /** Who is connected with a configuration in which the group has other members, or the same in another order. */
  namingOthers(): NodeName[] {
    const ours = membersDigest(this.#workers.config);
    const newest = new Map(
      [...this.#sessions].flatMap(({ peer, hello }) => (hello === undefined ? [] : [[peer, hello]])),
    );
    return [...newest].filter(([, hello]) => namesOtherMembers(ours, hello)).map(([peer]) => peer as NodeName);
  }

  /**
   * What the primary wrote while this agent did not run is not known here, and no promise was kept in that time: all since
   * the last cut counts as missing until the primary says otherwise.
   */
  missingSince(standing: ReplicaStanding): void {
    const unknownMs = Math.max(0, Date.now() - standing.lastTakenAtUs / 1000);
    if (standing.committed.seq > 0n) this.#coveredAt = performance.now() - unknownMs;
  }

  loss(): Loss {
    const { following, replicaStanding } = this.#workers;
    const seconds = following?.lagSeconds() ?? (performance.now() - this.#coveredAt) / 1000;
    const source = following?.source;
    const durable = replicaStanding?.committed;
    if (following !== undefined && source !== undefined && durable !== undefined && this.primaryAlive()) {
      // What the source last said may be older than what came since.
      const cuts = Math.max(0, Number(source.taken.seq - durable.seq));
      return {
        empty: seconds === 0,
        alive: true,
        text: `${cuts} cuts and ${source.backlogBytes} bytes known, ${seconds.toFixed(1)} s`,
        seconds,
        cuts,
        bytes: source.backlogBytes,
      };
    }
    const last = source ?? this.#lastSource;
    const known =
      last === undefined || durable === undefined
        ? undefined
        : { cuts: Math.max(0, Number(last.taken.seq - durable.seq)), bytes: last.backlogBytes };
    const missing =
      known === undefined
        ? ""
        : `; known to be missing are ${known.cuts} cuts and ${known.bytes} bytes that it spoke of`;
    return {
      empty: false,
      alive: false,
      text: `unknown, since the primary does not answer: at most what it wrote in the last ${seconds.toFixed(1)} s${missing}`,
      seconds,
      cuts: known?.cuts,
      bytes: known?.bytes,
    };
  }
}

function silent(session: Session): boolean {
  return performance.now() - session.lastHeardAt >= silenceMsMax;
}

/** Whatever else the other says, it has heard of a later reign than ours. */
function isOver(ours: Hello, theirs: Hello): boolean {
  return theirs.epoch > ours.epoch || theirs.epochSeen > ours.epoch;
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
