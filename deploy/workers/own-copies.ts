import type { PrimaryContext, PrimaryStore } from "../../primary/primary-context.ts";
import { checkSynced, type EndedStore, syncing } from "../../replica/rejoin/demote.ts";
import { defaultReplicaLimits, type ReplicaContext } from "../../replica/replica-context.ts";
import { CopyNotThere, forgetStoreHomes, openStoreHomes, type StorePlacement } from "../../replica/store-home.ts";
import type { StoreOnNode } from "../../shared/config/config.ts";
import { assert } from "../../shared/errors.ts";
import type { Disk } from "../../shared/ports/disk.ts";
import { hasCopiedStamps, leavesOut } from "./store-adapters.ts";

/** Where the copies of a replica lie on this node: where the stores are. */
export interface CopyPlaces {
  readonly groupName: string;
  readonly placements: readonly StorePlacement[];
  /** This process knows that a sync has failed here since the machine was started. */
  readonly unsynced: boolean;
}

/**
 * A primary's own files as a replica sees its copies; here they are not empty, and are the group's all the same. Where this
 * node was a replica before and its files were moved since, the private directory of that time is elsewhere: it gets another one.
 * @throws {FilesNotSynced}
 */
export function openOwnCopies(
  { catalog, manifest, nowUs }: Omit<PrimaryContext, "stores" | "incarnation">,
  disk: Disk,
  { groupName, placements, unsynced }: CopyPlaces,
  bootId: string,
): ReplicaContext {
  checkSynced(catalog, bootId, unsynced);
  const open = (): ReplicaContext["homes"] =>
    syncing(catalog, bootId, "beside the stores", () => openStoreHomes(disk, catalog, groupName, placements, true));
  let homes: ReplicaContext["homes"];
  try {
    homes = open();
  } catch (error) {
    if (!(error instanceof CopyNotThere)) throw error;
    const forget = (): void => forgetStoreHomes(catalog, placements);
    // A cut may be under way.
    if (catalog.inTransaction) forget();
    else catalog.transaction("home", forget);
    homes = open();
  }
  return { catalog, manifest, disk, homes, nowUs, limits: defaultReplicaLimits };
}

export function closeCopies({ homes }: ReplicaContext): void {
  for (const home of homes.values()) home.close();
}

/**
 * A primary's stores come to an orderly end: from here on nobody of ours reads or watches them, and what they say of
 * their files is what the replica's side goes by.
 * @throws {StoreInUse} Each of the adapters is to be closed then.
 */
export async function endStores(
  stores: readonly PrimaryStore[],
  configured: readonly StoreOnNode[],
): Promise<Map<number, EndedStore>> {
  const ended = new Map<number, EndedStore>();
  for (const { name, number, adapter } of stores) {
    const { covered } = (await adapter.end?.()) ?? { covered: false };
    const store = configured.find((item) => item.name === name);
    assert(store !== undefined, `store ${name} is configured`);
    ended.set(number, { covered, copied: hasCopiedStamps(store), excluded: leavesOut(store) });
  }
  for (const { adapter } of stores) await adapter.close();
  return ended;
}
