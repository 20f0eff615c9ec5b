import { readdir, readFile } from "node:fs/promises";
import { isSystemError } from "./errors.ts";

/** The numbers of all processes that a test holds for, as /proc has them; what ends meanwhile is passed over. */
export async function processesWith(test: (pid: number) => Promise<boolean>): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^[0-9]+$/.test(name)) continue;
    try {
      if (await test(Number(name))) found.push(Number(name));
    } catch (error) {
      // It has ended, or is somebody else's.
      if (!isSystemError(error, "ENOENT", "ESRCH", "EACCES", "EPERM")) throw error;
    }
  }
  return found;
}

/** Whether a process group has anybody who still runs: one that has ended, and that nobody has asked about yet, does not. */
export async function groupRuns(group: number): Promise<boolean> {
  const members = await processesWith(async (pid) => {
    const stat = await readFile(`/proc/${pid}/stat`, "latin1");
    // The name before may have anything in it: proc_pid_stat(5).
    const [state, , itsGroup] = stat.slice(stat.lastIndexOf(") ") + 2).split(" ");
    return Number(itsGroup) === group && state !== "Z" && state !== "X";
  });
  return members.length > 0;
}

/** Nothing where it has ended. */
export function signalProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (!isSystemError(error, "ESRCH")) throw error;
  }
}
