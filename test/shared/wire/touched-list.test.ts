import { expect } from "chai";
import {
  bitmapBytes,
  hasBlock,
  packTouchedList,
  type TouchedEntry,
  unpackTouchedList,
  wholeObject,
} from "../../../shared/wire/touched-list.ts";
import type { StorePath } from "../../../shared/words.ts";

describe("a list of what a node that rejoins has otherwise", () => {
  const blocks = new Uint8Array(bitmapBytes);
  blocks[0] = 0b101;
  blocks[15] = 0b1000_0000;
  const entries: TouchedEntry[] = [
    { kind: "path", store: "uploads", path: "" as StorePath },
    { kind: "path", store: "uploads", path: "a/\u00ff\u0001b" as StorePath },
    { kind: "object", object: 7, run: wholeObject, blocks: new Uint8Array(0) },
    { kind: "object", object: 7, run: 0, blocks },
    { kind: "object", object: Number.MAX_SAFE_INTEGER, run: 2 ** 31 - 1, blocks: new Uint8Array(bitmapBytes) },
  ];

  it("comes out as it went in", () => {
    expect(unpackTouchedList(packTouchedList(entries))).to.deep.equal(entries);
    expect(unpackTouchedList(new Uint8Array(0))).to.deep.equal([]);
  });

  it("counts blocks from the lowest bit of the first byte", () => {
    const set = Array.from({ length: 128 }, (_, index) => index).filter((index) => hasBlock(blocks, index));
    expect(set).to.deep.equal([0, 2, 127]);
    expect(hasBlock(new Uint8Array(0), 5)).to.equal(false);
    expect(hasBlock(undefined, 0)).to.equal(false);
  });

  it("is refused cut short anywhere but between two entries", () => {
    const packed = packTouchedList(entries);
    const whole = entries.map((_, count) => packTouchedList(entries.slice(0, count)).length);
    for (let length = 0; length < packed.length; length++) {
      if (!whole.includes(length))
        expect(unpackTouchedList(packed.subarray(0, length)), `${length} bytes`).to.equal(undefined);
    }
  });

  it("is refused with another kind, an object of 0 or beyond what is safe, and a run below all", () => {
    const packed = Buffer.from(packTouchedList(entries.slice(3, 4)));
    expect(unpackTouchedList(Buffer.from([3, ...packed.subarray(1)]))).to.equal(undefined);
    packed.writeInt32LE(-2, 9);
    expect(unpackTouchedList(packed)).to.equal(undefined);
    packed.writeInt32LE(0, 9);
    for (const object of [0n, 2n ** 53n]) {
      packed.writeBigUInt64LE(object, 1);
      expect(unpackTouchedList(packed)).to.equal(undefined);
    }
  });
});
