import type { ObjectType } from "../wire/messages.ts";
import type { StorePath } from "../words.ts";
import { sha256 } from "./block-hash.ts";

/**
 * A sum of 256-bit numbers modulo 2^256, little-endian: free of order, so that a member is exchanged in constant time.
 * The set's digest and an object's content digest are such sums.
 */
export class Sum256 {
  readonly #words = new Uint32Array(8);

  static from(bytes: Uint8Array): Sum256 {
    const sum = new Sum256();
    if (bytes.length > 0) sum.add(bytes);
    return sum;
  }

  add(term: Uint8Array): void {
    let carry = 0;
    for (let i = 0; i < 8; i++) {
      const total = this.#words[i]! + word(term, i) + carry;
      this.#words[i] = total >>> 0;
      carry = total > 0xffff_ffff ? 1 : 0;
    }
  }

  subtract(term: Uint8Array): void {
    let borrow = 0;
    for (let i = 0; i < 8; i++) {
      const total = this.#words[i]! - word(term, i) - borrow;
      this.#words[i] = total >>> 0;
      borrow = total < 0 ? 1 : 0;
    }
  }

  bytes(): Uint8Array {
    const result = new Uint8Array(32);
    for (let i = 0; i < 8; i++) {
      const value = this.#words[i]!;
      result[i * 4] = value;
      result[i * 4 + 1] = value >>> 8;
      result[i * 4 + 2] = value >>> 16;
      result[i * 4 + 3] = value >>> 24;
    }
    return result;
  }
}

function word(bytes: Uint8Array, i: number): number {
  const at = i * 4;
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

/**
 * What run `run` with these block hashes (canonical: no trailing zero hashes) adds to its object's content digest. A
 * run, not a block, is the term: one short hash for 128 blocks, where a term for each block would double the hashing.
 */
export function runTerm(run: number, hashes: Uint8Array): Uint8Array | undefined {
  if (hashes.length === 0) return undefined;
  const input = Buffer.allocUnsafe(4 + hashes.length);
  input.writeUInt32LE(run, 0);
  input.set(hashes, 4);
  return sha256(input);
}

const typeCodes: Record<ObjectType, number> = { file: 1, directory: 2, symlink: 3 };

export interface DigestedObject {
  readonly type: ObjectType;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeUs: number;
  readonly size: number;
  readonly target: string;
  readonly content: Uint8Array;
}

/**
 * The term of one path in the set's digest: SHA-256 over store name, path, type, meta, size, target and content, each
 * length-prefixed where it varies. The same on every node, whatever that node may set on its copy.
 */
export function pathTerm(store: string, path: StorePath, object: DigestedObject): Uint8Array {
  const fixed = 8 * 6;
  const input = Buffer.allocUnsafe(fixed + 12 + store.length + path.length + object.target.length + 32);
  let at = input.writeDoubleLE(typeCodes[object.type], 0);
  at = input.writeDoubleLE(object.mode, at);
  at = input.writeDoubleLE(object.uid, at);
  at = input.writeDoubleLE(object.gid, at);
  at = input.writeDoubleLE(object.mtimeUs, at);
  at = input.writeDoubleLE(object.size, at);
  for (const text of [store, path, object.target]) {
    at = input.writeUInt32LE(text.length, at);
    at += input.write(text, at, "latin1");
  }
  input.fill(0, at, at + 32);
  input.set(object.content, at);
  return sha256(input);
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}
