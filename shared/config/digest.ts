import { createHash } from "node:crypto";
import type { StoreConfig, StoreOnNode } from "./config.ts";

/**
 * SHA-256 over what both sides must agree on before this store is shipped: its kind and what decides what belongs to
 * it. Where it lies and how it is read is each node's own business.
 */
export function configurationDigest(store: StoreConfig | StoreOnNode): Uint8Array {
  return createHash("sha256")
    .update(JSON.stringify(shippedBy(store)))
    .digest();
}

function shippedBy(store: StoreConfig | StoreOnNode): unknown {
  switch (store.kind) {
    case "files":
      return { version: 1, kind: store.kind, exclude: store.exclude };
    case "sqlite":
      return { version: 1, kind: store.kind };
  }
}
