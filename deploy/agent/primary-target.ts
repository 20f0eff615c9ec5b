import type { NodeConfig } from "../../shared/config/config.ts";
import { type HookCommand, hurriedKillDelayMs, runHook } from "../../shared/hooks.ts";
import type { Log } from "../../shared/log.ts";

const startMs = 10_000;
/** What is part of the target is stopped with it, and that may take its time. */
const stopMs = 100_000;

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

/** Tells the service manager whether the group is in service here. That it cannot be told is loud, and stops nothing. */
export class PrimaryTarget {
  readonly #commands: TargetCommands | undefined;
  readonly #log: Log;
  /** What was said last; undefined: nothing in this run. */
  #reached: boolean | undefined;
  #last: Promise<void> = Promise.resolve();

  constructor(commands: TargetCommands | undefined, log: Log) {
    this.#commands = commands;
    this.#log = log;
  }

  /** Resolves when it was told; what is told comes in the order of the calls. */
  async tell(reached: boolean, environment: Record<string, string>, unwanted?: AbortSignal): Promise<void> {
    if (this.#commands === undefined || this.#reached === reached) return await this.#last;
    this.#reached = reached;
    const name = reached ? "start" : "stop";
    const command = this.#commands[name];
    this.#last = this.#last.then(async () => {
      try {
        await runHook(`primary_target.${name}`, command, environment, unwanted, hurriedKillDelayMs);
      } catch (error) {
        this.#log.error("hook.failed", { hook: `primary_target.${name}`, error });
        // It is told again when it is asked for again.
        if (this.#reached === reached) this.#reached = undefined;
      }
    });
    await this.#last;
  }
}
