import { blocksPerRun } from "../manifest/block-hash.ts";
import type { StorePath } from "../words.ts";

/**
 * What a node that rejoins says that it has otherwise than the cut that it stands at, many entries in one payload: first
 * paths, then objects. What it says is a help and no proof: the digest of the cut that brings it right is.
 *
 * Little-endian. A path: u8 1, u8 length of the store's name, u16 length of the path, the name, the path's bytes. An object:
 * u8 2, u64 object, i32 run, and of a run the 128 bits of its blocks, the first in the lowest bit of the first byte.
 */
export type TouchedEntry =
  | { readonly kind: "path"; readonly store: string; readonly path: StorePath }
  /** `run` is `wholeObject`, without blocks: it is not there at all. No bit set: its row is another. */
  | { readonly kind: "object"; readonly object: number; readonly run: number; readonly blocks: Uint8Array };

/** In place of a run: nothing of the object is there. */
export const wholeObject = -1;
export const bitmapBytes = blocksPerRun / 8;

const pathKind = 1;
const objectKind = 2;
const pathHeadBytes = 4;
const objectHeadBytes = 13;

export function packTouchedList(entries: readonly TouchedEntry[]): Uint8Array {
  return Buffer.concat(entries.map(packed));
}

function packed(entry: TouchedEntry): Buffer {
  if (entry.kind === "path") {
    const store = Buffer.from(entry.store, "utf8");
    const path = Buffer.from(entry.path, "latin1");
    const head = Buffer.alloc(pathHeadBytes);
    head.writeUInt8(pathKind, 0);
    head.writeUInt8(store.length, 1);
    head.writeUInt16LE(path.length, 2);
    return Buffer.concat([head, store, path]);
  }
  const head = Buffer.alloc(objectHeadBytes);
  head.writeUInt8(objectKind, 0);
  head.writeBigUInt64LE(BigInt(entry.object), 1);
  head.writeInt32LE(entry.run, 9);
  return entry.run === wholeObject ? head : Buffer.concat([head, entry.blocks], objectHeadBytes + bitmapBytes);
}

/** Undefined for bytes that no node packs. */
export function unpackTouchedList(payload: Uint8Array): TouchedEntry[] | undefined {
  const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.length);
  const entries: TouchedEntry[] = [];
  for (let at = 0; at < bytes.length; ) {
    const kind = bytes.readUInt8(at);
    if (kind === pathKind) {
      if (at + pathHeadBytes > bytes.length) return undefined;
      const named = at + pathHeadBytes + bytes.readUInt8(at + 1);
      const end = named + bytes.readUInt16LE(at + 2);
      if (end > bytes.length) return undefined;
      const store = bytes.toString("utf8", at + pathHeadBytes, named);
      entries.push({ kind: "path", store, path: bytes.toString("latin1", named, end) as StorePath });
      at = end;
    } else if (kind === objectKind) {
      if (at + objectHeadBytes > bytes.length) return undefined;
      const object = Number(bytes.readBigUInt64LE(at + 1));
      const run = bytes.readInt32LE(at + 9);
      at += objectHeadBytes;
      const end = run === wholeObject ? at : at + bitmapBytes;
      if (!Number.isSafeInteger(object) || object < 1 || run < wholeObject || end > bytes.length) return undefined;
      entries.push({ kind: "object", object, run, blocks: Uint8Array.from(bytes.subarray(at, end)) });
      at = end;
    } else {
      return undefined;
    }
  }
  return entries;
}

export function hasBlock(blocks: Uint8Array | undefined, index: number): boolean {
  return blocks !== undefined && (((blocks[index >> 3] ?? 0) >> (index & 7)) & 1) === 1;
}
