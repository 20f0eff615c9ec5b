import { randomBytes } from "node:crypto";
import { expect } from "chai";
import { packStagedList, tagsOf, unpackStagedList } from "../../../shared/wire/staged-list.ts";

describe("a list of what is staged", () => {
  const entries = [
    { object: 7, run: 0, tags: tagsOf(randomBytes(128 * 32)) },
    { object: 7, run: 3, tags: tagsOf(Buffer.concat([new Uint8Array(64), randomBytes(32)])) },
    { object: Number.MAX_SAFE_INTEGER, run: 2 ** 32 - 1, tags: new Uint8Array(0) },
  ];

  it("comes out as it went in", () => {
    expect(unpackStagedList(packStagedList(entries))).to.deep.equal(entries);
    expect(unpackStagedList(new Uint8Array(0))).to.deep.equal([]);
  });

  it("is refused cut short anywhere but between two entries", () => {
    const packed = packStagedList(entries);
    const whole = entries.map((_, count) => packStagedList(entries.slice(0, count)).length);
    for (let length = 0; length < packed.length; length++) {
      if (!whole.includes(length))
        expect(unpackStagedList(packed.subarray(0, length)), `${length} bytes`).to.equal(undefined);
    }
  });

  it("is refused with more blocks than a run has, and with a number beyond what is safe", () => {
    const packed = Buffer.from(packStagedList(entries.slice(0, 1)));
    packed.writeUInt32LE(129, 12);
    expect(unpackStagedList(Buffer.concat([packed, new Uint8Array(8)]))).to.equal(undefined);
    packed.writeUInt32LE(128, 12);
    packed.writeBigUInt64LE(2n ** 53n, 0);
    expect(unpackStagedList(packed)).to.equal(undefined);
  });
});
