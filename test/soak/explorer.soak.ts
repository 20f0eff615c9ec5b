import { expect } from "chai";
import { walk } from "../explorer/explore.ts";
import { rules } from "../explorer/rules.ts";

/** As test/explorer/explorer.test.ts, further: UNDERSTUDY_SOAK_STATES at most of each (5 million: up to 2 GiB of memory). */
describe("soak: all interleavings", function () {
  this.timeout(0);
  const statesMax = Number(process.env.UNDERSTUDY_SOAK_STATES ?? 5_000_000);
  for (const [nodes, faults, operations, doubles, writes] of [
    [2, 3, 3, 1, 2],
    [2, 2, 4, 0, 2],
    [3, 0, 3, 0, 1],
    [3, 1, 2, 1, 1],
    [3, 2, 2, 0, 1],
  ] as const) {
    it(`${nodes} nodes, ${faults} faults, ${operations} commands, ${doubles} messages twice, ${writes} writes`, () => {
      const bounds = { faults, operations, doubles, writes };
      const walked = walk({ nodes, rules, bounds, statesMax, goingOn: true });
      console.log(
        `${walked.states} states, ${walked.transitions} transitions, ${walked.whole ? "all" : `all up to ${walked.depth} actions`}, ${Math.round(walked.states / walked.seconds)} states a second`,
      );
      const { violation } = walked;
      expect(violation?.script.join("\n"), violation?.why).to.equal(undefined);
    });
  }
});
