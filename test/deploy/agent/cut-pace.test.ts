import { expect } from "chai";
import { type CutEnded, type CutPace, paceAfter, unpaced } from "../../../deploy/agent/cut-pace.ts";

describe("the rest between two cuts", () => {
  const flooded = (floodedCuts: number): CutPace => ({ floodedCuts, restMs: 0 });
  const usual: CutEnded = { tookMs: 4, overtaken: true, commits: 20, sinceMs: 8, rpoMs: undefined };
  const table: [why: string, before: CutPace, ended: Partial<CutEnded>, restMs: number][] = [
    ["nothing when nothing changed meanwhile", unpaced, { overtaken: false, commits: 0 }, 0],
    ["nothing as soon as a busy writer pauses", flooded(4), { overtaken: false, commits: 0 }, 0],
    ["once the cut's length when a commit came meanwhile", unpaced, { commits: 1 }, 4],
    ["twice for two", unpaced, { commits: 4 }, 8],
    ["short however often that happens", flooded(2), { commits: 1 }, 4],
    ["short after slow cuts of a writer with gaps", flooded(2), { tookMs: 60, sinceMs: 60, commits: 6 }, 30],
    ["long for a writer that is slow and never pauses", flooded(2), { commits: 4 }, 76],
    ["30 ms at most for a writer with gaps", unpaced, { tookMs: 1000, sinceMs: 1000, commits: 100 }, 30],
    ["30 ms at most for files, whose changes are not counted", unpaced, { tookMs: 1000, commits: 0 }, 30],
    ["short when one cut was flooded: it may be chance", unpaced, {}, 12],
    ["short when a second one was, too", flooded(1), {}, 12],
    ["nineteen times a cut from the third on", flooded(2), {}, 76],
    ["still that long when one was not flooded", flooded(4), { commits: 1 }, 76],
    ["short again when two were not", flooded(3), { commits: 1 }, 4],
    ["40 ms at least, since waking costs something, too", flooded(2), { tookMs: 1 }, 40],
    ["250 ms at most", flooded(4), { tookMs: 1000, sinceMs: 1000, commits: 2000 }, 250],
    ["a tenth of the promise at most", flooded(4), { tookMs: 1000, rpoMs: 1000 }, 100],
    ["a tenth of a very tight promise", flooded(4), { rpoMs: 50 }, 5],
    ["what it is without a promise where that is wide", flooded(4), { rpoMs: 3_600_000 }, 76],
  ];
  for (const [why, before, how, restMs] of table) {
    it(`is ${why}`, () => expect(paceAfter(before, { ...usual, ...how }).restMs).to.equal(restMs));
  }

  it("leaves a writer that never pauses 95% of the time after three cuts", () => {
    let pace = unpaced;
    for (let cut = 0; cut < 3; cut++) pace = paceAfter(pace, { ...usual, tookMs: 10 });
    expect(10 / (10 + pace.restMs)).to.be.at.most(0.05);
  });
});
