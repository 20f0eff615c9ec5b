import { expect } from "chai";
import fc from "fast-check";
import {
  choosePoint,
  NoSuchPoint,
  type PointWanted,
  type RecoveryPoint,
} from "../../../replica/history/choose-point.ts";
import { type HistoryBudget, type KeptPoint, pointsToDrop } from "../../../replica/history/retention.ts";
import type { RetentionLadder } from "../../../shared/config/config.ts";
import { cutText, epoch, seq } from "../../../shared/words.ts";

const second = 1e6;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;
const noLadder: RetentionLadder = {
  allMs: undefined,
  perMinuteMs: undefined,
  perHourMs: undefined,
  perDayMs: undefined,
};
const plenty: HistoryBudget = { usedBytes: 0, bytesMax: 0 };
/** A whole day, so that hours and minutes begin with it. */
const noon = 20_000 * day;

/** Points at these times after `noon`, numbered from 1. */
function at(...times: readonly number[]): KeptPoint[] {
  return times.map((time, index) => ({ seq: seq(index + 1), takenAtUs: noon + time }));
}

describe("which recovery points go", () => {
  const cases: readonly {
    why: string;
    points: KeptPoint[];
    ladder?: Partial<RetentionLadder>;
    now: number;
    budget?: HistoryBudget;
    dropped: readonly number[];
  }[] = [
    { why: "nothing is dropped of nothing", points: [], now: 0, dropped: [] },
    { why: "the only point stays, however old", points: at(0), now: 900 * day, dropped: [] },
    { why: "without a ladder only the newest stays", points: at(0, 1, 2), now: 3, dropped: [1, 2] },
    {
      why: "everything within the first rung stays, its very edge too",
      points: at(0, second, 2 * second),
      ladder: { allMs: 10_000 },
      now: 10 * second,
      dropped: [],
    },
    {
      why: "what is older than the first rung goes",
      points: at(0, second, 2 * second),
      ladder: { allMs: 10_000 },
      now: 10 * second + 1,
      dropped: [1],
    },
    {
      why: "of each minute the last one stays",
      points: at(0, 30 * second, 59 * second, 60 * second, 119 * second, 120 * second),
      ladder: { perMinuteMs: 3_600_000 },
      now: 3 * minute,
      dropped: [1, 2, 4],
    },
    {
      why: "the last of a minute is looked for among those that the first rung keeps, too",
      points: at(0, 10 * second, 50 * second, 55 * second),
      ladder: { allMs: 30_000, perMinuteMs: 3_600_000 },
      now: 70 * second,
      dropped: [1, 2],
    },
    {
      why: "of each hour and of each day the last one stays",
      points: at(0, 59 * minute, hour, 2 * hour, 23 * hour, day, day + hour),
      ladder: { perHourMs: (26 * hour) / 1000, perDayMs: (7 * day) / 1000 },
      now: day + 4 * hour,
      dropped: [1, 2, 3],
    },
    {
      why: "over budget the finest rung gives way first, its oldest point first",
      points: at(0, 59 * second, 60 * second, 90 * second, 100 * second, 110 * second, 115 * second),
      ladder: { allMs: 120_000, perMinuteMs: 3_600_000 },
      now: 2 * minute,
      budget: { usedBytes: 70, bytesMax: 40, bytesOf: () => 10 },
      dropped: [1, 3, 4],
    },
    {
      why: "then the next rung does, and the newest point stays over any budget",
      points: at(0, 59 * second, 60 * second, 119 * second, 120 * second, 121 * second),
      ladder: { allMs: 120_000, perMinuteMs: 3_600_000 },
      now: 2 * minute,
      budget: { usedBytes: 60, bytesMax: 0, bytesOf: () => 10 },
      dropped: [1, 2, 3, 4, 5],
    },
    {
      why: "what the ladder drops counts against the budget first",
      points: at(0, 100 * second, 101 * second),
      ladder: { allMs: 10_000 },
      now: 102 * second,
      budget: { usedBytes: 100, bytesMax: 30, bytesOf: (point) => (point === 1n ? 80 : 10) },
      dropped: [1],
    },
    {
      why: "where nobody knows what a point holds, each has an equal share",
      points: at(0, 1, 2, 3),
      ladder: { allMs: 10_000 },
      now: 4,
      budget: { usedBytes: 400, bytesMax: 250 },
      dropped: [1, 2],
    },
    {
      why: "a clock that was set back makes points young, and keeps them",
      points: at(hour, hour + second),
      ladder: { allMs: 10_000 },
      now: 0,
      dropped: [],
    },
  ];
  for (const { why, points, ladder, now, budget, dropped } of cases) {
    it(why, () => {
      const result = pointsToDrop(points, { ...noLadder, ...ladder }, noon + now, budget ?? plenty);
      expect(result.map(Number)).to.deep.equal(dropped);
    });
  }

  const span = fc.option(fc.integer({ min: 0, max: 4 * 86_400_000 }), { nil: undefined });
  const ladders = fc.record({ allMs: span, perMinuteMs: span, perHourMs: span, perDayMs: span });
  const pointLists = fc
    .array(fc.oneof(fc.integer({ min: 1, max: 90 * second }), fc.integer({ min: 1, max: 5 * hour })), { maxLength: 60 })
    .map((gaps) => {
      let time = noon;
      return gaps.map((gap, index): KeptPoint => {
        time += gap;
        return { seq: seq(index + 1), takenAtUs: time };
      });
    });
  const sizes = fc.array(fc.integer({ min: 0, max: 100 }), { minLength: 60, maxLength: 60 });

  it("drops nothing more when it is asked again, and never the newest", () => {
    fc.assert(
      fc.property(pointLists, ladders, sizes, fc.integer({ min: 0, max: 3000 }), (points, ladder, bytes, bytesMax) => {
        const now = (points.at(-1)?.takenAtUs ?? noon) + second;
        const bytesOf = (point: bigint): number => bytes[Number(point) - 1] ?? 0;
        const used = (left: readonly KeptPoint[]): number => left.reduce((sum, point) => sum + bytesOf(point.seq), 0);
        const dropped = new Set(pointsToDrop(points, ladder, now, { usedBytes: used(points), bytesMax, bytesOf }));
        const left = points.filter((point) => !dropped.has(point.seq));
        expect(left.at(-1)).to.equal(points.at(-1));
        expect(left.length + dropped.size).to.equal(points.length);
        expect(used(left) <= bytesMax || left.length <= 1 || used(left.slice(0, -1)) === 0).to.equal(true);
        expect(pointsToDrop(left, ladder, now, { usedBytes: used(left), bytesMax, bytesOf })).to.deep.equal([]);
      }),
    );
  });

  it("never wants back later what it dropped, thinned at once or step by step", () => {
    fc.assert(
      fc.property(
        pointLists,
        ladders,
        fc.array(fc.integer({ min: 1, max: 3 * hour }), { maxLength: 8 }),
        (points, ladder, steps) => {
          let now = points.at(-1)?.takenAtUs ?? noon;
          let left = points;
          for (const step of steps) {
            now += step;
            const dropped = new Set(pointsToDrop(left, ladder, now, { usedBytes: 0, bytesMax: 0 }));
            left = left.filter((point) => !dropped.has(point.seq));
            const atOnce = new Set(pointsToDrop(points, ladder, now, { usedBytes: 0, bytesMax: 0 }));
            expect(left).to.deep.equal(points.filter((point) => !atOnce.has(point.seq)));
          }
        },
      ),
    );
  });
});

describe("the choice of a recovery point", () => {
  const points: RecoveryPoint[] = [
    [1, 10, 1000],
    [1, 12, 2000],
    [2, 13, 3000],
    [2, 20, 4000],
  ].map(([reign, number, time]) => ({ cut: { epoch: epoch(reign!), seq: seq(number!) }, takenAtUs: noon + time! }));
  const chosen: readonly { why: string; wanted: PointWanted; cut: string }[] = [
    { why: "the cut itself", wanted: { cut: { epoch: epoch(1), seq: seq(12) } }, cut: "1.12" },
    { why: "taken at that very time", wanted: { timeUs: noon + 3000 }, cut: "2.13" },
    { why: "the newest before the time", wanted: { timeUs: noon + 2999 }, cut: "1.12" },
    { why: "the newest of all for a time to come", wanted: { timeUs: noon + day }, cut: "2.20" },
  ];
  for (const { why, wanted, cut } of chosen) {
    it(`is ${why}`, () => {
      expect(cutText(choosePoint(points, wanted).cut)).to.equal(cut);
    });
  }

  const refused: readonly { why: string; points?: RecoveryPoint[]; wanted: PointWanted; nearest: readonly string[] }[] =
    [
      {
        why: "a cut between two points",
        wanted: { cut: { epoch: epoch(1), seq: seq(11) } },
        nearest: ["1.10", "1.12", "2.13"],
      },
      {
        why: "a cut of another epoch",
        wanted: { cut: { epoch: epoch(1), seq: seq(13) } },
        nearest: ["1.10", "1.12", "2.13", "2.20"],
      },
      { why: "a cut after all points", wanted: { cut: { epoch: epoch(2), seq: seq(21) } }, nearest: ["2.13", "2.20"] },
      { why: "a time before all points", wanted: { timeUs: noon }, nearest: ["1.10", "1.12"] },
      { why: "any time where there is no point", points: [], wanted: { timeUs: noon }, nearest: [] },
    ];
  for (const { why, points: own, wanted, nearest } of refused) {
    it(`refuses ${why}, and names the nearest`, () => {
      let error: unknown;
      try {
        choosePoint(own ?? points, wanted);
      } catch (caught) {
        error = caught;
      }
      expect(error).to.be.instanceOf(NoSuchPoint);
      expect((error as NoSuchPoint).nearest.map((point) => cutText(point.cut))).to.deep.equal(nearest);
      for (const cut of nearest) expect((error as NoSuchPoint).hint).to.include(cut);
    });
  }
});
