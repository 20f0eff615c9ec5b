import { expect } from "chai";
import { blockSizeFor } from "../../../../primary/stores/files/block-size.ts";

describe("block size of a new object", () => {
  const gib = 2 ** 30;
  for (const [size, blockSize] of [
    [0, 4096],
    [1, 4096],
    [4 * gib, 4096],
    [4 * gib + 1, 8192],
    [8 * gib, 8192],
    [8 * gib + 1, 16384],
    [1024 * gib, 2 ** 20],
  ] as const) {
    it(`is ${blockSize} for ${size} bytes`, () => expect(blockSizeFor(size)).to.equal(blockSize));
  }
});
