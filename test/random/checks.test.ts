import { expect } from "chai";
import type { Entry } from "./application.ts";
import { difference } from "./contents.ts";
import { lastInCommon, lineage, wrongly } from "./losses.ts";
import type { Begun, Taken } from "./node-record.ts";
import { epochsOfTwo, intervalsOf, overlaps, runOn } from "./outside-checks.ts";

/** What judges the histories must be able to say no. */

const begun = (epoch: number, node: string, from?: string, promoted = true): Begun => {
  const [of = 0, seq = 0] = (from ?? "").split(".").map(Number);
  return { epoch, node, from: from === undefined ? undefined : { epoch: of, seq }, promoted };
};
const entry = (id: string, node: string, epoch: number, at: number): Entry => ({
  id,
  node,
  epoch,
  from: at,
  to: at + 1,
});
const taken = (epoch: number, seq: number, node: string, begunAt: number, at: number): Taken => ({
  ...{ epoch, seq, node, begunAt, at },
});

describe("what judges the histories of three agents", () => {
  describe("what is lost", () => {
    // Alpha forms the group; bravo is promoted from its cut 7, and charlie, who never met bravo, from 5; bravo has rejoined.
    const reigns = [begun(1, "alpha", undefined, false), begun(2, "bravo", "1.7"), begun(3, "charlie", "1.5")];
    const cuts = [taken(1, 5, "alpha", 100, 120), taken(1, 7, "alpha", 200, 220)];
    const [before, within, after, bravos, charlies] = [
      entry("before", "alpha", 1, 50),
      entry("within", "alpha", 1, 110),
      entry("after", "alpha", 1, 130),
      entry("bravos", "bravo", 2, 300),
      entry("charlies", "charlie", 3, 400),
    ];
    const all = [before, within, after, bravos, charlies];
    const kept = lineage(reigns, 3, 0);
    const judged = (...ids: string[]): string[] =>
      wrongly(all, new Set(ids), kept, cuts).map((text) => text.split(" ")[0] ?? "");

    it("knows which reigns led to the last one, and up to which cut", () => {
      expect(kept).to.deep.equal([
        { epoch: 1, upTo: { epoch: 1, seq: 5 } },
        { epoch: 3, upTo: undefined },
      ]);
    });

    it("is what came after the stated cut and what a reign wrote that led to nothing, whatever came while the cut was taken", () => {
      expect(judged("before", "charlies")).to.deep.equal([]);
      expect(judged("before", "within", "charlies")).to.deep.equal([]);
    });

    it("is wrong where something older is gone, something newer is there, or a fork's entry has come back", () => {
      expect(judged("charlies")).to.deep.equal(["before"]);
      expect(judged("before", "after", "charlies")).to.deep.equal(["after"]);
      expect(judged("before", "bravos", "charlies")).to.deep.equal(["bravos"]);
      expect(judged("before")).to.deep.equal(["charlies"]);
    });

    it("is nothing of what a former primary had that reigns again", () => {
      const again = lineage([...reigns, begun(4, "bravo")], 4, 0);
      expect(again.map(({ epoch, upTo }) => [epoch, upTo?.seq])).to.deep.equal([
        [1, 7],
        [2, undefined],
        [4, undefined],
      ]);
    });
  });

  it("knows what a fork can have in common with a promotion, from where its own node had left that epoch", () => {
    const last = (epoch: number, seq: number) => ({ epoch, seq, takenAt: "" });
    const epochs = [{ epoch: 12, firstSeq: 60 }];
    const own = [...epochs, { epoch: 13, firstSeq: 73 }];
    const stated = { epoch: 12, seq: 77 };
    expect(lastInCommon({ last: last(12, 79), epochs }, stated)).to.equal(77);
    expect(lastInCommon({ last: last(12, 75), epochs }, stated)).to.equal(75);
    expect(lastInCommon({ last: last(13, 73), epochs: own }, stated)).to.equal(72);
  });

  it("finds what differs between two nodes: an entry that one of them lacks, a file that is another or is not there", () => {
    const contents = (ids: string[], files: Record<string, string>) => ({
      ids: new Set(ids),
      files: new Map(Object.entries(files)),
    });
    const one = contents(["a", "b"], { x: "1", y: "2" });
    expect(difference(one, contents(["a", "b"], { x: "1", y: "2" }))).to.equal("");
    expect(difference(one, contents(["a"], { x: "3", z: "2" }))).to.equal("entry b, files/x, files/y, files/z");
  });

  it("finds an epoch of two nodes", () => {
    expect(
      epochsOfTwo([
        { node: "alpha", epochs: [1, 3] },
        { node: "bravo", epochs: [2] },
      ]),
    ).to.deep.equal([]);
    expect(
      epochsOfTwo([
        { node: "alpha", epochs: [1, 3] },
        { node: "bravo", epochs: [3] },
      ]),
    ).to.deep.equal(["3: alpha, bravo"]);
  });

  describe("services", () => {
    const at = (ms: number): string => `${ms}000000`;
    const beside = intervalsOf(
      [
        `start alpha ${at(100)} 1`,
        `start bravo ${at(200)} 2`,
        `stop bravo ${at(300)} 2`,
        `start charlie ${at(310)} 3`,
        `stop alpha ${at(3000)} 1`,
      ].join("\n"),
    );
    const formed = begun(1, "alpha", undefined, false);
    const handed = begun(3, "charlie", "2.9", false);

    it("are beside each other only after somebody was promoted, also when that one has handed over since", () => {
      const reigns = [formed, begun(2, "bravo", "1.7"), handed];
      expect(overlaps(beside, [{ node: "bravo", from: 190 }], reigns)).to.deep.equal([]);
      expect(overlaps(beside, [], reigns)).to.have.length(2);
    });

    it("are not beside each other because of a switchover, or of a promotion that came later", () => {
      const moved = [formed, begun(2, "bravo", "1.7", false), handed];
      expect(overlaps(beside, [{ node: "bravo", from: 190 }], moved)).to.have.length(2);
      expect(
        overlaps(beside, [{ node: "bravo", from: 210 }], [formed, begun(2, "bravo", "1.7"), handed]),
      ).to.have.length(2);
    });

    it("are beside each other after somebody was promoted who knew nothing of a switchover, whichever epoch is higher", () => {
      const unknowing = intervalsOf(
        [
          `start bravo ${at(100)} 3`,
          `start charlie ${at(200)} 2`,
          `stop charlie ${at(300)} 2`,
          `start alpha ${at(310)} 4`,
          `stop bravo ${at(3000)} 3`,
        ].join("\n"),
      );
      const reigns = [
        formed,
        begun(3, "bravo", "1.9", false),
        begun(2, "charlie", "1.9"),
        begun(4, "alpha", "2.4", false),
      ];
      expect(overlaps(unknowing, [{ node: "charlie", from: 190 }], reigns)).to.deep.equal([]);
      expect(overlaps(unknowing, [], reigns)).to.have.length(2);
      // Where bravo's reign led to alpha's, its service had to stop first.
      const handedOn = [
        formed,
        begun(2, "charlie", "1.9"),
        begun(3, "bravo", "2.3", false),
        begun(4, "alpha", "3.4", false),
      ];
      expect(overlaps(unknowing, [{ node: "charlie", from: 50 }], handedOn)).to.have.length(2);
    });

    it("ran on from the first contact, whoever of the two wrote that down, or from when its node was fenced", () => {
      expect(runOn(beside, [{ node: "bravo", peer: "alpha", at: 250 }], [])).to.deep.equal([
        { node: "alpha", from: 250, to: 3000 },
      ]);
      expect(runOn(beside, [{ node: "alpha", peer: "charlie", at: 400 }], [{ node: "alpha", at: 500 }])).to.deep.equal([
        { node: "alpha", from: 400, to: 3000 },
      ]);
      expect(runOn(beside, [{ node: "alpha", peer: "bravo", at: 150 }], [])).to.deep.equal([]);
    });
  });
});
