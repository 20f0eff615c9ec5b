import { readFileSync } from "node:fs";

/** Processor time in ms that `work` takes of this thread: unlike time, it is the same on a machine that is busy otherwise. */
export function cpuMsOf(work: () => void): number {
  const before = process.threadCpuUsage();
  work();
  const { user, system } = process.threadCpuUsage(before);
  return (user + system) / 1000;
}

/** Processor time in ms that a process has had, to 10 ms: its first thread, and all of them. */
export function cpuMsOfProcess(pid: number): { readonly firstThread: number; readonly all: number } {
  const cpuMs = (file: string): number => {
    const stat = readFileSync(file, "latin1");
    // What follows the name, which may have anything in it: the state is first. The kernel counts in hundredths of a second.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) * 10;
  };
  return { firstThread: cpuMs(`/proc/${pid}/task/${pid}/stat`), all: cpuMs(`/proc/${pid}/stat`) };
}
