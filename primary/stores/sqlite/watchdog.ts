import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

/**
 * A second process that kills this one when it sits on the write lock for too long: nothing within this process would
 * still run if it were stopped or caught in the kernel, and the adapter's thread may be busy hashing. A shell and a
 * sleep, since another Node process would cost the primary 40 MB to wait for something that should never happen.
 */
export class Watchdog {
  readonly #process;
  #alive = true;
  #answered: ((armed: boolean) => void) | undefined;

  constructor(writeLockMsMax: number) {
    // A stop of the whole unit signals this shell too; it must outlive what it watches, which ends its input.
    const script = `trap '' INT TERM HUP
    while read order; do
      case $order in
        arm) (sleep ${writeLockMsMax / 1000}; kill -KILL ${process.pid}) >/dev/null 2>&1 & timer=$!; echo armed;;
        disarm) kill -KILL $timer;;
      esac
    done
    [ -z "$timer" ] || kill -KILL $timer`;
    this.#process = spawn("/bin/sh", ["-c", script], { stdio: ["pipe", "pipe", "ignore"] });
    createInterface({ input: this.#process.stdout }).on("line", () => this.#answered?.(true));
    const lost = () => {
      this.#alive = false;
      this.#answered?.(false);
    };
    this.#process.on("error", lost);
    this.#process.on("exit", lost);
    this.#process.stdin.on("error", lost);
  }

  /** False when there is no watchdog any more. The time to get the lock counts as well. */
  async arm(): Promise<boolean> {
    if (!this.#alive) return false;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#answered = resolve;
    this.#process.stdin.write("arm\n");
    return await promise;
  }

  disarm(): void {
    this.#process.stdin.write("disarm\n");
  }

  close(): void {
    this.#process.stdin.end();
  }
}
