import { Bundle } from "../random/bundle.ts";
import { runHistories } from "../random/histories.ts";

/** As test/random/taking-over.test.ts, 2000 histories or as many as UNDERSTUDY_SOAK_HISTORIES says. */
describe("soak: taking over", function () {
  this.timeout(0);
  const wanted = Number(process.env.UNDERSTUDY_SOAK_HISTORIES ?? 2000);
  const seed = Number(process.env.UNDERSTUDY_SEED ?? Math.floor(Math.random() * 2 ** 31));

  it(`ends well in ${wanted} histories`, async () => {
    const each = 50;
    await using bundle = await Bundle.build();
    const { launcher } = bundle;
    for (let done = 0; done < wanted; done += each) {
      console.log(`UNDERSTUDY_SEED=${seed + done}`);
      const totals = await runHistories({
        seed: seed + done,
        histories: each,
        say: (line) => console.log(line),
        launcher,
      });
      console.log(JSON.stringify({ ...totals, actions: Object.fromEntries(totals.actions) }));
    }
  });
});
