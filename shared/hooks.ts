import { spawn } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { isSystemError, UnderstudyError } from "./errors.ts";
import { groupRuns } from "./processes.ts";

/** A command of the operator failed or took too long. */
export class HookFailed extends UnderstudyError {
  readonly code = "HOOK_FAILED";
  readonly remedy = "stop";
  readonly state = "What the hook was asked for did not happen, or nobody knows.";
  readonly hint: string;
  constructor(name: string, what: string, stderr: string) {
    super(`hook ${name} ${what}`);
    this.hint = stderr === "" ? "It printed nothing; run it by hand." : `It printed: ${stderr}`;
  }
}

export interface HookCommand {
  readonly run: readonly [string, ...string[]];
  readonly timeoutMs: number;
}

/** What it printed, and how long it took. */
export interface HookRun {
  readonly stdout: Buffer;
  readonly ms: number;
}

const outputBytesMax = 16 * 1024 * 1024;
/** So long a hook that is not wanted any more may take to end in an orderly way. */
const killDelayMs = 2000;
/** The same where somebody waits who ends a service. */
export const hurriedKillDelayMs = 500;
/** So long what was sent SIGKILL may take to be gone: longer only where the kernel holds it, or it is not ours any more. */
const killedMs = 1000;
const lookEveryMs = 10;

/**
 * Runs an operator's command: an argv, never a shell, in a process group of its own, so that a time-out, or the signal,
 * ends what it started too: when this throws for one of them the whole group is gone. @throws {HookFailed} when it exits with anything but 0, by a signal or at its time-out
 */
export async function runHook(
  name: string,
  command: HookCommand,
  environment: Record<string, string>,
  aborted?: AbortSignal,
  endsWithinMs = killDelayMs,
): Promise<HookRun> {
  const begun = performance.now();
  const [file, ...args] = command.run;
  const child = spawn(file, args, {
    env: { ...process.env, ...environment },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  const stdout: Buffer[] = [];
  let stdoutBytes = 0;
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => {
    stdoutBytes += chunk.length;
    if (stdoutBytes <= outputBytesMax) stdout.push(chunk);
  });
  child.stderr.on("data", (chunk: Buffer) => {
    if (stderr.length < 4096) stderr += chunk.toString("utf8");
  });
  const ended = Promise.withResolvers<string | undefined>();
  let timedOut = false;
  let ending: Promise<void> | undefined;
  const end = (): void => {
    ending ??= endGroup(child.pid, endsWithinMs);
    // A grandchild in a group of its own may hold the pipes for ever: the hook is over all the same.
    ending.then(() => ended.resolve(undefined), ended.reject);
  };
  const timer = setTimeout(() => {
    timedOut = true;
    end();
  }, command.timeoutMs);
  aborted?.addEventListener("abort", end, { once: true });
  if (aborted?.aborted) end();
  child.once("error", (error) => ended.resolve(`could not be started: ${error.message}`));
  child.once("close", (code, signal) => {
    if (code === 0) ended.resolve(undefined);
    else ended.resolve(signal === null ? `exited with ${code}` : `was ended by ${signal}`);
  });
  const failure = await ended.promise;
  clearTimeout(timer);
  aborted?.removeEventListener("abort", end);
  // Its leader may be gone while others that it started go on.
  await ending;
  const text = stderr.trim().slice(0, 1000);
  if (timedOut) throw new HookFailed(name, `did not end within ${command.timeoutMs} ms and was killed`, text);
  if (aborted?.aborted) throw new HookFailed(name, "was ended, since it is not wanted any more", text);
  if (failure !== undefined) throw new HookFailed(name, failure, text);
  if (stdoutBytes > outputBytesMax) throw new HookFailed(name, `printed more than ${outputBytesMax} bytes`, "");
  return { stdout: Buffer.concat(stdout), ms: performance.now() - begun };
}

/** SIGTERM, and SIGKILL for whoever is left of the group after `withinMs`. */
async function endGroup(leader: number | undefined, withinMs: number): Promise<void> {
  if (leader === undefined) return;
  const begun = performance.now();
  let killed = false;
  signalGroup(leader, "SIGTERM");
  while (await groupRuns(leader)) {
    const ms = performance.now() - begun;
    if (ms > withinMs + killedMs) return;
    if (ms > withinMs && !killed) signalGroup(leader, "SIGKILL");
    killed = ms > withinMs;
    await sleep(lookEveryMs);
  }
}

function signalGroup(leader: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-leader, signal);
  } catch (error) {
    // It has just ended, or belongs to somebody else by now, as by `sudo`: then it cannot be ended, only waited for.
    if (!isSystemError(error, "ESRCH", "EPERM")) throw error;
  }
}
