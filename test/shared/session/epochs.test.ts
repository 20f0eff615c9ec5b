import { expect } from "chai";
import fc from "fast-check";
import {
  commonCut,
  epochFault,
  epochJumpMax,
  epochMax,
  firstObjectOf,
  newReign,
  nextEpoch,
  unheardReign,
} from "../../../shared/session/epochs.ts";
import { epoch, seq } from "../../../shared/words.ts";

describe("the number of a reign", () => {
  it("is 1 at birth, and goes up by one where two nodes take turns", () => {
    expect(nextEpoch(0n, 0, 2)).to.equal(1n);
    expect(nextEpoch(1n, 1, 2)).to.equal(2n);
    expect(nextEpoch(2n, 0, 2)).to.equal(3n);
    expect(nextEpoch(7n, 0, 1)).to.equal(8n);
  });

  it("is above all that were heard of, and never the same on two nodes, whatever each has heard of", () => {
    const members = fc.integer({ min: 2, max: 9 });
    const heard = fc.bigInt({ min: 0n, max: 1n << 40n });
    fc.assert(
      fc.property(members, heard, heard, fc.nat(8), fc.nat(8), (count, one, other, a, b) => {
        const [first, second] = [a % count, b % count];
        fc.pre(first !== second);
        const reign = nextEpoch(one, first, count);
        expect(reign > one && reign <= one + BigInt(count)).to.equal(true);
        expect(reign).not.to.equal(nextEpoch(other, second, count));
      }),
    );
  });

  it("that nobody has heard of is known by the turn of whose it is, or by none that it could be", () => {
    expect(unheardReign(3n, { member: 1, members: 2 })).to.equal(4n);
    for (const members of [2, 5, 64])
      for (let member = 0; member < members; member++)
        expect(unheardReign(3n, undefined) >= nextEpoch(3n, member, members)).to.equal(true);
  });

  it("gives its objects numbers that no other reign gives", () => {
    expect(firstObjectOf(2n) - firstObjectOf(1n)).to.equal(2 ** 34);
    expect(() => firstObjectOf(1n << 20n)).to.throw(/out of range/);
    expect(firstObjectOf(epochMax) + 2 ** 34).to.be.at.most(Number.MAX_SAFE_INTEGER);
    expect(() => firstObjectOf(epochMax + 1n)).to.throw(/out of range/);
  });

  it("is not believed where no promotion can have led to it", () => {
    expect(epochFault(epochMax, 0n)).to.equal("");
    expect(epochFault(epochMax + 1n, epochMax)).to.match(/out of range/);
    expect(epochFault(7n + epochJumpMax, 7n)).to.equal("");
    expect(epochFault(8n + epochJumpMax, 7n)).to.match(/more than 10000 above epoch 7/);
  });
});

describe("a new reign", () => {
  const standing = {
    epoch: epoch(2),
    epochSeen: epoch(2),
    epochs: [
      { epoch: 1n, firstSeq: 1n },
      { epoch: 2n, firstSeq: 8n },
    ],
    committed: { epoch: epoch(1), seq: seq(5) },
    nextObject: 7,
  };

  it("begins after the last cut, above every epoch that was heard of, with numbers for objects of its own", () => {
    const reign = newReign({ ...standing, committed: { epoch: epoch(2), seq: seq(9) } }, { member: 0, members: 2 });
    expect(reign).to.deep.equal({
      epoch: 3n,
      epochSeen: 3n,
      epochs: [...standing.epochs, { epoch: 3n, firstSeq: 10n }],
      nextObject: firstObjectOf(3n),
    });
    expect(newReign({ ...standing, epochSeen: epoch(6) }, { member: 0, members: 2 }).epoch).to.equal(7n);
    expect(newReign(standing, { member: 0, members: 2, heard: 6n }).epoch, "others know more").to.equal(7n);
  });

  it("is refused by name where its number cannot be, and nothing breaks", () => {
    const last = { ...standing, epoch: epoch(epochMax - 1n), epochSeen: epoch(epochMax - 1n) };
    const turn = { member: 0, members: 1 };
    expect(newReign(last, turn).nextObject).to.equal(firstObjectOf(epochMax));
    expect(() => newReign({ ...last, epochSeen: epoch(epochMax) }, turn))
      .to.throw()
      .with.property("code", "EPOCHS_USED_UP");
    expect(() => newReign(standing, { ...turn, granted: 600_000n }))
      .to.throw()
      .with.property("code", "EPOCH_UNBELIEVABLE");
  });

  it("has no past in reigns that this node has no cut of", () => {
    // Promoted before the primary of epoch 2, whose reign it knew, had sent it anything.
    expect(newReign(standing, { member: 2, members: 3 }).epochs).to.deep.equal([
      { epoch: 1n, firstSeq: 1n },
      { epoch: 3n, firstSeq: 6n },
    ]);
  });

  it("has no past in a reign that began before this node's last cut of an older one", () => {
    const reign = newReign({ ...standing, committed: { epoch: epoch(1), seq: seq(9) } }, { member: 2, members: 3 });
    expect(reign.epochs).to.deep.equal([
      { epoch: 1n, firstSeq: 1n },
      { epoch: 3n, firstSeq: 10n },
    ]);
  });
});

describe("the last cut that two nodes have in common", () => {
  const history = (committed: readonly [number, number], ...starts: (readonly [number, number])[]) => ({
    epochs: starts.map(([at, first]) => ({ epoch: BigInt(at), firstSeq: BigInt(first) })),
    committed: { epoch: epoch(committed[0]), seq: seq(committed[1]) },
  });
  const table = [
    ["the same reign, one behind", history([1, 9], [1, 1]), history([1, 5], [1, 1]), [1, 5]],
    [
      "promoted further back than the old primary",
      history([1, 105], [1, 1]),
      history([2, 120], [1, 1], [2, 101]),
      [1, 100],
    ],
    ["promoted at exactly the last cut", history([1, 100], [1, 1]), history([2, 120], [1, 1], [2, 101]), [1, 100]],
    ["the old primary lost cuts", history([1, 98], [1, 1]), history([2, 120], [1, 1], [2, 101]), [1, 98]],
    [
      "two that were promoted beside each other",
      history([2, 120], [1, 1], [2, 101]),
      history([3, 90], [1, 1], [3, 81]),
      [1, 80],
    ],
    [
      "a reign that one of them never saw",
      history([5, 300], [1, 1], [2, 101], [5, 201]),
      history([1, 50], [1, 1]),
      [1, 50],
    ],
    [
      "a reign of which one has no cut yet",
      history([1, 100], [1, 1], [2, 101]),
      history([4, 130], [1, 1], [2, 101], [4, 111]),
      [1, 100],
    ],
    [
      "a replica that has heard of a reign which began beyond its last cut",
      history([1, 50], [1, 1], [2, 101]),
      history([2, 120], [1, 1], [2, 101]),
      [1, 50],
    ],
    ["nothing in common", history([3, 9], [3, 1]), history([2, 9], [2, 1]), undefined],
  ] as const;
  for (const [circumstance, ours, theirs, common] of table) {
    it(`${circumstance}: ${common?.join(".") ?? "none"}, seen from either side`, () => {
      const expected = common === undefined ? undefined : { epoch: BigInt(common[0]), seq: BigInt(common[1]) };
      expect(commonCut(ours, theirs)).to.deep.equal(expected);
      expect(commonCut(theirs, ours)).to.deep.equal(expected);
    });
  }
});
