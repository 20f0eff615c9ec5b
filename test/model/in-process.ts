import { randomBytes } from "node:crypto";
import { zstdDecompressSync } from "node:zlib";
import { type CutRequest, type TakenCut, takeCut } from "../../primary/plan/take-cut.ts";
import type { PrimaryContext } from "../../primary/primary-context.ts";
import { HeldBlocks } from "../../primary/ship/held-blocks.ts";
import type { ReplicaSink } from "../../primary/ship/shipment.ts";
import { TouchedThere } from "../../primary/ship/touched-there.ts";
import { commit } from "../../replica/commit/commit.ts";
import { aheadOf } from "../../replica/receive/ahead.ts";
import { Receiver } from "../../replica/receive/receive.ts";
import { stagedRunDigests } from "../../replica/receive/resume.ts";
import { defaultReplicaLimits, type ReplicaContext, type ReplicaLimits } from "../../replica/replica-context.ts";
import { openStoreHomes, type StorePlacement } from "../../replica/store-home.ts";
import { Catalog, type CommitObserver } from "../../shared/catalog/catalog.ts";
import { anyTouched } from "../../shared/catalog/collapse.ts";
import { Manifest } from "../../shared/catalog/manifest.ts";
import { lastObjectOf, touchedPage } from "../../shared/catalog/touched.ts";
import type { Disk } from "../../shared/ports/disk.ts";
import type { StoreAdapter } from "../../shared/ports/store-adapter.ts";
import type { BulkMessage, StagedPlace } from "../../shared/wire/messages.ts";
import { packStagedList, unpackStagedList } from "../../shared/wire/staged-list.ts";
import { packTouchedList } from "../../shared/wire/touched-list.ts";
import { epoch, type GroupId, type ObjectId, type StoreName, seq } from "../../shared/words.ts";

export const testGroup = "00112233445566778899aabbccddeeff" as GroupId;
export const testIncarnation = "0123456789abcdef";

/** Both ends of the way in one process, joined by function calls: the real plan, receive, commit and apply. */
export function openPrimary(
  path: string,
  adapters: Record<string, StoreAdapter>,
  options: { observer?: CommitObserver } = {},
): PrimaryContext {
  const catalog = new Catalog(path, { synchronous: "OFF", ...options });
  const stores = Object.entries(adapters).map(([name, adapter]) => ({ name, adapter, number: 0 }));
  catalog.transaction("form", () => {
    if (catalog.standing.groupId === "") {
      catalog.stand({
        groupId: testGroup,
        role: "primary",
        epoch: epoch(1),
        epochs: [{ epoch: 1n, firstSeq: 1n }],
        committed: { epoch: epoch(1), seq: seq(0) },
      });
    }
    for (const store of stores) store.number = catalog.storeNumber(store.name, "files");
  });
  return { catalog, manifest: new Manifest(catalog), stores, incarnation: testIncarnation, nowUs: clock() };
}

export function openReplica(
  path: string,
  disk: Disk,
  placements: Record<string, string>,
  options: {
    observer?: CommitObserver;
    limits?: Partial<ReplicaLimits>;
    shape?: StorePlacement["shape"];
    adopt?: boolean;
  } = {},
): ReplicaContext {
  const catalog = new Catalog(path, {
    synchronous: "OFF",
    ...(options.observer === undefined ? {} : { observer: options.observer }),
  });
  if (catalog.standing.groupId === "") {
    catalog.transaction("form", () =>
      catalog.stand({
        groupId: testGroup,
        role: "replica",
        epoch: epoch(1),
        committed: { epoch: epoch(1), seq: seq(0) },
      }),
    );
  }
  catalog.transaction("stores", () => {
    for (const name of Object.keys(placements)) catalog.storeNumber(name, "files");
  });
  const homes = openStoreHomes(
    disk,
    catalog,
    "app",
    Object.entries(placements).map(([name, place]) => ({
      name: name as StoreName,
      kind: "files",
      shape: options.shape ?? "tree",
      path: place,
      sidecars: [],
    })),
    options.adopt ?? false,
  );
  return {
    catalog,
    manifest: new Manifest(catalog),
    disk,
    homes,
    nowUs: clock(),
    limits: { ...defaultReplicaLimits, freeBytesMin: 0, ...options.limits },
  };
}

export function sinkInto(
  replica: ReplicaContext,
  receiver: Receiver,
  options: { compress?: boolean; takesAhead?: boolean; catchUpBytesMax?: number; touchedBytesMax?: number } = {},
): ReplicaSink {
  const committed = replica.catalog.standing.committed;
  const held = new HeldBlocks();
  return {
    held,
    takesAhead: options.takesAhead ?? false,
    catchUpBytesMax: options.catchUpBytesMax ?? Number.POSITIVE_INFINITY,
    late: false,
    full: false,
    name: "replica",
    base: committed,
    lastObject: lastObjectOf(replica.catalog),
    touched: anyTouched(replica.catalog)
      ? new TouchedThere(async (from) => {
          const { entries, last } = touchedPage(replica.catalog, from, options.touchedBytesMax ?? 256 * 1024);
          return { payload: packTouchedList(entries), last };
        })
      : undefined,
    compress: options.compress ?? false,
    resuming: false,
    damaged: [],
    gone: false,
    async send(message, payload) {
      deliver(receiver, message, payload);
    },
    async stagedRuns({ object }) {
      return stagedRunDigests(replica, object);
    },
    async listStaged() {
      let from: StagedPlace = { object: 0, run: 0, files: false };
      for (;;) {
        const { entries, last } = aheadOf(replica).list(from);
        const listed = unpackStagedList(packStagedList(entries)) ?? [];
        for (const { object, run, tags } of listed) {
          if (tags.length === 0) held.unasked.add(object as ObjectId);
          else held.noteTags(object as ObjectId, run, 0, tags);
        }
        const next = entries.at(-1);
        if (last || next === undefined) break;
        from = { object: next.object, run: next.run, files: next.tags.length === 0 };
      }
      held.listed = true;
    },
  };
}

/** As the worker does it: the memory of a frame is another one's as soon as it was taken. */
export function deliver(receiver: Receiver, message: BulkMessage, payload: Uint8Array): void {
  const own = new Uint8Array(payload);
  try {
    take(receiver, message, own);
  } finally {
    own.fill(0xdd);
  }
}

function take(receiver: Receiver, message: BulkMessage, payload: Uint8Array): void {
  switch (message.kind) {
    case "cutBegin":
      receiver.begin(message);
      return;
    case "rows":
      receiver.rows(message.objects, message.paths);
      return;
    case "extents":
      receiver.extents(message.extents, message.encoding === "zstd" ? zstdDecompressSync(payload) : payload);
      return;
    case "ahead":
      receiver.ahead(
        message.extents,
        message.encoding === "zstd" ? zstdDecompressSync(payload) : payload,
        message.stores,
      );
      return;
    case "objectDropped":
      receiver.dropObject(message.object);
      return;
    case "cutEnd":
      receiver.end(message);
      return;
    case "cutAborted":
      receiver.abort();
      return;
  }
}

export async function cutInto(
  primary: PrimaryContext,
  sinks: readonly ReplicaSink[],
  request: Partial<CutRequest> = {},
): Promise<TakenCut> {
  return await takeCut(
    primary,
    { depth: "scan", freeze: undefined, preCopyRounds: 0, sinks, forgottenUpTo: seq(0), ...request },
    new AbortController().signal,
  );
}

export function receiverOf(replica: ReplicaContext): Receiver {
  return new Receiver(replica, testIncarnation);
}

export { commit, randomBytes };

function clock(): () => number {
  let now = 1_700_000_000_000_000;
  return () => (now += 1000);
}
