import { expect } from "chai";
import { histogramText, killRounds, pipeline, stageHits } from "../crash/kill-rounds.ts";

/**
 * The same rounds as in test/crash/kill-rounds.test.ts, 200 of them, or as many as UNDERSTUDY_SOAK_ROUNDS says, or for
 * UNDERSTUDY_SOAK_HOURS. UNDERSTUDY_SEED repeats the chances of a former run.
 */
describe("soak: kill rounds", function () {
  this.timeout(0);
  const environment = process.env;
  const seed = Number(environment.UNDERSTUDY_SEED ?? Math.floor(Math.random() * 2 ** 31));
  const hours = environment.UNDERSTUDY_SOAK_HOURS === undefined ? undefined : Number(environment.UNDERSTUDY_SOAK_HOURS);
  const rounds = Number(environment.UNDERSTUDY_SOAK_ROUNDS ?? (hours === undefined ? 200 : Number.MAX_SAFE_INTEGER));

  it(`keeps every promise over ${hours === undefined ? `${rounds} rounds` : `${hours} hours`}, whatever dies`, async () => {
    console.log(`UNDERSTUDY_SEED=${seed}`);
    const totals = await killRounds({
      rounds,
      seed,
      roundsPerLife: 10,
      restoreEvery: 5,
      aimMs: 3000,
      ...(hours === undefined ? {} : { endsAt: performance.now() + hours * 3600_000 }),
      say: (line) => console.log(line),
    });
    const { waits, promotions, promotionsKilled, restores } = totals;
    console.log(
      `${totals.rounds} rounds, ${waits} waits, ${restores} restores, ${promotions} promotions (${promotionsKilled} of them killed)\n${histogramText(totals)}`,
    );
    const hits = stageHits(totals);
    if (totals.rounds >= 200) for (const stage of pipeline) expect(hits.get(stage), stage).to.be.at.least(5);
  });
});
