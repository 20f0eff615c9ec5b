import { nodeNamed } from "../../shared/config/config.ts";
import { exitCodes, explain, hintsOf, UnderstudyError } from "../../shared/errors.ts";
import { type HookCommand, hurriedKillDelayMs } from "../../shared/hooks.ts";
import { type OutOfService, type ServiceState, serviceState } from "../../shared/session/in-service.ts";
import { epoch } from "../../shared/words.ts";
import type { GroupPeers } from "./group-peers.ts";
import { type GroupWorkers, WrongRole } from "./group-workers.ts";
import { PrimaryTarget, targetCommands } from "./primary-target.ts";

/** Whether a session with a member has ended, or the source is newer than a replica, is looked for so often. */
const lookEveryMs = 1000;
/**
 * After a start of the agent alone its service runs all the same: before it is started again the others may say for so
 * long that one of them was promoted meanwhile.
 */
const objectionMs = 5000;

/** What makes a node begin its service; hooks are told. */
export type ServiceReason = "start" | "form" | "promote" | "switchover" | "rollback" | "confirm" | "accept-source";

/** How the service was started last: how long that took, and why it could not be; "" when it could. */
export interface ServiceStart {
  readonly ms: number;
  readonly failure: string;
  /** When that was over. Monotonic, ms. */
  readonly at: number;
}

/** That this node is the only primary is not known, and was not accepted. */
class NotConfirmed extends UnderstudyError {
  readonly code = "NOT_CONFIRMED";
  readonly remedy = "stop";
  readonly state = "Nothing was done: the service is not started here.";
  readonly hint: string;
  override readonly exitCode = exitCodes.refused;
  constructor(reason: OutOfService) {
    super(reason.message);
    this.hint = hintsOf([reason]);
  }
}

/** What belongs to the primary's target may still run here. */
class TargetNotStopped extends UnderstudyError {
  readonly code = "TARGET_NOT_STOPPED";
  readonly remedy = "stop";
  readonly state = "The service may still run here; nothing was handed over.";
  readonly hint = "Stop it by hand, and see the log of the service manager.";
}

/**
 * Whether the group's service runs on this node, and what follows from that: the reign is confirmed when everybody has
 * answered, `start_service` runs once in a run of the agent, on a confirmed primary and nowhere else.
 */
export class GroupService {
  readonly #workers: GroupWorkers;
  readonly #peers: GroupPeers;
  /** The agent can be asked by what the hooks start. */
  #serving = false;
  #servingSince = 0;
  #entered = false;
  #reason: ServiceReason = "start";
  #said = "";
  #timer: NodeJS.Timeout | undefined;
  #looking = false;
  readonly #target: PrimaryTarget;
  /** What starts the service, while that is under way. */
  readonly #starts = new Set<AbortController>();
  lastStart: ServiceStart | undefined;
  /** The service is started, or was tried to be; within the change of role that led to it. */
  onEntered: (start: ServiceStart) => void = () => {};

  constructor(workers: GroupWorkers, peers: GroupPeers) {
    this.#workers = workers;
    this.#peers = peers;
    const { config, options, log } = workers;
    const { primaryTarget } = nodeNamed(options.config, options.node);
    this.#target = new PrimaryTarget(targetCommands(primaryTarget, config.name), options.hooks, log);
  }

  get state(): ServiceState {
    const { config, role, standing, options } = this.#workers;
    const at = standing?.epoch ?? 0n;
    return serviceState({
      group: config.name,
      role,
      epoch: at,
      switchover: standing?.switchover,
      halted: standing?.halted ?? "",
      confirmed: standing?.confirmed ?? "",
      bootId: options.bootId,
      others: this.#peers
        .members()
        .filter((member) => member !== options.node)
        .map((node) => ({ node, highestEpoch: this.#peers.answers.highestEpoch(node, at) })),
      engine: config.ha.engine,
    });
  }

  /** From here on the agent answers at its control socket: what a service asks when it is started. */
  serve(): void {
    this.#serving = true;
    this.#servingSince = performance.now();
    this.#lookLater();
    this.look();
  }

  stop(): void {
    this.#serving = false;
    clearTimeout(this.#timer);
  }

  #lookLater(): void {
    this.#timer = setTimeout(() => {
      this.look();
      this.#lookLater();
    }, lookEveryMs).unref();
  }

  /** Something may have changed. */
  look(): void {
    if (!this.#serving) return;
    const { state } = this;
    this.#say(state);
    // Also where a former run was killed before it could say so. What is under way in a change of role does not hold it up.
    const untold = state.kind === "out" || (this.lastStart !== undefined && this.#entered);
    if (untold) this.#tellTarget(state.kind !== "out").catch((error: unknown) => this.#workers.options.onFatal(error));
    // Whoever ends the service comes after that: its turn must not wait for a start that hangs.
    if (state.kind === "out" && state.code === "SUPERSEDED")
      for (const start of this.#starts) start.abort(new Error(state.message));
    const due = state.kind === "confirmable" || (state.kind === "in-service") !== this.#entered;
    if (!due || this.#looking || (state.kind === "in-service" && this.#mayBeObjectedTo())) return;
    this.#looking = true;
    this.#workers
      .exclusively(async () => await this.update(this.#reason))
      .catch((error: unknown) => {
        if (!this.#workers.stopped) this.#workers.log.error("service.unsettled", { error });
      })
      .finally(() => {
        this.#looking = false;
      });
  }

  #mayBeObjectedTo(): boolean {
    // What a person or a peer has just brought about is nobody's to object to; a switchover that goes back may come of a start.
    const begun = this.#reason === "start" || this.#reason === "rollback";
    if (!begun || performance.now() - this.#servingSince >= objectionMs) return false;
    const { options } = this.#workers;
    // Whom it could not reach has a note, too.
    return this.#peers.members().some((member) => member !== options.node && this.#peers.note(member) === undefined);
  }

  /** Brings about what follows from the state as it is; within a change of role, or as one. */
  async update(reason: ServiceReason): Promise<void> {
    this.#reason = reason;
    if (!this.#serving || this.#workers.stopped) return;
    if (this.state.kind === "confirmable") await this.#confirm("members");
    const inService = this.state.kind === "in-service";
    // Looked at again soon.
    if (inService === this.#entered || (inService && this.#mayBeObjectedTo())) return;
    this.#entered = inService;
    this.lastStart = undefined;
    if (inService) await this.#enter(reason);
    else await this.#leave();
  }

  async #enter(reason: ServiceReason): Promise<void> {
    const { log, config, standing } = this.#workers;
    const at = standing?.epoch ?? epoch(0);
    log.info("service.entered", { epoch: at, reason });
    await this.#workers.event("service.entered", { epoch: at, reason });
    await this.#workers.primary?.reign.moving();
    const untold = await this.#tellTarget(true);
    const started = await this.#start(config.hooks.startService, reason);
    const start = started.failure === "" ? { ...started, failure: untold } : started;
    this.lastStart = start;
    this.onEntered(start);
  }

  async #leave(): Promise<void> {
    const { log, standing } = this.#workers;
    const { state } = this;
    const at = standing?.epoch ?? epoch(0);
    const reason = state.kind === "out" ? state.message : "";
    // What ends the service itself is whoever ended the reign: `on_fenced`, or a switchover.
    this.#reason = "start";
    log.info("service.left", { epoch: at, reason });
    await this.#workers.event("service.left", { epoch: at, reason });
    await this.#tellTarget(false);
  }

  /** Gives why it could not be told; "" when it was. */
  async #tellTarget(reached: boolean): Promise<string> {
    const environment = this.#workers.environment();
    if (!reached) return await this.#target.tell(false, environment);
    return await this.#starting(async (unwanted) => await this.#target.tell(true, environment, unwanted));
  }

  /** What belongs to the primary's target stands still. @throws {TargetNotStopped} */
  async stopTarget(): Promise<void> {
    const failure = await this.#tellTarget(false);
    if (failure !== "") throw new TargetNotStopped(failure);
  }

  /** Until it is known that this reign is over. */
  async #starting<T>(start: (unwanted: AbortSignal) => Promise<T>): Promise<T> {
    const abort = new AbortController();
    this.#starts.add(abort);
    try {
      return await start(abort.signal);
    } finally {
      this.#starts.delete(abort);
    }
  }

  /** Runs what begins a service here; it is ended, with all that it started, when this reign is over. */
  async runStart(name: string, hook: HookCommand, reason: string): Promise<void> {
    const environment = { ...this.#workers.environment(), UNDERSTUDY_REASON: reason };
    const { hooks } = this.#workers.options;
    await this.#starting(async (unwanted) => await hooks.run(name, hook, environment, unwanted, hurriedKillDelayMs));
  }

  /** A node is what it is, whatever its service does: said loudly, and left to the operator. */
  async #start(hook: HookCommand | undefined, reason: string): Promise<ServiceStart> {
    if (hook === undefined) return { ms: 0, failure: "", at: performance.now() };
    const begun = performance.now();
    const { state } = this;
    // While somebody was told.
    if (state.kind === "out") return { ms: 0, failure: state.message, at: begun };
    let failure = "";
    try {
      await this.runStart("start_service", hook, reason);
    } catch (error) {
      this.#workers.log.error("hook.failed", { hook: "start_service", error });
      failure = explain(error);
    }
    const at = performance.now();
    return { ms: at - begun, failure, at };
  }

  async #confirm(by: string): Promise<void> {
    const { primary, log, options } = this.#workers;
    if (primary === undefined) return;
    await primary.reign.confirm(options.bootId);
    const { epoch: at } = primary.reign.standing;
    log.info("primary.confirmed", { epoch: at, by });
    await this.#workers.event("primary.confirmed", { epoch: at, by });
  }

  /**
   * What a person says of the nodes that do not answer. @throws {NotConfirmed} as long as they were not accepted, or when
   * it is known that this reign is over
   */
  async confirm(options: { acceptUnreachable: boolean; by: string }): Promise<void> {
    const workers = this.#workers;
    await workers.exclusively(async () => {
      const { state } = this;
      if (state.kind === "out") {
        if (state.code === "NOT_PRIMARY") throw new WrongRole("a primary is confirmed", workers.role);
        if (state.flag === undefined || !options.acceptUnreachable) throw new NotConfirmed(state);
        await workers.overridden({
          verb: "confirm",
          code: state.code,
          flag: "--accept-unreachable",
          by: options.by,
          reason: state.message,
        });
        await this.#confirm(options.by);
      }
      await this.update("confirm");
    });
  }

  /** Once for each reason, not each second. */
  #say(state: ServiceState): void {
    const { log, role } = this.#workers;
    const why = state.kind === "out" && role === "primary" ? state : undefined;
    const said = why?.message ?? "";
    if (said === this.#said) return;
    this.#said = said;
    if (why !== undefined) log.warn("service.waiting", { code: why.code, reason: why.message, hint: why.hint });
  }
}
