import { readFileSync, statSync } from "node:fs";
import { isSystemError } from "../../../shared/errors.ts";

/** Of `-shm`: each connection to a database in WAL mode holds a shared lock on this byte for as long as it is open. */
const openByte = 128;

/**
 * Processes that have a database in WAL mode open, but for this one's own children: the holder is among them. Empty too
 * where the kernel does not tell, or the database is in rollback mode, whose users hold nothing between two transactions.
 */
export function otherUsers(databasePath: string): number[] {
  const inode = inodeOf(`${databasePath}-shm`);
  if (inode === undefined) return [];
  const found = new Set<number>();
  for (const line of readOrNothing("/proc/locks").split("\n")) {
    const lock = /^\d+: \S+ +\S+ +\S+ +(-?\d+) [0-9a-f]+:[0-9a-f]+:(\d+) (\d+) (\d+)$/.exec(line);
    if (lock === null || Number(lock[2]) !== inode) continue;
    if (Number(lock[3]) > openByte || Number(lock[4]) < openByte) continue;
    const pid = Number(lock[1]);
    if (pid !== process.pid && parentOf(pid) !== process.pid) found.add(pid);
  }
  return [...found];
}

function inodeOf(path: string): number | undefined {
  try {
    return statSync(path).ino;
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return undefined;
    throw error;
  }
}

function parentOf(pid: number): number {
  // The name, in parentheses, may have anything in it.
  const after = readOrNothing(`/proc/${pid}/stat`).split(") ").at(-1) ?? "";
  return Number(after.split(" ")[1] ?? 0);
}

function readOrNothing(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch (error) {
    // A process that is gone by now, or a system without these files.
    if (isSystemError(error, "ENOENT", "ESRCH", "EACCES")) return "";
    throw error;
  }
}
