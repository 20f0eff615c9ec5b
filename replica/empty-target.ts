import { basename, dirname } from "node:path";
import { fromTheSystem } from "../shared/durable/system-error.ts";
import type { Directory, Disk } from "../shared/ports/disk.ts";
import { inBytes } from "../shared/store-path.ts";

/** What goes into a directory of the operator's. */
export interface TargetUse {
  readonly verb: "restore" | "export";
  /** The file that says so as long as it is not whole. */
  readonly incompleteName: string;
  refused(message: string, options?: ErrorOptions): Error;
}

/** Opens a directory that does not exist yet or is empty. @throws what `refused` makes of it where it is neither */
export function openEmptyTarget(disk: Disk, to: string, { verb, incompleteName, refused }: TargetUse): Directory {
  const path = inBytes(to);
  let found: string[];
  try {
    const parent = disk.openRoot(dirname(path));
    try {
      if (disk.stat(parent, basename(path)) === undefined) disk.makeDirectory(parent, basename(path), 0o700);
    } finally {
      disk.closeDirectory(parent);
    }
    const target = disk.openRoot(path);
    found = disk.list(target).filter((name) => name !== "lost+found");
    if (found.length === 0) return target;
    disk.closeDirectory(target);
  } catch (error) {
    if (fromTheSystem(error)) throw refused(`cannot ${verb} to ${to}`, { cause: error });
    throw error;
  }
  throw refused(
    found.includes(incompleteName)
      ? `${to} holds ${verb === "restore" ? "a restore" : "an export"} that was not finished`
      : `${to} is not empty (${found.length} entries)`,
  );
}
