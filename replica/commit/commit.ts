import type { CutId } from "../../shared/words.ts";
import type { Receiver } from "../receive/receive.ts";
import { distrustStaging } from "../receive/resume.ts";
import { homeOf, type ReplicaContext } from "../replica-context.ts";
import { failing, SyncFailed, syncNames } from "../sync.ts";

/**
 * Makes the cuts that came whole durable, all that wait together: staged payloads and their directories first, then one
 * transaction that flips them visible. What this returns may be acknowledged, and nothing else may.
 */
export function commit(context: ReplicaContext, receiver: Receiver): CutId {
  const { catalog, disk, limits } = context;
  if (receiver.ended.length > 0) {
    try {
      for (const store of receiver.built) failing(() => disk.syncFilesystem(homeOf(context, store).home));
      for (const [store, names] of receiver.touched) {
        if (names.size > 0 && !receiver.built.has(store))
          syncNames(disk, homeOf(context, store).staging, names, limits.singleSyncsMax);
      }
    } catch (error) {
      if (error instanceof SyncFailed) distrustStaging(context);
      throw error;
    }
    catalog.commit("cut");
    receiver.settled();
  }
  return catalog.standing.committed;
}

/**
 * Ends the receiver's open transaction, so that another one can begin: cuts that came whole are committed as they must
 * be, payloads first; half a cut's rows stay invisible. Says whether there is something to acknowledge.
 */
export function closeTransaction(context: ReplicaContext, receiver: Receiver | undefined): boolean {
  const whole = receiver !== undefined && receiver.ended.length > 0;
  if (whole) commit(context, receiver);
  if (context.catalog.inTransaction) context.catalog.commit("rows");
  return whole;
}
