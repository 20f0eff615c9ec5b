import { assert, isSystemError } from "../../shared/errors.ts";
import { blockHash, blocksPerRun, equalBytes, hashInRun } from "../../shared/manifest/block-hash.ts";
import type { Disk, OpenFile } from "../../shared/ports/disk.ts";
import type { ObjectId, Seq } from "../../shared/words.ts";
import { homeOf, type ReplicaContext } from "../replica-context.ts";
import { failing } from "../sync.ts";
import { openReadable } from "./holds-content.ts";
import { locate, locateOrFail } from "./locate.ts";
import { PayloadReader } from "./payload-reader.ts";
import { type Batch, type ChangedObject, onlyBorn, type PendingExtent, pendingExtents } from "./plan-batch.ts";

/** Bytes of an object as they were until cut `died`, at `position` of the store's history file. */
export interface SavedImage {
  readonly object: ObjectId;
  readonly store: number;
  readonly died: Seq;
  readonly offset: number;
  readonly length: number;
  readonly position: number;
}

/** No image is longer: whoever looks for one that covers a byte looks so far back. */
export const imageBytesMax = 1024 * 1024;

/** The file in a store's history directory with the images of the batch that ends with this cut. */
export function imageFileName(to: number | bigint): string {
  return `h${to}`;
}

/**
 * Saves what the batch overwrites, synced, before anything is overwritten. Each cut of the batch gets images of its
 * own, also of bytes that an earlier cut of the same batch brings, so that every cut is a recovery point however many
 * are applied together.
 */
export function saveImages(context: ReplicaContext, batch: Batch): SavedImage[] {
  const { disk } = context;
  using payloads = new PayloadReader(context);
  const saved: SavedImage[] = [];
  const files = new Map<number, HistoryFile>();
  try {
    for (const changed of batch.objects) {
      if (changed.type !== "file" || onlyBorn(changed)) continue;
      const writer = (): HistoryFile => {
        let file = files.get(changed.store);
        if (file === undefined) {
          file = new HistoryFile(disk, context, changed.store, batch.to);
          files.set(changed.store, file);
        }
        return file;
      };
      if (changed.renewed === undefined) {
        saveObject(context, batch, changed, payloads, writer, saved);
        continue;
      }
      salvage(context, batch, changed, payloads, writer, saved);
      const steps = changed.steps.filter((step) => step.seq >= changed.renewed!);
      saveObject(context, batch, { ...changed, before: undefined, steps }, payloads, writer, saved);
    }
    for (const [store, file] of files) {
      failing(() => {
        disk.syncFile(file.file);
        disk.syncDirectory(homeOf(context, store).history);
      });
    }
  } finally {
    for (const file of files.values()) disk.closeFile(file.file);
  }
  return saved;
}

class HistoryFile {
  readonly file: OpenFile;
  size = 0;

  constructor(disk: Disk, context: ReplicaContext, store: number, to: Seq) {
    const directory = homeOf(context, store).history;
    const name = imageFileName(to);
    // A file of this name is the leftover of a batch that never got its mark.
    if (disk.stat(directory, name) !== undefined) disk.unlink(directory, name);
    this.file = disk.openFile(directory, name, "create");
  }
}

function saveObject(
  context: ReplicaContext,
  batch: Batch,
  changed: ChangedObject,
  payloads: PayloadReader,
  writer: () => HistoryFile,
  saved: SavedImage[],
): void {
  const { disk } = context;
  const { object, store } = changed;
  const extents = [...pendingExtents(context, object, batch.from, batch.to)];
  let size = changed.before?.size;
  let source: OpenFile | undefined;
  // What earlier cuts of this batch did to the object, as far as a later one of them overwrites it.
  const overlay = new Overlay(size ?? 0);
  try {
    for (const step of changed.steps) {
      const mine = extents.filter((extent) => extent.seq === step.seq);
      if (size !== undefined) {
        const newSize = step.version?.size ?? size;
        for (const range of overwritten(mine, size, newSize)) {
          if (source === undefined) {
            const found = locateForImages(context, changed, batch);
            source = disk.openFile(found.directory, found.name, "read");
          }
          for (let at = range.offset; at < range.end; at += imageBytesMax) {
            const bytes = new Uint8Array(Math.min(imageBytesMax, range.end - at));
            disk.read(source, bytes, 0, bytes.length, at);
            overlay.lay(bytes, at);
            const history = writer();
            disk.write(history.file, bytes, history.size);
            saved.push({ object, store, died: step.seq, offset: at, length: bytes.length, position: history.size });
            history.size += bytes.length;
          }
        }
      }
      if (step.version === undefined) break;
      const later = extents.some((extent) => extent.seq > step.seq) || step !== changed.steps.at(-1);
      if (size === undefined) {
        // At its birth the object is what materialize made of it.
        overlay.born(step.version.size);
      } else if (later) {
        overlay.truncate(step.version.size);
        for (const extent of mine)
          overlay.write(extent, extent.place === "zero" ? undefined : payloads.read(store, extent));
      }
      size = step.version.size;
    }
  } finally {
    if (source !== undefined) disk.closeFile(source);
  }
}

/**
 * Of a damaged file that the batch renews: old images of the blocks that the batch changes, as far as the file still has
 * them. What it has not is missing in the points before: whoever restores one of them is told, since no block is taken
 * without its hash.
 */
function salvage(
  context: ReplicaContext,
  batch: Batch,
  changed: ChangedObject,
  payloads: PayloadReader,
  writer: () => HistoryFile,
  saved: SavedImage[],
): void {
  const { disk, catalog, manifest } = context;
  const { object, store, before, renewed } = changed;
  assert(before !== undefined && renewed !== undefined, "what is renewed was there before");
  const found = locate(context, object, store, batch.from, batch.to);
  const source = found?.stat.type === "file" ? openReadable(disk, found.directory, found.name) : undefined;
  const overlay = new Overlay(before.size);
  const extents = [...pendingExtents(context, object, batch.from, batch.to)];
  let last: { seq: Seq; size: number } = { seq: batch.from, size: before.size };
  let lost = 0;
  try {
    for (const step of changed.steps) {
      const bytes = new Uint8Array(before.blockSize);
      for (const block of blocksThatChange(manifest, object, last, step.seq, before.blockSize)) {
        const offset = block * before.blockSize;
        const length = Math.min(before.blockSize, last.size - offset);
        const piece = bytes.subarray(0, length);
        piece.fill(0, source === undefined ? 0 : disk.read(source, piece, 0, length, offset));
        overlay.lay(piece, offset);
        const run = manifest.run(object, Math.floor(block / blocksPerRun), last.seq);
        if (!equalBytes(blockHash(piece), hashInRun(run, block % blocksPerRun))) {
          lost++;
          continue;
        }
        const history = writer();
        disk.write(history.file, piece, history.size);
        saved.push({ object, store, died: step.seq, offset, length, position: history.size });
        history.size += length;
      }
      if (step.seq === renewed || step.version === undefined) break;
      overlay.truncate(step.version.size);
      for (const extent of extents) {
        if (extent.seq === step.seq)
          overlay.write(extent, extent.place === "zero" ? undefined : payloads.read(store, extent));
      }
      last = { seq: step.seq, size: step.version.size };
    }
  } finally {
    if (source !== undefined) disk.closeFile(source);
  }
  if (lost === 0) return;
  catalog.transaction("damaged", () =>
    catalog.event("history.lost", { object, before: renewed, blocks: lost }, context.nowUs()),
  );
}

/** Blocks of an object whose hash another cut changes, within what it was long before. */
function* blocksThatChange(
  manifest: ReplicaContext["manifest"],
  object: ObjectId,
  last: { readonly seq: Seq; readonly size: number },
  next: Seq,
  blockSize: number,
): Generator<number> {
  const blocks = Math.ceil(last.size / blockSize);
  for (let first = 0; first < blocks; first += blocksPerRun) {
    const then = manifest.run(object, first / blocksPerRun, last.seq);
    const now = manifest.run(object, first / blocksPerRun, next);
    for (let index = 0; index < blocksPerRun && first + index < blocks; index++) {
      if (!equalBytes(hashInRun(then, index), hashInRun(now, index))) yield first + index;
    }
  }
}

function locateForImages(
  context: ReplicaContext,
  changed: ChangedObject,
  batch: Batch,
): ReturnType<typeof locateOrFail> {
  if (changed.before !== undefined) return locateOrFail(context, changed.object, changed.store, batch.from, batch.to);
  const { disk } = context;
  const directory = homeOf(context, changed.store).staging;
  const name = `o${changed.object}`;
  return { directory, name, where: "staging", stat: disk.stat(directory, name)! };
}

/** The byte ranges below `size` that these extents and a new size destroy: ascending, not overlapping. */
function overwritten(
  extents: readonly { readonly offset: number; readonly length: number }[],
  size: number,
  newSize: number,
): { offset: number; end: number }[] {
  const ranges = extents.map(({ offset, length }) => ({ offset, end: Math.min(offset + length, size) }));
  if (newSize < size) ranges.push({ offset: newSize, end: size });
  const result: { offset: number; end: number }[] = [];
  for (const range of ranges.filter((item) => item.offset < item.end).sort((a, b) => a.offset - b.offset)) {
    const last = result.at(-1);
    if (last !== undefined && range.offset <= last.end) last.end = Math.max(last.end, range.end);
    else result.push({ ...range });
  }
  return result;
}

/** Writes and truncations on top of a file that is not touched yet. */
class Overlay {
  /** The file's own bytes count up to here; above it they were cut off once. */
  #fileBytes: number;
  #writes: { offset: number; length: number; bytes: Uint8Array | undefined }[] = [];

  constructor(size: number) {
    this.#fileBytes = size;
  }

  born(size: number): void {
    this.#fileBytes = size;
  }

  truncate(size: number): void {
    this.#fileBytes = Math.min(this.#fileBytes, size);
    this.#writes = this.#writes.flatMap((write) => {
      if (write.offset >= size) return [];
      const length = Math.min(write.length, size - write.offset);
      return [{ offset: write.offset, length, bytes: write.bytes?.subarray(0, length) }];
    });
  }

  write(extent: PendingExtent, bytes: Uint8Array | undefined): void {
    this.#writes.push({ offset: extent.offset, length: extent.length, bytes });
  }

  /** Turns bytes of the file at `offset` into what they are with everything laid over. */
  lay(bytes: Uint8Array, offset: number): void {
    if (offset + bytes.length > this.#fileBytes) bytes.fill(0, Math.max(0, this.#fileBytes - offset));
    for (const write of this.#writes) {
      const start = Math.max(offset, write.offset);
      const end = Math.min(offset + bytes.length, write.offset + write.length);
      if (start >= end) continue;
      if (write.bytes === undefined) bytes.fill(0, start - offset, end - offset);
      else bytes.set(write.bytes.subarray(start - write.offset, end - write.offset), start - offset);
    }
  }
}

/** For a crash before the mark: history files that no image row knows. */
export function dropUnknownHistory(context: ReplicaContext): void {
  const { catalog, disk, homes } = context;
  for (const home of homes.values()) {
    for (const name of disk.list(home.history)) {
      const file = Number(name.slice(1));
      if (
        catalog.get("SELECT 1 AS found FROM images WHERE store=? AND file=? LIMIT 1", home.number, file) !== undefined
      )
        continue;
      try {
        disk.unlink(home.history, name);
      } catch (error) {
        if (!isSystemError(error, "ENOENT")) throw error;
      }
    }
  }
}
