import { randomBytes } from "node:crypto";
import { explain, hintOf } from "../../shared/errors.ts";
import { hex } from "../../shared/manifest/digest.ts";
import {
  type SourceAction,
  type SourceEvent,
  type SwitchoverRecord,
  sourceStep,
} from "../../shared/session/switchover.ts";
import type { SwitchoverMessage } from "../../shared/wire/messages.ts";
import { within } from "../../shared/within.ts";
import { cutText, meets, unreachable } from "../../shared/words.ts";
import type {
  AbortSwitchoverAnswer,
  SwitchoverOptions,
  SwitchoverPlan,
  SwitchoverProgress,
  SwitchoverSchedule,
} from "../control/api.ts";
import type { Following } from "./following.ts";
import type { GroupPeers } from "./group-peers.ts";
import type { GroupPromotion } from "./group-promotion.ts";
import type { GroupService, ServiceStart } from "./group-service.ts";
import { type GroupWorkers, WrongRole } from "./group-workers.ts";
import { HandedService, type LeadingSwitchover } from "./handed-service.ts";
import type { Reign } from "./reign.ts";
import { WrittenMeanwhile } from "./reign-errors.ts";
import { SwitchoverAsking } from "./switchover-asking.ts";
import { InDoubt, NoSwitchover, SwitchoverRefused, TargetAnswers } from "./switchover-errors.ts";
import { SwitchoverPlanning } from "./switchover-planning.ts";
import { SwitchoverRun } from "./switchover-run.ts";
import { SwitchoverStory } from "./switchover-story.ts";
import { SwitchoverTarget } from "./switchover-target.ts";
import { SwitchoverTimes } from "./switchover-times.ts";

/** How long whoever asks for news waits for some. */
const newsMsMax = 5000;
/** A record that could not be written is tried again after so long. */
const keepAgainMs = 1000;

/** The driver of the source's side of a switchover: the machine of shared/session/switchover.ts, and what it has done. */
export class GroupSwitchover {
  readonly #workers: GroupWorkers;
  readonly #peers: GroupPeers;
  readonly #promotion: GroupPromotion;
  readonly #service: GroupService;
  readonly #times: SwitchoverTimes;
  readonly #asking: SwitchoverAsking;
  readonly #target: SwitchoverTarget;
  readonly #planning: SwitchoverPlanning;
  readonly #story: SwitchoverStory;
  readonly #handed: HandedService;
  /** Before its first record is durable a switchover is nothing but this: what ends it, and when that is over. */
  #leading: LeadingSwitchover | undefined;
  /** What the machine says; the catalog may not have it yet where there was no room for it, and that only on the way back. */
  #record: SwitchoverRecord | undefined;
  #kept = true;
  /** The action that is under way: what goes back ends it first. */
  #action: { readonly abort: AbortController; readonly ended: Promise<void> } | undefined;
  /** The limit of the handover. Monotonic, ms. */
  #lateAt = 0;
  #timer: NodeJS.Timeout | undefined;
  #accepted = false;
  /** Why this node could not become a replica of the one that has taken over; "" where that was not tried. */
  #notDemoted = "";

  constructor(workers: GroupWorkers, peers: GroupPeers, promotion: GroupPromotion, service: GroupService) {
    this.#workers = workers;
    this.#peers = peers;
    this.#promotion = promotion;
    this.#service = service;
    service.onEntered = (start) => this.#serviceEntered(start);
    this.#story = new SwitchoverStory(workers);
    this.#handed = new HandedService(workers, this.#story, (options) => this.#begin(options));
    this.#times = new SwitchoverTimes(workers.directory, workers.log);
    this.#asking = new SwitchoverAsking(workers, peers, service, this.#times);
    this.#target = new SwitchoverTarget(workers, promotion, this.#times, this.#handed);
    this.#planning = new SwitchoverPlanning(workers, this.#asking, (options) => {
      this.begin(options);
    });
    workers.onReign = (reign) => this.#attach(reign);
  }

  /** How far one is, for status. */
  get record(): SwitchoverRecord | undefined {
    return this.#record;
  }

  #attach(reign: Reign): void {
    // What a cluster has demoted is handed to whomever the cluster promotes: there is nobody to be led.
    const { switchover } = reign.standing;
    this.#record = switchover?.to === "" ? undefined : switchover;
    this.#kept = true;
    this.#handed.primaryAgain();
    reign.onJoined = (peer) => {
      this.#joined(peer);
      this.#target.joined(peer);
    };
    reign.onSwitchover = (peer, message) => this.#heard(peer, message);
  }

  /** One that is to begin by itself. */
  get planned(): SwitchoverSchedule | undefined {
    return this.#planning.planned;
  }

  async load(): Promise<void> {
    await this.#times.load();
    await this.#planning.load();
  }

  /** The agent finds what it had begun: it goes back, unless the target has taken over. */
  async restarted(): Promise<void> {
    const record = this.#record;
    if (record === undefined) return;
    this.#story.run = new SwitchoverRun(record.id, this.#workers.options.node, record.to);
    this.#story.note("restarted", `the agent was started again in the step ${record.step}`);
    await this.#on({ kind: "restarted" });
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#handed.stop();
    this.#planning.stop();
    this.#action?.abort.abort(new Error("the agent stops"));
    this.#leading?.abort.abort(new Error("the agent stops"));
    this.#asking.stop();
  }

  // --- what a person asks ------------------------------------------------------------------------------------------

  /** What would happen, how long nobody would be served, and what stands in the way. */
  async plan(options: SwitchoverOptions): Promise<SwitchoverPlan> {
    return await this.#asking.plan(options, this.#record);
  }

  /** Begins one; it goes on whether or not anybody follows its progress. @throws {SwitchoverRefused} */
  begin(options: SwitchoverOptions): SwitchoverProgress {
    return this.#begin(options).run.progress(0);
  }

  #begin(options: SwitchoverOptions): LeadingSwitchover {
    const known = this.#story.run;
    if (known !== undefined && !known.over) {
      const message = `one to ${known.to} is under way`;
      const hint = `understudy switchover ${this.#workers.config.name} --abort takes it back.`;
      throw new SwitchoverRefused([{ code: "SWITCHOVER_UNDER_WAY", message, hint }]);
    }
    const obstacles = this.#asking.ownObstacles(options, this.#record);
    if (obstacles.length > 0) throw new SwitchoverRefused(obstacles);
    const run = new SwitchoverRun(randomBytes(8).toString("hex"), this.#workers.options.node, options.to);
    this.#story.run = run;
    this.#handed.forget();
    const abort = new AbortController();
    const ended = this.#lead(run, options, abort.signal)
      .catch((error: unknown) => this.#workers.options.onFatal(error))
      .finally(() => {
        if (this.#leading?.abort === abort) this.#leading = undefined;
      });
    const leading = { run, abort, ended };
    this.#leading = leading;
    return leading;
  }

  /** @throws {SwitchoverRefused} for what would stand in the way at any time */
  async schedule(options: SwitchoverOptions, at: string): Promise<SwitchoverSchedule> {
    return await this.#planning.schedule(options, at, this.#record);
  }

  async progress(after: number): Promise<SwitchoverProgress> {
    const run = this.#story.run;
    if (run === undefined) throw new NoSwitchover("there was no switchover since the agent was started");
    await run.news(after, newsMsMax);
    return run.progress(after);
  }

  /** Takes back one that is under way, as far as that is still possible. */
  async abort({ acceptUnreachable, by }: { acceptUnreachable: boolean; by: string }): Promise<AbortSwitchoverAnswer> {
    const cancelled = await this.#planning.cancel(by);
    const run = this.#story.run;
    const leading = this.#leading;
    const tell = (): void => this.#story.note("abort", by === "" ? "it was aborted" : `${by} aborts it`);
    if (leading !== undefined && run !== undefined) {
      tell();
      leading.abort.abort(new Error("it was aborted"));
      await leading.ended;
      if (run.over) return { cancelled, ended: run.progress(0) };
    }
    // It may have been written down just then.
    const record = this.#record;
    if (record === undefined || run === undefined) {
      if (cancelled !== null) return { cancelled, ended: null };
      const why =
        run === undefined || run.over ? "there is no switchover to abort" : `${run.to} has taken over already`;
      throw new NoSwitchover(why);
    }
    if (leading === undefined) tell();
    if (record.step === "handing" && !acceptUnreachable && !this.#follows(record.to))
      throw new InDoubt(record.to, this.#workers.config.name);
    if (record.step !== "rolling-back")
      await this.#workers.exclusively(async () => await this.#takeBack(record, acceptUnreachable, by));
    await this.#ended(run);
    return { cancelled, ended: run.progress(0) };
  }

  /** Within a change of role: who was away when that was asked for may be there by now, and knows whether it has taken over. */
  async #takeBack({ id, to }: SwitchoverRecord, acceptUnreachable: boolean, by: string): Promise<void> {
    const workers = this.#workers;
    const record = this.#record;
    if (workers.stopped || workers.role !== "primary" || record?.id !== id) return;
    if (record.step !== "handing" || !acceptUnreachable || this.#follows(to)) {
      await this.#advance({ kind: "failed", reason: "it was aborted" });
      return;
    }
    const says = this.#peers.others().find(({ node }) => node === to)?.says;
    if (says !== undefined) throw new TargetAnswers(to, says);
    await workers.overridden({
      verb: "switchover",
      code: "IN_DOUBT",
      flag: "--accept-unreachable-target",
      by,
      id,
    });
    await this.#advance({ kind: "abandoned" });
  }

  #follows(peer: string): boolean {
    return this.#workers.primary?.reign.follower(peer) !== undefined;
  }

  async #ended(run: SwitchoverRun): Promise<void> {
    const { limits, hooks } = this.#workers.config;
    const end = performance.now() + limits.switchoverStepMs + (hooks.startService?.timeoutMs ?? 0);
    for (let seen = 0; !run.over && performance.now() < end && !this.#workers.stopped; seen = run.progress(0).next)
      await run.news(seen, newsMsMax);
  }

  // --- before anything is written down -----------------------------------------------------------------------------

  async #lead(run: SwitchoverRun, options: SwitchoverOptions, aborted: AbortSignal): Promise<void> {
    const { log, config } = this.#workers;
    try {
      const { obstacles, rttMs } = await within(this.#asking.ask(options, this.#record), aborted);
      if (obstacles.length > 0) throw new SwitchoverRefused(obstacles);
      const { by = "" } = options;
      this.#story.note("checked", `nothing stands in the way; ${options.to} answers in ${(rttMs ?? 0).toFixed(1)} ms`, {
        by,
      });
      for (const { code, flag = null, message } of this.#asking.ownObstacles({ ...options, accept: [] }, this.#record))
        await this.#workers.overridden({ verb: "switchover", code, flag, by, reason: message, id: run.id });
      const reign = this.#reign();
      const signal = AbortSignal.any([aborted, AbortSignal.timeout(config.limits.switchoverStepMs)]);
      // While the service runs: what is left to be cut when it stands still is little then.
      const { cut } = await within(reign.requestCut(), signal);
      await within(reign.appliedAt(cut, options.to, signal), signal);
      this.#story.note("in-step", `${options.to} holds and has applied cut ${cutText(cut)}`);
      await this.#on({ kind: "asked", id: run.id, to: options.to }, aborted);
      if (this.#record?.id !== run.id) throw new WrongRole("a switchover is asked of the primary", this.#workers.role);
    } catch (error) {
      if (this.#workers.stopped) return;
      log.warn("switchover.refused", { to: options.to, error });
      this.#story.mark("refused", { id: run.id, to: options.to, by: options.by ?? "", reason: explain(error) });
      run.end("refused", explain(error), hintOf(error));
    }
  }

  // --- the machine -------------------------------------------------------------------------------------------------

  /** One event after the other, as changes of role are; what it leads to is durable when this resolves. */
  async #on(event: SourceEvent, aborted?: AbortSignal): Promise<void> {
    await this.#workers.exclusively(async () => {
      aborted?.throwIfAborted();
      if (!this.#workers.stopped && this.#workers.role === "primary") await this.#advance(event);
    });
  }

  async #advance(event: SourceEvent): Promise<void> {
    const before = this.#record;
    const { record, actions } = sourceStep(before, event);
    if (record !== before) {
      try {
        await this.#keep(record, actions);
      } catch (error) {
        if (this.#workers.stopped) return;
        // In doubt it stays, and whoever wants to give the target up hears why that could not be written.
        if (before === undefined || actions.includes("new-epoch")) throw error;
        if (record?.step === "handing" && before.step !== "handing") {
          await this.#advance({ kind: "failed", reason: explain(error) });
          return;
        }
        // On the way back: a restart goes the same way from what the catalog has.
        this.#workers.log.error("switchover.unwritten", { step: record?.step ?? "in service", error });
        this.#workers.primary?.reign.holdSwitchover(record);
        this.#kept = false;
        this.#keepLater();
      }
      this.#record = record;
      this.#entered(before, record);
      // From here on it is somebody else's to say that the service may run, or ours again.
      if (record?.step === "stopping") await this.#service.update("switchover");
    }
    for (const action of actions) this.#perform(action);
  }

  async #keep(record: SwitchoverRecord | undefined, actions: readonly SourceAction[]): Promise<void> {
    const reign = this.#reign();
    if (actions.includes("new-epoch") && record !== undefined) {
      await reign.abandonSwitchover({ record, turn: this.#workers.turn, target: this.#workers.turnOf(record.to) });
    } else await reign.keepSwitchover(record);
    this.#kept = true;
  }

  #keepLater(): void {
    setTimeout(() => {
      if (this.#workers.stopped || this.#kept) return;
      this.#workers
        .exclusively(async () => {
          if (!this.#kept && this.#workers.primary !== undefined) await this.#keep(this.#record, []);
        })
        .catch(() => this.#keepLater());
    }, keepAgainMs).unref();
  }

  /** Says where it is by now. */
  #entered(before: SwitchoverRecord | undefined, record: SwitchoverRecord | undefined): void {
    if (record === undefined) return;
    const { step, reason } = record;
    if (step === before?.step) return;
    switch (step) {
      case "stopping":
        this.#story.note("stopping", `stopping the service on ${this.#workers.options.node}`);
        this.#story.run?.pauseBegins();
        break;
      case "cutting":
        break;
      case "handing":
        this.#story.note("handing", `sealed at cut ${cutText(record.cut)}, digest ${hex(record.digest).slice(0, 16)}`, {
          cut: cutText(record.cut),
          digest: hex(record.digest),
        });
        this.#accepted = false;
        this.#notDemoted = "";
        this.#lateAt = performance.now() + this.#workers.config.limits.switchoverStepMs;
        this.#timer = setTimeout(() => this.#handoverIsLate(), this.#workers.config.limits.switchoverStepMs);
        break;
      case "rolling-back":
        clearTimeout(this.#timer);
        this.#story.run?.goesOn();
        this.#story.note("rolling-back", `going back: ${reason}`, { reason });
        break;
      default:
        unreachable(record);
    }
  }

  #handoverIsLate(): void {
    const record = this.#record;
    // That it has taken over shows in its history as soon as it is met.
    if (record?.step !== "handing" || this.#accepted) return;
    const limit = `${this.#workers.config.limits.switchoverStepMs / 1000} s`;
    this.#fail(`${record.to} did not answer within ${limit}`);
  }

  #fail(reason: string): void {
    this.#on({ kind: "failed", reason }).catch((error: unknown) => this.#workers.options.onFatal(error));
  }

  #perform(action: SourceAction): void {
    const record = this.#record;
    switch (action) {
      case "stop-service":
        this.#act(async (signal) => {
          const { stopService } = this.#workers.config.hooks;
          await this.#service.stopTarget();
          if (stopService !== undefined) {
            const environment = { ...this.#workers.environment(), UNDERSTUDY_REASON: "switchover" };
            const { ms } = await this.#workers.options.hooks.run("stop_service", stopService, environment, signal);
            // Nobody is served, and nobody waits for that.
            this.#times.note({ stopMs: Math.round(ms) }).catch(this.#workers.options.onFatal);
          }
          this.#story.note(
            "stopped",
            stopService === undefined ? "no stop_service is configured" : "the service is stopped",
          );
          await this.#on({ kind: "stopped" });
        });
        return;
      case "last-cut":
        this.#act(async (signal) => await this.#lastCut(record, signal));
        return;
      case "send-handover":
        if (record?.step === "handing")
          this.#send({ kind: "handover", id: record.id, cut: record.cut, digest: record.digest });
        return;
      case "send-revoke":
        if (record !== undefined) this.#send({ kind: "handoverRevoke", id: record.id });
        return;
      case "start-service":
        // After a restart not before it is known that nobody else was promoted meanwhile.
        this.#act(async () => await this.#workers.exclusively(async () => await this.#service.update("rollback")));
        return;
      case "new-epoch":
        this.#story.note(
          "abandoned",
          `going on in epoch ${this.#reign().standing.epoch}, which fences ${record?.to ?? ""}`,
        );
        this.#peers.closeSessions();
        return;
      case "demote":
      case "fence":
        // Whoever met the higher epoch does that: see GroupRoles.
        return;
      default:
        unreachable(action);
    }
  }

  /** Not within a change of role: what it ends with is an event of its own. */
  #act(work: (signal: AbortSignal) => Promise<void>): void {
    const before = this.#action;
    before?.abort.abort(new Error("it goes back"));
    const abort = new AbortController();
    const ended = (async () => {
      await before?.ended;
      try {
        await work(abort.signal);
      } catch (error) {
        if (abort.signal.aborted || this.#workers.stopped) return;
        this.#workers.log.warn("switchover.failed", { step: this.#record?.step ?? "", error });
        await this.#on({ kind: "failed", reason: explain(error) });
      }
    })();
    ended.catch((error: unknown) => this.#workers.options.onFatal(error));
    this.#action = { abort, ended: ended.catch(() => undefined) };
  }

  async #lastCut(record: SwitchoverRecord | undefined, aborted: AbortSignal): Promise<void> {
    if (record === undefined) return;
    const reign = this.#reign();
    const limitMs = this.#workers.config.limits.switchoverStepMs;
    const signal = AbortSignal.any([aborted, AbortSignal.timeout(limitMs)]);
    const used = await reign.usedBy();
    if (used !== "") throw new Error(`the service is not stopped: ${used}`);
    const taken = await reign.requestCut({ still: signal });
    this.#story.note("cut", `last cut ${cutText(taken.cut)}, ${taken.payloadBytes} bytes`);
    for (const store of taken.stores) {
      const required = this.#promotion.required(store);
      if (!meets(store.consistency, required))
        throw new Error(`store ${store.name} is ${store.consistency} in the last cut (required: ${required})`);
    }
    await within(reign.appliedAt(taken.cut, record.to, signal), signal);
    this.#story.note("applied", `applied on ${record.to}`);
    // A sign of change may be late: where that is quick everything is compared again, and at any sign.
    if ((reign.lastCutMs ?? 0) <= compareAgainMsMax || (await reign.looksWritten())) {
      const again = await reign.requestCut({ still: signal });
      if (again.fresh) throw new WrittenMeanwhile(again.cut);
    }
    // Not whatever was cut since: that there is such a cut stops it.
    await this.#on({ kind: "agreed", cut: taken.cut, digest: new Uint8Array(taken.standing.digest) });
  }

  #send(message: SwitchoverMessage): void {
    const record = this.#record;
    const reign = this.#workers.primary?.reign;
    if (record === undefined || reign === undefined) return;
    reign.tell(record.to, message).then(
      (sent) => {
        if (sent || message.kind !== "handoverRevoke") return;
        this.#story.note("in-doubt", `${record.to} is not connected: whether it has taken over is not known`);
        const { message: why, hint } = new InDoubt(record.to, this.#workers.config.name);
        this.#story.run?.end("in-doubt", why, hint);
      },
      (error: unknown) => this.#workers.options.onFatal(error),
    );
  }

  // --- what the target says ----------------------------------------------------------------------------------------

  #joined(peer: string): void {
    const record = this.#record;
    if (record?.step !== "handing" || record.to !== peer) return;
    this.#on({ kind: "connected", late: performance.now() >= this.#lateAt }).catch((error: unknown) =>
      this.#workers.options.onFatal(error),
    );
  }

  #heard(peer: string, message: SwitchoverMessage): void {
    if (message.kind === "switchoverReady") {
      this.#asking.answered(message);
      return;
    }
    const record = this.#record;
    if (message.kind !== "handoverAnswer" || record?.step !== "handing") return;
    if (record.to !== peer || record.id !== message.id) return;
    const { id, accepted, reason, epoch, digest } = message;
    if (accepted && !this.#accepted) {
      this.#accepted = true;
      this.#story.run?.goesOn();
      this.#story.run?.handedOver();
      const same = hex(digest) === hex(record.digest);
      this.#story.note(
        "handed-over",
        `${peer} is primary of epoch ${epoch}; ${same ? "both digests are equal" : "DIGESTS DIFFER"}`,
        {
          epoch,
          cut: cutText(record.cut),
          digest: hex(record.digest),
          digestThere: hex(digest),
        },
      );
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#notMet(peer), this.#workers.config.limits.switchoverStepMs);
      this.#timer.unref();
    }
    this.#on({ kind: "answered", id, accepted, reason }).catch((error: unknown) =>
      this.#workers.options.onFatal(error),
    );
  }

  /** It has taken over, and nothing came of that here: whoever follows this does not wait for ever. */
  #notMet(to: string): void {
    if (this.#record?.step !== "handing") return;
    const why = this.#notDemoted === "" ? `${to} was not heard of since` : this.#notDemoted;
    this.#story.note("not-followed", `${to} has taken over, and this node does not follow it yet: ${why}`, {
      reason: why,
    });
    const { node } = this.#workers.options;
    this.#story.run?.end(
      "in-doubt",
      `${to} has taken over, and ${node} does not follow it yet: ${why}`,
      `See \`understudy status\` on ${to}: the service runs there, or nowhere. ${node} follows as soon as it can.`,
    );
  }

  /** The target has taken over, and this node cannot become its replica yet; said once for each reason. */
  notDemoted(by: string, error: unknown): void {
    const reason = explain(error);
    if (reason === this.#notDemoted) return;
    this.#notDemoted = reason;
    this.#story.note("not-demoted", `this node cannot follow ${by} yet: ${reason}`, { reason, hint: hintOf(error) });
  }

  /** This reign is over, within the change of role that follows from it. */
  superseded(how: "demoted" | "fenced", by: string): void {
    const record = this.#record;
    this.#record = undefined;
    clearTimeout(this.#timer);
    this.#action?.abort.abort(new Error("this reign is over"));
    if (record === undefined) return;
    this.#story.run?.goesOn();
    if (how === "demoted") {
      this.#story.note("demoted", `${this.#workers.options.node} follows ${by}: nothing is copied`, {});
      this.#handed.awaitFrom(record.to);
      return;
    }
    this.#story.note("fenced", `this node is fenced by ${by}`);
    this.#story.run?.end("superseded", `this node is fenced by ${by}`, `See \`understudy status\` on ${record.to}.`);
  }

  /** What the primary says that this node follows. */
  async asked(following: Following, message: SwitchoverMessage): Promise<void> {
    if (message.kind === "serviceStarted") this.#handed.heard(following.session.peer, message);
    else await this.#target.heard(following, message);
  }

  // --- parts -------------------------------------------------------------------------------------------------------

  #reign(): Reign {
    const { primary, role } = this.#workers;
    if (primary === undefined || role !== "primary") throw new WrongRole("a switchover is asked of the primary", role);
    return primary.reign;
  }

  #serviceEntered({ ms, failure }: ServiceStart): void {
    const record = this.#record;
    const noted = failure === "" ? this.#times.note({ startMs: Math.round(ms) }) : Promise.resolve();
    noted.catch((error: unknown) => this.#workers.options.onFatal(error));
    if (this.#handed.cameBack(failure)) return;
    if (record?.step !== "rolling-back") return;
    const again = failure === "" ? "the service runs here again" : `the service could not be started here: ${failure}`;
    this.#story.note("rolled-back", again, { reason: record.reason });
    this.#story.run?.pauseEnds();
    this.#on({ kind: "started" }).then(
      () => {
        const hint = failure === "" ? "" : "Start it by hand: this node is primary.";
        this.#story.run?.end("rolled-back", record.reason, hint);
      },
      (error: unknown) => this.#workers.options.onFatal(error),
    );
  }
}

/** How long the last cut may take to be compared a second time without a sign of change. */
const compareAgainMsMax = 100;
