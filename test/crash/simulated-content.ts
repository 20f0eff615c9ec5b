/** The bytes of a simulated file, and what a power failure leaves of changes to them that were not synced. */

export const sectorBytes = 512;
export const chunkBytes = 4096;

/**
 * Sparse bytes. A chunk is never changed in place but replaced, so that every earlier state of a file can go on
 * referring to the chunks that it had: snapshots, the durable state and each unsynced write share what is equal.
 */
export class Content {
  size = 0;
  chunks = new Map<number, Uint8Array>();

  copy(): Content {
    const copy = new Content();
    copy.size = this.size;
    copy.chunks = new Map(this.chunks);
    return copy;
  }

  read(buffer: Uint8Array, offset: number, length: number, position: number): number {
    const end = Math.min(position + length, this.size);
    for (let at = position; at < end; ) {
      const within = at % chunkBytes;
      const count = Math.min(chunkBytes - within, end - at);
      const target = offset + at - position;
      const chunk = this.chunks.get((at - within) / chunkBytes);
      if (chunk) buffer.set(chunk.subarray(within, within + count), target);
      else buffer.fill(0, target, target + count);
      at += count;
    }
    return Math.max(0, end - position);
  }

  /** Returns the chunks that hold the bytes now. */
  write(bytes: Uint8Array, position: number): Map<number, Uint8Array> {
    const written = new Map<number, Uint8Array>();
    for (let done = 0; done < bytes.length; ) {
      const within = (position + done) % chunkBytes;
      const index = (position + done - within) / chunkBytes;
      const count = Math.min(chunkBytes - within, bytes.length - done);
      const chunk = this.chunkToReplace(index);
      chunk.set(bytes.subarray(done, done + count), within);
      this.chunks.set(index, chunk);
      written.set(index, chunk);
      done += count;
    }
    this.size = Math.max(this.size, position + bytes.length);
    return written;
  }

  truncate(size: number): void {
    this.size = size;
    this.forgetBeyondSize();
  }

  /** What lies beyond the end must read as zeros if the file grows over it later. */
  forgetBeyondSize(): void {
    const within = this.size % chunkBytes;
    const last = (this.size - within) / chunkBytes;
    for (const index of this.chunks.keys()) {
      if (index > last || (index === last && within === 0)) this.chunks.delete(index);
    }
    const chunk = this.chunks.get(last);
    if (chunk?.subarray(within).some((byte) => byte !== 0)) {
      this.chunks.set(last, this.chunkToReplace(last).fill(0, within));
    }
  }

  get allocated(): number {
    return this.chunks.size * chunkBytes;
  }

  private chunkToReplace(index: number): Uint8Array {
    return this.chunks.get(index)?.slice() ?? new Uint8Array(chunkBytes);
  }
}

/** A change of a file's bytes or size that no sync has covered yet, in the order in which they were made. */
export type DataChange =
  | {
      kind: "write";
      sequence: number;
      position: number;
      length: number;
      /** The new size, where this write made the file larger. */
      grewTo: number | undefined;
      /** The written chunks as they were just after this write: as the page cache held them. */
      chunks: ReadonlyMap<number, Uint8Array>;
      /** A sync failed: the pages count as clean since then, but the bytes never reached the disk. */
      dropped: boolean;
    }
  | { kind: "truncate"; sequence: number; size: number };

/** Decides what survives, asked once for every sector and every change of size. */
export interface DataFate {
  sector(): boolean;
  size(sequence: number): boolean;
  /** Whether a lost sector in newly allocated space shows what another file left there, instead of zeros. */
  stale(): boolean;
}

export const everythingSurvives: DataFate = { sector: () => true, size: () => true, stale: () => false };

/**
 * The bytes on the disk, given what was durable and what was changed since. A sector holds one of the states that it
 * really had, as it is written whole from the page cache; sizes and sectors survive independently of each other.
 */
export function contentAfter(durable: Content, changes: readonly DataChange[], fate: DataFate): Content {
  const content = durable.copy();
  for (const change of changes) {
    if (change.kind === "truncate") {
      if (fate.size(change.sequence)) content.truncate(change.size);
      continue;
    }
    if (!change.dropped) keepSectors(content, durable, change, fate);
    if (change.grewTo !== undefined && fate.size(change.sequence)) {
      content.size = Math.max(content.size, change.grewTo);
    }
  }
  content.forgetBeyondSize();
  return content;
}

/** What a sector shows that was allocated but not written, where a filesystem does not hide it. */
export const staleByte = 0xa5;

function keepSectors(
  content: Content,
  durable: Content,
  change: Extract<DataChange, { kind: "write" }>,
  fate: DataFate,
): void {
  const first = Math.floor(change.position / sectorBytes);
  const end = Math.ceil((change.position + change.length) / sectorBytes);
  const sectorsPerChunk = chunkBytes / sectorBytes;
  for (const [index, written] of change.chunks) {
    let target: Uint8Array | undefined;
    const to = Math.min(end, (index + 1) * sectorsPerChunk);
    for (let sector = Math.max(first, index * sectorsPerChunk); sector < to; sector++) {
      const within = (sector % sectorsPerChunk) * sectorBytes;
      const survives = fate.sector();
      const unallocated = sector * sectorBytes >= durable.size && isZero(target ?? content.chunks.get(index), within);
      const stale = !survives && unallocated && fate.stale();
      if (!survives && !stale) continue;
      target ??= content.chunks.get(index)?.slice() ?? new Uint8Array(chunkBytes);
      if (survives) target.set(written.subarray(within, within + sectorBytes), within);
      else target.fill(staleByte, within, within + sectorBytes);
    }
    if (target) content.chunks.set(index, target);
  }
}

function isZero(chunk: Uint8Array | undefined, within: number): boolean {
  return chunk?.subarray(within, within + sectorBytes).every((byte) => byte === 0) ?? true;
}
