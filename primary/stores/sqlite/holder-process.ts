import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { isSystemError, UnderstudyError } from "../../../shared/errors.ts";
import type { HolderArguments, HolderReply, HolderRequest, HolderResults } from "./holder-protocol.ts";

/** Beside this file in a checkout, beside the bundle when installed. */
export const defaultHolderFile = fileURLToPath(
  new URL(import.meta.url.endsWith(".ts") ? "./holder.ts" : "./holder.js", import.meta.url),
);

export class HolderLost extends UnderstudyError {
  readonly code = "HOLDER_LOST";
  readonly remedy = "retry";
  readonly state = "Nothing of this view was cut; the database is as its application left it.";
  readonly hint = "Nothing to do: the database is compared with the last cut again.";
}

export class DatabaseBusy extends UnderstudyError {
  readonly code = "DATABASE_BUSY";
  readonly remedy = "retry";
  readonly state = "Nothing was cut this time; the database is as its application left it.";
  readonly hint = "If this lasts, look for a transaction that never ends, or for locking_mode=EXCLUSIVE.";
}

/** SQLite's own refusal, as the holder met it. */
class DatabaseRefused extends UnderstudyError {
  readonly code = "DATABASE_REFUSED";
  readonly remedy = "stop";
  readonly state = "Nothing was cut; the copies on the replicas are unchanged and still promotable.";
  readonly hint = "Open the database with its application or the sqlite3 shell; its owner must be able to write it.";
}

/** The adapter's end of a holder: one process, requests answered in order. */
export class HolderProcess {
  readonly #path: string;
  readonly #process: ChildProcess & { stdin: Writable; stdout: Readable; stderr: Readable };
  readonly #waiting: PromiseWithResolvers<HolderReply>[] = [];
  readonly #exited = Promise.withResolvers<void>();
  readonly #onLost: () => void;
  #complaint = "";
  #closing = false;
  #lost: HolderLost | undefined;

  /** `onLost`: it ended unasked. */
  constructor(options: HolderArguments, holderFile: string, onLost: () => void) {
    this.#path = options.path;
    this.#onLost = onLost;
    // Its heap is tiny; without the limits V8 lets it grow to tens of megabytes before it collects.
    const flags = ["--max-semi-space-size=1", "--max-old-space-size=64"];
    this.#process = spawn(process.execPath, [...flags, holderFile, JSON.stringify(options)], {
      stdio: ["pipe", "pipe", "pipe"],
      env: { PATH: process.env.PATH ?? "/usr/bin:/bin" },
    });
    createInterface({ input: this.#process.stdout }).on("line", (line) => {
      this.#waiting.shift()?.resolve(JSON.parse(line));
    });
    this.#process.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#complaint = (this.#complaint + text).slice(-2000);
    });
    this.#process.stdin.on("error", (error) => this.#lose(error.message));
    this.#process.on("error", (error) => this.#lose(error.message));
    // "close", not "exit": by then everything that it still said has been read.
    this.#process.on("close", (code, signal) => this.#lose(signal ?? `exit code ${code}`));
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  async request<R extends HolderRequest>(request: R): Promise<HolderResults[R["op"]]> {
    if (this.#lost !== undefined) throw this.#lost;
    const waiting = Promise.withResolvers<HolderReply>();
    this.#waiting.push(waiting);
    this.#process.stdin.write(`${JSON.stringify(request)}\n`);
    const reply = await waiting.promise;
    if (reply.ok) return reply.result as HolderResults[R["op"]];
    const message = `${this.#path}: ${reply.message} (${request.op})`;
    throw reply.sqliteCode === 5 || reply.sqliteCode === 6 ? new DatabaseBusy(message) : new DatabaseRefused(message);
  }

  /** Asks the kernel: the event of its end may still wait behind a busy thread, and its locks ended with it. */
  alive(): boolean {
    if (this.#lost !== undefined || this.#process.exitCode !== null || this.#process.signalCode !== null) return false;
    try {
      const stat = readFileSync(`/proc/${this.#process.pid}/stat`, "latin1");
      const state = stat.charAt(stat.lastIndexOf(")") + 2);
      return state !== "Z" && state !== "X";
    } catch (error) {
      if (isSystemError(error, "ENOENT", "ESRCH")) return false;
      throw error;
    }
  }

  /** At once, so that no connection is closed in an orderly way: the last one would bring the log into the file. */
  async kill(): Promise<void> {
    this.#closing = true;
    if (this.#process.pid === undefined) return;
    this.#process.kill("SIGKILL");
    await this.#exited.promise;
  }

  async close(): Promise<void> {
    this.#closing = true;
    if (this.#process.pid === undefined) return;
    this.#process.stdin.end();
    const patience = new AbortController();
    const ended = await Promise.race([
      this.#exited.promise.then(() => true),
      delay(5000, false, { signal: patience.signal }).catch(() => true),
    ]);
    patience.abort();
    if (!ended) this.#process.kill("SIGKILL");
    await this.#exited.promise;
  }

  #lose(why: string): void {
    const first = this.#lost === undefined;
    this.#lost ??= new HolderLost(`${this.#path}: the process that holds it ended: ${why} ${this.#complaint}`.trim());
    this.#exited.resolve();
    for (const waiting of this.#waiting.splice(0)) waiting.reject(this.#lost);
    if (first && !this.#closing) this.#onLost();
  }
}
