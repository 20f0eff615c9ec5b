import { expect } from "chai";
import { type CutEnded, type CutPace, paceAfter, unpaced } from "../../../deploy/agent/cut-pace.ts";

describe("the rest between two cuts", () => {
  const busy = (busyCuts: number): CutPace => ({ busyCuts, restMs: 0 });
  const ended: CutEnded = { tookMs: 4, changedMeanwhile: true, rpoMs: undefined };
  const table: [why: string, before: CutPace, ended: Partial<CutEnded>, restMs: number][] = [
    ["nothing when nothing changed meanwhile", unpaced, { changedMeanwhile: false }, 0],
    ["nothing as soon as a busy writer paused", busy(50), { changedMeanwhile: false }, 0],
    ["short when one cut was overtaken: it may be chance", unpaced, {}, 12],
    ["short when a second one was, too", busy(1), {}, 12],
    ["30 ms at most while it may be chance", busy(1), { tookMs: 1000 }, 30],
    ["nine times a cut from the third on", busy(2), {}, 36],
    ["20 ms at least, since waking costs something, too", busy(2), { tookMs: 1 }, 20],
    ["250 ms at most", busy(9), { tookMs: 1000 }, 250],
    ["a tenth of the promise at most", busy(9), { tookMs: 1000, rpoMs: 1000 }, 100],
    ["a tenth of a very tight promise", busy(9), { rpoMs: 50 }, 5],
    ["what it is without a promise where that is wide", busy(9), { rpoMs: 3_600_000 }, 36],
  ];
  for (const [why, before, how, restMs] of table) {
    it(`is ${why}`, () => expect(paceAfter(before, { ...ended, ...how }).restMs).to.equal(restMs));
  }

  it("leaves a writer that never pauses nine tenths of the time after three cuts", () => {
    let pace = unpaced;
    for (let cut = 0; cut < 3; cut++) pace = paceAfter(pace, { ...ended, tookMs: 10 });
    expect(10 / (10 + pace.restMs)).to.be.at.most(0.1);
  });
});
