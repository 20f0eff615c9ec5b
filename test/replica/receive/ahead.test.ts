import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { Receiver } from "../../../replica/receive/receive.ts";
import type { ReplicaContext } from "../../../replica/replica-context.ts";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import { blockHash } from "../../../shared/manifest/block-hash.ts";
import type { Extent } from "../../../shared/wire/messages.ts";
import { epoch, type ObjectId, seq } from "../../../shared/words.ts";
import { openReplica, randomBytes, receiverOf, testGroup, testIncarnation } from "../../model/in-process.ts";

const blockSize = 4096;

describe("what comes ahead of a cut, from whom one cannot trust", () => {
  let directory: string;
  let replica: ReplicaContext;
  let receiver: Receiver;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-ahead-"));
    replica = openReplica(
      join(directory, "replica.db"),
      new RealDisk(),
      { tree: join(directory, "copy") },
      { limits: { stagingBytesMax: 64 * 1024 } },
    );
    receiver = receiverOf(replica);
  });
  afterEach(() => {
    replica.catalog.close();
    rmSync(directory, { recursive: true, force: true });
  });

  const begin = (): void =>
    receiver.begin({
      cut: { epoch: epoch(1), seq: seq(1) },
      base: { epoch: epoch(1), seq: seq(0) },
      incarnation: testIncarnation,
      groupId: testGroup,
      takenAtUs: 1,
      stores: ["tree"],
    });

  function extent(bytes: Uint8Array, change: Partial<Extent> = {}): Extent {
    const hashes = Buffer.concat(
      Array.from({ length: Math.ceil(bytes.length / blockSize) }, (_, block) =>
        blockHash(bytes.subarray(block * blockSize, (block + 1) * blockSize)),
      ),
    );
    const object = 7 as ObjectId;
    const place = { object, offset: 0, length: bytes.length, store: 0, blockSize };
    return { ...place, hashes, zero: false, fresh: false, held: false, ...change };
  }

  const bytes = randomBytes(3 * blockSize);

  it("is taken outside of a cut, and within one refused", () => {
    expect(receiver.ahead([extent(bytes)], bytes, ["tree"])).to.equal(undefined);
    begin();
    expect(() => receiver.ahead([extent(bytes)], bytes, ["tree"])).to.throw(/came within cut/);
  });

  it("is refused for a store that is not there", () => {
    expect(() => receiver.ahead([extent(bytes)], bytes, ["elsewhere"])).to.throw(/does not know/);
    expect(() => receiver.ahead([extent(bytes, { store: 1 })], bytes, ["tree"])).to.throw(/store 1 of 1/);
  });

  it("is refused with bytes that do not have their hashes, or that are too few or many", () => {
    const wrong = Buffer.from(bytes);
    wrong[5000]! ^= 1;
    expect(() => receiver.ahead([extent(bytes)], wrong, ["tree"])).to.throw(/block 1 of object 7/);
    expect(() => receiver.ahead([extent(bytes)], bytes.subarray(1), ["tree"])).to.throw(/shorter than its extents/);
    const more = Buffer.concat([bytes, new Uint8Array(1)]);
    expect(() => receiver.ahead([extent(bytes)], more, ["tree"])).to.throw(/its extents take/);
    const zeros = new Uint8Array(blockSize);
    expect(() => receiver.ahead([extent(zeros)], zeros, ["tree"])).to.throw(/does not have its hash/);
  });

  it("is refused over the end of a run, and off the blocks", () => {
    const over = extent(bytes, { offset: 127 * blockSize });
    expect(() => receiver.ahead([over], bytes, ["tree"])).to.throw(/not of one run/);
    expect(() => receiver.ahead([extent(bytes, { offset: 100 })], bytes, ["tree"])).to.throw(/extent at 100/);
  });

  it("is said to be too much at the limit, and harms nothing that is staged", () => {
    let refusal: string | undefined;
    let taken = 0;
    for (let object = 1; object < 50 && refusal === undefined; object++) {
      refusal = receiver.ahead([extent(bytes, { object: object as ObjectId })], bytes, ["tree"]);
      if (refusal === undefined) taken++;
    }
    expect(refusal).to.match(/limits\.staging is 65536/);
    expect(taken).to.equal(5);
    begin();
    const held = extent(bytes, { held: true, fresh: true, hashes: new Uint8Array(0), object: 5 as ObjectId });
    receiver.extents([held], new Uint8Array(0));
  });

  it("does not stand for what never came, whatever a cut says is held", () => {
    receiver.ahead([extent(bytes)], bytes, ["tree"]);
    begin();
    const held = extent(bytes, { held: true, fresh: true, hashes: new Uint8Array(0) });
    const nothing = new Uint8Array(0);
    expect(() => receiver.extents([{ ...held, object: 8 as ObjectId }], nothing)).to.throw(/not staged/);
    expect(() => receiver.extents([{ ...held, length: 4 * blockSize }], nothing)).to.throw(/not staged/);
    expect(() => receiver.extents([{ ...held, blockSize: 512, length: 512 }], nothing)).to.throw(/not staged/);
  });
});
