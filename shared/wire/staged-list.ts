import { blocksPerRun, hashBytes, hashInRun } from "../manifest/block-hash.ts";

/**
 * What a replica says that it has staged, many runs in one payload. Of each block's hash its first bytes are enough:
 * what they stand for is checked by whole hashes before any cut counts it.
 *
 * For each run, little-endian: u64 object, u32 run, u32 number of tags, then the tags; zeros where nothing is staged. No
 * tags at all: the object has a staged file of its own, about which is asked by itself.
 */
export interface StagedTags {
  readonly object: number;
  readonly run: number;
  /** `tagBytes` for each block; empty for an object with a staged file. */
  readonly tags: Uint8Array;
}

export const tagBytes = 8;
const headBytes = 16;

/** The tags of a run's hashes. */
export function tagsOf(hashes: Uint8Array): Uint8Array {
  const tags = new Uint8Array((hashes.length / hashBytes) * tagBytes);
  for (let block = 0; block * hashBytes < hashes.length; block++) {
    tags.set(hashInRun(hashes, block).subarray(0, tagBytes), block * tagBytes);
  }
  return tags;
}

export function packStagedList(entries: readonly StagedTags[]): Uint8Array {
  const packed = Buffer.alloc(entries.reduce((sum, { tags }) => sum + headBytes + tags.length, 0));
  let at = 0;
  for (const { object, run, tags } of entries) {
    packed.writeBigUInt64LE(BigInt(object), at);
    packed.writeUInt32LE(run, at + 8);
    packed.writeUInt32LE(tags.length / tagBytes, at + 12);
    packed.set(tags, at + headBytes);
    at += headBytes + tags.length;
  }
  return packed;
}

/** Undefined for bytes that no replica packs. */
export function unpackStagedList(payload: Uint8Array): StagedTags[] | undefined {
  const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.length);
  const entries: StagedTags[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (at + headBytes > bytes.length) return undefined;
    const object = Number(bytes.readBigUInt64LE(at));
    const run = bytes.readUInt32LE(at + 8);
    const length = bytes.readUInt32LE(at + 12) * tagBytes;
    at += headBytes;
    if (!Number.isSafeInteger(object) || length > blocksPerRun * tagBytes || at + length > bytes.length)
      return undefined;
    entries.push({ object, run, tags: payload.subarray(at, at + length) });
    at += length;
  }
  return entries;
}
