import { keepNote, noteOf } from "../../shared/catalog/notes.ts";
import { isSystemError } from "../../shared/errors.ts";
import { imageFileName } from "../apply/save-images.ts";
import { homeOf, type ReplicaContext } from "../replica-context.ts";
import { failing } from "../sync.ts";

/** The number in a name as `imageFileName` gives it. */
export function historyFileNumber(name: string): number {
  return Number(name.slice(1));
}

/** Images that are moved into one new file, in one transaction. */
const rewriteBytesMax = 16 * 1024 * 1024;

/**
 * Removes history files that no image is in any more, and moves what is left in those that are more than half empty,
 * of several together, to a new file. A file is never changed in place and a number never used again: whoever reads
 * finds the bytes that its row spoke of, or no file at all, and looks again.
 */
export function* settleHistoryFiles(
  context: ReplicaContext,
  touched: ReadonlyMap<number, ReadonlySet<number>>,
  result: { historyFiles: number; rewrittenBytes: number },
): Generator<void> {
  const { catalog, disk } = context;
  for (const [store, files] of touched) {
    const { history } = homeOf(context, store);
    const sparse: number[] = [];
    for (const file of files) {
      const name = imageFileName(file);
      const stat = disk.stat(history, name);
      if (stat === undefined) continue;
      const live = Number(
        catalog.get("SELECT sum(length) AS bytes FROM images WHERE store=? AND file=?", store, file)?.bytes ?? 0,
      );
      if (live === 0) {
        disk.unlink(history, name);
        result.historyFiles++;
      } else if (live * 2 < stat.size) {
        sparse.push(file);
      }
    }
    yield;
    yield* rewrite(context, store, sparse, result);
  }
}

interface LiveImage {
  readonly file: number;
  readonly object: number;
  readonly offset: number;
  readonly died: number;
  readonly length: number;
  readonly position: number;
}

function* rewrite(
  context: ReplicaContext,
  store: number,
  files: readonly number[],
  result: { historyFiles: number; rewrittenBytes: number },
): Generator<void> {
  const { disk } = context;
  const { history } = homeOf(context, store);
  let pending = [...files];
  while (pending.length > 0) {
    const { images, emptied } = nextImages(context, store, pending);
    if (!move(context, store, images)) return;
    result.rewrittenBytes += images.reduce((sum, image) => sum + image.length, 0);
    for (const file of emptied) {
      disk.unlink(history, imageFileName(file));
      result.historyFiles++;
    }
    pending = pending.filter((file) => !emptied.includes(file));
    yield;
  }
}

/** As many of the files' images as go into one new file, and the files that are empty without them. */
function nextImages(
  context: ReplicaContext,
  store: number,
  files: readonly number[],
): { images: LiveImage[]; emptied: number[] } {
  const images: LiveImage[] = [];
  const emptied: number[] = [];
  let bytes = 0;
  for (const file of files) {
    const rows = context.catalog.all(
      "SELECT object, offset, died, length, position FROM images WHERE store=? AND file=? ORDER BY position",
      store,
      file,
    );
    for (const row of rows) {
      if (bytes >= rewriteBytesMax) return { images, emptied };
      bytes += Number(row.length);
      images.push({
        file,
        object: Number(row.object),
        offset: Number(row.offset),
        died: Number(row.died),
        length: Number(row.length),
        position: Number(row.position),
      });
    }
    emptied.push(file);
  }
  return { images, emptied };
}

/** False when there is no room for it: then history stays as it is until there is. */
function move(context: ReplicaContext, store: number, images: readonly LiveImage[]): boolean {
  const { catalog, disk } = context;
  const { history } = homeOf(context, store);
  // Below zero, where no batch's file is; counted in the catalog, so that no number comes twice.
  const number = Number(noteOf(catalog, "historyRewritten") ?? 0) - 1;
  const name = imageFileName(number);
  // What a crash before the commit left.
  if (disk.stat(history, name) !== undefined) disk.unlink(history, name);
  const positions: number[] = [];
  try {
    const target = disk.openFile(history, name, "create");
    try {
      let size = 0;
      for (const image of images) {
        const source = disk.openFile(history, imageFileName(image.file), "read");
        try {
          const bytes = new Uint8Array(image.length);
          disk.read(source, bytes, 0, bytes.length, image.position);
          disk.write(target, bytes, size);
        } finally {
          disk.closeFile(source);
        }
        positions.push(size);
        size += image.length;
      }
      failing(() => {
        disk.syncFile(target);
        disk.syncDirectory(history);
      });
    } finally {
      disk.closeFile(target);
    }
  } catch (error) {
    if (!isSystemError(error, "ENOSPC", "EDQUOT")) throw error;
    if (disk.stat(history, name) !== undefined) disk.unlink(history, name);
    return false;
  }
  catalog.transaction("history", () => {
    keepNote(catalog, "historyRewritten", number);
    images.forEach((image, index) => {
      catalog.run(
        "UPDATE images SET file=?, position=? WHERE object=? AND offset=? AND died=?",
        number,
        positions[index]!,
        image.object,
        image.offset,
        image.died,
      );
    });
  });
  return true;
}
