import { isSystemError, UnderstudyError } from "../shared/errors.ts";
import type { Directory, Disk } from "../shared/ports/disk.ts";

/** The kernel could not make something durable. What it says the second time is a lie, so nobody asks again. */
export class SyncFailed extends UnderstudyError {
  readonly code = "SYNC_FAILED";
  readonly remedy = "stop";
  readonly state = "Nothing that was not durable was acknowledged; the redo of what is not surely in the copy is kept.";
  readonly hint = "Look at the kernel's log for errors of the disk; the agent writes the batch anew after its restart.";
}

/** Syncs files by name in one directory, then the directory: one by one when few, by one filesystem sync when many. */
export function syncNames(disk: Disk, directory: Directory, names: ReadonlySet<string>, singleSyncsMax: number): void {
  failing(() => {
    if (names.size > singleSyncsMax) {
      disk.syncFilesystem(directory);
      return;
    }
    for (const name of names) {
      const stat = disk.stat(directory, name);
      if (stat?.type === "file") {
        const file = disk.openFile(directory, name, "read");
        try {
          disk.syncFile(file);
        } finally {
          disk.closeFile(file);
        }
      }
    }
    disk.syncDirectory(directory);
  });
}

/** Turns a failed sync into SyncFailed. */
export function failing<T>(sync: () => T): T {
  try {
    return sync();
  } catch (error) {
    if (isSystemError(error, "EIO", "ENOSPC", "EDQUOT", "EROFS"))
      throw new SyncFailed("a sync failed", { cause: error });
    throw error;
  }
}
