/**
 * The process that holds a database's locks for the adapter. It is a process of its own because SQLite's locks are
 * fcntl locks: a process loses all of them on a file when it closes any descriptor of that file, and the adapter opens
 * and closes the database file as it reads it. This process must therefore never open the database (or its `-shm`) but
 * through SQLite; reading `-wal`, on which nobody locks, is harmless.
 *
 * It reads one request a line on stdin, answers each on stdout, and ends when stdin does, so that it never outlives the
 * agent. It runs as the database's owner, so that files that SQLite makes here are open to the application.
 */
import { spawn } from "node:child_process";
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { createInterface } from "node:readline";
import { DatabaseSync } from "node:sqlite";
import { pathToFileURL } from "node:url";
import type {
  Checkpointed,
  HolderArguments,
  HolderReply,
  HolderRequest,
  HolderResults,
  LoggedCommit,
  TurnResult,
} from "./holder-protocol.ts";
import { endOffset, parseWalHeader, sameGeneration, scanWal, type WalPosition, walHeaderBytes } from "./wal.ts";

async function main(): Promise<void> {
  const options: HolderArguments = JSON.parse(process.argv[2]!);
  // Started as root and changed here, not by spawn: the owner need not be able to read the program.
  if (options.owner !== undefined && process.setgroups && process.setgid && process.setuid) {
    process.setgroups([options.owner.gid]);
    process.setgid(options.owner.gid);
    process.setuid(options.owner.uid);
  }
  const watchdog = new Watchdog(options.writeLockMsMax);
  let holder: Holder | undefined;
  for await (const line of createInterface({ input: process.stdin })) {
    let reply: HolderReply;
    try {
      holder ??= new Holder(options);
      reply = { ok: true, result: await answer(holder, watchdog, JSON.parse(line)) };
    } catch (error) {
      reply = { ok: false, message: error instanceof Error ? error.message : String(error), sqliteCode: codeOf(error) };
    }
    process.stdout.write(`${JSON.stringify(reply)}\n`);
  }
  holder?.close();
  watchdog.close();
}

async function answer(
  holder: Holder,
  watchdog: Watchdog,
  request: HolderRequest,
): Promise<HolderResults[keyof HolderResults]> {
  switch (request.op) {
    case "hold":
      return holder.hold();
    case "release":
      return holder.release();
    case "second":
      return holder.second();
    case "swap":
      return holder.swap();
    case "checkpoint":
      return holder.checkpoint();
    case "turn": {
      // Never on the write lock without somebody who would end it.
      if (!(await watchdog.arm())) return { kind: "skipped", why: "unwatched" };
      try {
        return holder.turn(request.from, request.tailBytesMax, request.lockWaitMs);
      } finally {
        watchdog.disarm();
      }
    }
  }
}

class Holder {
  readonly #path: string;
  /** The standing reader, and the one that is not in a transaction except while one hands over to the other. */
  #standing: DatabaseSync;
  #spare: DatabaseSync;
  readonly #writer: DatabaseSync;
  readonly #checkpointer: DatabaseSync;

  constructor(options: HolderArguments) {
    this.#path = options.path;
    // A URL, since only there SQLite can be told not to make a database that is missing.
    const url = pathToFileURL(options.path);
    url.search = "mode=rw";
    const connect = () => new DatabaseSync(url, { timeout: options.busyMs });
    this.#standing = connect();
    this.#spare = connect();
    this.#writer = connect();
    this.#checkpointer = connect();
  }

  hold(): HolderResults["hold"] {
    beginReading(this.#standing);
    const mode = this.#standing.prepare("PRAGMA journal_mode").get();
    return { journal: mode?.journal_mode === "wal" ? "wal" : "rollback" };
  }

  release(): null {
    if (this.#standing.isTransaction) this.#standing.exec("COMMIT");
    return null;
  }

  second(): null {
    beginReading(this.#spare);
    return null;
  }

  swap(): null {
    this.#standing.exec("COMMIT");
    [this.#standing, this.#spare] = [this.#spare, this.#standing];
    return null;
  }

  checkpoint(): Checkpointed {
    const row = this.#checkpointer.prepare("PRAGMA wal_checkpoint(PASSIVE)").get()!;
    return { busy: row.busy !== 0, log: Number(row.log), checkpointed: Number(row.checkpointed) };
  }

  /**
   * Writers wait from BEGIN IMMEDIATE to ROLLBACK. In between nobody can add a frame: the standing reader moves to the
   * end of the log (the writer's own transaction pins it meanwhile), all frames go to the database file, and a reader
   * that then begins needs no log at all, which lets the next writer start the log anew. The last few frames are read
   * here and not by the adapter, whose thread may be busy while writers wait.
   */
  turn(from: WalPosition, tailBytesMax: number, lockWaitMs: number): TurnResult {
    this.#writer.exec(`PRAGMA busy_timeout = ${lockWaitMs}`);
    try {
      this.#writer.exec("BEGIN IMMEDIATE");
    } catch (error) {
      if (codeOf(error) === sqliteBusy) return { kind: "skipped", why: "locked" };
      throw error;
    }
    const lockedAt = performance.now();
    let tail: Tail | undefined;
    let complete = false;
    try {
      tail = readTail(`${this.#path}-wal`, from, tailBytesMax);
      if (tail !== undefined) {
        this.#standing.exec("COMMIT");
        beginReading(this.#standing);
        const { busy, log, checkpointed } = this.checkpoint();
        complete = !busy && log === checkpointed && log === tail.end.frame;
        beginReading(this.#spare);
        this.swap();
      }
    } finally {
      this.#writer.exec("ROLLBACK");
    }
    if (tail === undefined) return { kind: "skipped", why: "tail" };
    return { kind: "moved", ...tail, complete, lockedMs: performance.now() - lockedAt };
  }

  close(): void {
    for (const connection of [this.#writer, this.#checkpointer, this.#spare, this.#standing]) connection.close();
  }
}

/** Reads no schema: what the application's tables need (extensions, collations) may not exist here. */
function beginReading(connection: DatabaseSync): void {
  connection.exec("BEGIN");
  try {
    connection.prepare("PRAGMA user_version").get();
  } catch (error) {
    connection.exec("ROLLBACK");
    throw error;
  }
}

type Tail = Pick<Extract<TurnResult, { kind: "moved" }>, "end" | "commits">;

/** What was committed since `from`, or undefined when it is too much to read while writers wait. */
function readTail(logPath: string, from: WalPosition, tailBytesMax: number): Tail | undefined {
  const log = openSync(logPath, "r");
  try {
    const commits: LoggedCommit[] = [];
    let budget = tailBytesMax;
    const size = fstatSync(log).size;
    const header = Buffer.alloc(walHeaderBytes);
    const present = parseWalHeader(header.subarray(0, readSync(log, header, 0, header.length, 0)));
    // Another generation has begun, of which the adapter has read nothing yet.
    if (present === undefined || !sameGeneration(present, from.header)) return undefined;
    const end = scanWal(
      from,
      (buffer, position) => {
        budget -= Math.min(buffer.length, Math.max(0, size - position));
        return budget < 0 ? 0 : readSync(log, buffer, 0, buffer.length, position);
      },
      (pages, firstFrame, databasePages) => commits.push({ pages, firstFrame, databasePages }),
    );
    if (budget < 0 && endOffset(end) < size) return undefined;
    return { end, commits };
  } finally {
    closeSync(log);
  }
}

/**
 * A second process that kills this one when it sits on the write lock for too long: nothing within this process would
 * still run if it were stopped or caught in the kernel, and the adapter's thread may be busy hashing. A shell and a
 * sleep, since another Node process would cost the primary 40 MB to wait for something that should never happen.
 */
class Watchdog {
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

const sqliteBusy = 5;

function codeOf(error: unknown): number {
  return error instanceof Error && "errcode" in error ? Number(error.errcode) & 0xff : 0;
}

// A signal to the whole process group is for the agent to act on: it still needs the locks for its last cut.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
await main();
