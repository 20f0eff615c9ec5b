import { randomUUID } from "node:crypto";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type HookRun, runHook } from "../../shared/hooks.ts";
import type { Log } from "../../shared/log.ts";
import { processesWith, signalProcess } from "../../shared/processes.ts";

/** So long what an earlier agent left may take to end in an orderly way, and to be gone after SIGKILL. */
const endMs = 2000;
const goneMs = 2000;
const lookEveryMs = 10;

/** What everything that a hook starts inherits: whose it is. */
const variable = "UNDERSTUDY_HOOK";

/**
 * Which hooks are under way, as files in the state directory: an agent that was killed leaves them running, and what the next
 * one starts or stops must not meet what an earlier one was about to do. Known by a variable of their environment, so that no
 * number of a process is ever mistaken for another's; what a hook that has ended left behind, a service, is nobody's business.
 */
export class HookLedger {
  readonly #directory: string;
  readonly #log: Log;

  private constructor(directory: string, log: Log) {
    this.#directory = directory;
    this.#log = log;
  }

  /** Ends what an earlier agent's hooks were about. */
  static async open(directory: string, log: Log): Promise<HookLedger> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const ledger = new HookLedger(directory, log);
    const left = await readdir(directory);
    if (left.length > 0) await ledger.#endAll(new Set(left.map((id) => `${variable}=${id}`)));
    for (const id of left) await rm(join(directory, id), { force: true });
    return ledger;
  }

  /** As `runHook`. */
  async run(...[name, command, environment, aborted, endsWithinMs]: Parameters<typeof runHook>): Promise<HookRun> {
    const id = randomUUID();
    const path = join(this.#directory, id);
    try {
      await writeFile(path, `${name}\n`);
    } catch (error) {
      // On a full disk a service has to be stopped all the same.
      this.#log.warn("hook.unlisted", { hook: name, error });
    }
    try {
      return await runHook(name, command, { ...environment, [variable]: id }, aborted, endsWithinMs);
    } finally {
      await rm(path, { force: true }).catch((error: unknown) => this.#log.warn("hook.listed", { hook: name, error }));
    }
  }

  async #endAll(marks: ReadonlySet<string>): Promise<void> {
    const begun = performance.now();
    const told = new Set<number>();
    for (;;) {
      const left = await withMark(marks);
      if (left.length === 0) return;
      const ms = performance.now() - begun;
      if (ms > endMs + goneMs) {
        const hint = "They were begun by a hook of an agent that was killed. End them by hand.";
        return this.#log.error("hook.left", { pids: left.join(" "), hint });
      }
      for (const pid of left) {
        if (ms > endMs) signalProcess(pid, "SIGKILL");
        else if (!told.has(pid)) {
          this.#log.warn("hook.ended", { pid, reason: "the agent that ran it was killed" });
          signalProcess(pid, "SIGTERM");
        }
        told.add(pid);
      }
      await sleep(lookEveryMs);
    }
  }
}

async function withMark(marks: ReadonlySet<string>): Promise<number[]> {
  return await processesWith(async (pid) => {
    if (pid === process.pid) return false;
    const environment = await readFile(`/proc/${pid}/environ`, "latin1");
    return environment.split("\0").some((entry) => marks.has(entry));
  });
}
