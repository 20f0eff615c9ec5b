import { expect } from "chai";
import { Bundle } from "./bundle.ts";
import type { Histories } from "./histories.ts";
import { livesText, runLives } from "./lives.ts";

/**
 * 40 histories in five lives beside each other; 200 with UNDERSTUDY_HISTORIES=40, as CI has it. Replay one with UNDERSTUDY_SEED=the seed that it named and the same
 * UNDERSTUDY_HISTORIES.
 */
const { UNDERSTUDY_SEED: seedGiven, UNDERSTUDY_LIVES: livesGiven } = process.env;
const lives = seedGiven === undefined ? Number(livesGiven ?? 5) : 1;
const historiesEach = Number(process.env.UNDERSTUDY_HISTORIES ?? 8);

describe("three agents, whatever happens to them", function () {
  this.timeout(lives * historiesEach * 15_000);

  it(`end with one primary that has everything but what was accepted to be lost, which is in a fork, in ${lives * historiesEach} histories`, async () => {
    const first = Number(seedGiven ?? Math.floor(Math.random() * 2 ** 31));
    const seeds = Array.from({ length: lives }, (_, index) => (first + index) % 2 ** 31);
    await using bundle = await Bundle.build();
    const all = await runLives({ seeds, historiesEach, launcher: bundle.launcher, say: () => {} });
    console.log(`      ${livesText(all)}`);
    const sum = (of: (one: Histories) => number): number => all.reduce((total, one) => total + of(one), 0);
    expect(sum((one) => one.histories)).to.equal(lives * historiesEach);
    expect(
      sum((one) => one.forks),
      "some writes were forked",
    ).to.be.above(0);
    expect(
      sum((one) => one.exact),
      "what was lost was held to a cut",
    ).to.be.above(0);
  });
});
