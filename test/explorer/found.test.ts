import { expect } from "chai";
import { code, type Kind } from "./actions.ts";
import { members } from "./cluster.ts";
import { tell } from "./explore.ts";
import { settled, stuck } from "./going-on.ts";
import { Model } from "./model.ts";
import { type Rules, rules } from "./rules.ts";

type Line = readonly [Kind, (typeof members)[number], ((typeof members)[number] | number)?];

/** Shortest interleavings that the explorer found, each with the rule as it was then; by the rules of now they end well. */
interface Found {
  readonly name: string;
  readonly before: Rules;
  readonly violates: RegExp;
  readonly lines: readonly Line[];
}

const unfiltered: Rules["newReign"] = (before, turn) => {
  const reign = rules.newReign(before, turn);
  const past = before.epochs.filter(({ firstSeq }) => firstSeq <= before.committed.seq);
  return { ...reign, epochs: [...past, reign.epochs.at(-1)!] };
};

const found: readonly Found[] = [
  {
    name: "a replica takes an epoch by what it said before it took another primary's cut, and is promoted",
    before: { ...rules, newReign: unfiltered, drivers: { ...rules.drivers, hellosHold: false } },
    violates: /for ever/,
    lines: [
      ["write", "alpha"],
      ["cut", "alpha"],
      ["open", "alpha", "bravo"],
      ["deliver", "bravo", "alpha"],
      ["ship", "alpha", "bravo"],
      ["promote", "charlie", 1],
      ["finish", "charlie"],
      ["open", "bravo", "charlie"],
      ["deliver", "alpha", "bravo"],
      ["deliver", "charlie", "bravo"],
      ["promote", "bravo", 2],
      ["finish", "bravo"],
    ],
  },
  {
    name: "a replica is promoted beside a new primary of which it has heard only that it was a replica",
    before: { ...rules, drivers: { ...rules.drivers, promotionAsks: false } },
    violates: /two services run/,
    lines: [
      ["open", "alpha", "bravo"],
      ["deliver", "bravo", "alpha"],
      ["switchover", "alpha", "bravo"],
      ["stopped", "alpha"],
      ["agreed", "alpha"],
      ["open", "bravo", "charlie"],
      ["deliver", "alpha", "bravo"],
      ["finish", "bravo"],
      ["notice", "alpha", "bravo"],
      ["open", "alpha", "bravo"],
      ["deliver", "bravo", "alpha"],
      ["open", "alpha", "charlie"],
      ["start service", "bravo"],
      ["promote", "charlie", 0],
      ["finish", "charlie"],
      ["start service", "charlie"],
    ],
  },
  {
    name: "a source that went back is demoted by what it said while it was sealed",
    before: { ...rules, drivers: { ...rules.drivers, demotionLooksAgain: false } },
    violates: /the service runs on alpha, a replica/,
    lines: [
      ["open", "alpha", "bravo"],
      ["deliver", "bravo", "alpha"],
      ["deliver", "bravo", "alpha"],
      ["switchover", "alpha", "bravo"],
      ["stopped", "alpha"],
      ["agreed", "alpha"],
      ["deliver", "alpha", "bravo"],
      ["fail to finish", "bravo"],
      ["promote", "charlie", 1],
      ["finish", "charlie"],
      ["open", "alpha", "charlie"],
      ["deliver", "bravo", "alpha"],
      ["started", "alpha"],
      ["deliver", "charlie", "alpha"],
    ],
  },
];

const bounds = { faults: 9, operations: 9, doubles: 0, writes: 9 };

/** How far the interleaving goes, what is wrong at its end, and what a person reads of it. */
function play(by: Rules, lines: readonly Line[]): { taken: number; why: string; script: string } {
  const model = new Model(3, by, bounds);
  const state = model.initial();
  const possible = new Int32Array(256);
  const taken: number[] = [];
  let why = "";
  for (const [kind, who, whom = 0] of lines) {
    const action = code(kind, members.indexOf(who), typeof whom === "number" ? whom : members.indexOf(whom));
    // By other rules it may not come to that any more: everything after it is another story.
    if (!possible.subarray(0, model.actions(state, possible)).includes(action)) break;
    why = model.apply(state, action);
    taken.push(action);
    if (why !== "") break;
  }
  return { taken: taken.length, why: why === "" ? endOf(model, state) : why, script: tell(model, taken).join("\n") };
}

/** What becomes of a state when everything is well from now on. */
function endOf(model: Model, state: Uint8Array): string {
  const at = Uint8Array.from(state);
  model.forget(at);
  for (let step = 0; step < 400; step++) {
    const action = model.next(at);
    if (action === settled) return "";
    if (action === stuck) return "nobody can go on";
    const why = model.apply(at, action);
    if (why !== "") return why;
  }
  return "it goes on for ever";
}

describe("what the explorer found:", () => {
  for (const { name, before, violates, lines } of found) {
    it(name, () => {
      const then = play(before, lines);
      expect(then.taken, then.script).to.equal(lines.length);
      expect(then.why, then.script).to.match(violates);
      const now = play(rules, lines);
      expect(now.why, now.script).to.equal("");
    });
  }
});
