import { expect } from "chai";
import fc from "fast-check";
import { blockHash } from "../../../shared/manifest/block-hash.ts";
import { blockHashes } from "../../../shared/manifest/block-hashes.ts";

describe("the hashes of several blocks", () => {
  it("are those of each block, of zeros and of a shorter last one too", () => {
    const blockSize = 512;
    const block = fc.oneof(
      fc.constant(new Uint8Array(blockSize)),
      fc.uint8Array({ minLength: blockSize, maxLength: blockSize }),
      fc.uint8Array({ minLength: 1, maxLength: 20 }).map((start) => {
        const whole = new Uint8Array(blockSize);
        whole.set(start);
        return whole;
      }),
    );
    fc.assert(
      fc.property(fc.array(block, { maxLength: 6 }), fc.uint8Array({ maxLength: blockSize - 1 }), (blocks, rest) => {
        // Within larger memory, so that an offset that is forgotten shows.
        const bytes = Buffer.concat([new Uint8Array(7).fill(9), ...blocks, rest]).subarray(7);
        const one = Array.from({ length: Math.ceil(bytes.length / blockSize) }, (_, i) =>
          blockHash(bytes.subarray(i * blockSize, (i + 1) * blockSize)),
        );
        expect(blockHashes(bytes, blockSize).equals(Buffer.concat(one))).to.equal(true);
      }),
    );
  });
});
