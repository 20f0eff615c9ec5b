import { hash } from "node:crypto";
import { blockHash, hashBytes } from "./block-hash.ts";

/**
 * What `blockHash` gives for each block of `bytes`, one after the other; the last block may be shorter. Two thirds of
 * what it costs block by block: there is no object for each that somebody would have to collect.
 */
export function blockHashes(bytes: Uint8Array, blockSize: number): Buffer {
  const hashes = Buffer.allocUnsafe(Math.ceil(bytes.length / blockSize) * hashBytes);
  for (let at = 0, to = 0; at < bytes.length; at += blockSize, to += hashBytes) {
    const length = Math.min(blockSize, bytes.length - at);
    const block = new Uint8Array(bytes.buffer, bytes.byteOffset + at, length);
    if (block[length - 1] === 0) hashes.set(blockHash(block), to);
    else hashes.write(hash("sha256", block, "binary"), to, hashBytes, "latin1");
  }
  return hashes;
}
