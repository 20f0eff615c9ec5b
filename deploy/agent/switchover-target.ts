import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { explain } from "../../shared/errors.ts";
import { executable } from "../../shared/executable.ts";
import { hex } from "../../shared/manifest/digest.ts";
import { handoverRefusal, revocationAnswer } from "../../shared/session/switchover.ts";
import { type Obstacle, targetObstacles } from "../../shared/session/switchover-plan.ts";
import type { SwitchoverMessage } from "../../shared/wire/messages.ts";
import { cutText, epoch } from "../../shared/words.ts";
import type { Following } from "./following.ts";
import type { GroupPromotion } from "./group-promotion.ts";
import type { GroupWorkers } from "./group-workers.ts";
import type { HandedService } from "./handed-service.ts";
import type { SwitchoverTimes } from "./switchover-times.ts";
import { isCatalogFailed } from "./worker-thread.ts";

type Handover = Extract<SwitchoverMessage, { kind: "handover" }>;
type Answer = Extract<SwitchoverMessage, { kind: "handoverAnswer" }>;
type Started = Extract<SwitchoverMessage, { kind: "serviceStarted" }>;

/** Less than this and a catalog, or what a service writes at its start, may find no room. */
const freeBytesMin = 64 * 1024 * 1024;
const obstaclesMax = 32;
/** Handovers that are over and not forgotten: of two at a time there are none. */
const overMax = 64;
const textLengthMax = 4096;

/**
 * The target's side of a switchover: what stands in its way, and the one transaction by which it takes over exactly what it
 * is handed. What comes in one session is answered in its order; what comes from a session that is over is dropped.
 */
export class SwitchoverTarget {
  readonly #workers: GroupWorkers;
  readonly #promotion: GroupPromotion;
  readonly #times: SwitchoverTimes;
  readonly #service: HandedService;
  /** Refused or revoked: what comes of them again is of no more effect. */
  readonly #over = new Set<string>();
  #started: { readonly from: string; readonly message: Started } | undefined;

  constructor(workers: GroupWorkers, promotion: GroupPromotion, times: SwitchoverTimes, service: HandedService) {
    this.#workers = workers;
    this.#promotion = promotion;
    this.#times = times;
    this.#service = service;
  }

  async heard(following: Following, message: SwitchoverMessage): Promise<void> {
    switch (message.kind) {
      case "switchoverPrepare":
        await following.session.send(await this.#prepare(following, message.id));
        return;
      case "handover": {
        const takenOver = Promise.withResolvers<void>();
        const handed = this.#workers.exclusively(async () => await this.#handed(following, message, takenOver.resolve));
        // The former primary follows in another session, which a node that dials begins when this one is over: that does
        // not wait for the service. What fails from there on ends the agent.
        await Promise.race([handed, takenOver.promise]);
        return;
      }
      case "handoverRevoke":
        // This node has taken over meanwhile, and said so.
        if (!this.#isCurrent(following)) return;
        await this.#workers.exclusively(async () => await this.#revoked(following, message.id));
        return;
      default:
        throw new Error(`a target is not asked for ${message.kind}`);
    }
  }

  /** The former primary follows by now: it hears what became of the service. */
  joined(peer: string): void {
    const started = this.#started;
    if (started === undefined || started.from !== peer) return;
    this.#workers.primary?.reign.tell(peer, started.message).then(
      (sent) => {
        if (sent && this.#started === started) this.#started = undefined;
      },
      (error: unknown) => this.#workers.options.onFatal(error),
    );
  }

  async #prepare(following: Following, id: string): Promise<SwitchoverMessage> {
    const { config, options, stores, directory, standing } = this.#workers;
    // The cut that counts is not taken yet; that the primary lives is the point.
    const refusals = this.#promotion
      .refusals({ acceptLoss: true, accept: ["live-primary", "unreachable-primary", "consistency", "paused"] })
      .map(({ code, message, hint }) => ({ code, message, hint }));
    const places = [directory, ...stores.map(({ path }) => dirname(path))];
    const obstacles = targetObstacles({
      group: config.name,
      node: options.node,
      follows: this.#workers.following === following,
      refusals,
      paused: standing?.paused !== undefined,
      room: await Promise.all([...new Set(places)].map(async (path) => ({ path, freeBytes: await freeBytes(path) }))),
      freeBytesMin,
      hooksMissing: await this.#hooksMissing(),
    });
    const startMs = Math.round(this.#times.known.startMs ?? 0);
    return { kind: "switchoverReady", id, obstacles: obstacles.slice(0, obstaclesMax).map(bounded), startMs };
  }

  async #hooksMissing(): Promise<string[]> {
    const { beforePromote, afterPromote, startService, stopService } = this.#workers.config.hooks;
    const missing: string[] = [];
    for (const [name, hook] of Object.entries({
      before_promote: beforePromote,
      after_promote: afterPromote,
      start_service: startService,
      // For the way back.
      stop_service: stopService,
    })) {
      if (hook !== undefined && !(await executable(hook.run[0]))) missing.push(`${name}: ${hook.run[0]}`);
    }
    return missing;
  }

  /** `takenOver` is called when nothing of the session is needed any more. */
  async #handed(following: Following, handover: Handover, takenOver: () => void): Promise<void> {
    const workers = this.#workers;
    const { id } = handover;
    // Of a session that is over, or a second time: who asks anew asks in the session that is there.
    if (!this.#isCurrent(following) || this.#over.has(id)) return;
    const from = following.session.peer;
    workers.log.info("handover.received", { peer: from, id, cut: cutText(handover.cut) });
    // Nothing is run, and nothing written down, for what cannot be: whoever asks for that may ask without end.
    const futile = await this.#futile(handover);
    if (futile !== undefined) {
      if (!this.#isCurrent(following)) return;
      this.#isOver(id);
      workers.log.warn("handover.refused", { peer: from, id, reason: futile.reason });
      await following.session.send({ ...futile, reason: short(futile.reason) });
      return;
    }
    const refusal = await this.#beforePromote();
    // A session that ended meanwhile takes what it asked for along.
    if (!this.#isCurrent(following)) return;
    const begun = performance.now();
    const answer = await this.#takeOver(handover, refusal);
    if (!answer.accepted) {
      this.#isOver(id);
      workers.log.warn("handover.refused", { peer: from, id, reason: answer.reason });
      await workers.event("handover.refused", { id, from, cut: cutText(handover.cut), reason: answer.reason });
      await following.session.send({ ...answer, reason: short(answer.reason) });
      return;
    }
    // From here on this node is primary, whether or not anybody hears of it.
    following.session
      .send(answer)
      .catch((error: unknown) => workers.log.info("handover.answer_unheard", { peer: from, error }));
    // Asked before the service is entered, which ends the way back: what starts on neither node would be moved for ever.
    const { comesBack } = this.#service;
    try {
      workers.following = undefined;
      takenOver();
      const { failure, servedAt } = await this.#promotion.reignBegun(
        { epoch: epoch(answer.epoch), cut: handover.cut },
        "switchover",
        {
          id,
          from,
          digest: hex(handover.digest),
          digestThere: hex(answer.digest),
        },
      );
      const ms = Math.max(0, Math.round(servedAt - begun));
      this.#started = { from, message: { kind: "serviceStarted", id, ms, reason: short(failure) } };
      this.joined(from);
      if (failure !== "" && !comesBack)
        this.#service.handBack(from, failure).catch((error: unknown) => workers.options.onFatal(error));
    } catch (error) {
      // Its next start finds a primary.
      workers.options.onFatal(error);
    }
  }

  /** The refusal of what this node has not; undefined where it has exactly that, and where it cannot be asked just now. */
  async #futile({ id, cut, digest }: Handover): Promise<Answer | undefined> {
    const { replica } = this.#workers;
    if (replica === undefined) return undefined;
    const standing = await replica.call("standing", undefined);
    // What came whole may still wait to be applied, and is before the epoch.
    const has = { role: standing.role, committed: standing.committed, digest: standing.digest, applied: cut.seq };
    const reason = handoverRefusal({ ...has, suspect: "", halted: "", barred: "" }, { id, cut, digest });
    if (reason === "") return undefined;
    const held = new Uint8Array(standing.digest);
    return { kind: "handoverAnswer", id, accepted: false, reason, epoch: standing.epoch, digest: held };
  }

  #isOver(id: string): void {
    this.#over.add(id);
    for (const oldest of this.#over) {
      if (this.#over.size <= overMax) break;
      this.#over.delete(oldest);
    }
  }

  async #beforePromote(): Promise<string> {
    const { options, config } = this.#workers;
    const { hooks } = config;
    if (hooks.beforePromote === undefined) return "";
    try {
      const environment = { ...this.#workers.environment(), UNDERSTUDY_REASON: "switchover" };
      await options.hooks.run("before_promote", hooks.beforePromote, environment);
      return "";
    } catch (error) {
      return explain(error);
    }
  }

  async #takeOver({ id, cut, digest }: Handover, refusal: string): Promise<Answer> {
    const workers = this.#workers;
    const { replica, replicaStanding } = workers;
    const held = replicaStanding?.digest ?? new Uint8Array(32);
    const answer = { kind: "handoverAnswer", id, epoch: replicaStanding?.epoch ?? 0n } as const;
    if (replica === undefined)
      return { ...answer, accepted: false, reason: `this node is ${workers.role}`, digest: held };
    try {
      const barred = refusal !== "" ? refusal : workers.copyProblem;
      const taken = await replica.call("takeOverHanded", { handover: { id, cut, digest }, barred, turn: workers.turn });
      if (taken.accepted) workers.replicaStanding = taken.standing;
      const { accepted, reason, standing } = taken;
      return { ...answer, accepted, reason, epoch: standing.epoch, digest: new Uint8Array(standing.digest) };
    } catch (error) {
      // Whether the epoch is durable nobody can say before the next start: no answer, and the primary stays in doubt until then.
      if (isCatalogFailed(error)) throw error;
      // What the catalog says now is what counts: it may have begun.
      const standing = await replica.call("standing", undefined);
      workers.replicaStanding = standing;
      const accepted = standing.role === "primary";
      return {
        ...answer,
        accepted,
        reason: explain(error),
        epoch: standing.epoch,
        digest: new Uint8Array(standing.digest),
      };
    }
  }

  async #revoked(following: Following, id: string): Promise<void> {
    if (!this.#isCurrent(following)) return;
    const { role, standing } = this.#workers;
    const { accepted, reason } = revocationAnswer({ role });
    if (!accepted) this.#isOver(id);
    const digest = new Uint8Array(standing?.digest ?? new Uint8Array(32));
    await following.session.send({
      kind: "handoverAnswer",
      id,
      accepted,
      reason,
      epoch: standing?.epoch ?? 0n,
      digest,
    });
  }

  #isCurrent(following: Following): boolean {
    return this.#workers.following === following && !following.over;
  }
}

async function freeBytes(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path);
  return bavail * bsize;
}

function bounded({ code, message, hint }: Obstacle): { code: string; message: string; hint: string } {
  return { code: short(code), message: short(message), hint: short(hint) };
}

function short(text: string): string {
  return text.slice(0, textLengthMax).toWellFormed();
}
