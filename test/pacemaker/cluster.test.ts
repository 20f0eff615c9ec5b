import { expect } from "chai";
import { until } from "../end-to-end/harness.ts";
import { Stage } from "./stage.ts";

/**
 * A real cluster with a real writer, who follows the address that the cluster moves. One cluster for all of it, in this order: each
 * scenario begins with three nodes in step, and ends with an audit.
 */
describe("a cluster of Pacemaker and Corosync", function () {
  this.timeout(600_000);
  let stage: Stage;
  let primary: string;
  const times: string[] = [];

  before(async () => {
    stage = await Stage.set();
  });
  // Also after one that failed in the middle.
  beforeEach(async () => {
    stage.rig.broken = false;
    for (const node of stage.rig.nodes.values()) await node.heal();
    primary = await stage.inStep();
  });
  after(async () => {
    await stage?.[Symbol.asyncDispose]();
    console.log(`      ${times.join("; ")}`);
  });

  async function failover(what: string, since: number): Promise<void> {
    const { to, text } = await stage.failover(primary, since);
    times.push(`${what}: ${text}`);
    primary = to;
  }

  /** Gives how many were committed since then and are not there. */
  async function whole(since = 0): Promise<number> {
    const { problems, durable, lost, ...found } = await stage.whole();
    primary = found.primary;
    expect(problems).to.deep.equal([]);
    expect(durable).to.be.above(0);
    return lost.filter(({ at }) => at > since).length;
  }

  it("promotes the node that has the group's data at its birth", async () => {
    expect(primary).to.equal("alpha");
    expect(await whole()).to.equal(0);
    expect(await stage.rig.switched()).to.deep.equal([]);
  });

  it("is bypassed by hand only where that is said", async () => {
    const [replica = ""] = stage.others(primary);
    const switched = await stage.cli(primary, "switchover", "app", "--to", replica);
    expect(switched.code).to.equal(3);
    expect(switched.stderr).to.include(`crm_resource --resource CLONE --move --promoted --node ${replica}`);
    const promoted = await stage.cli(replica, "promote", "app", "--yes", "--accept-loss", "--accept-live-primary");
    expect(promoted.code).to.equal(3);
    expect(promoted.stderr).to.include("--accept-bypassed-cluster");
  });

  it("moves the group as it is planned: nothing that was committed is lost, and nobody fenced", async () => {
    const former = primary;
    const since = Date.now();
    const [other = ""] = stage.others(former);
    await stage.walk("look", former, former, other);
    await stage.walk("move", former, former, other);
    await failover("planned move", since);
    expect(await whole(), "committed and not there").to.equal(0);
    expect(await stage.rig.switched()).to.deep.equal([]);
  });

  it("promotes another node when the primary's power fails", async () => {
    const former = primary;
    const since = Date.now();
    await stage.node(former).off();
    await failover("power off", since);
    const heir = primary;
    expect(await stage.walk("lost", heir, former, heir)).to.match(/replica\.promoted {2}epoch=\d+ {2}cut=\d+\.\d+/);
    const lost = await whole(since);
    // What was written and not shipped is there, if any was.
    expect(await stage.walk("forks", former, former, heir)).to.match(lost > 0 ? / app-\d/ : /./);
  });

  it("promotes another node when the primary's cable is cut, once that is fenced", async () => {
    const former = primary;
    const since = Date.now();
    await stage.node(former).cut();
    await failover("cable cut", since);
    expect((await stage.rig.switched()).at(-1)).to.match(new RegExp(`reboot ${former} 0$`));
    await stage.node(former).heal();
    await whole();
  });

  it("promotes another node when the primary hangs", async () => {
    const since = Date.now();
    await stage.node(primary).freeze();
    await failover("hung node", since);
    await whole();
  });

  it("promotes nobody while the hung primary cannot be fenced, and has one primary when it goes on", async () => {
    stage.rig.broken = true;
    const former = primary;
    const [seen = ""] = stage.others(former);
    const before = (await stage.rig.switched()).length;
    await stage.node(former).freeze();
    await until(async () => (await stage.rig.switched()).length > before + 1, 120_000, "fencing was tried, twice", 100);
    expect(await stage.promoted(seen)).to.be.oneOf([undefined, former]);
    await stage.node(former).thaw();
    stage.rig.broken = false;
    // Whether it came back first or was fenced at last: the cluster agrees with itself.
    await stage.settled(seen);
    primary = await stage.promotedOther(seen, undefined);
    await whole();
  });

  it("promotes another node when an operator says that the one that cannot be fenced is off", async () => {
    stage.rig.broken = true;
    const former = primary;
    const since = Date.now();
    const [seen = ""] = stage.others(former);
    const before = (await stage.rig.switched()).length;
    await stage.node(former).off();
    await until(async () => (await stage.rig.switched()).length > before, 120_000, "fencing was tried", 100);
    expect(await stage.promoted(seen)).to.be.oneOf([undefined, former]);
    await stage.walk("confirm", seen, former, seen);
    await failover("power off, confirmed by hand", since);
    stage.rig.broken = false;
    await whole();
  });

  it("promotes nobody while failovers are paused", async () => {
    const former = primary;
    const [one = "", two = ""] = stage.others(former);
    const marked = async (mark: string) =>
      await until(
        async () => {
          const marks = await stage.marks(former);
          return [one, two].every((name) => marks[name]?.startsWith(mark));
        },
        60_000,
        `both are ${mark}`,
        100,
      );
    await stage.walk("hold", former, former, one);
    await marked("PAUSED@");
    await stage.node(former).off();
    await until(async () => (await stage.promoted(one)) !== former, 120_000, `${former} is no primary`, 100);
    await stage.settled(one);
    expect(await stage.promoted(one)).to.equal(undefined);
    await stage.node(former).on();
    await stage.rig.online();
    await until(
      async () => (await stage.cli(former, "status")).code === 0,
      60_000,
      `the agent of ${former} answers`,
      100,
    );
    await stage.settled(one);
    expect(await stage.promoted(one), "not even the primary itself").to.equal(undefined);
    await stage.walk("let go", former, former, one);
    expect(await stage.promotedOther(one, undefined)).to.equal(former);
    await whole();
  });

  it("promotes no replica that was left behind, whatever is started anew; the primary comes back with everything", async () => {
    const former = primary;
    const since = Date.now();
    const [one = "", two = ""] = stage.others(former);
    for (const node of stage.rig.nodes.values()) await node.stopTalking();
    await until(
      async () => {
        const marks = await stage.marks(former);
        return [one, two].every((name) => marks[name]?.startsWith("STALE@"));
      },
      120_000,
      "both are known to be behind",
      200,
    );
    const before = (await stage.rig.switched()).length;
    await stage.node(former).off();
    await until(
      async () => (await stage.rig.switched()).slice(before).some((line) => line.endsWith(`reboot ${former} 0`)),
      120_000,
      `${former} is fenced`,
      100,
    );
    await stage.settled(one);
    expect(await stage.promoted(one)).to.equal(undefined);
    await stage.node(two).off();
    await stage.node(two).on();
    await stage.rig.online([one, two]);
    await stage.settled(one);
    expect(await stage.promoted(one), "after a restart of a replica").to.equal(undefined);
    for (const node of stage.rig.nodes.values()) if (node.running) await node.talk();
    await stage.node(former).on();
    expect(await stage.promotedOther(one, undefined)).to.equal(former);
    expect(await whole(since), "committed and not there").to.equal(0);
  });

  it("takes every right to be promoted away while the cluster cannot fence", async () => {
    const fencing = async (value: string) =>
      await stage.node(primary).run(["crm_attribute", "-t", "crm_config", "-n", "stonith-enabled", "-v", value]);
    const rights = async () => (await stage.scores(primary)).filter((name) => name !== primary).toSorted();
    await fencing("false");
    await until(async () => (await rights()).length === 0, 120_000, "no replica may be promoted", 200);
    expect(await stage.promoted(primary)).to.equal(primary);
    await fencing("true");
    await until(async () => (await rights()).length === 2, 120_000, "both may be promoted again", 200);
    await whole();
  });

  it("is done without by hand, and learns of it when it is back", async () => {
    const former = primary;
    const [chosen = "", other = ""] = stage.others(former);
    stage.rig.broken = true; // Whoever has lost the cluster first would be fenced by the others.
    await Promise.all([...stage.rig.nodes.values()].map(async (node) => await node.dropCluster()));
    await stage.node(former).off();
    let said: unknown;
    const shows = async (name: string, what: string) =>
      await until(
        async () => {
          said = await stage.cli(name, "status");
          return (said as { stdout: string }).stdout.includes(what);
        },
        60_000,
        () => `${name} says "${what}": ${JSON.stringify(said)}`,
        100,
      );
    await shows(chosen, `replica of ${former} (connecting)`);
    const asked = await stage.tryOut("ask", chosen, former, chosen);
    expect(asked.code).to.equal(3);
    expect(asked.stderr).to.match(/--accept-unreachable-primary\n.*--accept-loss=\d+\.\d+\n/);
    await stage.walk("bypass", chosen, former, chosen);
    await shows(other, `replica of ${chosen} (streaming)`);
    stage.rig.broken = false;
    for (const name of [chosen, other]) await stage.node(name).startCluster();
    expect(await stage.inStep()).to.equal(chosen);
    await whole();
  });
});
