import { expect } from "chai";
import {
  type CandidateFacts,
  claimOf,
  followerMark,
  type GrantCase,
  grantOf,
  markText,
  parseMark,
  parseSeal,
  sealText,
  voteOf,
} from "../../../shared/session/engine.ts";
import { type CutId, epoch, seq } from "../../../shared/words.ts";

const digest = "ab".repeat(32);
const cut = (at: number, number: number): CutId => ({ epoch: epoch(at), seq: seq(number) });

/** A replica of the reign of epoch 4, which began after cut 1.50. */
const replica: CandidateFacts = {
  role: "replica",
  sealed: false,
  epoch: epoch(4),
  epochSeen: epoch(4),
  epochs: [
    { epoch: 1n, firstSeq: 1n },
    { epoch: 4n, firstSeq: 51n },
  ],
  committed: cut(4, 60),
  digest,
  barred: "",
  paused: false,
  primaryAlive: false,
};
const primary: CandidateFacts = { ...replica, role: "primary" };
const sealed: CandidateFacts = { ...primary, sealed: true };

describe("what a node says to a cluster manager", () => {
  describe("of its replicas", () => {
    const at = { epoch: 4n, lagSecondsMax: 10, paused: false };
    const rows: [why: string, mark: string, score: number | undefined, ...Parameters<typeof followerMark>][] = [
      ["in step", "OK@4", 1000, { state: "streaming", reason: "", lagSeconds: 0.2 }, at],
      ["three seconds behind", "OK@4", 700, { state: "streaming", reason: "", lagSeconds: 3.9 }, at],
      ["at the limit", "OK@4", 100, { state: "streaming", reason: "", lagSeconds: 10 }, at],
      ["beyond the limit", "STALE@4", undefined, { state: "streaming", reason: "", lagSeconds: 10.1 }, at],
      ["away", "STALE@4", undefined, { state: "connecting", reason: "", lagSeconds: 0.2 }, at],
      ["never heard of", "STALE@4", undefined, { state: "streaming", reason: "", lagSeconds: undefined }, at],
      ["with a damaged copy", "STALE@4", undefined, { state: "streaming", reason: "a stranger", lagSeconds: 0 }, at],
      ["while it gets its first copy", "STALE@4", undefined, { state: "seeding", reason: "", lagSeconds: 0 }, at],
      ["paused", "PAUSED@4", undefined, { state: "streaming", reason: "", lagSeconds: 0 }, { ...at, paused: true }],
      [
        "paused and away",
        "STALE@4",
        undefined,
        { state: "connecting", reason: "", lagSeconds: 0 },
        { ...at, paused: true },
      ],
    ];
    for (const [why, mark, score, facts, limits] of rows) {
      it(`${why}: ${mark}, ${score ?? "no score"}`, () => {
        const said = followerMark(facts, limits);
        expect([markText(said.mark), said.score]).to.deep.equal([mark, score]);
      });
    }
  });

  describe("of itself, where it is not in service", () => {
    const rows: [
      why: string,
      facts: CandidateFacts,
      granted: number,
      mark: string,
      score: number | string,
      vote: string,
    ][] = [
      ["a replica in step, the primary gone", replica, 4, "OK@4", 5, "4#60"],
      ["a replica in step, the primary there", { ...replica, primaryAlive: true }, 4, "OK@4", "keep", "4#60"],
      ["a replica that was left behind", replica, 4, "STALE@4", "none", "4#60"],
      ["a replica in step in an older reign", replica, 5, "OK@4", "none", "4#60"],
      ["a replica that nobody spoke of", replica, 4, "", "none", "4#60"],
      ["a replica of a mark that cannot be read", replica, 4, "OK@4x", "none", "4#60"],
      ["a replica when failovers were paused", replica, 4, "PAUSED@4", "none", "4#60"],
      ["a replica that was told of a pause itself", { ...replica, paused: true }, 4, "OK@4", "none", "4#60"],
      ["a replica whose loss an operator accepts", replica, 5, "FORCED", 5, "4#60"],
      ["a replica that saw a reign beside the cluster", { ...replica, epochSeen: epoch(6) }, 4, "OK@4", "none", "4#60"],
      ["a replica with a damaged copy", { ...replica, barred: "suspect" }, 4, "OK@4", "none", ""],
      ["a forced one with a damaged copy", { ...replica, barred: "suspect" }, 4, "FORCED", "none", ""],
      ["a replica that is ahead of its reign", { ...replica, committed: cut(1, 55) }, 4, "OK@4", "none", ""],
      ["the last primary, started anew", primary, 4, "", 1100, "4#61"],
      ["the last primary, sealed", sealed, 4, "", 1100, "4#60"],
      ["the first primary of a group", primary, 0, "", 1100, "4#61"],
      ["a primary whose reign is over", primary, 5, "OK@4", "none", "4#61"],
      ["a primary that stands still", { ...primary, barred: "the source is gone" }, 4, "", "none", ""],
      ["a fenced one", { ...replica, role: "fenced" }, 4, "OK@4", "none", ""],
      ["one whose cluster remembers what cannot be", replica, 600_000, "FORCED", "none", "4#60"],
      ["one without the group", { ...replica, role: "unformed" }, 4, "FORCED", "none", ""],
    ];
    for (const [why, facts, granted, mark, score, vote] of rows) {
      it(`${why}: score ${score}, vote ${vote || "none"}`, () => {
        const claim = claimOf(facts, { epoch: BigInt(granted), mark });
        expect(claim.score).to.equal(score);
        expect(claim.why === "").to.equal(score !== "none");
        expect(voteOf(facts)).to.equal(vote);
      });
    }
  });

  describe("when it is to be promoted", () => {
    const seal = sealText({ reign: 4n, cut: cut(4, 60), digest });
    const turn = { member: 1, members: 3 };
    const ok = { epoch: 4n, mark: "OK@4" };
    const plain: GrantCase = { facts: replica, memory: ok, votes: [], seal: "", turn };
    const vote = (...votes: string[]) => votes.map((text, index) => ({ node: `n${index}`, vote: text }));
    const rows: [why: string, expected: string, change: Partial<GrantCase>][] = [
      ["in step", "grant 5", {}],
      ["the turn of another member", "grant 6", { turn: { member: 2, members: 3 } }],
      ["above what it has seen itself", "grant 8", { facts: { ...primary, epochSeen: epoch(7) } }],
      ["above what the cluster has granted", "grant 11", { facts: replica, memory: { epoch: 10n, mark: "FORCED" } }],
      ["the others have less, or as much", "grant 5", { votes: vote("4#60", "4#59", "1#99", "none", "") }],
      ["another has more", "give-way n1 OK@4", { votes: vote("4#60", "4#61") }],
      ["two have more", "give-way n1 OK@4", { votes: vote("4#61", "4#62") }],
      ["more than 2^53", "give-way n0 OK@4", { votes: vote("4#9007199254740993") }],
      ["another is of a later reign: no mark for that", "give-way n0", { votes: vote("5#51") }],
      ["forced, whatever the others have", "grant 5", { memory: { epoch: 4n, mark: "FORCED" }, votes: vote("4#61") }],
      ["left behind", "refuse", { memory: { epoch: 4n, mark: "STALE@4" } }],
      ["what the cluster remembers cannot be", "refuse", { memory: { epoch: 600_000n, mark: "FORCED" } }],
      ["nothing to go on", "refuse", { memory: { epoch: 4n, mark: "" } }],
      ["it has what was sealed", "grant 5", { seal }],
      ["it lacks what was sealed", "refuse", { seal, facts: { ...replica, committed: cut(4, 59) } }],
      ["another digest", "refuse", { seal, facts: { ...replica, digest: "cd".repeat(32) } }],
      ["a seal of a reign before", "grant 5", { seal: sealText({ reign: 1n, cut: cut(1, 50), digest }) }],
      [
        "forced, without what was sealed",
        "grant 5",
        { seal, memory: { epoch: 4n, mark: "FORCED" }, facts: { ...replica, committed: cut(4, 59) } },
      ],
      ["the sealed primary itself", "grant 5", { seal, facts: sealed, memory: { epoch: 4n, mark: "" } }],
      ["a seal that cannot be read is none", "grant 5", { seal: "4.60" }],
    ];
    for (const [why, expected, change] of rows) {
      it(`${why}: ${expected}`, () => {
        const decision = grantOf({ ...plain, ...change });
        const said =
          decision.kind === "grant"
            ? `grant ${decision.epoch}`
            : decision.kind === "give-way"
              ? `give-way ${decision.to} ${markText(decision.mark)}`.trim()
              : "refuse";
        expect(said).to.equal(expected);
      });
    }
  });

  it("is written and read alike", () => {
    for (const text of ["OK@4", "STALE@1", "PAUSED@12", "FORCED", ""]) expect(markText(parseMark(text))).to.equal(text);
    for (const text of ["ok@4", "OK@", "OK@-1", "OK@4 ", "GOOD@4"]) expect(parseMark(text).kind).to.equal("none");
    const seal = { reign: 7n, cut: cut(4, 60), digest };
    expect(parseSeal(sealText(seal))).to.deep.equal(seal);
    for (const text of ["", "4.60", `4.60:${digest}`, `7:4.60:${digest}x`]) expect(parseSeal(text)).to.equal(undefined);
  });
});
