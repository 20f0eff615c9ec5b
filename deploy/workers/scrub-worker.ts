import { parentPort } from "node:worker_threads";
import { type ScrubFinding, type ScrubProgress, scrubStore } from "../../primary/scrub/scrub-store.ts";
import { Breath } from "../../shared/breath.ts";
import { Catalog } from "../../shared/catalog/catalog.ts";
import { Manifest } from "../../shared/catalog/manifest.ts";
import type { StoreOnNode } from "../../shared/config/config.ts";
import { assert } from "../../shared/errors.ts";
import type { ObjectId } from "../../shared/words.ts";
import { PortPeer } from "./port-peer.ts";
import { createScrubSource } from "./store-adapters.ts";

/** The thread that reads a primary's files again while cuts go on: a connection of its own that only reads. */

export type ScrubWorkerCalls = {
  open(argument: { catalogPath: string }): void;
  /** One store, from behind the object `after` on. Returns when all was read. */
  scrub(argument: { store: StoreOnNode; after: number; bytesPerSecond: number }): Promise<void>;
  cancel(argument: undefined): void;
  close(argument: undefined): void;
};

export type ScrubMainCalls = {
  found(argument: ScrubFinding & { store: string }): void;
  progress(argument: ScrubProgress & { store: string }): void;
};

const progressEveryMs = 1000;

let catalog: Catalog | undefined;
const cancelled = new AbortController();

assert(parentPort !== null, "runs as a worker");
const main = new PortPeer<ScrubWorkerCalls, ScrubMainCalls>(
  parentPort,
  {
    open({ catalogPath }) {
      catalog = new Catalog(catalogPath, { readOnly: true });
    },
    async scrub({ store, after, bytesPerSecond }) {
      assert(catalog !== undefined, "open comes first");
      const { name } = store;
      const source = createScrubSource(store);
      const number = catalog.knownStoreNumber(name);
      if (source === undefined || number === undefined) return;
      let told = performance.now();
      let last: ScrubProgress | undefined;
      await scrubStore(
        { catalog, manifest: new Manifest(catalog), store: number },
        source,
        after as ObjectId | 0,
        new Breath(bytesPerSecond, cancelled.signal),
        (finding) => main.note("found", { ...finding, store: name }),
        (progress) => {
          last = progress;
          if (performance.now() - told < progressEveryMs) return;
          told = performance.now();
          main.note("progress", { ...progress, store: name });
        },
      );
      if (last !== undefined) main.note("progress", { ...last, store: name });
    },
    cancel() {
      cancelled.abort(new Error("the scrub was ended"));
    },
    close() {
      catalog?.close();
    },
  },
  (error) => {
    throw error;
  },
);
