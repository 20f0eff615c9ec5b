/**
 * The process that holds a database's locks for the adapter. It is a process of its own because SQLite's locks are
 * fcntl locks: a process loses all of them on a file when it closes any descriptor of that file, and the adapter opens
 * and closes the database file as it reads it. This process must therefore never close a descriptor of the database or
 * its `-shm`; reading `-wal`, on which nobody locks, is harmless.
 *
 * It reads one request a line on stdin, answers each on stdout, and ends when stdin does, so that it never outlives the
 * agent. It runs as the database's owner, so that files that SQLite makes here are open to the application.
 */
import { closeSync, fdatasyncSync, fstatSync, openSync, readSync } from "node:fs";
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
import { Watchdog } from "./watchdog.ts";

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
  let last: LastOne | undefined;
  for await (const line of createInterface({ input: process.stdin })) {
    let reply: HolderReply;
    try {
      const request: HolderRequest = JSON.parse(line);
      if (request.op === "exclude" || request.op === "finish") {
        last ??= new LastOne(options);
        reply = { ok: true, result: request.op === "exclude" ? last.exclude() : last.finish() };
      } else {
        holder ??= new Holder(options);
        reply = { ok: true, result: await answer(holder, watchdog, request) };
      }
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
  request: Exclude<HolderRequest, { readonly op: "exclude" | "finish" }>,
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
      const { tail, quick } = holder.approach(request.from, request.roundMsMax);
      // Never on the write lock without somebody who would end it.
      const armed = quick && (await watchdog.arm());
      if (!armed) return { ...tail, complete: false, lockedMs: 0 };
      try {
        return holder.turn(tail, request.tailBytesMax, request.lockWaitMs);
      } finally {
        watchdog.disarm();
      }
    }
  }
}

class Holder {
  readonly #logPath: string;
  /** For syncs alone. It is never closed while this process lives: that would drop all its locks on the file. */
  readonly #database: number;
  /** The standing reader, and the one that is not in a transaction except while one hands over to the other. */
  #standing: DatabaseSync;
  #spare: DatabaseSync;
  readonly #writer: DatabaseSync;
  readonly #checkpointer: DatabaseSync;

  constructor(options: HolderArguments) {
    this.#logPath = `${options.path}-wal`;
    this.#database = openSync(options.path, "r");
    const connect = () => open(options);
    this.#standing = connect();
    this.#spare = connect();
    this.#writer = connect();
    this.#writer.exec("PRAGMA busy_timeout = 0");
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
   * Leaves little to do for the moment when writers wait: the reader moves up, the frames below it go to the database
   * file, and both files are synced, each round over what was written during the one before. `quick` when the last
   * round was: then so will be the turn. `tail` is what was read on the way, and may never be thrown away.
   */
  approach(from: WalPosition, roundMsMax: number): { tail: Tail; quick: boolean } {
    let tail: Tail = { end: from, commits: [] };
    let quick = false;
    const end = performance.now() + approachMsMax;
    for (let begunAt = performance.now(); !quick && begunAt < end; begunAt = performance.now()) {
      const further = this.#catchUp(tail);
      if (further === undefined) break;
      tail = further;
      this.#checkpointWaiting(approachWaitMs);
      fdatasyncSync(this.#database);
      quick = performance.now() - begunAt < roundMsMax;
    }
    return { tail, quick };
  }

  /** Moves the standing reader to the end of the log, and reads what lies before it; undefined when it is another log. */
  #catchUp(tail: Tail): Tail | undefined {
    this.second();
    const more = readTail(this.#logPath, tail.end, Number.POSITIVE_INFINITY);
    if (more === undefined) {
      this.#spare.exec("COMMIT");
      return undefined;
    }
    this.swap();
    return { end: more.end, commits: [...tail.commits, ...more.commits] };
  }

  /**
   * Writers wait from BEGIN IMMEDIATE to ROLLBACK. In between nobody can add a frame: the standing reader moves to the
   * end of the log (the writer's own transaction pins it meanwhile), all frames go to the database file, and a reader
   * that then begins needs no log at all, which lets the next writer start the log anew. The last few frames are read
   * here and not by the adapter, whose thread may be busy while writers wait.
   */
  turn(approached: Tail, tailBytesMax: number, lockWaitMs: number): TurnResult {
    const before = this.#catchUp(approached) ?? approached;
    if (!this.#lockWriting(lockWaitMs)) return { ...before, complete: false, lockedMs: 0 };
    const lockedAt = performance.now();
    let last: Tail | undefined;
    let complete = false;
    try {
      last = readTail(this.#logPath, before.end, tailBytesMax);
      if (last !== undefined) {
        this.#standing.exec("COMMIT");
        beginReading(this.#standing);
        const { busy, log, checkpointed } = this.#checkpointWaiting(lockedWaitMs);
        complete = !busy && log === checkpointed && log === last.end.frame;
        this.second();
        this.swap();
      }
    } finally {
      this.#writer.exec("ROLLBACK");
    }
    const lockedMs = performance.now() - lockedAt;
    const { end, commits } = last ?? { end: before.end, commits: [] };
    return { end, commits: [...before.commits, ...commits], complete, lockedMs };
  }

  /** A busy writer checkpoints too, at the end of each of its commits: waits for it, as long as it may take. */
  #checkpointWaiting(waitMs: number): Checkpointed {
    const end = performance.now() + waitMs;
    for (;;) {
      const result = this.checkpoint();
      if (!result.busy || performance.now() >= end) return result;
      Atomics.wait(pause, 0, 0, checkpointPauseMs);
    }
  }

  /** Asks again and again: SQLite's own waiting sleeps for milliseconds, and misses the gaps that a busy writer leaves. */
  #lockWriting(lockWaitMs: number): boolean {
    const end = performance.now() + lockWaitMs;
    do {
      try {
        this.#writer.exec("BEGIN IMMEDIATE");
        return true;
      } catch (error) {
        if (codeOf(error) !== sqliteBusy) throw error;
      }
      Atomics.wait(pause, 0, 0, lockPauseMs);
    } while (performance.now() < end);
    return false;
  }

  close(): void {
    for (const connection of [this.#writer, this.#checkpointer, this.#spare, this.#standing]) connection.close();
  }
}

/**
 * The database's last user: from `exclude` to the end of `finish` nobody else can read or write it, so what is found in its
 * files then is what stays in them. With EXCLUSIVE locking from the first access SQLite needs no `-shm`, and takes its
 * lock only where no other connection is open.
 */
class LastOne {
  readonly #options: HolderArguments;
  readonly #alone: DatabaseSync;

  constructor(options: HolderArguments) {
    this.#options = options;
    this.#alone = open(options);
  }

  exclude(): HolderResults["exclude"] {
    this.#alone.exec("PRAGMA locking_mode = EXCLUSIVE");
    // Plays back a journal, and recovers a log, that an unclean end left.
    this.#alone.exec("BEGIN EXCLUSIVE");
    const mode = this.#alone.prepare("PRAGMA journal_mode").get();
    return { journal: mode?.journal_mode === "wal" ? "wal" : "rollback" };
  }

  finish(): null {
    this.#alone.exec("ROLLBACK");
    const { journal_mode: journal } = this.#alone.prepare("PRAGMA journal_mode").get() ?? {};
    if (journal === "wal") {
      const row = this.#alone.prepare("PRAGMA wal_checkpoint(TRUNCATE)").get();
      if (row?.busy !== 0) throw new Error(`the log could not be brought into the file: ${JSON.stringify(row)}`);
    }
    this.#alone.close();
    if (journal === "wal") {
      // An ordinary connection's end takes the `-shm` away that others have left.
      const ordinary = open(this.#options);
      beginReading(ordinary);
      ordinary.exec("COMMIT");
      ordinary.close();
    }
    return null;
  }
}

/** By a URL, since only there SQLite can be told not to make a database that is missing. */
function open(options: HolderArguments): DatabaseSync {
  const url = pathToFileURL(options.path);
  url.search = "mode=rw";
  return new DatabaseSync(url, { timeout: options.busyMs });
}

/** Reads no schema: what the application's tables need (extensions, collations) may not exist here. */
function beginReading(connection: DatabaseSync): void {
  connection.exec("BEGIN");
  try {
    connection.prepare("PRAGMA user_version").get();
  } catch (error) {
    // SQLite has ended it by itself after some errors.
    if (connection.isTransaction) connection.exec("ROLLBACK");
    throw error;
  }
}

type Tail = Pick<TurnResult, "end" | "commits">;

/** What was committed since `from`; undefined when that is more than `tailBytesMax`, or the log is another one by now. */
function readTail(logPath: string, from: WalPosition, tailBytesMax: number): Tail | undefined {
  const log = openSync(logPath, "r");
  try {
    const commits: LoggedCommit[] = [];
    let budget = tailBytesMax;
    const size = fstatSync(log).size;
    const header = Buffer.alloc(walHeaderBytes);
    const present = parseWalHeader(header.subarray(0, readSync(log, header, 0, header.length, 0)));
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

const sqliteBusy = 5;
/** No view can be entered meanwhile. */
const approachMsMax = 200;
const approachWaitMs = 100;
/** While writers wait. */
const lockedWaitMs = 4;
const checkpointPauseMs = 0.2;
const lockPauseMs = 0.05;
const pause = new Int32Array(new SharedArrayBuffer(4));

function codeOf(error: unknown): number {
  return error instanceof Error && "errcode" in error ? Number(error.errcode) & 0xff : 0;
}

// A signal to the whole process group is for the agent to act on: it still needs the locks for its last cut.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
await main();
