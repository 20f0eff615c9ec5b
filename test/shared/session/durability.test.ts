import { expect } from "chai";
import fc from "fast-check";
import {
  type Begun,
  type Durability,
  decideDurability,
  protectedCut,
  stillBegun,
} from "../../../shared/session/durability.ts";
import { type CutId, compareCuts, epoch, seq } from "../../../shared/words.ts";

const cut = (number: number, reign = 1): CutId => ({ epoch: epoch(reign), seq: seq(number) });
const begun = (number: number | undefined, atMs: number): Begun => ({
  cut: number === undefined ? undefined : cut(number),
  atMs,
});
const isProtected: Durability = { kind: "protected" };

interface Row {
  readonly why: string;
  readonly durable: readonly CutId[];
  readonly begun: readonly Begun[];
  readonly degraded?: boolean;
  readonly replicas?: number;
  readonly at: number;
  readonly is: Durability;
}

// The timeout is 2000 ms.
const rows: readonly Row[] = [
  { why: "nothing was begun", durable: [], begun: [], at: 9999, is: isProtected },
  { why: "one has it", durable: [cut(5)], begun: [begun(5, 0)], at: 9999, is: isProtected },
  { why: "one has more", durable: [cut(7)], begun: [begun(5, 0)], at: 9999, is: isProtected },
  { why: "one of two has it", durable: [cut(1), cut(5)], begun: [begun(5, 0)], at: 9999, is: isProtected },
  {
    why: "two are asked for and one has it, still in time",
    durable: [cut(1), cut(5)],
    begun: [begun(5, 100)],
    replicas: 2,
    at: 2099,
    is: { kind: "waiting", untilMs: 2100 },
  },
  {
    why: "two are asked for and one has it, too late",
    durable: [cut(1), cut(5)],
    begun: [begun(5, 100)],
    replicas: 2,
    at: 2100,
    is: { kind: "degraded", sinceMs: 100 },
  },
  {
    why: "two are asked for and only one is known",
    durable: [cut(5)],
    begun: [begun(5, 0)],
    replicas: 2,
    at: 2000,
    is: { kind: "degraded", sinceMs: 0 },
  },
  { why: "nobody is known", durable: [], begun: [begun(5, 0)], at: 1999, is: { kind: "waiting", untilMs: 2000 } },
  {
    why: "the oldest one counts",
    durable: [cut(3)],
    begun: [begun(3, 0), begun(4, 1000), begun(5, 2900)],
    at: 3000,
    is: { kind: "degraded", sinceMs: 1000 },
  },
  {
    why: "somebody waits for what no cut has yet",
    durable: [cut(5)],
    begun: [begun(5, 0), begun(undefined, 100)],
    at: 2100,
    is: { kind: "degraded", sinceMs: 100 },
  },
  {
    why: "a cut of a former reign is no cut of this one, whatever its number",
    durable: [cut(9, 1)],
    begun: [{ cut: cut(5, 2), atMs: 0 }],
    at: 2000,
    is: { kind: "degraded", sinceMs: 0 },
  },
  {
    why: "it was degraded, and answers are late by more than half the time",
    durable: [cut(4)],
    begun: [begun(5, 0)],
    degraded: true,
    at: 1000,
    is: { kind: "degraded", sinceMs: 0 },
  },
  {
    why: "it was degraded, and they answer in half the time",
    durable: [cut(4)],
    begun: [begun(5, 0)],
    degraded: true,
    at: 999,
    is: { kind: "waiting", untilMs: 1000 },
  },
  {
    why: "it was degraded, and they have caught up",
    durable: [cut(5)],
    begun: [begun(5, 0)],
    degraded: true,
    at: 9999,
    is: isProtected,
  },
];

describe("semi-synchronous durability", () => {
  for (const row of rows) {
    it(`is ${row.is.kind} where ${row.why}`, () => {
      const { durable, degraded = false, replicas = 1 } = row;
      expect(
        decideDurability({ durable, begun: row.begun, degraded }, { replicas, timeoutMs: 2000 }, row.at),
      ).to.deep.equal(row.is);
    });
  }

  it("counts nothing as protected that fewer replicas have than were asked for, and nothing for younger than it is", () => {
    const cuts = fc.integer({ min: 1, max: 40 }).map((number) => cut(number));
    fc.assert(
      fc.property(
        fc.array(cuts, { maxLength: 5 }),
        fc.array(fc.record({ cut: fc.option(cuts, { nil: undefined }), atMs: fc.nat(5000) }), { maxLength: 30 }),
        fc.integer({ min: 1, max: 3 }),
        fc.nat(9000),
        fc.boolean(),
        (durable, entries, replicas, nowMs, degraded) => {
          const all = entries.toSorted((a, b) => a.atMs - b.atMs);
          const has = (wanted: CutId | undefined): boolean =>
            wanted !== undefined && durable.filter((held) => compareCuts(held, wanted) >= 0).length >= replicas;
          const oldest = all.find((entry) => !has(entry.cut));
          const settings = { replicas, timeoutMs: 2000 };
          const decided = decideDurability({ durable, begun: all, degraded }, settings, nowMs);
          expect(decided.kind === "protected").to.equal(oldest === undefined);
          if (decided.kind === "waiting") expect(nowMs - oldest!.atMs).to.be.below(2000);
          if (decided.kind === "degraded") expect(nowMs - oldest!.atMs).to.be.at.least(degraded ? 1000 : 2000);
          // Thinned it may only be degraded earlier.
          const thin = stillBegun(all, protectedCut(durable, replicas), 4);
          const thinned = decideDurability({ durable, begun: thin, degraded }, settings, nowMs);
          if (decided.kind !== "protected") expect(thinned.kind).to.not.equal("protected");
          if (decided.kind === "degraded") expect(thinned).to.deep.equal(decided);
        },
      ),
    );
  });

  it("keeps what is begun within bounds while nobody answers", () => {
    let kept: Begun[] = [];
    for (let number = 1; number <= 10_000; number++) kept = stillBegun([...kept, begun(number, number)], undefined);
    expect(kept.length).to.be.at.most(256);
    expect(kept[0]?.atMs).to.equal(1);
    expect(kept.at(-1)?.cut).to.deep.equal(cut(10_000));
  });
});
