import type { NewRows } from "../../shared/catalog/new-rows.ts";
import { blocksPerRun, hashBytes, trimRun } from "../../shared/manifest/block-hash.ts";
import { blockHashes } from "../../shared/manifest/block-hashes.ts";
import { runTerm, Sum256 } from "../../shared/manifest/digest.ts";
import type { Content, Entry, Found } from "../../shared/ports/store-adapter.ts";
import type { ObjectId, StorePath } from "../../shared/words.ts";
import { framePayloadBytes } from "../ship/frame-memory.ts";
import { type CompareScope, isZeroHash, rowOf } from "./compare-entry.ts";
import { readBuffer, readFully } from "./read-content.ts";

const noBytes = new Uint8Array(0);

/** New to the manifest beyond doubt, and small enough to be read before anything is written. */
export function isNewborn(found: Found): boolean {
  if (found.kind !== "entry" || found.anew !== true) return false;
  const { entry, content } = found;
  return entry.type === "file" ? content?.ranges === "all" && entry.size <= framePayloadBytes : content === undefined;
}

/**
 * As `compareEntry`, for what there is nothing to compare with: nothing is looked up, rows are written many at a time and
 * nothing is waited for. A first copy is nearly all of this kind.
 */
export function takeNewborn(
  scope: CompareScope,
  rows: NewRows,
  path: StorePath,
  entry: Entry,
  content: Content | undefined,
): boolean {
  const { context, store, storeIndex, birth, shipment } = scope;
  const bytes = content === undefined ? noBytes : readWhole(scope, entry, content);
  const moved = content?.settle() === "moved";
  if (moved) scope.torn.add(path);
  if (moved && !scope.preCopy) return false;

  const object = context.catalog.newObject();
  const blockSize = content?.blockSize ?? 0;
  const hashes = bytes.length === 0 ? noBytes : blockHashes(bytes, blockSize);
  const row = rowOf(entry, object, blockSize, putRuns(scope, rows, object, hashes), storeIndex);
  rows.object(row, birth);
  rows.path(store.number, path, object, birth);
  rows.seen(object, store.number, entry.seen);
  scope.first?.newObject(store.number, row);
  scope.first?.newPath(store.name, path, row);
  putExtents(scope, object, blockSize, bytes, hashes);
  shipment.putRow(row, { store: storeIndex, path, object });
  return true;
}

/** Ends early when the content does: then `settle` says that it moved. */
function readWhole(scope: CompareScope, entry: Entry, content: Content): Uint8Array {
  const buffer = readBuffer(scope.context).subarray(0, entry.size);
  return buffer.subarray(0, readFully(content, buffer, 0));
}

/** Writes the rows of hashes and gives the content digest. */
function putRuns(scope: CompareScope, rows: NewRows, object: ObjectId, hashes: Uint8Array): Uint8Array {
  const content = new Sum256();
  const runBytes = blocksPerRun * hashBytes;
  for (let run = 0; run * runBytes < hashes.length; run++) {
    const trimmed = trimRun(hashes.subarray(run * runBytes, (run + 1) * runBytes));
    const term = runTerm(run, trimmed);
    if (term === undefined) continue;
    content.add(term);
    rows.run(object, run, scope.birth, trimmed);
  }
  return content.bytes();
}

/** Ships the content in as few extents as there are stretches of blocks that are not zeros: those need no bytes. */
function putExtents(
  scope: CompareScope,
  object: ObjectId,
  blockSize: number,
  bytes: Uint8Array,
  hashes: Uint8Array,
): void {
  const blocks = hashes.length / hashBytes;
  for (let from = 0, to = 0; from < blocks; from = to) {
    const zero = isZeroHash(hashes, from * hashBytes);
    while (to < blocks && isZeroHash(hashes, to * hashBytes) === zero) to++;
    if (zero) continue;
    const part = bytes.subarray(from * blockSize, to * blockSize);
    const extent = {
      object,
      offset: from * blockSize,
      length: part.length,
      hashes: hashes.subarray(from * hashBytes, to * hashBytes),
      zero,
      store: scope.storeIndex,
      blockSize,
      held: false,
    };
    scope.shipment.putExtent(extent, part);
  }
}
