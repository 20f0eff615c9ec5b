const smallest = 4096;
const blocksMax = 2 ** 20;

/**
 * Block size that an object of this size is born with: 4 KiB up to 4 GiB, then doubled so that no object has more than
 * 2^20 blocks. An object that grows later keeps what it was born with: the manifest remembers it, not this function.
 */
export function blockSizeFor(size: number): number {
  let blockSize = smallest;
  while (size > blockSize * blocksMax) blockSize *= 2;
  return blockSize;
}
