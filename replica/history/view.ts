import type { ObjectVersion } from "../../shared/catalog/manifest.ts";
import { assert, isSystemError, UnderstudyError } from "../../shared/errors.ts";
import { blockHash, blocksPerRun, equalBytes, hashInRun } from "../../shared/manifest/block-hash.ts";
import { runTerm, Sum256 } from "../../shared/manifest/digest.ts";
import type { OpenFile } from "../../shared/ports/disk.ts";
import { cutText, type ObjectId, type Seq, type StorePath } from "../../shared/words.ts";
import { inodeOf, locate } from "../apply/locate.ts";
import { imageBytesMax, imageFileName } from "../apply/save-images.ts";
import { homeOf, type ReplicaContext } from "../replica-context.ts";

/** This cut cannot be read: it never was applied here, or it is no recovery point any more. */
export class NotReadable extends UnderstudyError {
  readonly code = "POINT_NOT_READABLE";
  readonly remedy = "stop";
  readonly state = "Nothing was changed.";
  readonly hint = "`understudy points GROUP` lists what can be restored.";
}

/** The file that the catalog knows is nowhere in the copy: somebody else removed or replaced it. */
export class FileGone extends UnderstudyError {
  readonly code = "FILE_GONE";
  readonly remedy = "stop";
  readonly state = "The copy lacks a file that the manifest has; everything else is as it was.";
  readonly hint = "Find out who writes into the copy; `understudy verify GROUP` shows what else differs.";
}

/** A file on its way through limbo is missed by a look-up that comes a moment too early or too late. */
const attemptsMax = 50;
const pauseMs = 2;
const historyFilesOpenMax = 32;
/** Bytes that are read at once, unless a block is larger. */
const pieceBytes = 1024 * 1024;

/** A piece of an object as of the view's cut; `bytes` is only good until the next one is asked for. */
export interface CheckedPiece {
  readonly offset: number;
  readonly bytes: Uint8Array;
  /** The first block here that does not have its hash in the manifest. */
  readonly badBlock: number | undefined;
}

/**
 * The copy as of one applied cut, while apply goes on in another thread. An old image and its row are durable before any
 * byte that it holds is overwritten; so whoever reads the file first and asks for images then finds an image of
 * everything that had changed by the time of the read.
 *
 * The context is one of this thread: homes and a catalog of its own, opened read-only. The cut must be kept from
 * thinning as long as the view is open.
 */
export class CopyView {
  readonly at: Seq;
  readonly context: ReplicaContext;
  readonly #historyFiles = new Map<string, OpenFile>();

  /** @throws {NotReadable} */
  constructor(context: ReplicaContext, at: Seq) {
    const record = context.catalog.cut(at);
    const { applied } = context.catalog.standing;
    if (record === undefined || record.state !== "applied") throw new NotReadable(`cut ${at} was not applied here`);
    if (!record.point && at !== applied)
      throw new NotReadable(`cut ${cutText(record.cut)} is no recovery point any more`);
    this.context = context;
    this.at = at;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  close(): void {
    for (const file of this.#historyFiles.values()) this.context.disk.closeFile(file);
    this.#historyFiles.clear();
  }

  /** The file of an object, wherever it lies at the moment. @throws {FileGone} */
  open(object: ObjectVersion, store: number): ViewedFile {
    return new ViewedFile(this, openWherever(this.context, object.object, store), object);
  }

  /** Lays over bytes that were read just before what they were as of this cut. */
  layImages(object: ObjectId, bytes: Uint8Array, offset: number): void {
    for (let attempt = 0; !this.#tryImages(object, bytes, offset); attempt++) {
      // Thinning moves what is left of a history file to a new one, and the row with it: the next look finds that.
      if (attempt >= attemptsMax) throw new FileGone(`a history file of object ${object} as of cut ${this.at} is gone`);
    }
  }

  #tryImages(object: ObjectId, bytes: Uint8Array, offset: number): boolean {
    const end = offset + bytes.length;
    const images = this.context.catalog.all(
      `SELECT offset, length, store, file, position FROM images
         WHERE object=? AND offset>? AND offset<? AND died>? AND offset+length>? ORDER BY died`,
      object,
      offset - imageBytesMax,
      end,
      this.at,
      offset,
    );
    // The oldest image after the cut is what a byte was then: what a first one has filled, no later one touches.
    let open: Range[] = [{ start: offset, end }];
    for (const image of images) {
      if (open.length === 0) break;
      const start = Number(image.offset);
      const stop = start + Number(image.length);
      const left: Range[] = [];
      for (const gap of open) {
        const from = Math.max(gap.start, start);
        const to = Math.min(gap.end, stop);
        if (from >= to) {
          left.push(gap);
          continue;
        }
        const file = this.#historyFile(Number(image.store), Number(image.file));
        if (file === undefined) return false;
        const read = this.context.disk.read(
          file,
          bytes,
          from - offset,
          to - from,
          Number(image.position) + from - start,
        );
        // A history file that a stranger cut off: zeros do not have the hash that the manifest wants.
        bytes.fill(0, from - offset + read, to - offset);
        if (gap.start < from) left.push({ start: gap.start, end: from });
        if (to < gap.end) left.push({ start: to, end: gap.end });
      }
      open = left;
    }
    return true;
  }

  /** Numbers of history files are never used again, and a file is never written once it has rows: it may stay open. */
  #historyFile(store: number, number: number): OpenFile | undefined {
    const { disk } = this.context;
    const key = `${store}/${number}`;
    const known = this.#historyFiles.get(key);
    if (known !== undefined) return known;
    const [oldest] = this.#historyFiles;
    if (this.#historyFiles.size >= historyFilesOpenMax && oldest !== undefined) {
      disk.closeFile(oldest[1]);
      this.#historyFiles.delete(oldest[0]);
    }
    try {
      const file = disk.openFile(homeOf(this.context, store).history, imageFileName(number), "read");
      this.#historyFiles.set(key, file);
      return file;
    } catch (error) {
      if (isSystemError(error, "ENOENT")) return undefined;
      throw error;
    }
  }
}

interface Range {
  readonly start: number;
  readonly end: number;
}

/** One object of a view, opened. The handle stays right wherever apply moves the file. */
class ViewedFile {
  readonly #view: CopyView;
  readonly #file: OpenFile;
  readonly #object: ObjectVersion;
  readonly #content = new Sum256();

  constructor(view: CopyView, file: OpenFile, object: ObjectVersion) {
    this.#view = view;
    this.#file = file;
    this.#object = object;
  }

  [Symbol.dispose](): void {
    this.#view.context.disk.closeFile(this.#file);
  }

  /** Fills `buffer` from `offset` on, up to the object's end as of the cut; gives the count of bytes. */
  read(buffer: Uint8Array, offset: number): number {
    const length = Math.min(buffer.length, this.#object.size - offset);
    if (length <= 0) return 0;
    const bytes = buffer.subarray(0, length);
    const read = this.#view.context.disk.read(this.#file, bytes, 0, length, offset);
    bytes.fill(0, read);
    this.#view.layImages(this.#object.object, bytes, offset);
    return length;
  }

  /** All of the object piece by piece, each block compared with its hash in the manifest as of the cut. */
  *checked(): Generator<CheckedPiece> {
    const { manifest } = this.#view.context;
    const { object, size, blockSize } = this.#object;
    assert(blockSize > 0, `object ${object} has blocks`);
    // Both are powers of two: a piece never spans two runs.
    const blocksPerPiece = Math.min(blocksPerRun, Math.max(1, Math.floor(pieceBytes / Math.max(blockSize, 1))));
    const buffer = new Uint8Array(Math.min(blocksPerPiece * blockSize, size));
    let run = -1;
    let hashes: Uint8Array | undefined;
    for (let offset = 0; offset < size; offset += buffer.length) {
      const length = this.read(buffer, offset);
      const first = offset / blockSize;
      if (Math.floor(first / blocksPerRun) !== run) {
        run = Math.floor(first / blocksPerRun);
        hashes = manifest.run(object, run, this.#view.at);
        const term = hashes === undefined ? undefined : runTerm(run, hashes);
        if (term !== undefined) this.#content.add(term);
      }
      let badBlock: number | undefined;
      for (let at = 0; at < length && badBlock === undefined; at += blockSize) {
        const block = first + at / blockSize;
        const actual = blockHash(buffer.subarray(at, Math.min(at + blockSize, length)));
        if (!equalBytes(actual, hashInRun(hashes, block % blocksPerRun))) badBlock = block;
      }
      yield { offset, bytes: buffer.subarray(0, length), badBlock };
    }
  }

  /** After all of `checked`: the hashes that it compared with add up to the object's content digest. */
  get hashesAddUp(): boolean {
    return equalBytes(this.#content.bytes(), this.#object.content);
  }
}

/**
 * Opens an object's file, known by its inode, never by a name's presence: apply may move it between the look-up and the
 * open, so what was opened is looked at again.
 */
function openWherever(context: ReplicaContext, object: ObjectId, store: number): OpenFile {
  const { disk } = context;
  const home = homeOf(context, store);
  // Who writes the catalog himself moves nothing while he looks: once more, for directories that he has replaced.
  const attempts = context.catalog.readOnly ? attemptsMax : 2;
  for (let attempt = 0; attempt < attempts; attempt++) {
    if (attempt > 0) {
      // Directories that apply has removed or replaced meanwhile are opened anew.
      home.tree.forget();
      if (attempt > 2) pause(pauseMs);
    }
    const { applied, applying } = context.catalog.standing;
    const found = locate(context, object, store, applied, applying?.to ?? applied);
    if (found === undefined) continue;
    let file: OpenFile;
    try {
      file = disk.openFile(found.directory, found.name, "read");
    } catch (error) {
      if (isSystemError(error, "ENOENT", "ELOOP", "EINVAL", "ENXIO", "EISDIR")) continue;
      throw error;
    }
    if (disk.statFile(file).inode === inodeOf(context, object)) return file;
    disk.closeFile(file);
  }
  throw new FileGone(`the file of object ${object} (${pathsText(context, object)}) is gone from the copy`);
}

function pathsText(context: ReplicaContext, object: ObjectId): string {
  const paths: StorePath[] = context.manifest
    .pathsOf(object, context.catalog.standing.applied)
    .map((entry) => entry.path);
  return paths.join(", ") || "no path";
}

function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
