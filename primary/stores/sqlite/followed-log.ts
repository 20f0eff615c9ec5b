import { type BigIntStats, closeSync, constants, fdatasync, fstatSync, openSync, readSync, statSync } from "node:fs";
import { isSystemError } from "../../../shared/errors.ts";
import type { Range } from "../../../shared/ports/store-adapter.ts";
import { databaseHeaderBytes, parseDatabaseHeader } from "./database-header.ts";
import type { LoggedCommit } from "./holder-protocol.ts";
import { PageSet } from "./page-set.ts";
import {
  beforeFirstFrame,
  endOffset,
  frameHeaderBytes,
  frameOffset,
  parseWalHeader,
  positionText,
  sameGeneration,
  scanWal,
  type WalHeader,
  type WalPosition,
  walHeaderBytes,
} from "./wal.ts";

/** The log does not go on from where it was read to: what changed in between is unknown. */
export class ChainBroken extends Error {
  override readonly name = "CHAIN_BROKEN";
}

/** Pages that changed since they were last collected. */
export interface Changed {
  readonly pages: PageSet;
  /** Fewest pages that the database had in between: what lies above was cut off and may have grown anew, as zeros. */
  databasePagesMin: number;
}

/**
 * A database in WAL mode, read beside its writers: which pages changed, and the content of each as of the last commit
 * that was read.
 *
 * What makes this safe is the holder's read transaction, together with one rule: *a new reader begins, the log is read
 * to its end, then the old reader lets go* (`handedOver`). A reader that stands on a frame keeps the log from being
 * started anew. A reader that began when the whole log was in the database file does not; but it keeps anything else
 * from being copied there, so the log can be started anew only once, only at the very end where that reader began, and
 * not at all after one more commit. Either way no frame is overwritten that was not read. In both cases the database
 * file changes only where a frame that was read says so.
 */
export class FollowedLog {
  readonly pageSize: number;
  readonly databaseInode: number;
  readonly #database: number;
  readonly #log: number;
  readonly #logInode: number;
  readonly #logPath: string;
  /** Undefined until the log has its first header. */
  #position: WalPosition | undefined;
  /** Page to the last frame that has it, in this generation. */
  readonly #frames = new Map<number, number>();
  #changed: Changed;
  #databasePages: number;
  /** The log cannot be started anew while this holder lives: a header that changes breaks the chain. */
  #pinned = false;
  #generationsTurned = 0;
  #bytesRead = 0;
  #commitsRead = 0;
  #sizeAtTurn = 0;

  readonly #stillHeld: () => boolean;

  /** To be called once a reader stands; `stillHeld` says whether it does. */
  constructor(path: string, pageSize: number, stillHeld: () => boolean) {
    this.pageSize = pageSize;
    this.#stillHeld = stillHeld;
    this.#logPath = `${path}-wal`;
    this.#database = openSync(path, constants.O_RDONLY);
    try {
      this.#log = openSync(this.#logPath, constants.O_RDONLY);
    } catch (error) {
      closeSync(this.#database);
      throw error;
    }
    this.databaseInode = fstatSync(this.#database).ino;
    this.#logInode = fstatSync(this.#log).ino;
    this.#databasePages = this.#pagesOfFile();
    this.#changed = { pages: new PageSet(), databasePagesMin: this.#databasePages };
    try {
      this.read();
    } catch (error) {
      this.close();
      throw error;
    }
    this.#pinned = false;
    this.collect();
  }

  close(): void {
    closeSync(this.#database);
    closeSync(this.#log);
  }

  get databasePages(): number {
    return this.#databasePages;
  }
  get size(): number {
    return this.#databasePages * this.pageSize;
  }
  get position(): WalPosition | undefined {
    return this.#position;
  }
  get generationsTurned(): number {
    return this.#generationsTurned;
  }
  /** Bytes of log read so far, over all generations; only rises. */
  get bytesRead(): number {
    return this.#bytesRead;
  }
  get commitsRead(): number {
    return this.#commitsRead;
  }
  /** Length of the present generation. */
  get logBytes(): number {
    return this.#position === undefined ? 0 : endOffset(this.#position);
  }
  get positionText(): string {
    return this.#position === undefined ? "00000000-00000000:0/0" : positionText(this.#position);
  }
  stat(): BigIntStats {
    return fstatSync(this.#database, { bigint: true });
  }

  /** Bytes behind what was read, as far as the size of the file tells: what is left over from before is not counted. */
  bytesWaiting(): number {
    return Math.max(0, fstatSync(this.#log).size - Math.max(this.#sizeAtTurn, this.logBytes));
  }

  /** False when the file is no longer a database in WAL mode with these pages. */
  databaseInPlace(): boolean {
    const header = this.#databaseHeader();
    return typeof header === "object" && header.journal === "wal" && header.pageSize === this.pageSize;
  }

  /** False when another log now has this one's name. */
  logIsInPlace(): boolean {
    try {
      return statSync(this.#logPath).ino === this.#logInode;
    } catch (error) {
      if (isSystemError(error, "ENOENT")) return false;
      throw error;
    }
  }

  /** Reads on to the last commit. True when there was one. @throws {ChainBroken} */
  read(): boolean {
    const before = this.#bytesRead;
    for (;;) {
      const header = this.#header();
      // Emptied by a checkpoint, or never begun: the next writer writes a header before its first frame.
      if (header === undefined && this.#pinned && this.#holdsCommits()) {
        throw new ChainBroken("the log's header is gone");
      }
      if (header !== undefined && !this.#isPresent(header)) this.#begin(header);
      if (header === undefined || this.#position === undefined) return this.#bytesRead > before;
      const end = scanWal(
        this.#position,
        (buffer, position) => readSync(this.#log, buffer, 0, buffer.length, position),
        (pages, firstFrame, databasePages) => this.#note({ pages, firstFrame, databasePages }),
      );
      this.#advance(end);
      const after = this.#header();
      if (after !== undefined && sameGeneration(header, after)) return this.#bytesRead > before;
    }
  }

  /** What the holder read for us while it turned the generation. */
  absorb(commits: readonly LoggedCommit[], end: WalPosition): void {
    for (const commit of commits) this.#note(commit);
    this.#advance(end);
  }

  /** A younger reader stands alone now, and the log was read to its end before the older one let go. */
  handedOver(): void {
    this.#pinned = false;
  }

  /**
   * After a holder was lost, and with another reader standing: true when the log is still the one that was read. Then
   * no generation ended meanwhile, all that was committed has now been read, and the new reader stands for the rest.
   */
  provesContinuity(): boolean {
    const position = this.#position;
    const header = this.#header();
    if (position === undefined || header === undefined || !this.#isPresent(header) || !this.logIsInPlace())
      return false;
    if (position.frame > 0) {
      const bytes = Buffer.alloc(frameHeaderBytes);
      const length = readSync(this.#log, bytes, 0, bytes.length, frameOffset(this.pageSize, position.frame));
      if (
        length !== bytes.length ||
        bytes.readUInt32BE(8) !== header.salt1 ||
        bytes.readUInt32BE(12) !== header.salt2 ||
        bytes.readInt32BE(16) !== position.checksum1 ||
        bytes.readInt32BE(20) !== position.checksum2
      ) {
        return false;
      }
    }
    // The new reader may stand where the log can be started anew, beyond what was read: until all is, that breaks it.
    this.#pinned = true;
    this.read();
    this.#pinned = false;
    return true;
  }

  /**
   * While nobody else has the database open: true when all that was ever committed to the log was read, and the log is still
   * the one that was read.
   */
  provesEnd(): boolean {
    const before = this.#bytesRead;
    if (!this.logIsInPlace()) return false;
    // Without a header nothing was committed since it was opened.
    if (this.#position === undefined) return this.#header() === undefined;
    return this.provesContinuity() && this.#bytesRead === before;
  }

  /** Takes over what changed since the last call. It may not be durable yet: see `sync`. */
  collect(): Changed {
    const collected = this.#changed;
    this.#changed = { pages: new PageSet(), databasePagesMin: this.#databasePages };
    return collected;
  }

  /**
   * Resolves when all that was read before the call is on the disk. With synchronous=NORMAL a commit is in the log
   * earlier, and a replica must not hold for good what its primary loses with its power.
   */
  async sync(): Promise<void> {
    const done = Promise.withResolvers<void>();
    // Not the blocking call: the pages are read and packed meanwhile.
    fdatasync(this.#log, (error) => (error === null ? done.resolve() : done.reject(error)));
    await done.promise;
  }

  /** Puts back what was collected and not used. */
  giveBack(changed: Changed): void {
    this.#changed.pages.addAll(changed.pages);
    this.#changed.databasePagesMin = Math.min(this.#changed.databasePagesMin, changed.databasePagesMin);
  }

  rangesOf(changed: Changed): Range[] {
    const pages = new PageSet();
    pages.addAll(changed.pages);
    for (let page = changed.databasePagesMin + 1; page <= this.#databasePages; page++) pages.add(page);
    return pages.ranges(this.pageSize, this.#databasePages);
  }

  /** Bytes of the database as of the last commit that was read. */
  readDatabase(buffer: Uint8Array, offset: number): number {
    const length = Math.max(0, Math.min(buffer.length, this.size - offset));
    let done = 0;
    while (done < length) {
      const at = offset + done;
      const page = Math.floor(at / this.pageSize) + 1;
      const restOfPage = this.pageSize - (at % this.pageSize);
      const frame = this.#frames.get(page);
      if (frame !== undefined) {
        const part = buffer.subarray(done, Math.min(length, done + restOfPage));
        if (!this.#readFrame(part, frame, at % this.pageSize)) this.#readFile(part, at);
        done += part.length;
        continue;
      }
      // One read for as many pages as are in no frame.
      let end = done + restOfPage;
      for (let next = page + 1; end < length && !this.#frames.has(next); next++) end += this.pageSize;
      const part = buffer.subarray(done, Math.min(length, end));
      this.#readFile(part, at);
      done += part.length;
    }
    return length;
  }

  /** False when the log has been started anew: then the database file has all that it held. */
  #readFrame(part: Uint8Array, frame: number, within: number): boolean {
    const offset = frameOffset(this.pageSize, frame) + frameHeaderBytes + within;
    if (readSync(this.#log, part, 0, part.length, offset) !== part.length) return false;
    // After the read: a writer that starts the log anew writes the header before it overwrites any frame.
    const header = this.#header();
    return header !== undefined && this.#isPresent(header);
  }

  /** What lies beyond the end of the file, and in no frame, was never written: zeros. */
  #readFile(part: Uint8Array, offset: number): void {
    let done = 0;
    while (done < part.length) {
      const length = readSync(this.#database, part, done, part.length - done, offset + done);
      if (length === 0) break;
      done += length;
    }
    part.fill(0, done);
  }

  #header(): WalHeader | undefined {
    const bytes = Buffer.alloc(walHeaderBytes);
    const length = readSync(this.#log, bytes, 0, bytes.length, 0);
    return parseWalHeader(bytes.subarray(0, length));
  }

  #isPresent(header: WalHeader): boolean {
    return this.#position !== undefined && sameGeneration(this.#position.header, header);
  }

  #holdsCommits(): boolean {
    return this.#position !== undefined && this.#position.frame > 0;
  }

  #begin(header: WalHeader): void {
    if (header.pageSize !== this.pageSize) throw new ChainBroken("the log has another page size");
    // Asked after the header was read: a reader that stands now stood then, so it was started anew only this once.
    if (this.#position !== undefined && !this.#stillHeld()) {
      throw new ChainBroken("the log was started anew, and its reader is gone");
    }
    // A header without a commit may be written again with other salts, as often as its first transaction is rolled back.
    if (this.#holdsCommits()) {
      if (this.#pinned) throw new ChainBroken("the log was started anew behind the reader that should prevent it");
      this.#generationsTurned++;
      this.#pinned = true;
    }
    this.#frames.clear();
    this.#position = beforeFirstFrame(header);
    this.#sizeAtTurn = fstatSync(this.#log).size;
  }

  #note({ pages, firstFrame, databasePages }: LoggedCommit): void {
    pages.forEach((page, index) => {
      this.#frames.set(page, firstFrame + index);
      this.#changed.pages.add(page);
    });
    this.#commitsRead++;
    this.#databasePages = databasePages;
    this.#changed.databasePagesMin = Math.min(this.#changed.databasePagesMin, databasePages);
  }

  #advance(end: WalPosition): void {
    if (this.#position === undefined || end.frame <= this.#position.frame) return;
    this.#bytesRead += endOffset(end) - endOffset(this.#position);
    this.#position = end;
    this.#pinned = true;
  }

  #databaseHeader() {
    const bytes = Buffer.alloc(databaseHeaderBytes);
    return parseDatabaseHeader(bytes.subarray(0, readSync(this.#database, bytes, 0, bytes.length, 0)));
  }

  #pagesOfFile(): number {
    const header = this.#databaseHeader();
    if (header === undefined || header === "empty") return 0;
    return header.pages ?? Math.ceil(fstatSync(this.#database).size / this.pageSize);
  }
}
