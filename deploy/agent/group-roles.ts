import { mkdir } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { exitCodes, UnderstudyError } from "../../shared/errors.ts";
import { sourceStep } from "../../shared/session/switchover.ts";
import type { SwitchoverMessage } from "../../shared/wire/messages.ts";
import type { CutId } from "../../shared/words.ts";
import type { Following } from "./following.ts";
import type { ForkMet, GroupPeers, RoleChanges } from "./group-peers.ts";
import type { GroupPromotion } from "./group-promotion.ts";
import type { GroupRejoin } from "./group-rejoin.ts";
import type { GroupService } from "./group-service.ts";
import type { GroupSwitchover } from "./group-switchover.ts";
import { type Demotion, ForkNotKept, type GroupWorkers, type KeepFork, WrongRole } from "./group-workers.ts";
import type { Session } from "./session.ts";

/** A demotion that failed ends the reign and opens it again: it is tried again after so long, and each time twice that. */
const demoteAgainMs = 1000;
const demoteAgainMsMax = 60_000;
/** So long a hook waits for the higher epoch to be durable here. */
const fenceMsMax = 1000;

/** A group is not formed while a replica might have it already. */
class NotAnswered extends UnderstudyError {
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

/** What this node becomes: from what its catalog says at the start, by what a peer shows it, by what a person asks. */
export class GroupRoles implements RoleChanges {
  readonly #workers: GroupWorkers;
  readonly #peers: GroupPeers;
  readonly #promotion: GroupPromotion;
  readonly #service: GroupService;
  readonly #switchover: GroupSwitchover;
  readonly #rejoin: GroupRejoin;
  /** After a demotion that failed: how long to wait, and until when. Monotonic, ms. */
  #demoteAgainMs = demoteAgainMs;
  #demoteAt = 0;

  constructor(
    workers: GroupWorkers,
    peers: GroupPeers,
    promotion: GroupPromotion,
    service: GroupService,
    switchover: GroupSwitchover,
    rejoin: GroupRejoin,
  ) {
    this.#workers = workers;
    this.#peers = peers;
    this.#promotion = promotion;
    this.#service = service;
    this.#switchover = switchover;
    this.#rejoin = rejoin;
  }

  /** Goes on in the role that the catalog has. */
  async start(): Promise<void> {
    const workers = this.#workers;
    await mkdir(workers.directory, { recursive: true, mode: 0o700 });
    await workers.lastVerified.load();
    await workers.options.forks.refresh(workers.config.name);
    const standing = await workers.openReplica();
    this.#peers.missingSince(standing);
    await this.#switchover.load();
    if (standing.role === "primary") {
      await workers.becomePrimary();
      await this.#switchover.restarted();
    } else if (standing.role === "replica") await workers.openCopy();
    else if (standing.role === "promoting") await this.#promotion.giveUp();
    this.#rejoin.started();
    workers.log.info("group.opened", {
      role: workers.role,
      epoch: workers.standing?.epoch ?? 0,
      seq: workers.standing?.committed.seq ?? 0,
    });
  }

  async form(alone: boolean, by = ""): Promise<void> {
    const workers = this.#workers;
    await workers.exclusively(async () => {
      const { config, options, role } = workers;
      if (role !== "unformed") throw new WrongRole("a group is born once", role);
      if (config.primary !== options.node)
        throw new WrongRole(`the configuration names ${config.primary} as the group's first primary`, role);
      const missing = this.#peers.waitingFor();
      if (missing.length > 0) {
        const refused = new NotAnswered(missing);
        if (!alone) throw refused;
        await workers.overridden({ verb: "form", code: refused.code, flag: "--alone", by, reason: refused.message });
      }
      await this.#form();
    });
  }

  async formAsNamed(): Promise<void> {
    await this.#workers.exclusively(async () => {
      if (this.#peers.mayForm()) await this.#form();
    });
  }

  async #form(): Promise<void> {
    const workers = this.#workers;
    await workers.becomePrimary();
    const standing = await workers.primary?.worker.call("form", { confirmed: workers.config.ha.engine === "none" });
    if (standing === undefined) return;
    workers.log.info("group.formed", { id: standing.groupId });
    await workers.event("group.formed", { id: standing.groupId, epoch: standing.epoch });
    await workers.closePrimary();
    await workers.becomePrimary();
    this.#peers.closeSessions();
    await this.#service.update("form");
  }

  answered(): void {
    this.#service.look();
  }

  /** A higher epoch was met: this reign is over, here and after every restart. */
  async fence(by: bigint, peer: string): Promise<void> {
    await this.#workers.exclusively(async () => await this.#fence(by, peer));
  }

  async #fence(by: bigint, peer: string): Promise<void> {
    const workers = this.#workers;
    const { primary } = workers;
    if (primary === undefined || workers.role !== "primary") return;
    // It may have begun a reign above that one meanwhile.
    if (by <= primary.reign.standing.epoch) return;
    workers.log.error("primary.fenced", { peer, epoch: primary.reign.standing.epoch, by });
    const fenced = primary.reign.fence(by);
    // Its service must not run on for longer than that, whatever the worker is at.
    await Promise.race([fenced.catch(() => undefined), sleep(fenceMsMax)]);
    this.#rejoin.fenced(by);
    await fenced;
    this.#switchover.superseded("fenced", peer);
    await workers.event("primary.fenced", { peer, epoch: primary.reign.standing.epoch, by });
    await this.#service.update("start");
    await workers.closePrimary();
    this.#peers.missingSince(await workers.openReplica());
    this.#peers.closeSessions();
  }

  /**
   * An ex-primary goes on as a replica of what it has: see `GroupWorkers.demote`. For whoever is at a change of role already;
   * its service is stopped.
   */
  async demote(common: CutId, keep?: KeepFork): Promise<Demotion> {
    const workers = this.#workers;
    const demotion = await workers.demote(common, keep);
    if (workers.replicaStanding !== undefined) this.#peers.missingSince(workers.replicaStanding);
    this.#peers.closeSessions();
    return demotion;
  }

  async handedOver(by: bigint, peer: string, common: CutId): Promise<void> {
    const workers = this.#workers;
    await workers.exclusively(async () => {
      // Each session meets it anew.
      if (performance.now() < this.#demoteAt) return;
      if (workers.primary === undefined || workers.role !== "primary") return;
      // It was sealed when it said hello: since then it may have gone back, and its service runs.
      const { actions } = sourceStep(workers.primary.reign.standing.switchover, { kind: "superseded", common });
      if (!actions.includes("demote")) {
        await this.#fence(by, peer);
        return;
      }
      workers.log.info("switchover.superseded", { peer, by, seq: common.seq });
      try {
        await this.demote(common);
      } catch (error) {
        if (!(error instanceof ForkNotKept)) {
          this.#switchover.notDemoted(peer, error);
          this.#demoteAt = performance.now() + this.#demoteAgainMs;
          this.#demoteAgainMs = Math.min(demoteAgainMsMax, 2 * this.#demoteAgainMs);
          throw error;
        }
        // Somebody wrote after the service was stopped: what that was is kept when this node rejoins.
        workers.log.error("switchover.written_after", { peer, error });
        await this.#fence(by, peer);
        return;
      }
      this.#demoteAgainMs = demoteAgainMs;
      this.#switchover.superseded("demoted", peer);
      await this.#service.update("start");
    });
  }

  async switchover(following: Following, message: SwitchoverMessage): Promise<void> {
    await this.#switchover.asked(following, message);
  }

  forked(met: ForkMet): void {
    this.#rejoin.met(met);
  }

  parted(session: Session): void {
    this.#rejoin.parted(session);
  }

  /**
   * Takes what lies in the copies' places for a start: compared with the primary, only the difference is shipped. What this
   * node knew of the group's cuts is forgotten, its recovery points with it.
   */
  async adopt(by = ""): Promise<void> {
    const workers = this.#workers;
    await workers.exclusively(async () => {
      const { replica, role } = workers;
      if (replica === undefined || (role !== "replica" && role !== "unformed" && role !== "fenced"))
        throw new WrongRole("a copy is adopted by a replica, or by a primary that was fenced", role);
      if (role === "fenced") await this.#rejoin.stopService("adopt");
      workers.following = undefined;
      this.#peers.closeSessions();
      workers.replicaStanding = await replica.call("adopt", undefined);
      workers.log.warn("copy.adopting", { role, by });
      await workers.event("copy.adopting", { role, by });
    });
  }

  /** Goes on from what this primary has, although a replica is newer: see Reign.acceptSource. */
  async acceptSource(by = ""): Promise<void> {
    const workers = this.#workers;
    const { primary, role, log } = workers;
    if (primary === undefined) throw new WrongRole("only a primary has a source to accept", role);
    const { reign } = primary;
    await workers.exclusively(async () => {
      // Nothing refused it: the cut is one as any other.
      if (!reign.reverted) return;
      const { halted: reason } = reign;
      await workers.overridden({ verb: "cut", code: "REPLICA_NEWER", flag: "--accept-source", by, reason });
      await reign.acceptSource(workers.turnAbove(0n));
      const { epoch, committed } = reign.standing;
      await workers.event("source.accepted", { epoch, seq: committed.seq, by });
      log.warn("source.accepted", { epoch, seq: committed.seq });
      this.#peers.closeSessions();
      await this.#service.update("accept-source");
    });
  }
}
