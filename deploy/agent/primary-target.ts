import type { NodeConfig } from "../../shared/config/config.ts";
import { explain } from "../../shared/errors.ts";
import { type HookCommand, hurriedKillDelayMs } from "../../shared/hooks.ts";
import type { Log } from "../../shared/log.ts";
import type { HookLedger } from "./hook-ledger.ts";

const startMs = 10_000;
/** What is part of the target is stopped with it, and that may take its time. */
const stopMs = 100_000;
/** What failed is tried again after so long at first, and at the longest. */
const againMinMs = 1000;
const againMaxMs = 60_000;

export interface TargetCommands {
  readonly start: HookCommand;
  readonly stop: HookCommand;
}

/** The unit of systemd that is reached while a group is in service on this node. */
export function targetUnit(group: string): string {
  return `understudy-primary@${group}.target`;
}

export function targetCommands(configured: NodeConfig["primaryTarget"], group: string): TargetCommands | undefined {
  if (configured !== "systemd") return configured;
  const unit = targetUnit(group);
  return {
    // What is wanted by it may ask this agent before it starts: nobody waits for it here.
    start: { run: ["systemctl", "--no-block", "--job-mode=replace", "start", unit], timeoutMs: startMs },
    stop: { run: ["systemctl", "--job-mode=replace", "stop", unit], timeoutMs: stopMs },
  };
}

/**
 * Tells the service manager whether the group is in service here. That it cannot be told is loud, and is tried again, with more
 * and more time between, for as long as somebody asks.
 */
export class PrimaryTarget {
  readonly #commands: TargetCommands | undefined;
  readonly #hooks: Pick<HookLedger, "run">;
  readonly #log: Log;
  /** What was said last, or tried to; undefined: nothing in this run. */
  #reached: boolean | undefined;
  /** Why that failed; "" when it did not, or is under way. */
  #failure = "";
  #pauseMs = againMinMs;
  #againAt = 0;
  #last: Promise<void> = Promise.resolve();

  constructor(commands: TargetCommands | undefined, hooks: Pick<HookLedger, "run">, log: Log) {
    this.#commands = commands;
    this.#hooks = hooks;
    this.#log = log;
  }

  /** Resolves when it was told, with why it could not be, or ""; what is told comes in the order of the calls. */
  async tell(reached: boolean, environment: Record<string, string>, unwanted?: AbortSignal): Promise<string> {
    const commands = this.#commands;
    if (commands === undefined) return "";
    const changes = this.#reached !== reached;
    if (changes) this.#pauseMs = againMinMs;
    if (changes || (this.#failure !== "" && performance.now() >= this.#againAt)) {
      this.#reached = reached;
      this.#failure = "";
      const told = this.#last.then(async () => await this.#run(commands, reached, environment, unwanted));
      this.#last = told;
    }
    await this.#last;
    return this.#reached === reached ? this.#failure : "";
  }

  async #run(
    commands: TargetCommands,
    reached: boolean,
    environment: Record<string, string>,
    unwanted: AbortSignal | undefined,
  ): Promise<void> {
    const word = reached ? "start" : "stop";
    const hook = `primary_target.${word}`;
    try {
      await this.#hooks.run(hook, commands[word], environment, unwanted, hurriedKillDelayMs);
    } catch (error) {
      this.#log.error("hook.failed", { hook, error });
      if (this.#reached !== reached) return;
      this.#failure = explain(error);
      this.#againAt = performance.now() + this.#pauseMs;
      this.#pauseMs = Math.min(this.#pauseMs * 2, againMaxMs);
    }
  }
}
