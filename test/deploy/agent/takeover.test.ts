import { expect } from "chai";
import { bestTakeover, type Candidate, ownTakeover } from "../../../deploy/agent/takeover.ts";
import { takeoverSentence } from "../../../deploy/cli/text.ts";
import type { PeerStatus, TakeoverStatus } from "../../../deploy/control/api.ts";

const peer: PeerStatus = {
  state: "streaming",
  reason: "",
  lag: { bytes: 0, cuts: 0, seconds: 0.04, basis: "log" },
  received: { epoch: 1, seq: 42 },
  durable: { epoch: 1, seq: 42 },
  applied: { epoch: 1, seq: 42 },
  rpo: null,
};
const bravo: Candidate = { node: "bravo", peer, fault: "", unappliedBytes: 10e6, verified: null, forks: 0 };
const away: Candidate = { ...bravo, node: "charlie", peer: { ...peer, state: "connecting", reason: "no route" } };
const behind: Candidate = { ...bravo, node: "delta", peer: { ...peer, lag: { ...peer.lag, cuts: 3, seconds: 9 } } };
const now = new Date(2026, 10, 21, 9, 0);
const at = (...[day, hour, minute]: [number, number, number]): string =>
  new Date(2026, 10, day, hour, minute).toISOString();

describe("who could take over", () => {
  const table: [string, TakeoverStatus, string][] = [
    [
      "the replica that would lose the least",
      bestTakeover([behind, { ...bravo, verified: { at: at(21, 2, 10), ok: true } }, away]),
      "bravo could take over now: loses 0 cuts (0.04 s), opens in about 0.3 s, last verified 02:10 today, no open forks",
    ],
    [
      "another one where that is not fit",
      bestTakeover([
        { ...bravo, fault: "has a suspect copy: a stranger" },
        { ...behind, forks: 2 },
      ]),
      "delta could take over now: loses 3 cuts (9 s), opens in about 0.3 s, never verified, 2 open forks",
    ],
    [
      "nobody, and of each one why",
      bestTakeover([away, { ...bravo, fault: "has a suspect copy: a stranger" }]),
      "nobody could take over now: charlie is connecting (no route); bravo has a suspect copy: a stranger",
    ],
    [
      "nobody whose first copy is on its way",
      bestTakeover([{ ...bravo, peer: { ...peer, state: "seeding", durable: null } }]),
      "nobody could take over now: bravo has no complete cut yet",
    ],
    ["nobody where nobody is", bestTakeover([]), "nobody could take over now: there is no other node"],
    [
      "a replica that says it of itself, and hears nobody",
      ownTakeover(
        "bravo",
        {
          ok: true,
          why: [],
          loss: { bytes: null, cuts: null, seconds: 75, basis: "silence" },
          rtoEstimateSeconds: 0.2,
        },
        { at: at(20, 23, 5), ok: false },
        1,
      ),
      "bravo could take over now: loses what was written in the last 1 min 15 s, opens in about 0.2 s, found to differ when it was last verified, 23:05 yesterday, 1 open fork",
    ],
    [
      "one that cannot",
      ownTakeover(
        "bravo",
        {
          ok: false,
          why: [{ code: "SUSPECT", message: "the copy is suspect", hint: "", flag: null }],
          loss: peer.lag,
          rtoEstimateSeconds: 1,
        },
        { at: at(1, 1, 1), ok: true },
        0,
      ),
      "bravo could not take over now: the copy is suspect",
    ],
  ];
  for (const [what, takeover, sentence] of table)
    it(`is ${what}`, () => expect(takeoverSentence(takeover, now)).to.equal(sentence));

  it("says the day of what is longer ago", () => {
    const said = takeoverSentence(bestTakeover([{ ...bravo, verified: { at: at(1, 1, 1), ok: true } }]), now);
    expect(said).to.include("last verified 2026-11-01 01:01,");
  });
});
