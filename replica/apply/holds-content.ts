import type { ObjectVersion } from "../../shared/catalog/manifest.ts";
import { isSystemError } from "../../shared/errors.ts";
import { blockHash, blocksPerRun, equalBytes, hashInRun } from "../../shared/manifest/block-hash.ts";
import type { Directory, Disk, OpenFile } from "../../shared/ports/disk.ts";
import type { Seq } from "../../shared/words.ts";
import type { ReplicaContext } from "../replica-context.ts";
import type { Located } from "./locate.ts";

/** Undefined where a stranger's mode keeps us from reading it: then nobody can say what is in it. */
export function openReadable(disk: Disk, directory: Directory, name: string): OpenFile | undefined {
  try {
    return disk.openFile(directory, name, "read");
  } catch (error) {
    if (!isSystemError(error, "EACCES", "EPERM")) throw error;
    return undefined;
  }
}

/** Reads a whole file and compares it, block by block, with what the manifest says of its object as of `at`. */
export function holdsContent(
  { disk, manifest }: ReplicaContext,
  { directory, name, stat }: Located,
  version: ObjectVersion,
  at: Seq,
): boolean {
  const { object, blockSize, size } = version;
  if (stat.type !== "file" || stat.size !== size) return false;
  const file = openReadable(disk, directory, name);
  if (file === undefined) return false;
  try {
    const bytes = new Uint8Array(Math.min(blocksPerRun * blockSize, Math.max(size, 1)));
    for (let run = 0; run * blocksPerRun * blockSize < size; run++) {
      const start = run * blocksPerRun * blockSize;
      const length = disk.read(file, bytes, 0, Math.min(bytes.length, size - start), start);
      const hashes = manifest.run(object, run, at);
      for (let index = 0; index * blockSize < length; index++) {
        const block = bytes.subarray(index * blockSize, Math.min((index + 1) * blockSize, length));
        if (!equalBytes(blockHash(block), hashInRun(hashes, index))) return false;
      }
    }
    return true;
  } finally {
    disk.closeFile(file);
  }
}
