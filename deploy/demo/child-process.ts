import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { isSystemError } from "../../shared/errors.ts";

/** A process that this one started, and ends by its own id at the latest when its scope is left. */
export class Child implements AsyncDisposable {
  readonly process: ChildProcess;
  /** Resolves when it has ended, with how. Never rejects. */
  readonly ended: Promise<string>;
  #over = false;

  constructor(file: string, args: readonly string[], options: SpawnOptions) {
    this.process = spawn(file, args, options);
    this.ended = new Promise((resolve) => {
      this.process.once("error", (error) => resolve(`could not be started: ${error.message}`));
      this.process.once("exit", (code, signal) =>
        resolve(signal === null ? `exited with ${code}` : `ended by ${signal}`),
      );
    }).then((how) => {
      this.#over = true;
      return how as string;
    });
  }

  get pid(): number {
    return this.process.pid ?? 0;
  }

  get running(): boolean {
    return !this.#over && this.pid !== 0;
  }

  /** SIGKILL, as a machine would stop it: it finishes nothing. Returns at once. */
  kill9(): void {
    this.#signal("SIGKILL");
  }

  /** Asks it to end, and insists when it does not within the time. */
  async stop(graceMs = 10_000): Promise<string> {
    this.#signal("SIGTERM");
    const timer = setTimeout(() => this.kill9(), graceMs);
    try {
      return await this.ended;
    } finally {
      clearTimeout(timer);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill9();
    await this.ended;
  }

  #signal(signal: NodeJS.Signals): void {
    if (!this.running) return;
    try {
      process.kill(this.pid, signal);
    } catch (error) {
      // It has just ended by itself, which is what was wanted.
      if (!isSystemError(error, "ESRCH")) throw error;
    }
  }
}
