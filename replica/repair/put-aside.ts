import type { Directory } from "../../shared/ports/disk.ts";
import type { ReplicaContext } from "../replica-context.ts";
import type { StoreHome } from "../store-home.ts";

/** Names that were given in this run, so that many strangers' files do not try all of them each time. */
const lastGiven = new WeakMap<StoreHome, { at: bigint; next: number }>();

/**
 * Moves a stranger's file or directory to `strangers/`: never over anything, never away for good. Gives its name there.
 * The caller syncs both directories.
 */
export function moveToStrangers(
  { disk, catalog }: ReplicaContext,
  home: StoreHome,
  directory: Directory,
  name: string,
): string {
  const at = catalog.standing.applied;
  const given = lastGiven.get(home);
  for (let attempt = given?.at === at ? given.next : 0; ; attempt++) {
    const aside = `${at}-${attempt}`;
    if (disk.stat(home.strangers, aside) !== undefined) continue;
    disk.rename(directory, name, home.strangers, aside);
    lastGiven.set(home, { at, next: attempt + 1 });
    return aside;
  }
}
