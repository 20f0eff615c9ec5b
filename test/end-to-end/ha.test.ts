import { appendFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { HaAnswer } from "../../deploy/control/ha-api.ts";
import { type Cluster, type ClusterNode, type ClusterPaths, startCluster, until } from "./harness.ts";
import { nodePorts } from "./node-ports.ts";

const deadlineMs = 120_000;

async function groupYaml({ data, directory }: ClusterPaths): Promise<string> {
  await mkdir(join(data("alpha"), "files"));
  await writeFile(join(data("alpha"), "files", "text"), "first");
  const hook = (what: string): string =>
    JSON.stringify(["sh", "-c", `echo ${what} $UNDERSTUDY_NODE >>${join(directory, "service")}`]);
  return `  app:
    primary: alpha
    replicas: [bravo]
    stores:
      files: { kind: files, path: ${join(data("alpha"), "files")}, at: { bravo: ${join(data("bravo"), "files")} } }
    hooks: { start_service: ${hook("start")}, stop_service: ${hook("stop")} }
    rejoin: auto
    ha: { engine: pacemaker }
`;
}

/** What the resource agent does on a node, without a cluster: it asks, and is told what the cluster remembers. */
async function ask(node: ClusterNode, ...words: string[]): Promise<HaAnswer> {
  const [action = "", ...options] = words;
  const { code, stdout, stderr } = await node.cli("ha", action, "app", "--json", ...options);
  expect(code, stderr).to.equal(0);
  return JSON.parse(stdout) as HaAnswer;
}

describe("a group that a cluster decides about", function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let alpha: ClusterNode;
  let bravo: ClusterNode;
  const service = async (): Promise<string[]> =>
    (await readFile(join(cluster.directory, "service"), "utf8").catch(() => "")).trim().split("\n");

  let port: number | undefined;

  before(async () => {
    [port] = await nodePorts(1);
    cluster = await startCluster({
      groupYaml,
      nodeYaml: (node) => (node === "bravo" ? `role_listener: "127.0.0.1:${port}"` : ""),
    });
    [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
    await bravo.until(({ cut }) => cut !== null, deadlineMs);
  });
  after(async () => await cluster?.[Symbol.asyncDispose]());

  it("is born without a service, and comes into it in the epoch that is granted", async () => {
    expect((await alpha.cli("is-primary", "app")).code).to.equal(1);
    const born = await ask(alpha, "status", "--epoch", "0");
    expect(born).to.include({ role: "primary", inService: false, epoch: 1, claim: "1100" });
    expect(await ask(bravo, "grant", "--epoch", "0")).to.include({ decision: "refuse", granted: 0 });
    const granted = await ask(alpha, "grant", "--epoch", "0");
    expect(granted).to.include({ decision: "grant", granted: 3, epoch: 1 });
    expect(await service(), "a grant begins nothing").to.deep.equal([""]);
    const wrong = await alpha.cli("ha", "promote", "app", "--epoch", "4");
    expect([wrong.code, wrong.stderr], "another member's turn").to.satisfy(
      ([code, text]: [number, string]) => code === 3 && text.includes("epoch 4 was granted"),
    );
    expect(await ask(alpha, "promote", "--epoch", "3")).to.include({ role: "primary", inService: true, epoch: 3 });
    expect(await service()).to.deep.equal(["start alpha"]);
    expect((await alpha.cli("is-primary", "app")).code).to.equal(0);
  });

  it("says of a replica that it is in step, and that it is not once it is away", async () => {
    const said = async () => (await ask(alpha, "monitor", "--epoch", "3", "--max-lag", "2s")).members[0];
    await until(async () => (await said())?.mark === "OK@3", deadlineMs, "bravo is in step");
    expect(await said()).to.deep.equal({ member: "bravo", mark: "OK@3", score: "1000" });
    expect(await ask(bravo, "status"), "nobody has said what the cluster granted").to.include({ claim: "", why: "" });
    expect(await ask(bravo, "status", "--epoch", "2", "--mark", "OK@2")).to.include({
      claim: "none",
      why: "epoch 3 was seen, which the cluster did not grant",
    });
    // That the cluster decides is no fault of the copy.
    const healthy = await fetch(`http://127.0.0.1:${port}/groups/app/replica`);
    expect(healthy.status, await healthy.text()).to.equal(200);
    const { promotable, takeover } = (await bravo.group()) ?? {};
    expect(promotable).to.deep.include({ ok: true, why: [] });
    expect(takeover).to.include({ node: "bravo", ok: true });
    expect(await bravo.control.metrics()).to.include('understudy_group_promotable{group="app"} 1');
    await bravo.stop();
    await until(async () => (await said())?.mark === "STALE@3", deadlineMs, "bravo is left behind");
    expect((await said())?.score).to.equal("none");
    await bravo.start();
    await until(async () => (await said())?.mark === "OK@3", deadlineMs, "bravo is in step again");
  });

  it("goes on in service after a restart of the agent, until it is demoted, with a seal that is durable", async () => {
    await alpha.restart();
    await alpha.until(({ role }) => role === "primary", deadlineMs);
    await until(async () => (await ask(alpha, "status")).inService, deadlineMs, "it is in service as before");
    await appendFile(join(alpha.dataDirectory, "files", "text"), " second");
    const sealed = await ask(alpha, "demote", "--ship", "10s");
    expect(sealed).to.include({ role: "primary", inService: false });
    expect(sealed.seal).to.match(/^3:3\.\d+:[0-9a-f]{64}$/);
    expect((await service()).at(-1)).to.equal("stop alpha");
    await alpha.restart();
    await alpha.until(({ role }) => role === "primary", deadlineMs);
    const again = await ask(alpha, "status", "--epoch", "3");
    expect(again).to.include({ inService: false, seal: sealed.seal, vote: sealed.cut.replace(".", "#") });
  });

  it("is promoted elsewhere only with what was sealed, and the one that was demoted follows in place", async () => {
    const { seal } = await ask(alpha, "status", "--epoch", "3");
    const other = seal.replace(/:(\d+)\.(\d+):/, (_, epoch, seq) => `:${epoch}.${Number(seq) + 1}:`);
    const asked = ["grant", "--epoch", "3", "--mark", "OK@3"];
    const ahead = await ask(bravo, ...asked, "--vote", "alpha=3#9999");
    expect(ahead).to.include({ decision: "give-way", giveWayTo: "alpha", giveWayMark: "OK@3" });
    expect(await ask(bravo, ...asked, "--seal", other)).to.include({ decision: "refuse" });
    expect(await ask(bravo, ...asked, "--seal", seal)).to.include({ decision: "grant", granted: 4 });
    expect(await ask(bravo, "promote", "--epoch", "4")).to.include({ inService: true, epoch: 4 });
    expect(await readFile(join(bravo.dataDirectory, "files", "text"), "utf8")).to.equal("first second");
    await alpha.until(({ role }) => role === "replica", deadlineMs);
    expect((await alpha.cli("forks", "list", "--json")).stdout).to.include('"forks":[]');
  });

  it("gives up at once when the cluster has granted a higher epoch", async () => {
    const before = (await service()).length;
    const fenced = await ask(bravo, "monitor", "--epoch", "5");
    expect(fenced).to.include({ role: "fenced", inService: false });
    expect((await service()).slice(before)).to.deep.equal(["stop bravo"]);
    expect((await bravo.cli("is-primary", "app")).code).to.equal(1);
  });
});
