import type { ReplicaContext } from "../replica-context.ts";

/**
 * Removes the files of recovery points that are none any more: after a promotion their rows went with the epoch. Not
 * part of the promotion, whose time must not depend on how much history there is.
 */
export function discardHistory({ disk, homes }: ReplicaContext): number {
  let files = 0;
  for (const home of homes.values()) {
    for (const directory of [home.history, home.kept]) {
      for (const name of disk.list(directory)) {
        disk.unlink(directory, name);
        files++;
      }
    }
  }
  return files;
}
