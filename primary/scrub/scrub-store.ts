import type { Breath } from "../../shared/breath.ts";
import type { Catalog } from "../../shared/catalog/catalog.ts";
import type { Manifest, ObjectVersion } from "../../shared/catalog/manifest.ts";
import { explain, isSystemError } from "../../shared/errors.ts";
import { blockHash, blocksPerRun, equalBytes, hashInRun } from "../../shared/manifest/block-hash.ts";
import type { Content, SeenEntry } from "../../shared/ports/store-adapter.ts";
import { type ObjectId, type Seq, type StorePath, seq } from "../../shared/words.ts";
import { seenStamps } from "../plan/seen-index.ts";

const objectsPerLook = 200;
const pieceBytes = 1024 * 1024;
/** A small file costs its opening and syncing more than its bytes. */
const fileBytesLeast = 16 * 1024;
/** Also what a cut in the making has written: its rows and the stamps that go with them come together. */
const newest: Seq = seq(Number.MAX_SAFE_INTEGER);

type Stamps = NonNullable<SeenEntry["seen"]>;

/** With why it could not be read to its end, if so. */
export interface ScrubbedContent extends Content {
  readonly failure: Error | undefined;
}

/** How a store kind's files are read without a view of them. */
export interface ScrubSource {
  /**
   * The file at `path`, if it is by all its stamps what was seen; undefined where it is not, or nobody can say.
   * @throws a system error where it cannot be read
   */
  open(path: StorePath, seen: Stamps): ScrubbedContent | undefined;
}

export interface ScrubFinding {
  /** `differs`: other bytes than those that were shipped, under the same stamps. */
  readonly kind: "differs" | "unreadable";
  readonly path: StorePath;
  readonly object: ObjectId;
  readonly detail: string;
}

export interface ScrubProgress {
  /** Everything up to here was read. */
  readonly object: ObjectId;
  readonly files: number;
  readonly bytes: number;
}

/**
 * Reads every file of a store again whose stamps say that it is what was shipped, beside the cuts and at a pace of its
 * own, and compares it with the block hashes of the manifest. What has changed by its stamps is left to the cuts.
 */
export async function scrubStore(
  { catalog, manifest, store }: { readonly catalog: Catalog; readonly manifest: Manifest; readonly store: number },
  source: ScrubSource,
  after: ObjectId | 0,
  breath: Breath,
  found: (finding: ScrubFinding) => void,
  progress: (so: ScrubProgress) => void,
): Promise<void> {
  let files = 0;
  let bytes = 0;
  for (let last = after, more = true; more; ) {
    const rows = catalog.all(
      "SELECT object FROM seen WHERE object > ? AND store = ? AND ctime_ns <> 0 ORDER BY object LIMIT ?",
      last,
      store,
      objectsPerLook,
    );
    for (const row of rows) {
      last = Number(row.object) as ObjectId;
      const version = manifest.object(last, newest);
      const path = version?.type === "file" ? manifest.pathsOf(last, newest)[0]?.path : undefined;
      if (version === undefined || path === undefined) continue;
      const finding = await scrubFile({ catalog, manifest }, source, version, path, breath);
      if (finding !== undefined) found(finding);
      files++;
      bytes += version.size;
      progress({ object: last, files, bytes });
    }
    more = rows.length === objectsPerLook;
  }
}

async function scrubFile(
  { catalog, manifest }: { readonly catalog: Catalog; readonly manifest: Manifest },
  source: ScrubSource,
  version: ObjectVersion,
  path: StorePath,
  breath: Breath,
): Promise<ScrubFinding | undefined> {
  const { object, size, blockSize } = version;
  const seen = seenStamps(catalog, object);
  if (seen === undefined || seen.ctimeNs === 0n || seen.size !== size) return undefined;
  const unreadable = (error: unknown): ScrubFinding => ({ kind: "unreadable", path, object, detail: explain(error) });
  let content: ScrubbedContent | undefined;
  try {
    content = source.open(path, seen);
  } catch (error) {
    if (!isSystemError(error, "EIO", "EACCES", "EPERM", "ESTALE", "EUCLEAN", "EBADMSG")) throw error;
    return unreadable(error);
  }
  if (breath.due(fileBytesLeast)) await breath.take();
  if (content === undefined) return undefined;
  let differs: number | undefined;
  try {
    const buffer = Buffer.allocUnsafe(Math.max(blockSize, Math.floor(pieceBytes / blockSize) * blockSize));
    let run: { readonly number: number; readonly hashes: Uint8Array | undefined } | undefined;
    for (let at = 0; at < size && differs === undefined; at += buffer.length) {
      const wanted = Math.min(buffer.length, size - at);
      const got = content.read(buffer.subarray(0, wanted), at);
      if (got < wanted) break; // It moved, or cannot be read: settle says.
      for (let from = 0; from < got && differs === undefined; from += blockSize) {
        const block = (at + from) / blockSize;
        const number = Math.floor(block / blocksPerRun);
        if (run?.number !== number) run = { number, hashes: manifest.run(object, number, newest) };
        const hash = blockHash(buffer.subarray(from, Math.min(from + blockSize, got)));
        if (!equalBytes(hash, hashInRun(run.hashes, block % blocksPerRun))) differs = at + from;
      }
      if (breath.due(got)) await breath.take();
    }
  } finally {
    // Closes it, also when the scrub is ended in the midst of it.
    if (content.settle() === "moved") differs = undefined;
  }
  if (content.failure !== undefined) return unreadable(content.failure);
  // A cut may have taken another content meanwhile, under stamps of its own.
  const now = seenStamps(catalog, object);
  const same = now?.ctimeNs === seen.ctimeNs && now.mtimeNs === seen.mtimeNs && now.inode === seen.inode;
  if (differs === undefined || !same || manifest.object(object, newest)?.birth !== version.birth) return undefined;
  return { kind: "differs", path, object, detail: `first at byte ${differs} of ${size}` };
}
