import type { Breath } from "../../shared/breath.ts";
import { ContentChange } from "../../shared/catalog/content-change.ts";
import type { ObjectVersion } from "../../shared/catalog/manifest.ts";
import { assert } from "../../shared/errors.ts";
import { equalBytes, hashBytes, isZero } from "../../shared/manifest/block-hash.ts";
import { blockHashes } from "../../shared/manifest/block-hashes.ts";
import type { Content, Entry, FoundEntry } from "../../shared/ports/store-adapter.ts";
import type { ObjectRow } from "../../shared/wire/messages.ts";
import type { ObjectId, Seq, StorePath } from "../../shared/words.ts";
import type { PrimaryContext, PrimaryStore } from "../primary-context.ts";
import { framePayloadBytes, giveFrameMemory, takeFrameMemory } from "../ship/frame-memory.ts";
import type { Shipment } from "../ship/shipment.ts";
import { chooseObject } from "./choose-object.ts";
import type { FirstCut } from "./first-cut.ts";
import { LeftTorn } from "./left-torn.ts";
import { rangesOf, readBuffer, readFully } from "./read-content.ts";

export interface CompareScope {
  readonly context: PrimaryContext;
  readonly store: PrimaryStore;
  /** Index of the store in the cut's list. */
  readonly storeIndex: number;
  readonly birth: Seq;
  readonly shipment: Shipment;
  /** More rounds follow before the cut ends: a file that moved is taken as it is, the next round mends it. */
  readonly preCopy: boolean;
  /** Paths of this store that moved while they were read, and that were not read whole since. */
  readonly torn: Set<StorePath>;
  /** Adds up what the group's first cut leads to; undefined in later ones. */
  readonly first: FirstCut | undefined;
  /** Of a cut that somebody may end: how a large file lets that be heard, and ends with it. */
  readonly breath: Breath | undefined;
}

/** Compares one thing that an adapter found with the manifest; writes and ships what differs. True when anything did. */
export async function compareEntry(scope: CompareScope, found: FoundEntry): Promise<boolean> {
  const { manifest } = scope.context;
  const { birth, store } = scope;
  const { path, entry, content } = found;
  const atPath = manifest.objectAtPath(store.number, path, birth);
  const chosen = await chooseObject(scope, found, atPath);
  if (entry.type === "file" && content !== undefined) {
    return await compareFile(scope, path, entry, content, chosen, atPath);
  }
  scope.torn.delete(path);
  const before = chosen === undefined ? undefined : manifest.object(chosen, birth);
  assert(entry.type !== "file" || before !== undefined, `a file without content is known: ${path}`);
  const object = chosen ?? scope.context.catalog.newObject();
  return await settleRow(
    scope,
    path,
    entry,
    object,
    before,
    before?.blockSize ?? 0,
    before?.content ?? new Uint8Array(32),
    atPath,
  );
}

/** Everything at and below a path is gone. */
export async function removeSubtree(scope: CompareScope, path: StorePath): Promise<boolean> {
  const { manifest } = scope.context;
  const { store, birth, shipment, storeIndex } = scope;
  for (const torn of scope.torn) if (torn === path || torn.startsWith(`${path}/`)) scope.torn.delete(torn);
  const object = manifest.objectAtPath(store.number, path, birth);
  if (object === undefined) return false;
  scope.first?.replaced();
  if (manifest.object(object, birth)?.type === "directory") {
    for (const entry of manifest.below(store.number, path, birth)) {
      manifest.putPath(store.number, entry.path, undefined, birth);
      await shipment.path({ store: storeIndex, path: entry.path, object: undefined });
    }
  }
  manifest.putPath(store.number, path, undefined, birth);
  await shipment.path({ store: storeIndex, path, object: undefined });
  return true;
}

async function compareFile(
  scope: CompareScope,
  path: StorePath,
  entry: Entry,
  content: Content,
  chosen: ObjectId | undefined,
  atPath: ObjectId | undefined,
): Promise<boolean> {
  const { context, birth, shipment } = scope;
  const { catalog, manifest } = context;
  const ranges = rangesOf(entry, content);
  const small = ranges.reduce((sum, range) => sum + range.length, 0) <= framePayloadBytes;
  // What fits into one buffer is read to its end before anything is written or shipped: nothing has to be taken back
  // when it moved meanwhile, and a savepoint for each of many small files would cost more than their rows.
  const pieces = small ? readPieces(context, content, ranges) : undefined;
  const movedEarly = pieces !== undefined && content.settle() === "moved";
  if (movedEarly && !scope.preCopy) {
    scope.torn.add(path);
    return false;
  }
  const object = chosen ?? catalog.newObject();
  const before = chosen === undefined ? undefined : manifest.object(chosen, birth);
  if (!small) catalog.mark();
  const change = new ContentChange(manifest, object, birth, before?.content ?? new Uint8Array(0), {
    births: true,
    fresh: chosen === undefined,
  });
  if (before !== undefined && entry.size < before.size) change.truncate(Math.ceil(entry.size / content.blockSize));
  let shipped = false;
  if (pieces === undefined) {
    shipped = await readAndShip(scope, object, content, ranges, change);
  } else {
    for (const { offset, bytes } of pieces) {
      const how = await shipChanged(scope, object, content.blockSize, offset, bytes, change, null);
      if (how !== "nothing") shipped = true;
    }
  }
  const moved = movedEarly || (pieces === undefined && content.settle() === "moved");
  if (!small) {
    if (moved && !scope.preCopy) {
      // What this node is was changed durably meanwhile, and with that these rows were.
      if (!catalog.takeBack()) throw new LeftTorn(`${scope.store.name}/${path}`);
      if (shipped) await shipment.drop(object);
      scope.torn.add(path);
      return false;
    }
    catalog.keep();
  }
  if (moved) scope.torn.add(path);
  else scope.torn.delete(path);
  const digest = change.finish();
  const changed = await settleRow(scope, path, entry, object, before, content.blockSize, digest, atPath);
  assert(changed || !shipped, `content of ${path} was shipped and its row did not change`);
  return changed;
}

/** Ends early when the content does: then `settle` says that it moved. */
function readPieces(
  context: PrimaryContext,
  content: Content,
  ranges: readonly { offset: number; length: number }[],
): { offset: number; bytes: Uint8Array }[] {
  const buffer = readBuffer(context);
  const pieces: { offset: number; bytes: Uint8Array }[] = [];
  let used = 0;
  for (const { offset, length } of ranges) {
    const got = readFully(content, buffer.subarray(used, used + length), offset);
    if (got > 0) pieces.push({ offset, bytes: buffer.subarray(used, used + got) });
    used += got;
    if (got < length) break;
  }
  return pieces;
}

async function readAndShip(
  scope: CompareScope,
  object: ObjectId,
  content: Content,
  ranges: readonly { offset: number; length: number }[],
  change: ContentChange,
): Promise<boolean> {
  const { blockSize } = content;
  const piece = Math.max(blockSize, Math.floor(framePayloadBytes / blockSize) * blockSize);
  const wholeFrames = piece === framePayloadBytes;
  let shipped = false;
  let memory: Buffer<ArrayBuffer> | undefined;
  reading: for (const { offset, length } of ranges) {
    const end = offset + length;
    for (let at = offset; at < end; at += piece) {
      memory ??= wholeFrames ? takeFrameMemory() : Buffer.allocUnsafeSlow(piece);
      const wanted = Math.min(piece, end - at);
      if (scope.breath?.due(wanted) === true) await scope.breath.take();
      const got = readFully(content, memory.subarray(0, wanted), at);
      const whole = wholeFrames && got === piece;
      const how = await shipChanged(
        scope,
        object,
        blockSize,
        at,
        memory.subarray(0, got),
        change,
        whole ? memory : null,
      );
      if (how !== "nothing") shipped = true;
      if (how === "gave memory") memory = undefined;
      if (got < wanted) break reading; // It shrank: settle says moved.
    }
  }
  if (memory !== undefined) giveFrameMemory(memory.buffer);
  return shipped;
}

/**
 * Hashes the blocks of one read and ships the runs of them that differ. `memory`, where it is given, is a whole frame and
 * all that was read: when all of it is new, as in a first copy, it is given away rather than copied.
 */
async function shipChanged(
  scope: CompareScope,
  object: ObjectId,
  blockSize: number,
  offset: number,
  bytes: Uint8Array,
  change: ContentChange,
  memory: Buffer<ArrayBuffer> | null,
): Promise<"nothing" | "shipped" | "gave memory"> {
  const { shipment, storeIndex } = scope;
  const first = offset / blockSize;
  const blocks = Math.ceil(bytes.length / blockSize);
  const hashes = blockHashes(bytes, blockSize);
  if (memory !== null && change.appends(first) && !hasZeroHash(hashes)) {
    change.setAll(first, hashes);
    const length = memory.length;
    await shipment.frame({ object, offset, length, hashes, zero: false, store: storeIndex, blockSize }, memory);
    return "gave memory";
  }
  let open: { from: number; zero: boolean } | undefined;
  let shipped = false;
  const close = async (to: number): Promise<void> => {
    if (open === undefined) return;
    const from = open.from * blockSize;
    const end = Math.min(to * blockSize, bytes.length);
    const extent = {
      object,
      offset: offset + from,
      length: end - from,
      hashes: open.zero ? new Uint8Array(0) : hashes.subarray(open.from * hashBytes, to * hashBytes),
      zero: open.zero,
      store: storeIndex,
      blockSize,
    };
    await shipment.extent(extent, open.zero ? undefined : bytes.subarray(from, end));
    shipped = true;
    open = undefined;
  };
  for (let i = 0; i < blocks; i++) {
    const hash = hashes.subarray(i * hashBytes, (i + 1) * hashBytes);
    const zero = isZeroHash(hash, 0);
    if (equalBytes(change.hash(first + i), hash)) {
      await close(i);
      continue;
    }
    change.set(first + i, hash);
    if (open !== undefined && open.zero !== zero) await close(i);
    open ??= { from: i, zero };
  }
  await close(blocks);
  return shipped ? "shipped" : "nothing";
}

export function isZeroHash(hashes: Uint8Array, at: number): boolean {
  return hashes[at] === 0 && isZero(hashes.subarray(at, at + hashBytes));
}

function hasZeroHash(hashes: Uint8Array): boolean {
  for (let at = 0; at < hashes.length; at += hashBytes) if (isZeroHash(hashes, at)) return true;
  return false;
}

/** Writes the object's and the path's rows where they differ, remembers what was seen. */
async function settleRow(
  scope: CompareScope,
  path: StorePath,
  entry: Entry,
  object: ObjectId,
  before: ObjectVersion | undefined,
  blockSize: number,
  content: Uint8Array,
  atPath: ObjectId | undefined,
): Promise<boolean> {
  const { context, store, storeIndex, birth, shipment } = scope;
  const { catalog, manifest } = context;
  let changed = false;
  const row = rowOf(entry, object, blockSize, content, storeIndex);
  if (before === undefined || differs(before, row)) {
    manifest.putObject(row, birth);
    if (before === undefined) scope.first?.newObject(store.number, row);
    else scope.first?.replaced();
    await shipment.object(row);
    changed = true;
  }
  if (atPath !== object) {
    // A directory that becomes something else takes what was below it along.
    if (atPath !== undefined && entry.type !== "directory" && manifest.object(atPath, birth)?.type === "directory") {
      await removeSubtree(scope, path);
    }
    manifest.putPath(store.number, path, object, birth);
    if (atPath === undefined) scope.first?.newPath(store.name, path, row);
    else scope.first?.replaced();
    await shipment.path({ store: storeIndex, path, object });
    changed = true;
  }
  catalog.run(
    "INSERT OR REPLACE INTO seen (object, store, inode, size, mtime_ns, ctime_ns) VALUES (?,?,?,?,?,?)",
    object,
    store.number,
    entry.seen.inode,
    entry.seen.size,
    entry.seen.mtimeNs,
    entry.seen.ctimeNs,
  );
  return changed;
}

function differs(before: ObjectVersion, row: ObjectRow): boolean {
  return (
    before.mode !== row.mode ||
    before.uid !== row.uid ||
    before.gid !== row.gid ||
    before.mtimeUs !== row.mtimeUs ||
    before.size !== row.size ||
    before.target !== row.target ||
    !equalBytes(before.content, row.content)
  );
}

export function rowOf(
  entry: Entry,
  object: ObjectId,
  blockSize: number,
  content: Uint8Array,
  storeIndex: number,
): ObjectRow {
  return {
    object,
    type: entry.type,
    mode: entry.mode,
    uid: entry.uid,
    gid: entry.gid,
    mtimeUs: entry.type === "directory" ? 0 : entry.mtimeUs,
    size: entry.size,
    blockSize: entry.type === "file" ? blockSize : 0,
    target: entry.target,
    content,
    store: storeIndex,
  };
}
