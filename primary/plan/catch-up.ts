import { joinPath, type ObjectVersion } from "../../shared/catalog/manifest.ts";
import { assert } from "../../shared/errors.ts";
import { blockHash, equalBytes, hashBytes, hashInRun, isZero } from "../../shared/manifest/block-hash.ts";
import type { StoreView } from "../../shared/ports/store-adapter.ts";
import type { ObjectId, Seq, StorePath } from "../../shared/words.ts";
import type { PrimaryContext } from "../primary-context.ts";
import type { ReplicaSink, Shipment } from "../ship/shipment.ts";
import { askStaged, resumeBytesMin } from "./ask-staged.ts";
import { comesWhole, type LackingRange, lackingOf } from "./lacking.ts";

export type SentBytes =
  | { readonly kind: "sent"; readonly complete: ReadonlySet<ObjectId> }
  /** A file is no longer what the manifest says. */
  | { readonly kind: "moved"; readonly path: StorePath }
  /** More than the sink's bound would have to be sent: what of it there is goes ahead of a cut. */
  | { readonly kind: "much" };

/**
 * Sends everything that was born after a replica's base, whole as of `upTo`, in two steps: what has to be read from the
 * views, and then the rest, which needs the manifest only. So the views are held for what is read, and not for what the
 * line carries.
 */
export class CatchUp {
  readonly #context: PrimaryContext;
  readonly #shipment: Shipment;
  readonly #sink: ReplicaSink;
  readonly #upTo: Seq;
  readonly #storeIndex: ReadonlyMap<number, number>;

  constructor(context: PrimaryContext, shipment: Shipment, sink: ReplicaSink, upTo: Seq) {
    this.#context = context;
    this.#shipment = shipment;
    this.#sink = sink;
    this.#upTo = upTo;
    this.#storeIndex = new Map(context.stores.map((store, index) => [store.number, index]));
  }

  /**
   * The bytes that the replica lacks, each file's with its row. Beyond the sink's bound nothing is sent, where it takes
   * bytes ahead of a cut.
   */
  async sendBytes(views: ReadonlyMap<number, StoreView>): Promise<SentBytes> {
    const { manifest } = this.#context;
    const sink = this.#sink;
    await sink.touched?.list();
    const lacking: ObjectId[] = [];
    let bytes = 0;
    for (const version of this.#wanted()) {
      const { object } = version;
      if (version.type !== "file") continue;
      if (this.#asks(version)) {
        sink.held.asked.add(object);
        await askStaged(this.#context, sink, version, this.#upTo);
      }
      const before = bytes;
      for (const range of lackingOf(this.#context, sink, version, this.#upTo)) {
        if (range.what !== "send") continue;
        bytes += range.length;
        if (sink.takesAhead && bytes > sink.catchUpBytesMax) return { kind: "much" };
      }
      if (bytes > before) lacking.push(object);
    }
    const complete = new Set<ObjectId>();
    for (const object of lacking) {
      if (sink.gone) break;
      const version = manifest.object(object, this.#upTo);
      const entry = manifest.pathsOf(object, this.#upTo)[0];
      // It loses its last path in this very cut.
      if (version === undefined || entry === undefined) continue;
      const view = views.get(entry.store);
      assert(view !== undefined, `store ${entry.store} has a view`);
      const store = this.#indexOf(entry.store);
      for (const range of lackingOf(this.#context, sink, version, this.#upTo)) {
        if (!(await this.#send(object, version.blockSize, store, range, entry.path, view)))
          return { kind: "moved", path: entry.path };
      }
      await this.#shipment.object({ ...version, store });
      complete.add(object);
    }
    return { kind: "sent", complete };
  }

  /** Everything else: objects of which no byte has to be sent, and paths. */
  async sendRest(complete: ReadonlySet<ObjectId>): Promise<void> {
    const { manifest } = this.#context;
    const sink = this.#sink;
    for (const version of this.#wanted()) {
      const { object, size, blockSize } = version;
      if (complete.has(object)) continue;
      if (sink.gone) return;
      const entry = manifest.pathsOf(object, this.#upTo)[0];
      assert(entry !== undefined, `object ${object} lives at ${this.#upTo} without a path`);
      const store = this.#indexOf(entry.store);
      if (version.type === "file") {
        for (const range of lackingOf(this.#context, sink, version, this.#upTo)) {
          assert(range.what !== "send", `what has to be sent of object ${object} was sent before`);
          await this.#send(object, version.blockSize, store, range, entry.path, undefined);
        }
        // Of a damaged object something has to say that it comes anew.
        if (this.#shipment.bringsAnew(object) && size > 0 && isZero(version.content)) {
          const length = Math.min(blockSize, size);
          const extent = { object, offset: 0, length, store, blockSize, hashes: new Uint8Array(0), zero: true };
          await this.#shipment.extent(extent, undefined);
        }
      }
      await this.#shipment.object({ ...version, store });
    }
    for (const row of manifest.pathsBorn(sink.base.seq, this.#upTo)) {
      await this.#shipment.path({
        store: this.#indexOf(Number(row.store)),
        path: joinPath(String(row.dir), String(row.name)),
        object: row.object === null ? undefined : (Number(row.object) as ObjectId),
      });
    }
    await this.#sendTouchedPaths();
  }

  /** Where a replica that rejoins has something else, it gets what is here, though nothing changed it since its base. */
  async #sendTouchedPaths(): Promise<void> {
    const { manifest, stores } = this.#context;
    const { base, touched } = this.#sink;
    for (const { store: name, path } of touched?.paths() ?? []) {
      const store = stores.find((item) => item.name === name);
      if (store === undefined || manifest.pathBirth(store.number, path, this.#upTo) > base.seq) continue;
      const object = manifest.objectAtPath(store.number, path, this.#upTo);
      // A root is always there.
      if (object === undefined && path === "") continue;
      await this.#shipment.path({ store: this.#indexOf(store.number), path, object });
    }
  }

  /**
   * Everything that was born after the replica's base, what changed last first: it changes next, and is read while it is
   * still what the manifest says. And what is damaged or otherwise there, though nothing changed it since.
   */
  *#wanted(): Generator<ObjectVersion> {
    const { manifest } = this.#context;
    const { base, damaged, touched } = this.#sink;
    yield* manifest.objectsChanged(base.seq, this.#upTo);
    for (const object of touched?.objects() ?? []) {
      const version = manifest.object(object, this.#upTo);
      if (version !== undefined && version.birth <= base.seq) yield version;
    }
    for (const object of damaged) {
      if (touched?.names(object) === true) continue;
      const version = manifest.object(object, this.#upTo);
      if (version !== undefined && version.birth <= base.seq) yield version;
    }
  }

  /** Of what a new file's staged part is, whoever takes bytes ahead was asked then; of a damaged one, he is now. */
  #asks({ object, size }: ObjectVersion): boolean {
    const sink = this.#sink;
    if (size < resumeBytesMin || sink.held.asked.has(object) || !comesWhole(sink, object)) return false;
    return !sink.takesAhead || sink.damaged.includes(object);
  }

  /** False when the bytes are no longer what the manifest says. */
  async #send(
    object: ObjectId,
    blockSize: number,
    store: number,
    range: LackingRange,
    path: StorePath,
    view: StoreView | undefined,
  ): Promise<boolean> {
    const { what, first, count, offset, length } = range;
    const extent = { object, offset, length, store, blockSize };
    if (what === "zero") {
      await this.#shipment.extent({ ...extent, hashes: new Uint8Array(0), zero: true }, undefined);
      return true;
    }
    // A view of the run's row would keep all of it in memory until it is sent.
    const hashes = Buffer.from(range.hashes.subarray(first * hashBytes, (first + count) * hashBytes));
    if (what === "held") {
      const known = this.#sink.takesAhead ? new Uint8Array(0) : hashes;
      await this.#shipment.extent({ ...extent, hashes: known, zero: false, held: true }, undefined);
      return true;
    }
    const bytes = view?.read(path, offset, length);
    if (bytes === undefined || bytes.length !== length || !haveHashes(bytes, blockSize, hashes)) return false;
    await this.#shipment.extent({ ...extent, hashes, zero: false }, bytes);
    return true;
  }

  #indexOf(store: number): number {
    const index = this.#storeIndex.get(store);
    assert(index !== undefined, `store ${store} is in the cut`);
    return index;
  }
}

/** Whether consecutive blocks are what these hashes say. */
export function haveHashes(bytes: Uint8Array, blockSize: number, hashes: Uint8Array): boolean {
  for (let block = 0; block * blockSize < bytes.length; block++) {
    const at = block * blockSize;
    if (!equalBytes(blockHash(bytes.subarray(at, Math.min(at + blockSize, bytes.length))), hashInRun(hashes, block)))
      return false;
  }
  return true;
}
