import type { PrimaryStore } from "../../primary/primary-context.ts";
import type { EndedStore } from "../../replica/rejoin/demote.ts";
import type { StoreOnNode } from "../../shared/config/config.ts";
import { assert } from "../../shared/errors.ts";
import { hasCopiedStamps, leavesOut } from "./store-adapters.ts";

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
