import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { isSystemError, UnderstudyError } from "../errors.ts";

/**
 * Holds a state directory for this process alone until disposed of, or until the process ends in whatever way: it is a
 * lock of the kernel (SQLite's exclusive lock on `lock.db`), so a SIGKILL releases it at once and no stale file is left
 * to be judged. A pid file can be stolen in the moment between looking and taking; a socket does not reach over
 * network namespaces. `lock.db` stays empty and must not be deleted: another one would be another lock. Opened by
 * anyone but SQLite in this process, closing it would release the lock.
 * @throws {StateDirectoryInUse} when another process, or another part of this one, holds it.
 */
export async function lockDirectory(path: string): Promise<AsyncDisposable> {
  const holderPath = join(path, "lock.holder");
  // A microsecond of one lock call on a file of no bytes: the only database that the main thread touches.
  const database = new DatabaseSync(join(path, "lock.db"), { timeout: 0 });
  try {
    database.exec("BEGIN EXCLUSIVE");
  } catch (cause) {
    database.close();
    if (isBusy(cause)) throw new StateDirectoryInUse(path, await holderOf(holderPath), { cause });
    throw cause;
  }
  held.add(database);
  const release = () => {
    if (held.delete(database)) database.close();
  };
  try {
    await writeFile(holderPath, `${process.pid}\n`, { mode: 0o600 });
  } catch (error) {
    release();
    throw error;
  }
  return { [Symbol.asyncDispose]: async () => release() };
}

/** A connection that nothing refers to is collected, and with it the lock. */
const held = new Set<DatabaseSync>();

const sqliteBusy = 5;

function isBusy(error: unknown): boolean {
  return error instanceof Error && "errcode" in error && error.errcode === sqliteBusy;
}

/** For the message only: it is written after the lock was taken, so it may name the holder before, or nobody yet. */
async function holderOf(path: string): Promise<string> {
  try {
    const pid = (await readFile(path, "utf8")).trim();
    return pid === "" ? "another process" : `process ${pid}`;
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return "another process";
    throw error;
  }
}

export class StateDirectoryInUse extends UnderstudyError {
  readonly code = "STATE_DIRECTORY_IN_USE";
  readonly remedy = "stop";
  readonly state = "The agent that holds it goes on undisturbed; this one has changed nothing.";
  readonly hint = "Each node has one agent: stop the other one, or give this one a state directory of its own.";

  constructor(path: string, holder: string, options?: ErrorOptions) {
    super(`state directory ${path} is held by ${holder}`, options);
  }
}
