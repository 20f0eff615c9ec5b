import { expect } from "chai";
import { type Walk, type Walked, walk } from "./explore.ts";
import { mutants } from "./mutants.ts";
import { rules } from "./rules.ts";

/**
 * All interleavings of a few nodes, a few faults and a few commands, decided by the program's own rules (rules.ts). In each
 * state: at most one primary in an epoch, no cuts of two nodes in one, at most one service unless somebody has accepted more,
 * nothing acknowledged is lost unless somebody has accepted that, every divergence ends in a fork, and somebody can go on.
 */
describe("all interleavings", function () {
  this.timeout(240_000);
  const perMinute = 1_000_000;
  let states = 0;
  let seconds = 0;

  function explored(what: Omit<Walk, "rules" | "goingOn">): Walked {
    const begun = process.cpuUsage();
    const walked = walk({ ...what, rules, goingOn: true });
    const { user, system } = process.cpuUsage(begun);
    states += walked.states;
    seconds += (user + system) / 1e6;
    const perSecond = Math.round((walked.states / (user + system)) * 1e6);
    console.log(
      `      ${what.nodes} nodes: ${walked.states} states, ${walked.transitions} transitions, ${walked.whole ? "all" : `all up to ${walked.depth} actions`}, ${perSecond} states a second`,
    );
    const { violation } = walked;
    expect(violation?.script.join("\n"), violation?.why).to.equal(undefined);
    return walked;
  }

  it("of two nodes with two faults, two commands, a message heard twice and a write end well", () => {
    const walked = explored({
      nodes: 2,
      bounds: { faults: 2, operations: 2, doubles: 1, writes: 1 },
      statesMax: 1_000_000,
    });
    expect(walked.whole, "nothing is left").to.equal(true);
  });

  it("of three nodes with one fault, two commands and a write end well, as far as they are walked", () => {
    explored({ nodes: 3, bounds: { faults: 1, operations: 2, doubles: 0, writes: 1 }, statesMax: 800_000 });
  });

  it("are a million states in a minute of one processor", () => {
    expect(states).to.be.above(perMinute);
    expect((states / seconds) * 60).to.be.above(perMinute);
  });

  describe("show that it matters when", () => {
    for (const { name, nodes, bounds, rules: mutated, violates } of mutants) {
      it(name, () => {
        const { violation } = walk({ nodes, bounds, rules: mutated, statesMax: 100_000, goingOn: true });
        expect(violation?.why ?? "nobody noticed").to.match(violates);
      });
    }
  });
});
