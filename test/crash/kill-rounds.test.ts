import { expect } from "chai";
import { histogramText, killRounds } from "./kill-rounds.ts";

describe("kill rounds", () => {
  const seed = Number(process.env.UNDERSTUDY_SEED ?? Math.floor(Math.random() * 2 ** 31));

  it("keeps what was seen as durable or waited for over 20 random kills of either agent, 4 promotions and restores", async function () {
    this.timeout(180_000);
    const said: string[] = [];
    try {
      const totals = await killRounds({
        rounds: 20,
        seed,
        roundsPerLife: 5,
        restoreEvery: 4,
        aimMs: 300,
        say: (line) => said.push(line),
      });
      console.log(`      seed ${seed}, ${totals.waits} waits; steps at which agents died:\n${histogramText(totals)}`);
      expect(totals).to.include({ rounds: 20, promotions: 4, restores: 5 });
      expect(totals.waits, "promises to judge by").to.be.above(10);
    } catch (error) {
      throw new Error(`UNDERSTUDY_SEED=${seed}\n${said.join("\n")}`, { cause: error });
    }
  });
});
