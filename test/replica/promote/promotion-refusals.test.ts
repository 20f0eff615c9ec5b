import { expect } from "chai";
import { type PromotionCase, promotionRefusals } from "../../../replica/promote/promote.ts";
import { epoch, seq } from "../../../shared/words.ts";

const nothing = {
  loss: false,
  lossFrom: undefined,
  suspect: false,
  consistency: false,
  livePrimary: false,
  unreachablePrimary: false,
  paused: false,
};
const sound: PromotionCase = {
  role: "replica",
  committed: { epoch: epoch(1), seq: seq(42) },
  suspect: "",
  halted: "",
  stores: [{ name: "db", consistency: "transactional", required: "transactional" }],
  paused: "",
  rejoining: false,
  others: [{ node: "alpha", says: "fenced" }],
  lossKnownEmpty: true,
  lossText: "something is lost",
  accept: nothing,
};
const others = (...said: readonly (string | undefined)[]): PromotionCase["others"] =>
  said.map((says, index) => ({ node: ["alpha", "charlie"][index] ?? "delta", says }));

describe("what stands in the way of a promotion", () => {
  const table: readonly (readonly [string, Partial<PromotionCase>, string, (string | undefined)?])[] = [
    ["nothing", {}, ""],
    ["nothing, where everybody else says that it is no primary", { others: others("fenced", "replica") }, ""],
    ["nothing, where nobody else is", { others: [] }, ""],
    ["nothing, once it is sealed", { role: "promoting" }, ""],
    ["that it is primary", { role: "primary" }, "NOT_A_REPLICA"],
    ["that it was primary and is fenced", { role: "fenced" }, "FENCED", "--accept-fenced"],
    ["that it has no cut", { committed: { epoch: epoch(0), seq: seq(0) } }, "NO_CUT"],
    ["that it stands still", { halted: "the disk is full" }, "HALTED"],
    ["that somebody names other members", { namingOthers: ["charlie"] }, "MEMBERS_DIFFER"],
    ["that it rejoins", { rejoining: true }, "REJOINING", "--accept-rejoining"],
    ["that somebody paused it", { paused: "by root" }, "PAUSED", "--accept-paused"],
    ["a suspect copy", { suspect: "a stranger changed it" }, "SUSPECT", "--accept-suspect"],
    [
      "a cut that is worth too little",
      { stores: [{ name: "db", consistency: "fuzzy", required: "whole" }] },
      "CONSISTENCY",
      "--accept-consistency",
    ],
    ["a primary that answers", { others: others("primary", "replica") }, "PRIMARY_ALIVE", "--accept-live-primary"],
    ["one that does not answer", { others: others(undefined) }, "UNREACHABLE_PRIMARY", "--accept-unreachable-primary"],
    [
      "one that does not answer, although the one that was followed is fenced",
      { others: others("fenced", undefined) },
      "UNREACHABLE_PRIMARY",
      "--accept-unreachable-primary",
    ],
    [
      "one that is being promoted",
      { others: others("fenced", "promoting") },
      "UNREACHABLE_PRIMARY",
      "--accept-unreachable-primary",
    ],
    ["what would be lost", { lossKnownEmpty: false }, "LOSS", "--accept-loss=1.42"],
    [
      "that another loss was accepted",
      { lossKnownEmpty: false, accept: { ...nothing, lossFrom: "1.41" } },
      "OTHER_CUT",
      "--accept-loss=1.42",
    ],
  ];
  for (const [what, change, code, flag] of table) {
    it(`${what}: ${code || "none"}`, () => {
      const refusals = promotionRefusals({ ...sound, ...change });
      expect(refusals.map((refusal) => refusal.code).join()).to.equal(code);
      if (code !== "") expect(refusals[0]?.flag).to.equal(flag);
    });
  }

  it("each flag passes its own refusal only", () => {
    const bad: PromotionCase = {
      ...sound,
      suspect: "a stranger changed it",
      rejoining: true,
      stores: [{ name: "db", consistency: "fuzzy", required: "whole" }],
      others: others("primary", undefined),
      lossKnownEmpty: false,
    };
    const codes = (accept: Partial<PromotionCase["accept"]>): string[] =>
      promotionRefusals({ ...bad, accept: { ...nothing, ...accept } }).map(({ code }) => code);
    const all = ["REJOINING", "SUSPECT", "CONSISTENCY", "PRIMARY_ALIVE", "UNREACHABLE_PRIMARY", "LOSS"];
    expect(codes({})).to.deep.equal(all);
    for (const [accept, code] of [
      [{ rejoining: true }, "REJOINING"],
      [{ suspect: true }, "SUSPECT"],
      [{ consistency: true }, "CONSISTENCY"],
      [{ livePrimary: true }, "PRIMARY_ALIVE"],
      [{ unreachablePrimary: true }, "UNREACHABLE_PRIMARY"],
      [{ loss: true }, "LOSS"],
      [{ lossFrom: "1.42" }, "LOSS"],
    ] as const)
      expect(codes(accept), code).to.deep.equal(all.filter((other) => other !== code));
  });
});
