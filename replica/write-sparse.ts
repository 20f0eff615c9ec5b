import { isZero } from "../shared/manifest/block-hash.ts";
import type { Disk, OpenFile } from "../shared/ports/disk.ts";

/** Blocks of zeros stay holes. */
export function writeSparse(disk: Disk, file: OpenFile, bytes: Uint8Array, offset: number, blockSize: number): void {
  let from = 0;
  while (from < bytes.length) {
    const zero = isZero(bytes.subarray(from, from + blockSize));
    let to = from + blockSize;
    while (to < bytes.length && isZero(bytes.subarray(to, to + blockSize)) === zero) to += blockSize;
    if (!zero) disk.write(file, bytes.subarray(from, Math.min(to, bytes.length)), offset + from);
    from = to;
  }
}
