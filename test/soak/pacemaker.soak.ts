import { expect } from "chai";
import { seededRandom } from "../crash/seeded-random.ts";
import { until } from "../end-to-end/harness.ts";
import { Stage } from "../pacemaker/stage.ts";

/**
 * The scenarios of test/pacemaker/cluster.test.ts in any order, 30 of them or as many as UNDERSTUDY_SOAK_ROUNDS says; at the end an
 * operator forces a replica that was left behind. UNDERSTUDY_SEED repeats the order of a former run.
 */
describe("soak: a cluster that is never left alone", function () {
  this.timeout(0);
  const seed = Number(process.env.UNDERSTUDY_SEED ?? Math.floor(Math.random() * 2 ** 31));
  const rounds = Number(process.env.UNDERSTUDY_SOAK_ROUNDS ?? 30);

  it(`keeps what is durable, and one primary, over ${rounds} rounds`, async () => {
    console.log(`UNDERSTUDY_SEED=${seed}`);
    const random = seededRandom(seed);
    await using stage = await Stage.set();
    let primary = await stage.inStep();
    const audited = async (): Promise<void> => {
      const { problems, durable, lost, ...found } = await stage.whole();
      primary = found.primary;
      expect(problems).to.deep.equal([]);
      console.log(`  ${durable} durable, ${lost.length} committed and given up`);
    };
    await audited();
    const events: Readonly<Record<string, (name: string) => Promise<void>>> = {
      "planned move": async (name) => void (await stage.walk("move", name, name, name)),
      "power off": async (name) => await stage.node(name).off(),
      "cable cut": async (name) => await stage.node(name).cut(),
      "hung node": async (name) => await stage.node(name).freeze(),
    };
    for (let round = 0; round < rounds; round++) {
      const kinds = Object.keys(events);
      const kind = kinds[Math.floor(random() * kinds.length)]!;
      const since = Date.now();
      await events[kind]!(primary);
      const { to, text } = await stage.failover(primary, since);
      console.log(`${round} ${kind} ${primary} -> ${to}: ${text}`);
      if (kind === "cable cut") await stage.node(primary).heal();
      primary = to;
      await audited();
    }

    const [one = ""] = stage.others(primary);
    for (const node of stage.rig.nodes.values()) await node.stopTalking();
    await until(async () => (await stage.marks(primary))[one]?.startsWith("STALE@"), 60_000, `${one} is behind`, 200);
    const gone = `reboot ${primary} 0`;
    const before = (await stage.rig.switched()).length;
    await stage.node(primary).off();
    const fenced = async () => (await stage.rig.switched()).slice(before).some((line) => line.endsWith(gone));
    await until(fenced, 60_000, `${primary} is fenced`, 100);
    await stage.settled(one);
    expect(await stage.promoted(one)).to.equal(undefined);
    for (const node of stage.rig.nodes.values()) if (node.running) await node.talk();
    await stage.walk("force", one, primary, one);
    expect(await stage.promotedOther(one, undefined)).to.equal(one);
    primary = one;
    await audited();
  });
});
