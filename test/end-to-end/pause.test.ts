import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { type Cluster, type ClusterNode, startCluster, until } from "./harness.ts";

const deadlineMs = 90_000;

describe("a group that is paused", function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let alpha: ClusterNode;
  let bravo: ClusterNode;

  before(async () => {
    cluster = await startCluster({
      groupYaml: async ({ data }) => {
        await mkdir(join(data("alpha"), "files"));
        await writeFile(join(data("alpha"), "files", "text"), "first");
        const at = (node: string): string => JSON.stringify(join(data(node), "files"));
        return `  app:
    primary: alpha
    replicas: [bravo]
    rpo: 1s
    stores:
      files: { kind: files, path: ${at("alpha")}, at: { bravo: ${at("bravo")} } }`;
      },
    });
    [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
    await bravo.until(({ cut }) => cut !== null, deadlineMs);
  });
  after(async () => await cluster?.[Symbol.asyncDispose]());

  const write = async (text: string): Promise<void> =>
    await writeFile(join(alpha.dataDirectory, "files", "text"), text);
  const held = async (): Promise<string> => await readFile(join(bravo.dataDirectory, "files", "text"), "utf8");

  it("ships nothing, over a restart, and tells its lag and its broken promise as they are", async () => {
    expect((await bravo.cli("pause", "app", "--shipping")).code, "it ships nothing").to.equal(3);
    const paused = await alpha.cli("pause", "app", "--shipping");
    expect(paused.stdout, paused.stderr).to.match(/^SHIPPING PAUSED by .+ since .+; to go on: understudy resume app$/m);
    await bravo.until(({ peers }) => peers.alpha?.state === "paused", deadlineMs);
    await write("second");
    const before = (await alpha.group())?.cut?.seq;
    const behind = await alpha.until(({ peers }) => peers.bravo?.rpo?.broken === true, deadlineMs);
    expect(behind.peers.bravo).to.deep.include({ state: "paused" });
    expect(behind.peers.bravo?.lag.seconds).to.be.above(1);
    const there = await bravo.until(({ peers }) => (peers.alpha?.lag.seconds ?? 0) > 1, deadlineMs);
    expect(there.peers.alpha?.rpo?.broken).to.equal(true);
    expect((await alpha.cli("cut", "app")).code, "a cut for itself may be taken").to.equal(0);
    const waited = await alpha.cli("wait", "app", "--timeout", "30s");
    expect(waited.code).to.equal(3);
    expect(waited.stderr).to.match(/resume app --shipping/);

    await alpha.restart();
    await bravo.until(({ peers }) => peers.alpha?.state === "paused", deadlineMs);
    await alpha.until(({ peers }) => peers.bravo?.state === "paused", deadlineMs);
    const told = (await alpha.log()).filter(({ event }) => event === "group.paused");
    expect(told, "by the command, and at the start").to.have.length(2);
    expect((await alpha.cli("status")).stdout).to.match(/SHIPPING PAUSED by/);
    expect(await alpha.control.metrics()).to.match(/understudy_group_paused\{group="app",what="shipping"\} 1/);
    expect(await held()).to.equal("first");
    expect((await bravo.group())?.cut?.seq).to.equal(before);

    expect((await alpha.cli("resume", "app")).stdout).to.equal("app: nothing is paused\n");
    await until(async () => (await held()) === "second", deadlineMs, "it is shipped");
    expect((await alpha.group())?.paused).to.equal(null);
  });

  it("asks a person for more where failover is paused", async () => {
    expect((await bravo.cli("pause", "app")).stdout, "all that a replica has").to.match(/^AUTOMATIC FAILOVER PAUSED/);
    const claim = async (): Promise<string> => (await alpha.cli("status")).stdout.split("\n")[2] ?? "";
    await until(
      async () => (await claim()) === "nobody could take over now: bravo has its failover paused.",
      deadlineMs,
      "the primary claims nothing that bravo refuses",
    );
    await bravo.cli("resume", "app");
    await until(async () => (await claim()).startsWith("bravo could take over"), deadlineMs, "it may again");
    await bravo.cli("pause", "app", "--failover");
    await alpha.kill9();
    await bravo.restart();
    await bravo.until(({ promotable }) => promotable.why.some(({ code }) => code === "PAUSED"), deadlineMs);
    const flags = ["--yes", "--accept-loss", "--accept-unreachable-primary"];
    const refused = await bravo.cli("promote", "app", ...flags);
    expect(refused.code).to.equal(3);
    expect(refused.stderr).to.match(/failover is paused here: by .* --accept-paused/s);
    const done = await bravo.cli("promote", "app", ...flags, "--accept-paused");
    expect(done, done.stderr).to.include({ code: 0 });
    expect((await bravo.group())?.paused, "until somebody lets it go on").to.include({
      shipping: false,
      failover: true,
    });
  });
});
