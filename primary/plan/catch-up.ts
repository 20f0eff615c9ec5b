import { blockBirth } from "../../shared/catalog/content-change.ts";
import { joinPath, type Manifest, type ObjectVersion } from "../../shared/catalog/manifest.ts";
import { assert } from "../../shared/errors.ts";
import { blockHash, blocksPerRun, equalBytes, hashBytes, hashInRun, isZero } from "../../shared/manifest/block-hash.ts";
import { runTerm } from "../../shared/manifest/digest.ts";
import type { StoreView } from "../../shared/ports/store-adapter.ts";
import type { ObjectId, Seq, StorePath } from "../../shared/words.ts";
import type { PrimaryContext } from "../primary-context.ts";
import { frameBytesMax } from "../ship/frame-memory.ts";
import type { ReplicaSink, Shipment } from "../ship/shipment.ts";

/** Below this a new object is sent without asking the replica what it has of it. */
const resumeBytesMin = 1024 * 1024;

export type CatchUp = { readonly kind: "sent" } | { readonly kind: "moved"; readonly path: StorePath };

/**
 * Sends everything that was born after a replica's base, and what is damaged there, whole as of `upTo`, reading the bytes from the views. `moved`:
 * a file is no longer what the manifest says; the replica is left to the next cut, which will have it.
 */
export async function catchUp(
  context: PrimaryContext,
  shipment: Shipment,
  sink: ReplicaSink,
  upTo: Seq,
  views: ReadonlyMap<number, { readonly view: StoreView; readonly index: number }>,
): Promise<CatchUp> {
  const { manifest } = context;
  const base = sink.base.seq;
  // What changed last changes next: it is read while it is still what the manifest says.
  for (const version of wanted(manifest, sink, upTo)) {
    const { object } = version;
    if (sink.gone) return { kind: "sent" };
    const entry = manifest.pathsOf(object, upTo)[0];
    assert(entry !== undefined, `object ${object} lives at ${upTo} without a path`);
    const store = views.get(entry.store);
    assert(store !== undefined, `store ${entry.store} has a view`);
    if (version.type === "file") {
      const sent = await sendBlocks(context, shipment, sink, upTo, version, entry.path, store.view, store.index);
      if (!sent) return { kind: "moved", path: entry.path };
    }
    await shipment.object({ ...version, store: store.index });
  }
  for (const row of manifest.pathsBorn(base, upTo)) {
    const store = views.get(Number(row.store));
    assert(store !== undefined, `store ${row.store} has a view`);
    await shipment.path({
      store: store.index,
      path: joinPath(String(row.dir), String(row.name)),
      object: row.object === null ? undefined : (Number(row.object) as ObjectId),
    });
  }
  return { kind: "sent" };
}

/** Everything that was born after the replica's base, and what is damaged there, though nothing changed it since. */
function* wanted(manifest: Manifest, { base, damaged }: ReplicaSink, upTo: Seq): Generator<ObjectVersion> {
  yield* manifest.objectsChanged(base.seq, upTo);
  for (const object of damaged) {
    const version = manifest.object(object, upTo);
    if (version !== undefined && version.birth <= base.seq) yield version;
  }
}

async function sendBlocks(
  context: PrimaryContext,
  shipment: Shipment,
  sink: ReplicaSink,
  upTo: Seq,
  version: ObjectVersion,
  path: StorePath,
  view: StoreView,
  storeIndex: number,
): Promise<boolean> {
  const { manifest } = context;
  const { object, blockSize, size } = version;
  const damaged = shipment.bringsAnew(object);
  const fresh = object > sink.lastObject || damaged;
  const staged =
    fresh && size >= resumeBytesMin
      ? await sink.stagedRuns({ object, store: context.stores[storeIndex]!.name, path, blockSize })
      : undefined;
  const blocks = Math.ceil(size / blockSize);
  const runs = Math.ceil(blocks / blocksPerRun);
  for (let run = 0; run < runs; run++) {
    if (sink.gone) return true;
    const row = manifest.runWithBirths(object, run, upTo);
    if (row === undefined || (!fresh && row.birth <= sink.base.seq)) continue;
    const first = run * blocksPerRun;
    const count = Math.min(blocksPerRun, blocks - first);
    if (staged !== undefined && staged.blockSize === blockSize && row.hashes.length > 0) {
      const term = runTerm(run, row.hashes);
      const there = staged.digests.subarray(run * 32, run * 32 + 32);
      if (term !== undefined && equalBytes(there, term)) {
        await sendHeld(shipment, object, blockSize, size, first, row.hashes, storeIndex);
        continue;
      }
    }
    const wanted = (index: number): "send" | "zero" | undefined => {
      if (!fresh && blockBirth(row, index) <= sink.base.seq) return undefined;
      if (!isZero(hashInRun(row.hashes, index))) return "send";
      return fresh ? undefined : "zero";
    };
    for (let from = 0; from < count; ) {
      const what = wanted(from);
      let to = from + 1;
      while (to < count && wanted(to) === what && (to - from + 1) * blockSize <= Math.max(frameBytesMax, blockSize))
        to++;
      if (what !== undefined) {
        const offset = (first + from) * blockSize;
        const length = Math.min((to - from) * blockSize, size - offset);
        const extent = { object, offset, length, store: storeIndex, blockSize };
        if (what === "zero") {
          await shipment.extent({ ...extent, hashes: new Uint8Array(0), zero: true }, undefined);
        } else {
          const bytes = view.read(path, offset, length);
          if (bytes === undefined || bytes.length !== length) return false;
          for (let i = from; i < to; i++) {
            const block = bytes.subarray((i - from) * blockSize, Math.min((i - from + 1) * blockSize, length));
            if (!equalBytes(blockHash(block), hashInRun(row.hashes, i))) return false;
          }
          const hashes = Buffer.alloc((to - from) * hashBytes);
          hashes.set(row.hashes.subarray(from * hashBytes, Math.min(to * hashBytes, row.hashes.length)));
          await shipment.extent({ ...extent, hashes, zero: false }, bytes);
        }
      }
      from = to;
    }
  }
  // Of a damaged object something has to say that it comes anew.
  if (damaged && size > 0 && isZero(version.content)) {
    const length = Math.min(blockSize, size);
    const extent = { object, offset: 0, length, store: storeIndex, blockSize, hashes: new Uint8Array(0), zero: true };
    await shipment.extent(extent, undefined);
  }
  return true;
}

/** The replica has this run in staging: only its hashes are sent. */
async function sendHeld(
  shipment: Shipment,
  object: ObjectId,
  blockSize: number,
  size: number,
  first: number,
  hashes: Uint8Array,
  store: number,
): Promise<void> {
  const count = hashes.length / hashBytes;
  for (let from = 0; from < count; ) {
    const zero = isZero(hashInRun(hashes, from));
    let to = from + 1;
    while (to < count && isZero(hashInRun(hashes, to)) === zero) to++;
    if (!zero) {
      const offset = (first + from) * blockSize;
      const length = Math.min((to - from) * blockSize, size - offset);
      const own = Buffer.from(hashes.subarray(from * hashBytes, to * hashBytes));
      await shipment.extent(
        { object, offset, length, hashes: own, zero: false, store, blockSize, held: true },
        undefined,
      );
    }
    from = to;
  }
}
