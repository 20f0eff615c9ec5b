import { expect } from "chai";
import { code } from "./actions.ts";
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

  /** Each is walked once, by whichever test asks first. */
  const twoNodes = walkedOnce({
    nodes: 2,
    bounds: { faults: 2, operations: 2, doubles: 1, writes: 1 },
    statesMax: 1_000_000,
  });
  const threeNodes = walkedOnce({
    nodes: 3,
    bounds: { faults: 1, operations: 2, doubles: 0, writes: 1 },
    statesMax: 780_000,
  });

  it("of two nodes with two faults, two commands, a message heard twice and a write end well", () => {
    const { violation, whole } = twoNodes();
    expect(violation?.script.join("\n"), violation?.why).to.equal(undefined);
    expect(whole, "nothing is left").to.equal(true);
  });

  it("of three nodes with one fault, two commands and a write end well, as far as they are walked", () => {
    const { violation } = threeNodes();
    expect(violation?.script.join("\n"), violation?.why).to.equal(undefined);
  });

  it("of three nodes go on from one that was rejoining a primary that is gone, with one fault and two commands", () => {
    const [alpha, bravo] = [0, 1];
    const after = [
      code("write", alpha),
      code("cut", alpha),
      code("promote", bravo, 1),
      code("finish", bravo),
      code("open", alpha, bravo),
      code("deliver", bravo, alpha),
      code("on fenced", alpha),
      code("open", alpha, bravo),
      code("deliver", bravo, alpha),
      code("rejoin", alpha, bravo),
      code("rejoin", alpha, bravo),
      code("power", bravo),
    ];
    const bounds = { faults: 2, operations: 3, doubles: 0, writes: 2 };
    const { violation } = walk({ nodes: 3, bounds, after, statesMax: 40_000, rules, goingOn: true });
    expect(violation?.script.join("\n"), violation?.why).to.equal(undefined);
  });

  it("are a million states in a minute of one processor", () => {
    const walks = [twoNodes(), threeNodes()];
    const states = walks.reduce((sum, walked) => sum + walked.states, 0);
    const cpuSeconds = walks.reduce((sum, walked) => sum + walked.cpuSeconds, 0);
    expect(states).to.be.above(perMinute);
    expect((states / cpuSeconds) * 60).to.be.above(perMinute);
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

function walkedOnce(what: Omit<Walk, "rules" | "goingOn">): () => Walked & { readonly cpuSeconds: number } {
  let done: (Walked & { readonly cpuSeconds: number }) | undefined;
  return () => {
    if (done !== undefined) return done;
    const begun = process.cpuUsage();
    const walked = walk({ ...what, rules, goingOn: true });
    const { user, system } = process.cpuUsage(begun);
    done = { ...walked, cpuSeconds: (user + system) / 1e6 };
    console.log(
      `      ${what.nodes} nodes: ${walked.states} states, ${walked.transitions} transitions, ${walked.whole ? "all" : `all up to ${walked.depth} actions`}, ${Math.round(walked.states / done.cpuSeconds)} states a second`,
    );
    return done;
  };
}
