import { parentPort } from "node:worker_threads";
import { discardHistory } from "../../replica/history/discard.ts";
import { type Restored, restore } from "../../replica/history/restore.ts";
import { type Verified, verify, verifyManifest } from "../../replica/history/verify.ts";
import { defaultReplicaLimits, type ReplicaContext } from "../../replica/replica-context.ts";
import { openStoreHomes, type StorePlacement } from "../../replica/store-home.ts";
import { Catalog } from "../../shared/catalog/catalog.ts";
import { Manifest } from "../../shared/catalog/manifest.ts";
import { RealDisk } from "../../shared/durable/real-disk.ts";
import { assert } from "../../shared/errors.ts";
import { seq } from "../../shared/words.ts";
import { PortPeer } from "./port-peer.ts";
import { excludedBy } from "./store-adapters.ts";

/** The thread that reads a replica's past while another one applies: a connection of its own that only reads. */

export type HistoryWorkerCalls = {
  open(argument: {
    groupName: string;
    catalogPath: string;
    placements: readonly StorePlacement[];
    exclude: ReadonlyMap<string, readonly string[]>;
  }): void;
  restore(argument: { at: bigint; to: string; only: string | undefined }): Promise<Restored>;
  verify(argument: { at: bigint; quick: boolean }): Promise<Verified>;
  /** After a promotion: the files of recovery points that are none any more. */
  discard(argument: undefined): number;
  cancel(argument: undefined): void;
  close(argument: undefined): void;
};

export type HistoryMainCalls = Record<never, never>;

let context: ReplicaContext | undefined;
let excluded: ReturnType<typeof excludedBy> = () => false;
const cancelled = new AbortController();

assert(parentPort !== null, "runs as a worker");
new PortPeer<HistoryWorkerCalls, HistoryMainCalls>(
  parentPort,
  {
    open({ groupName, catalogPath, placements, exclude }) {
      const catalog = new Catalog(catalogPath, { readOnly: true });
      const disk = new RealDisk();
      excluded = excludedBy(exclude);
      context = {
        catalog,
        manifest: new Manifest(catalog),
        disk,
        homes: openStoreHomes(disk, catalog, groupName, placements, false),
        nowUs: () => Date.now() * 1000,
        limits: defaultReplicaLimits,
      };
    },
    async restore({ at, to, only }) {
      const part = only === undefined ? {} : { only };
      return await restore(opened(), { at: seq(at), to, ...part }, () => {}, cancelled.signal);
    },
    async verify({ at, quick }) {
      return quick
        ? await verifyManifest(opened(), cancelled.signal, seq(at))
        : await verify(opened(), { at: seq(at), excluded }, () => {}, cancelled.signal);
    },
    discard() {
      return discardHistory(opened());
    },
    cancel() {
      cancelled.abort(new Error("the request was ended by its caller"));
    },
    close() {
      for (const home of context?.homes.values() ?? []) home.close();
      context?.catalog.close();
    },
  },
  (error) => {
    throw error;
  },
);

function opened(): ReplicaContext {
  assert(context !== undefined, "open comes first");
  return context;
}
