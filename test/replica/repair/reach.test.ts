import { expect } from "chai";
import { type PendingDamage, reachable } from "../../../replica/apply/reach.ts";
import { Backoff, RepairPace } from "../../../replica/repair/repair-pace.ts";
import type { ObjectId } from "../../../shared/words.ts";

describe("how far apply may go past what is damaged", () => {
  const cuts = [11n, 12n, 13n, 15n, 16n];
  const touched = (first: bigint, resolved?: bigint): PendingDamage => ({ first, resolved });
  const table: readonly {
    readonly name: string;
    readonly wanted: bigint;
    readonly damage: readonly PendingDamage[];
    readonly end: bigint | undefined;
  }[] = [
    { name: "as far as it wants when nothing is damaged", wanted: 13n, damage: [], end: 13n },
    { name: "as far as it wants before what is touched later", wanted: 12n, damage: [touched(15n)], end: 12n },
    { name: "up to the cut before the one that touches it", wanted: 16n, damage: [touched(15n)], end: 13n },
    { name: "nowhere when the next cut touches it", wanted: 16n, damage: [touched(11n)], end: undefined },
    { name: "through the cut that renews it", wanted: 16n, damage: [touched(12n, 12n)], end: 16n },
    { name: "further than it wants, to the cut that renews it", wanted: 12n, damage: [touched(12n, 15n)], end: 15n },
    {
      name: "before what is renewed only behind what is not",
      wanted: 16n,
      damage: [touched(12n, 16n), touched(15n)],
      end: 11n,
    },
    {
      name: "to the one that is renewed, before the one that is not",
      wanted: 12n,
      damage: [touched(12n, 13n), touched(15n)],
      end: 13n,
    },
    {
      name: "from one renewal to the next that it meets on its way",
      wanted: 11n,
      damage: [touched(11n, 13n), touched(13n, 16n)],
      end: 16n,
    },
    {
      name: "nowhere when a chain of renewals ends behind what is not renewed",
      wanted: 11n,
      damage: [touched(11n, 13n), touched(13n, 16n), touched(16n)],
      end: undefined,
    },
  ];
  for (const { name, wanted, damage, end } of table) {
    it(`goes ${name}`, () => {
      expect(reachable(10n, wanted, cuts, damage)).to.equal(end);
    });
  }
});

describe("the pace of repairs", () => {
  it("lets the first attempt begin at once, and each further one wait twice as long, up to an hour", () => {
    const pace = new RepairPace();
    const object = 7 as ObjectId;
    const waits: number[] = [];
    let now = 0;
    let last = 0;
    for (let attempt = 1; attempt <= 14; attempt++) {
      while (!pace.mayBegin(object, now)) now += 1000;
      waits.push(now - last);
      last = now;
      expect(pace.begin(object, now)).to.equal(attempt);
    }
    expect(waits.slice(0, 5)).to.deep.equal([0, 2000, 4000, 8000, 16_000]);
    expect(waits.at(-1)).to.equal(3600_000);
    expect(pace.mayBegin(8 as ObjectId, now)).to.equal(true);
  });

  it("forgets who was left alone for hours", () => {
    const pace = new RepairPace();
    const object = 7 as ObjectId;
    for (let attempt = 1; attempt <= 3; attempt++) pace.begin(object, 0);
    expect(pace.begin(object, 4 * 3600_000)).to.equal(1);
    pace.forgetOld(9 * 3600_000);
    expect(pace.begin(object, 9 * 3600_000)).to.equal(1);
  });

  it("waits between failures of the whole, and not after a success", () => {
    const backoff = new Backoff(1000, 3000);
    expect(backoff.passed(0)).to.equal(true);
    backoff.failed(0);
    expect([backoff.passed(999), backoff.passed(1000)]).to.deep.equal([false, true]);
    backoff.failed(1000);
    expect([backoff.passed(2999), backoff.passed(3000)]).to.deep.equal([false, true]);
    backoff.failed(3000);
    expect([backoff.passed(5999), backoff.passed(6000)]).to.deep.equal([false, true]);
    backoff.succeeded();
    expect(backoff.passed(3000)).to.equal(true);
  });
});
