/**
 * SQLite's write-ahead log as a format: values in, values out, no file and no clock. The log is overwritten from its
 * start again and again; one such run is a *generation*, known by its two salts. What counts of it ends with the last
 * COMMIT frame that an unbroken chain of salts and running checksums leads to: what follows is an open transaction, a
 * torn write, or left over from an older generation.
 */

export const walHeaderBytes = 32;
export const frameHeaderBytes = 24;

export interface WalHeader {
  readonly pageSize: number;
  readonly checkpointSequence: number;
  readonly salt1: number;
  readonly salt2: number;
  /** Of the header itself: what the first frame's checksum continues from. */
  readonly checksum1: number;
  readonly checksum2: number;
  /** Whether checksums read words big-endian; all fields always are. */
  readonly bigEndian: boolean;
}

/** A place after a commit frame (or before the first), from which scanning goes on without what lies before it. */
export interface WalPosition {
  readonly header: WalHeader;
  /** Number of the last committed frame; 0 before the first. */
  readonly frame: number;
  readonly checksum1: number;
  readonly checksum2: number;
  /** Pages of the database after the last commit; 0 before the first. */
  readonly databasePages: number;
  /** Commits in this generation so far. */
  readonly commits: number;
}

/** Reads into `buffer` from `position`; fewer bytes only at the end of the log. */
export type ReadAt = (buffer: Uint8Array, position: number) => number;

/** Page numbers of one transaction in the log's order, the first of them in frame `firstFrame`. */
export type OnCommit = (pages: readonly number[], firstFrame: number, databasePages: number) => void;

/** Undefined unless these are at least 32 bytes of a header that SQLite would accept. */
export function parseWalHeader(bytes: Uint8Array): WalHeader | undefined {
  if (bytes.length < walHeaderBytes) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, walHeaderBytes);
  const magic = view.getUint32(0);
  if (magic !== 0x377f0682 && magic !== 0x377f0683) return undefined;
  if (view.getUint32(4) !== 3007000) return undefined;
  const pageSize = view.getUint32(8);
  if (!isPageSize(pageSize)) return undefined;
  const bigEndian = magic === 0x377f0683;
  const aligned = bytes.slice(0, walHeaderBytes);
  const sum = { a: 0, b: 0 };
  addChecksum(sum, new Uint32Array(aligned.buffer), 0, 6, bigEndian);
  if (sum.a !== view.getInt32(24) || sum.b !== view.getInt32(28)) return undefined;
  return {
    pageSize,
    checkpointSequence: view.getUint32(12),
    salt1: view.getUint32(16),
    salt2: view.getUint32(20),
    checksum1: sum.a,
    checksum2: sum.b,
    bigEndian,
  };
}

export function isPageSize(size: number): boolean {
  return size >= 512 && size <= 65536 && (size & (size - 1)) === 0;
}

export function beforeFirstFrame(header: WalHeader): WalPosition {
  const { checksum1, checksum2 } = header;
  return { header, frame: 0, checksum1, checksum2, databasePages: 0, commits: 0 };
}

export function sameGeneration(a: WalHeader, b: WalHeader): boolean {
  return a.salt1 === b.salt1 && a.salt2 === b.salt2 && a.pageSize === b.pageSize && a.bigEndian === b.bigEndian;
}

/** Offset in the log of frame `frame` (from 1), its header first. */
export function frameOffset(pageSize: number, frame: number): number {
  return walHeaderBytes + (frame - 1) * (frameHeaderBytes + pageSize);
}

/** Where the log ends after this position, in bytes. */
export function endOffset(position: WalPosition): number {
  return frameOffset(position.header.pageSize, position.frame + 1);
}

/** `salt1-salt2:frame/commits`, as people read it. */
export function positionText(position: WalPosition): string {
  const hex = (word: number) => word.toString(16).padStart(8, "0");
  return `${hex(position.header.salt1)}-${hex(position.header.salt2)}:${position.frame}/${position.commits}`;
}

const firstChunkBytes = 64 * 1024;
const chunkBytesMax = 512 * 1024;

/**
 * Follows the log from `from` to the last commit that is there whole, telling each transaction, and returns that place;
 * `from` itself when there is none. Never throws for anything that the log may hold.
 */
export function scanWal(from: WalPosition, readAt: ReadAt, onCommit: OnCommit): WalPosition {
  const { header } = from;
  const frameBytes = frameHeaderBytes + header.pageSize;
  // Most calls find one small transaction: a small buffer first, then larger ones.
  let framesInBuffer = Math.max(1, Math.floor(firstChunkBytes / frameBytes));
  let buffer = new Uint8Array(framesInBuffer * frameBytes);
  let reached = from;
  let pages: number[] = [];
  let frame = from.frame;
  const sum = { a: from.checksum1, b: from.checksum2 };
  for (;;) {
    const length = readAt(buffer, frameOffset(header.pageSize, frame + 1));
    const complete = Math.floor(length / frameBytes);
    const view = new DataView(buffer.buffer);
    const words = new Uint32Array(buffer.buffer);
    for (let index = 0; index < complete; index++) {
      const at = index * frameBytes;
      const page = view.getUint32(at);
      if (page === 0) return reached;
      if (view.getUint32(at + 8) !== header.salt1 || view.getUint32(at + 12) !== header.salt2) return reached;
      addChecksum(sum, words, at / 4, at / 4 + 2, header.bigEndian);
      addChecksum(sum, words, (at + frameHeaderBytes) / 4, (at + frameBytes) / 4, header.bigEndian);
      if (sum.a !== view.getInt32(at + 16) || sum.b !== view.getInt32(at + 20)) return reached;
      frame++;
      pages.push(page);
      const databasePages = view.getUint32(at + 4);
      if (databasePages === 0) continue;
      onCommit(pages, frame - pages.length + 1, databasePages);
      pages = [];
      reached = { header, frame, checksum1: sum.a, checksum2: sum.b, databasePages, commits: reached.commits + 1 };
    }
    if (complete < framesInBuffer) return reached;
    if (buffer.length < chunkBytesMax / 2) {
      framesInBuffer = Math.max(1, Math.floor(chunkBytesMax / frameBytes));
      buffer = new Uint8Array(framesInBuffer * frameBytes);
    }
  }
}

const platformIsBigEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 0;

/** Adds words [from, to) to a running checksum, held as two signed 32-bit numbers. */
function addChecksum(
  sum: { a: number; b: number },
  words: Uint32Array,
  from: number,
  to: number,
  bigEndian: boolean,
): void {
  let { a, b } = sum;
  if (bigEndian === platformIsBigEndian) {
    for (let index = from; index < to; index += 2) {
      a = (a + words[index]! + b) | 0;
      b = (b + words[index + 1]! + a) | 0;
    }
  } else {
    for (let index = from; index < to; index += 2) {
      a = (a + swapped(words[index]!) + b) | 0;
      b = (b + swapped(words[index + 1]!) + a) | 0;
    }
  }
  sum.a = a;
  sum.b = b;
}

function swapped(word: number): number {
  return ((word & 0xff) << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24);
}
