import { createHash } from "node:crypto";
import { type GroupConfig, membersOf, type StoreConfig, type StoreOnNode } from "./config.ts";

/**
 * SHA-256 over what both sides must agree on before this store is shipped: its kind and what decides what belongs to
 * it. Where it lies and how it is read is each node's own business.
 */
export function configurationDigest(store: StoreConfig | StoreOnNode): Uint8Array {
  return createHash("sha256")
    .update(JSON.stringify(shippedBy(store)))
    .digest();
}

/**
 * Of who takes part in the group, in the order of the configuration, which says whose turn an epoch is: where two nodes have
 * another order, both may begin the same epoch. 16 hex digits.
 */
export function membersDigest(group: GroupConfig): string {
  const text = JSON.stringify({ version: 1, members: membersOf(group) });
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

function shippedBy(store: StoreConfig | StoreOnNode): unknown {
  switch (store.kind) {
    case "files":
      return { version: 1, kind: store.kind, exclude: store.exclude };
    case "sqlite":
      return { version: 1, kind: store.kind };
  }
}
