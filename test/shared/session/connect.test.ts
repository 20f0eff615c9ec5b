import { expect } from "chai";
import fc from "fast-check";
import { type Decision, decide, type OwnHistory } from "../../../shared/session/connect.ts";
import type { Hello } from "../../../shared/wire/messages.ts";
import { epoch, seq } from "../../../shared/words.ts";

const group = "0".repeat(31);
const born = `${group}a`;
const digestOf = (byte: number): Uint8Array => new Uint8Array(32).fill(byte);
const cut = (at: number, number: number): Hello["committed"] => ({ epoch: epoch(at), seq: seq(number) });

function hello(change: Partial<Hello>): Hello {
  const at = change.epoch ?? 1n;
  return {
    major: 1,
    minor: 0,
    features: [],
    software: "test",
    node: "alpha",
    group: "app",
    groupId: born,
    role: "replica",
    epoch: at,
    epochs: at === 0n ? [] : [{ epoch: at, firstSeq: 1n }],
    incarnation: "",
    committed: cut(1, 10),
    digest: digestOf(10),
    stores: [{ name: "uploads", kind: "files", digest: digestOf(1) }],
    generation: 1n,
    epochSeen: at,
    lastObject: 100,
    ...change,
  };
}

const unformed = (change: Partial<Hello> = {}): Hello =>
  hello({ groupId: "", role: "unformed", epoch: 0n, committed: cut(0, 0), digest: new Uint8Array(32), ...change });
const primary = (change: Partial<Hello> = {}): Hello =>
  hello({ role: "primary", incarnation: "0123456789abcdef", ...change });
const replica = (change: Partial<Hello> = {}): Hello => hello({ node: "bravo", ...change });
/** Reigns 1 (up to cut 7) and 2. */
const second = {
  epoch: 2n,
  epochs: [
    { epoch: 1n, firstSeq: 1n },
    { epoch: 2n, firstSeq: 8n },
  ],
};
const third = {
  epoch: 3n,
  epochs: [
    { epoch: 1n, firstSeq: 1n },
    { epoch: 3n, firstSeq: 8n },
  ],
};
const unknown: OwnHistory = { digestAt: () => undefined };

describe("what two nodes decide about each other", () => {
  const rows: readonly {
    readonly why: string;
    readonly ours: Hello;
    readonly theirs: Hello;
    readonly history?: OwnHistory;
    readonly decision: Partial<Record<string, unknown>>;
    readonly names?: RegExp;
  }[] = [
    {
      why: "another major version",
      ours: primary(),
      theirs: replica({ major: 2 }),
      decision: { kind: "refuse", code: "WIRE_VERSION" },
      names: /version 1 .* bravo version 2/,
    },
    {
      why: "another minor version is no matter",
      ours: primary(),
      theirs: replica({ minor: 99 }),
      decision: { kind: "ship" },
    },
    {
      why: "another group",
      ours: primary(),
      theirs: replica({ group: "web" }),
      decision: { kind: "refuse", code: "OTHER_GROUP" },
      names: /web .* app/,
    },
    {
      why: "a group of the same name that was born elsewhere",
      ours: primary(),
      theirs: replica({ groupId: `${group}b` }),
      decision: { kind: "refuse", code: "STRANGERS" },
      names: /a, on bravo it is/,
    },
    {
      why: "an epoch out of range",
      ours: replica(),
      theirs: primary({ epoch: 2n ** 53n }),
      decision: { kind: "refuse", code: "HELLO_MALFORMED" },
      names: /epoch 9007199254740992/,
    },
    {
      why: "a cut out of range",
      ours: primary(),
      theirs: replica({ committed: { epoch: epoch(1), seq: seq(2n ** 64n - 1n) } }),
      decision: { kind: "refuse", code: "HELLO_MALFORMED" },
      names: /seq 18446744073709551615/,
    },
    {
      why: "an epoch seen that is out of range",
      ours: primary(),
      theirs: replica({ epochSeen: 2n ** 63n }),
      decision: { kind: "refuse", code: "HELLO_MALFORMED" },
    },
    {
      why: "an epoch seen that no reign can have",
      ours: primary(),
      theirs: replica({ epochSeen: 600_000n }),
      decision: { kind: "refuse", code: "HELLO_MALFORMED" },
    },
    {
      why: "an epoch seen that is further above than anybody was away",
      ours: primary(),
      theirs: replica({ epochSeen: 200_000n }),
      decision: { kind: "refuse", code: "EPOCH_UNBELIEVABLE" },
      names: /epoch 200000 is more than 10000 above epoch 1/,
    },
    {
      why: "a primary of an epoch that is further above than anybody was away",
      ours: replica(),
      theirs: primary({ epoch: 10_002n, epochs: [{ epoch: 10_002n, firstSeq: 1n }] }),
      decision: { kind: "refuse", code: "EPOCH_UNBELIEVABLE" },
    },
    {
      why: "any epoch that can be, where none is known",
      ours: unformed({ node: "bravo" }),
      theirs: primary({ epoch: 500_000n, epochs: [{ epoch: 500_000n, firstSeq: 1n }] }),
      decision: { kind: "follow" },
    },
    {
      why: "epochs that do not rise",
      ours: replica(),
      theirs: primary({ epoch: 2n, epochs: second.epochs.toReversed() }),
      decision: { kind: "refuse", code: "HELLO_MALFORMED" },
    },
    {
      why: "an epoch above the node's own",
      ours: primary(),
      theirs: replica({ epochs: second.epochs }),
      decision: { kind: "refuse", code: "HELLO_MALFORMED" },
    },
    {
      why: "a primary that does not know when its epoch began",
      ours: replica(),
      theirs: primary({ epochs: [] }),
      decision: { kind: "refuse", code: "HELLO_MALFORMED" },
    },
    {
      why: "a primary of epoch 0",
      ours: unformed({ node: "bravo" }),
      theirs: primary({ epoch: 0n }),
      decision: { kind: "refuse", code: "HELLO_MALFORMED" },
    },
    {
      why: "a primary without incarnation",
      ours: replica(),
      theirs: primary({ incarnation: "" }),
      decision: { kind: "refuse", code: "HELLO_MALFORMED" },
    },
    {
      why: "a store less",
      ours: primary(),
      theirs: replica({ stores: [] }),
      decision: { kind: "refuse", code: "CONFIGURATION" },
      names: /bravo has no store uploads/,
    },
    {
      why: "a store more",
      ours: primary({ stores: [] }),
      theirs: replica(),
      decision: { kind: "refuse", code: "CONFIGURATION" },
      names: /alpha has no store uploads/,
    },
    {
      why: "a store of another kind",
      ours: primary(),
      theirs: replica({ stores: [{ name: "uploads", kind: "sqlite", digest: digestOf(1) }] }),
      decision: { kind: "refuse", code: "CONFIGURATION" },
      names: /files on alpha and sqlite on bravo/,
    },
    {
      why: "other excludes",
      ours: primary(),
      theirs: replica({ stores: [{ name: "uploads", kind: "files", digest: digestOf(2) }] }),
      decision: { kind: "refuse", code: "CONFIGURATION" },
      names: /uploads leaves out/,
    },
    {
      why: "nobody has the group yet",
      ours: unformed(),
      theirs: unformed({ node: "bravo" }),
      decision: { kind: "idle" },
    },
    {
      why: "we have nothing, they are primary",
      ours: unformed({ node: "bravo" }),
      theirs: primary(),
      decision: { kind: "follow", join: true, adoptEpoch: true },
    },
    { why: "we have nothing, they are a replica", ours: unformed(), theirs: replica(), decision: { kind: "idle" } },
    {
      why: "they have nothing, we are primary",
      ours: primary(),
      theirs: unformed({ node: "bravo" }),
      decision: { kind: "ship", base: cut(0, 0) },
    },
    { why: "they have nothing, we are a replica", ours: replica(), theirs: unformed(), decision: { kind: "idle" } },
    { why: "they stand where we do", ours: primary(), theirs: replica(), decision: { kind: "ship", base: cut(1, 10) } },
    {
      why: "they have joined and have no cut",
      ours: primary(),
      theirs: replica({ committed: cut(1, 0) }),
      decision: { kind: "ship", base: cut(1, 0) },
    },
    {
      why: "they are behind",
      ours: primary(),
      theirs: replica({ committed: cut(1, 4) }),
      decision: { kind: "ship", base: cut(1, 4) },
    },
    {
      why: "they are behind at a cut that we remember alike",
      ours: primary(),
      theirs: replica({ committed: cut(1, 4), digest: digestOf(4) }),
      history: { digestAt: () => digestOf(4) },
      decision: { kind: "ship" },
    },
    {
      why: "they are behind at a cut that we remember otherwise",
      ours: primary(),
      theirs: replica({ committed: cut(1, 4) }),
      history: { digestAt: () => digestOf(4) },
      decision: { kind: "refuse", code: "DIVERGED" },
      names: /1\.4 has another digest on bravo/,
    },
    {
      why: "they are behind what we have forgotten",
      ours: primary(),
      theirs: replica({ committed: cut(1, 4) }),
      history: { digestAt: () => undefined, forgottenUpTo: 5n },
      decision: { kind: "refuse", code: "TOO_FAR_BACK" },
      names: /1\.4, .* cut 5/,
    },
    {
      why: "the same cut with another digest",
      ours: primary(),
      theirs: replica({ digest: digestOf(9) }),
      decision: { kind: "refuse", code: "DIVERGED" },
    },
    {
      why: "they are ahead in our own epoch: we went back in time",
      ours: primary(),
      theirs: replica({ committed: cut(1, 11) }),
      decision: { kind: "replica-newer", theirs: cut(1, 11) },
    },
    {
      why: "a cut of the epoch before ours, up to its end",
      ours: primary(second),
      theirs: replica({ committed: cut(1, 7) }),
      decision: { kind: "ship", base: cut(1, 7) },
    },
    {
      why: "a cut of the epoch before ours, beyond its end",
      ours: primary({ ...second, committed: cut(2, 9) }),
      theirs: replica({ committed: cut(1, 8) }),
      decision: { kind: "refuse", code: "DIVERGED" },
      names: /1\.8, which is not in this primary's history; the last common cut is 1\.7/,
    },
    {
      why: "a cut of the epoch before ours, beyond its end, and they know what to do about it",
      ours: primary({ ...second, committed: cut(2, 9) }),
      theirs: replica({ committed: cut(1, 8), features: ["fork"] }),
      decision: { kind: "ahead", theirs: cut(1, 8), common: cut(1, 7) },
    },
    {
      why: "a cut beyond our epoch's end, of whom has heard of ours already",
      ours: primary({ ...second, committed: cut(2, 9) }),
      theirs: replica({ ...second, committed: cut(1, 12), features: ["fork"] }),
      decision: { kind: "ahead", theirs: cut(1, 12), common: cut(1, 7) },
    },
    {
      why: "a cut of an epoch that we never had, beside ours",
      ours: primary({ ...third, committed: cut(3, 20) }),
      theirs: replica({ epoch: 2n, epochs: second.epochs, committed: cut(2, 9), features: ["fork"] }),
      decision: { kind: "ahead", theirs: cut(2, 9), common: cut(1, 7) },
    },
    {
      why: "they rejoin from a cut of ours, which they have otherwise",
      ours: primary({ ...second, committed: cut(2, 12) }),
      theirs: replica({ committed: cut(1, 7), features: ["rejoining"] }),
      history: { digestAt: () => digestOf(7) },
      decision: { kind: "ship", base: cut(1, 7) },
    },
    {
      why: "they rejoin from the cut at which we stand",
      ours: primary({ ...second, committed: cut(1, 7) }),
      theirs: replica({ committed: cut(1, 7), digest: digestOf(9), features: ["rejoining"] }),
      decision: { kind: "ship", base: cut(1, 7) },
    },
    {
      why: "they rejoin from before what we have forgotten",
      ours: primary({ ...second, committed: cut(2, 12) }),
      theirs: replica({ committed: cut(1, 7), features: ["rejoining"] }),
      history: { digestAt: () => undefined, forgottenUpTo: 8n },
      decision: { kind: "refuse", code: "TOO_FAR_BACK" },
    },
    {
      why: "they rejoin from a cut that we do not have",
      ours: primary({ ...second, committed: cut(2, 12) }),
      theirs: replica({ committed: cut(1, 8), features: ["fork", "rejoining"] }),
      decision: { kind: "ahead", common: cut(1, 7) },
    },
    {
      why: "a cut of an epoch that we never had",
      ours: primary(third),
      theirs: replica({ epoch: 2n, committed: cut(2, 5) }),
      decision: { kind: "refuse", code: "DIVERGED" },
    },
    {
      why: "they follow a higher epoch",
      ours: primary(),
      theirs: replica({ epoch: 2n }),
      decision: { kind: "fenced", by: 2n },
    },
    {
      why: "they have only heard of a higher epoch",
      ours: primary(),
      theirs: replica({ epochSeen: 5n }),
      decision: { kind: "fenced", by: 5n },
    },
    {
      why: "a primary with a higher epoch",
      ours: primary(),
      theirs: primary({ node: "bravo", ...second }),
      decision: { kind: "fenced", by: 2n },
    },
    {
      why: "a primary with a lower epoch",
      ours: primary(second),
      theirs: primary({ node: "bravo" }),
      decision: { kind: "idle" },
    },
    {
      why: "two primaries of one epoch",
      ours: primary(),
      theirs: primary({ node: "bravo" }),
      decision: { kind: "refuse", code: "TWO_PRIMARIES" },
      names: /epoch 1/,
    },
    { why: "they are fenced", ours: primary(second), theirs: replica({ role: "fenced" }), decision: { kind: "idle" } },
    {
      why: "they are being promoted",
      ours: primary(),
      theirs: replica({ role: "promoting" }),
      decision: { kind: "idle" },
    },
    {
      why: "our primary",
      ours: replica(),
      theirs: primary(),
      decision: { kind: "follow", adoptEpoch: false, join: false },
    },
    {
      why: "our primary, whom we have followed in this epoch",
      ours: replica(),
      theirs: primary(),
      history: { ...unknown, followed: "alpha" },
      decision: { kind: "follow" },
    },
    {
      why: "another primary than the one of this epoch",
      ours: replica(),
      theirs: primary({ node: "charlie" }),
      history: { ...unknown, followed: "alpha" },
      decision: { kind: "refuse", code: "TWO_PRIMARIES" },
      names: /charlie .* epoch of alpha/,
    },
    {
      why: "another primary, of a newer epoch",
      ours: replica({ committed: cut(1, 7) }),
      theirs: primary({ node: "charlie", ...second }),
      history: { ...unknown, followed: "alpha" },
      decision: { kind: "follow", adoptEpoch: true, join: false },
    },
    {
      why: "a primary of an epoch that has ended",
      ours: replica(second),
      theirs: primary(),
      decision: { kind: "idle" },
    },
    {
      why: "a primary of our epoch when we have heard of a newer one",
      ours: replica({ epochSeen: 3n }),
      theirs: primary(),
      decision: { kind: "idle" },
    },
    {
      why: "a primary while we are being promoted",
      ours: replica({ role: "promoting" }),
      theirs: primary(),
      decision: { kind: "idle" },
    },
    {
      why: "a primary while we are fenced",
      ours: replica({ role: "fenced", epochSeen: 2n }),
      theirs: primary({ ...second, committed: cut(2, 9) }),
      decision: { kind: "fork", common: cut(1, 7) },
    },
    {
      why: "a primary that goes on from our last cut while we are fenced: we may have written since",
      ours: replica({ role: "fenced", epochSeen: 2n, committed: cut(1, 7) }),
      theirs: primary({ ...second, committed: cut(2, 9) }),
      decision: { kind: "fork", common: cut(1, 7) },
    },
    {
      why: "a primary that goes on from our last cut while we are fenced, and sealed",
      ours: replica({ role: "fenced", epochSeen: 2n, committed: cut(1, 7), features: ["sealed"] }),
      theirs: primary({ ...second, committed: cut(2, 9) }),
      decision: { kind: "demote", common: cut(1, 7) },
    },
    {
      why: "a primary of an epoch below the one that fenced us",
      ours: replica({ role: "fenced", epochSeen: 4n }),
      theirs: primary(second),
      decision: { kind: "idle" },
    },
    {
      why: "a primary that has none of our reigns, while we are fenced",
      ours: replica({ role: "fenced", epochSeen: 2n }),
      theirs: primary({ epoch: 2n, epochs: [{ epoch: 2n, firstSeq: 1n }], committed: cut(2, 3) }),
      decision: { kind: "fork", common: undefined },
    },
    {
      why: "a primary to whom we handed over, who has taken no cut yet",
      ours: primary({ committed: cut(1, 7), features: ["sealed"] }),
      theirs: primary({ node: "bravo", ...second, committed: cut(1, 7) }),
      decision: { kind: "demote", common: cut(1, 7) },
    },
    {
      why: "a replica of the primary to whom we handed over",
      ours: primary({ committed: cut(1, 7), features: ["sealed"] }),
      theirs: replica({ ...second, committed: cut(2, 9) }),
      decision: { kind: "demote", common: cut(1, 7) },
    },
    {
      why: "a primary that was promoted further back than what we wanted to hand over",
      ours: primary({ committed: cut(1, 9), features: ["sealed"] }),
      theirs: primary({ node: "charlie", ...second, committed: cut(2, 9) }),
      decision: { kind: "fenced", by: 2n },
    },
    {
      why: "an epoch above ours of which nobody says where it began, while we hand over",
      ours: primary({ committed: cut(1, 7), features: ["sealed"] }),
      theirs: replica({ epochSeen: 2n, committed: cut(1, 7) }),
      decision: { kind: "fenced", by: 2n },
    },
    {
      why: "a primary whose history ends before our last cut",
      ours: replica({ committed: cut(1, 10) }),
      theirs: primary({ ...second, committed: cut(2, 30) }),
      decision: { kind: "fork", common: cut(1, 7) },
    },
    {
      why: "a primary that never had the epoch of our last cut",
      ours: replica({ epoch: 2n, epochs: second.epochs, committed: cut(2, 9) }),
      theirs: primary({ ...third, committed: cut(3, 30) }),
      decision: { kind: "fork", common: cut(1, 7) },
    },
    {
      why: "a primary of a newer epoch that began after our last cut",
      ours: replica({ committed: cut(1, 7) }),
      theirs: primary({ ...second, committed: cut(2, 30) }),
      decision: { kind: "follow", adoptEpoch: true },
    },
    {
      why: "our primary, which has less than we have: it went back, and we stay as we are",
      ours: replica({ committed: cut(1, 11) }),
      theirs: primary(),
      decision: { kind: "follow" },
    },
    {
      why: "a primary, with no cut here",
      ours: replica({ committed: cut(0, 0) }),
      theirs: primary(second),
      decision: { kind: "follow" },
    },
    { why: "two replicas", ours: replica({ node: "alpha" }), theirs: replica(), decision: { kind: "idle" } },
    { why: "a role that nobody knows", ours: primary(), theirs: replica({ role: "king" }), decision: { kind: "idle" } },
  ];
  for (const { why, ours, theirs, history = unknown, decision, names } of rows) {
    it(`${decision.code ?? decision.kind}: ${why}`, () => {
      const found = decide(ours, theirs, history);
      expect(found).to.deep.include(decision);
      if (names !== undefined) expect((found as Extract<Decision, { kind: "refuse" }>).message).to.match(names);
    });
  }

  const role = fc.constantFrom("unformed", "replica", "primary", "promoting", "fenced");
  const anyHello = (node: string): fc.Arbitrary<Hello> =>
    fc
      .record({
        role,
        groupId: fc.constantFrom("", born, born, born, born, `${group}b`),
        epoch: fc.integer({ min: 0, max: 4 }),
        more: fc.integer({ min: 0, max: 2 }),
        features: fc.subarray(["fork", "rejoining", "sealed"]),
        starts: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 4, maxLength: 4 }),
        reign: fc.nat(3),
        cuts: fc.nat(6),
        digest: fc.integer({ min: 0, max: 2 }),
        excludes: fc.integer({ min: 0, max: 9 }),
        major: fc.integer({ min: 0, max: 9 }),
      })
      .map(({ role: said, groupId, epoch: number, more, starts, reign, cuts, digest, excludes, major, features }) => {
        // What a node that keeps to its own rules can say: a role goes with a group and an epoch.
        const role = groupId === "" ? "unformed" : said === "unformed" ? "replica" : said;
        const at = groupId === "" ? 0 : Math.max(1, number);
        const firsts = starts.slice(0, at).sort((a, b) => a - b);
        // A primary stands in its own reign or right before it, a replica in one that it knows, or nowhere yet.
        const last = role === "primary" && cuts === 0 ? (firsts.at(-1) ?? 0) - 1 : 0;
        const index = role === "primary" && cuts > 0 ? at - 1 : reign % Math.max(1, at);
        const before = firsts.findLastIndex((first) => first <= last);
        const committed =
          cuts > 0 && at > 0
            ? cut(index + 1, firsts[index]! - 1 + cuts)
            : before < 0
              ? cut(at, 0)
              : cut(before + 1, last);
        return hello({
          node,
          role,
          groupId,
          major: major === 0 ? 2 : 1,
          epoch: BigInt(at),
          epochs: firsts.map((first, index) => ({ epoch: BigInt(index + 1), firstSeq: BigInt(first) })),
          epochSeen: BigInt(at + (more === 2 ? 1 : 0)),
          incarnation: role === "primary" ? "0123456789abcdef" : "",
          committed,
          digest: digestOf(digest),
          features,
          stores: [{ name: "uploads", kind: "files", digest: digestOf(excludes === 0 ? 2 : 1) }],
        });
      });

  it("is compatible on both sides, for any two hellos", () => {
    const seen = new Map<string, number>();
    fc.assert(
      fc.property(anyHello("alpha"), anyHello("bravo"), (alpha, bravo) => {
        const here = decide(alpha, bravo, unknown);
        const there = decide(bravo, alpha, unknown);
        seen.set(here.kind, (seen.get(here.kind) ?? 0) + 1);
        for (const [one, other, ours, theirs] of [
          [here, there, alpha, bravo],
          [there, here, bravo, alpha],
        ] as const) {
          switch (one.kind) {
            case "ship":
              expect(ours.role).to.equal("primary");
              // An idle replica hangs up when something comes: it must then be right that nothing should.
              expect(other.kind).to.be.oneOf(["follow", "idle", "refuse"]);
              if (theirs.role === "replica" && theirs.groupId !== "")
                expect(other.kind, "a replica").to.equal("follow");
              break;
            case "follow":
              expect(theirs.role).to.equal("primary");
              expect(ours.role).to.not.equal("primary");
              expect(theirs.epoch >= ours.epochSeen || ours.groupId === "").to.equal(true);
              expect(one.adoptEpoch).to.equal(one.join || theirs.epoch > ours.epoch);
              expect(other.kind).to.be.oneOf(["ship", "refuse", "replica-newer", "idle"]);
              break;
            case "fenced":
              expect(ours.role).to.equal("primary");
              expect(theirs.epochSeen > ours.epoch || theirs.epoch > ours.epoch).to.equal(true);
              expect(one.by > ours.epoch).to.equal(true);
              break;
            case "replica-newer":
              expect(ours.role).to.equal("primary");
              expect(theirs.committed.seq > ours.committed.seq).to.equal(true);
              if (theirs.epochSeen <= ours.epoch) expect(other.kind).to.be.oneOf(["follow", "idle"]);
              break;
            case "ahead":
              expect(ours.role).to.equal("primary");
              expect(other.kind).to.be.oneOf(["fork", "idle", "refuse"]);
              if (other.kind === "fork") expect(other.common).to.deep.equal(one.common);
              break;
            case "fork":
              expect(theirs.role).to.equal("primary");
              expect(ours.role).to.be.oneOf(["replica", "fenced"]);
              // Nothing is shipped to one that would have to give something up first.
              expect(other.kind).to.be.oneOf(["ahead", "idle", "refuse"]);
              if (one.common !== undefined)
                expect(one.common.seq <= ours.committed.seq && one.common.seq <= theirs.committed.seq).to.equal(true);
              break;
            case "demote":
              expect(ours.features).to.include("sealed");
              expect(theirs.epochs.some((start) => start.firstSeq === ours.committed.seq + 1n)).to.equal(true);
              expect(other.kind).to.be.oneOf(["idle", "refuse", "demote"]);
              break;
            case "refuse":
              expect(one.message).to.not.equal("");
              expect(one.hint).to.not.equal("");
              break;
            case "idle":
              expect(one.why).to.not.equal("");
              break;
          }
        }
      }),
      { numRuns: 20_000 },
    );
    for (const kind of ["ship", "follow", "fenced", "refuse", "idle", "ahead", "fork", "demote"])
      expect(seen.get(kind) ?? 0, kind).to.be.greaterThan(5);
  });

  it("never ships to a replica that has another digest of the same cut, or a cut that is not in the history", () => {
    fc.assert(
      fc.property(anyHello("alpha"), anyHello("bravo"), (alpha, bravo) => {
        const found = decide(alpha, bravo, unknown);
        if (found.kind !== "ship" || found.base.seq === 0n) return;
        expect(found.base.seq <= alpha.committed.seq).to.equal(true);
        expect(alpha.epochs.some((start) => start.epoch === found.base.epoch)).to.equal(true);
        if (found.base.seq === alpha.committed.seq && !bravo.features.includes("rejoining"))
          expect(bravo.digest).to.deep.equal(alpha.digest);
      }),
      { numRuns: 20_000 },
    );
  });
});
