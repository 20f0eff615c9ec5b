import type { Catalog } from "../shared/catalog/catalog.ts";
import type { Manifest } from "../shared/catalog/manifest.ts";
import { assert } from "../shared/errors.ts";
import type { Disk } from "../shared/ports/disk.ts";
import type { StoreHome } from "./store-home.ts";

/** What every step of the replica works on: one group on one node. */
export interface ReplicaContext {
  readonly catalog: Catalog;
  readonly manifest: Manifest;
  readonly disk: Disk;
  readonly homes: ReadonlyMap<number, StoreHome>;
  /** Wall clock in microseconds; only for what people read. */
  readonly nowUs: () => number;
  readonly limits: ReplicaLimits;
}

export interface ReplicaLimits {
  /** Payload of a cut up to here is kept in the catalog: one sync for everything. */
  readonly inlineBytesMax: number;
  /** Larger files of a first copy are staged, so that a broken session need not send them again. */
  readonly builtBytesMax: number;
  /** A batch of apply ends with the cut that passes this. */
  readonly batchBytesMax: number;
  /** Up to so many files are synced one by one, more by one filesystem sync. */
  readonly singleSyncsMax: number;
  /** Kept free on every mount. */
  readonly freeBytesMin: number;
  /** Staged files shorter than this are sent again rather than kept for a resume. */
  readonly resumeBytesMin: number;
  /** A large cut's transaction is closed after so much, or a second: what a crash takes of it is sent again. */
  readonly transactionBytesMax: number;
  /** Of a new file, what lies from here on is written past the page cache. */
  readonly uncachedFrom: number;
  /** Kept on every mount that has plenty of room, for an apply that meets a full disk: what may wait to be applied. */
  readonly ballastBytes: number;
  /** Staged bytes of one cut, on all mounts together. */
  readonly stagingBytesMax: number;
}

export const defaultReplicaLimits: ReplicaLimits = {
  inlineBytesMax: 512 * 1024,
  builtBytesMax: 256 * 1024,
  batchBytesMax: 64 * 1024 * 1024,
  singleSyncsMax: 64,
  freeBytesMin: 16 * 1024 * 1024,
  resumeBytesMin: 1024 * 1024,
  transactionBytesMax: 64 * 1024 * 1024,
  uncachedFrom: 8 * 1024 * 1024,
  ballastBytes: 64 * 1024 * 1024,
  stagingBytesMax: Number.MAX_SAFE_INTEGER,
};

export function homeOf(context: ReplicaContext, store: number): StoreHome {
  const home = context.homes.get(store);
  assert(home !== undefined, `store ${store} has no home on this node`);
  return home;
}

/** The name of an object's own file in a private directory. */
export function objectFileName(object: number): string {
  return `o${object}`;
}
