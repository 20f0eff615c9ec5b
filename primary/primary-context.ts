import type { Catalog } from "../shared/catalog/catalog.ts";
import type { Manifest } from "../shared/catalog/manifest.ts";
import type { StoreAdapter } from "../shared/ports/store-adapter.ts";

/** What every step of the primary works on: one group on one node. */
export interface PrimaryContext {
  readonly catalog: Catalog;
  readonly manifest: Manifest;
  readonly stores: readonly PrimaryStore[];
  readonly incarnation: string;
  /** Wall clock in microseconds; only for what people read. */
  readonly nowUs: () => number;
}

export interface PrimaryStore {
  /** Number in the catalog. */
  readonly number: number;
  readonly name: string;
  readonly adapter: StoreAdapter;
}
