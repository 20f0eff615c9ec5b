import { setTimeout as sleep } from "node:timers/promises";
import type { ForkRecord } from "../../replica/rejoin/fork-bundle.ts";
import { exitCodes, explain, hintOf, UnderstudyError } from "../../shared/errors.ts";
import { commonText, forgottenBy } from "../../shared/session/connect.ts";
import { type CutId, cutText } from "../../shared/words.ts";
import type { Reason } from "../control/api.ts";
import { cutRef, cutRefText } from "../control/api.ts";
import type { RejoinAnswer } from "../control/fork-answers.ts";
import { description } from "./forks.ts";
import type { ForkMet, GroupPeers } from "./group-peers.ts";
import { type GroupWorkers, WrongRole } from "./group-workers.ts";
import type { Session } from "./session.ts";

/** A hook that failed, or a rejoin by itself that came to nothing, is tried again after so long. */
const retryMs = 30_000;
/** At the longest, where what stands in the way stays the same. */
const retryMaxMs = 600_000;
/** Whether what was otherwise is right by now. */
const lookMs = 500;
/** So long whoever asks for a rejoin waits for a session with the primary. */
const sessionMs = 6000;

/** What stands in the way of a rejoin. */
class RejoinRefused extends UnderstudyError {
  readonly code: string;
  readonly remedy = "stop";
  readonly state = "Nothing was changed.";
  readonly hint: string;
  override readonly exitCode = exitCodes.refused;

  constructor(code: string, message: string, hint: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.hint = hint;
  }
}

/**
 * A node that has what the primary has not becomes a replica of it: its service is stopped, what only it has is kept as a fork,
 * and it stands at the last common cut then. By the verb, or by itself where the configuration says so.
 */
export class GroupRejoin {
  readonly #workers: GroupWorkers;
  readonly #peers: GroupPeers;
  #met: ForkMet | undefined;
  /** Why it did not come about when it was tried last. */
  #failure: Reason | undefined;
  /** Why the service may still run although this node is fenced. */
  #unstopped: Reason | undefined;
  #stopping: Promise<void> | undefined;
  #hookTimer: NodeJS.Timeout | undefined;
  #pauseMs = retryMs;
  /** Why it failed last. */
  #reason = "";
  #rejoinTimer: NodeJS.Timeout | undefined;
  #watch: NodeJS.Timeout | undefined;
  #trying = false;
  /** Forks that were made in this run of the agent. */
  readonly #told = new Set<string>();

  constructor(workers: GroupWorkers, peers: GroupPeers) {
    this.#workers = workers;
    this.#peers = peers;
  }

  /** Why this node stands still; undefined where it does not because of a fork. */
  get waiting(): Reason | undefined {
    const met = this.#met;
    if (this.#unstopped !== undefined && this.#workers.role === "fenced") return this.#unstopped;
    if (met === undefined) return undefined;
    if (this.#failure !== undefined) return this.#failure;
    const { message, hint } = forkText(met, this.#workers.config.name);
    return { code: "FORK", message, hint, flag: null };
  }

  /** The agent was started: what was begun before goes on. */
  started(): void {
    const { role, replicaStanding } = this.#workers;
    // Its service may have been started again meanwhile, or the agent died before it was told to stop.
    if (role === "fenced") this.fenced(this.#workers.standing?.epochSeen ?? 0n);
    else if (role === "replica" && replicaStanding?.rejoining === true) this.#watchEnd();
  }

  stop(): void {
    clearTimeout(this.#hookTimer);
    clearTimeout(this.#rejoinTimer);
    clearTimeout(this.#watch);
  }

  /** This node's reign is over: its service is stopped, and again until that has succeeded. */
  fenced(by: bigint): void {
    if (!this.#isOver(by)) return;
    this.stopService(`fenced by epoch ${by}`).catch(() => {
      // Said where it failed.
      if (this.#workers.stopped || !this.#isOver(by)) return;
      clearTimeout(this.#hookTimer);
      this.#hookTimer = setTimeout(() => this.fenced(by), retryMs).unref();
    });
  }

  /** It may be written down still; and it may be over that it was over, when this node rejoined or reigns again. */
  #isOver(by: bigint): boolean {
    const { role, standing } = this.#workers;
    return role === "fenced" || (role === "primary" && (standing?.epoch ?? 0n) < by);
  }

  /** No service is being stopped here any more: one may be started. */
  async quiesce(): Promise<void> {
    clearTimeout(this.#hookTimer);
    // Whether it could be stopped was said where it was tried.
    await this.#stopping?.catch(() => undefined);
  }

  /** A session tells of a primary that goes on from less than this node has; until `parted`. */
  met({ session, common }: ForkMet): void {
    // Before the first cut there is nothing that could be common.
    this.#met = { session, common: common?.seq === 0n ? undefined : common };
    this.#failure = undefined;
    this.#reason = "";
    if (this.#workers.config.rejoin === "auto") this.#tryByItself();
  }

  parted(session: Session): void {
    if (this.#met?.session !== session) return;
    this.#met = undefined;
    this.#failure = undefined;
  }

  #tryByItself(): void {
    if (this.#trying || this.#met === undefined || this.#workers.stopped) return;
    this.#trying = true;
    this.rejoin("auto")
      .catch((error: unknown) => {
        if (this.#workers.stopped) return;
        this.#workers.log.error("rejoin.failed", { error });
        const reason = explain(error);
        this.#pauseMs = reason === this.#reason ? Math.min(this.#pauseMs * 2, retryMaxMs) : retryMs;
        this.#reason = reason;
        clearTimeout(this.#rejoinTimer);
        this.#rejoinTimer = setTimeout(() => this.#tryByItself(), this.#pauseMs).unref();
      })
      .finally(() => {
        this.#trying = false;
      });
  }

  /** @throws what stands in the way; the node is what it was then, but for its service, which is stopped */
  async rejoin(by: string): Promise<RejoinAnswer> {
    await this.#sessionBegins();
    return await this.#workers.exclusively(async () => {
      const met = this.#insistOnFork();
      try {
        return await this.#rejoin(met, by);
      } catch (error) {
        const hint = hintOf(error);
        this.#failure = { code: "REJOIN_FAILED", message: `it did not rejoin: ${explain(error)}`, hint, flag: null };
        throw error;
      }
    });
  }

  /** The session in which it was fenced has ended with its reign; the next one is there soon. */
  async #sessionBegins(): Promise<void> {
    const end = performance.now() + sessionMs;
    const workers = this.#workers;
    while (workers.role === "fenced" && this.#met === undefined && !workers.stopped && performance.now() < end)
      await sleep(lookMs / 10);
  }

  #insistOnFork(): ForkMet & { readonly common: CutId } {
    const { role, config, following } = this.#workers;
    if (role !== "fenced" && role !== "replica")
      throw new WrongRole("a fenced primary rejoins, or a replica that was ahead of the one that was promoted", role);
    const met = this.#met;
    if (met === undefined) {
      if (following !== undefined)
        throw new RejoinRefused(
          "NOTHING_TO_REJOIN",
          `this node follows ${following.session.peer}`,
          "There is nothing to do.",
        );
      throw new RejoinRefused(
        "NO_PRIMARY",
        "no primary that goes on from what this node has is connected",
        "`understudy status` shows who is reached; start the primary's agent, or look at the link.",
      );
    }
    const { common } = met;
    if (common === undefined) {
      const { message, hint } = forkText(met, config.name);
      throw new RejoinRefused("NO_COMMON_CUT", message, hint);
    }
    return { ...met, common };
  }

  async #rejoin({ session, common }: ForkMet & { readonly common: CutId }, by: string): Promise<RejoinAnswer> {
    const workers = this.#workers;
    const { peer, theirs } = session;
    const { log, config, options } = workers;
    log.warn("rejoin.begun", { peer, common: cutText(common), by });
    await workers.event("rejoin.begun", { peer, epoch: theirs.epoch, common: cutText(common), by });
    await this.stopService("rejoin");
    const place = {
      directory: options.forks.directory(config.name),
      group: config.name,
      node: options.node,
      promotion: { node: peer, epoch: theirs.epoch },
    };
    const { cut, fork } = await workers.demote(common, {
      place,
      reach: forgottenBy(theirs),
      kept: async (kept) => await this.#kept(kept),
    });
    this.#met = undefined;
    this.#failure = undefined;
    if (workers.replicaStanding !== undefined) this.#peers.missingSince(workers.replicaStanding);
    this.#peers.closeSessions();
    this.#watchEnd();
    return {
      peer,
      cut: cutRef(cut),
      fork: fork === undefined ? null : description(fork),
    };
  }

  async #kept({ name, common, last, promotion, counts }: ForkRecord): Promise<void> {
    const { config, log, options } = this.#workers;
    // A rejoin that failed after it was kept finds it there.
    if (this.#told.has(name)) return;
    this.#told.add(name);
    await options.forks.refresh(config.name);
    const { node: peer, epoch } = promotion;
    const fields = { name, peer, epoch, common: cutRefText(common), last: cutRefText(last), ...counts };
    log.warn("fork.made", fields);
    await this.#workers.event("fork.made", fields);
  }

  /**
   * What lies here must not be written to by its former service. One at a time; who comes meanwhile waits for that.
   * @throws {RejoinRefused} when the hook fails
   */
  async stopService(reason: string): Promise<void> {
    this.#stopping ??= this.#runHook(reason).finally(() => {
      this.#stopping = undefined;
    });
    await this.#stopping;
  }

  async #runHook(reason: string): Promise<void> {
    const { config, log, role, options } = this.#workers;
    const hook = config.hooks.onFenced;
    if (hook === undefined) return;
    const environment = {
      ...this.#workers.environment(),
      // It is, whether its worker has come to write it down or not.
      UNDERSTUDY_ROLE: role === "primary" ? "fenced" : role,
      UNDERSTUDY_REASON: reason,
    };
    try {
      await options.hooks.run("on_fenced", hook, environment);
      this.#unstopped = undefined;
    } catch (error) {
      log.error("hook.failed", { hook: "on_fenced", error });
      const message = `the service may still run here: ${explain(error)}`;
      const hint = `Stop it by hand, and mend the hook. ${hintOf(error)}`;
      this.#unstopped = { code: "SERVICE_NOT_STOPPED", message, hint, flag: null };
      throw new RejoinRefused("SERVICE_NOT_STOPPED", message, hint, { cause: error });
    }
  }

  /** Until what was otherwise has been brought right by the primary's first cut. */
  #watchEnd(): void {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => {
      this.#look().catch((error: unknown) => {
        if (!this.#workers.stopped) this.#workers.log.warn("rejoin.unwatched", { error });
      });
    }, lookMs).unref();
  }

  async #look(): Promise<void> {
    const workers = this.#workers;
    if (workers.stopped || workers.role !== "replica") return;
    await workers.refresh();
    const { following, replicaStanding } = workers;
    if (following === undefined || replicaStanding === undefined || replicaStanding.rejoining) {
      this.#watchEnd();
      return;
    }
    const { peer } = following.session;
    const cut = cutText(replicaStanding.committed);
    workers.log.info("rejoin.done", { peer, cut });
    await workers.event("rejoin.done", { peer, cut });
  }
}

function forkText({ session, common }: ForkMet, group: string): { message: string; hint: string } {
  const message = `this node has what the primary ${session.peer} has not; ${commonText(common)}`;
  const hint =
    common === undefined
      ? `\`understudy adopt ${group}\` compares everything, and keeps aside what the primary does not have.`
      : `\`understudy rejoin ${group}\`: what only this node has is kept as a fork, then it follows.`;
  return { message, hint };
}
