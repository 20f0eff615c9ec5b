import { Bundle } from "../random/bundle.ts";
import { livesText, runLives } from "../random/lives.ts";

/**
 * As test/random/taking-over.test.ts, 2000 histories or as many as UNDERSTUDY_SOAK_HISTORIES says, 40 in a life. Replay one with
 * UNDERSTUDY_SEED=the seed that it named and UNDERSTUDY_SOAK_HISTORIES=40.
 */
describe("soak: taking over", function () {
  this.timeout(0);
  const historiesEach = 40;
  const lives = Math.ceil(Number(process.env.UNDERSTUDY_SOAK_HISTORIES ?? 2000) / historiesEach);
  const first = Number(process.env.UNDERSTUDY_SEED ?? Math.floor(Math.random() * 2 ** 31));

  it(`ends well in ${lives * historiesEach} histories`, async () => {
    const seeds = Array.from({ length: lives }, (_, index) => (first + index) % 2 ** 31);
    await using bundle = await Bundle.build();
    const all = await runLives({ seeds, historiesEach, launcher: bundle.launcher, say: (line) => console.log(line) });
    console.log(livesText(all));
    console.log(
      all
        .flatMap(({ actions }) => [...actions])
        .reduce(
          (sums, [action, count]) => sums.set(action, (sums.get(action) ?? 0) + count),
          new Map<string, number>(),
        ),
    );
  });
});
