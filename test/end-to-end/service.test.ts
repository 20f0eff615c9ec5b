import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import { type Cluster, type ClusterNode, promote, startCluster, until } from "./harness.ts";
import { nodePorts } from "./node-ports.ts";

const deadlineMs = 120_000;

/** The machine was started anew: what its catalog confirmed was confirmed in another boot. */
function reboot(node: ClusterNode): void {
  using catalog = new DatabaseSync(join(node.stateDirectory, "groups", "app", "catalog.db"));
  const change = catalog.prepare("UPDATE standing SET value = ? WHERE key = 'confirmed'");
  expect(change.run('"another-boot 1"').changes, "it was confirmed before").to.equal(1);
}

/** One cluster for all of it, in this order: each goes on from what the one before has left. */
describe("a service that is started where its primary is", function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let alpha: ClusterNode;
  let bravo: ClusterNode;
  let said: string;
  let ports: number[] = [];
  let directory: string;
  let targets: string;

  /** What the manager of services was told of a node last. */
  async function target(node: ClusterNode): Promise<string | undefined> {
    const lines = (await readFile(targets, "utf8").catch(() => "")).split("\n");
    return lines.findLast((line) => line.startsWith(`${node.name} `))?.split(" ")[1];
  }

  /** What a load balancer is told. */
  async function role(
    node: ClusterNode,
    path: string,
  ): Promise<{ status: number; epoch: string | null; why: unknown }> {
    const response = await fetch(`http://127.0.0.1:${ports[node === alpha ? 0 : 1]}/groups/app/${path}`);
    const { why } = (await response.json()) as { why: unknown };
    return { status: response.status, epoch: response.headers.get("understudy-epoch"), why };
  }

  before(async () => {
    ports = await nodePorts(2);
    directory = await mkdtemp(join(tmpdir(), "us-service-"));
    targets = join(directory, "targets");
    cluster = await startCluster({
      nodeYaml: (node) => {
        const told = (word: string): string => `[sh, -c, 'echo "$UNDERSTUDY_NODE ${word}" >> ${targets}']`;
        const target = `primary_target: { start: ${told("reached")}, stop: ${told("left")} }`;
        return `role_listener: "127.0.0.1:${ports[node === "alpha" ? 0 : 1]}", ${target}`;
      },
      groupYaml: async ({ directory, data }) => {
        said = join(directory, "said");
        const hook = join(directory, "hook");
        // A unit that is started asks itself whether it may.
        await writeFile(
          hook,
          `#!/bin/sh
line="$1 $UNDERSTUDY_NODE $UNDERSTUDY_EPOCH $UNDERSTUDY_REASON"
socket=${directory}/$UNDERSTUDY_NODE/state/control.sock
if [ "$1" = start ]; then
  line="$line
$(curl --silent --max-time 5 --unix-socket "$socket" 'http://agent/is-primary?group=app')"
fi
echo "$line" >> ${said}\n`,
        );
        await chmod(hook, 0o755);
        await mkdir(join(data("alpha"), "files"));
        await writeFile(join(data("alpha"), "files", "file"), "first");
        const at = (node: string): string => JSON.stringify(join(data(node), "files"));
        return `  app:
    primary: alpha
    replicas: [bravo]
    stores:
      files: { kind: files, path: ${at("alpha")}, at: { bravo: ${at("bravo")} } }
    hooks:
      start_service: [${JSON.stringify(hook)}, start]
      stop_service: [${JSON.stringify(hook)}, stop]`;
      },
    });
    [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
    await bravo.until(({ cut }) => cut !== null, deadlineMs);
  });
  after(async () => {
    await cluster?.[Symbol.asyncDispose]();
    await rm(directory, { recursive: true, force: true });
  });

  /** What the hooks wrote since the last look, once there is something. */
  async function heard(): Promise<string[]> {
    const text = await until(
      async () => {
        const now = await readFile(said, "utf8").catch(() => "");
        return now.endsWith("\n") ? now : undefined;
      },
      deadlineMs,
      "a hook ran",
    );
    await rm(said);
    return text.trimEnd().split("\n");
  }

  const yes = (epoch: number): string => `{"primary":true,"role":"primary","epoch":${epoch},"why":null}`;

  it("runs it once the group is formed, which may ask whether it may", async () => {
    expect(await heard()).to.deep.equal(["start alpha 1 form", yes(1)]);
    expect((await bravo.cli("is-primary", "app")).code).to.equal(1);
    expect(await role(alpha, "primary")).to.deep.equal({ status: 200, epoch: "1", why: null });
    expect(await target(alpha)).to.equal("reached");
    await until(async () => (await target(bravo)) === "left", deadlineMs, "bravo's target is left");
    expect(await role(bravo, "primary")).to.deep.equal({ status: 503, epoch: "1", why: "this node is replica" });
    await until(async () => (await role(bravo, "replica?lag=5s")).status === 200, deadlineMs, "bravo is near enough");
    expect(await role(bravo, "replica")).to.deep.equal({ status: 200, epoch: "1", why: null });
    expect((await role(alpha, "replica")).status).to.equal(503);
    const beside = async (): Promise<string> =>
      await readFile(join(bravo.dataDirectory, ".understudy", "app", ".primary"), "utf8").catch(() => "");
    await until(async () => (await beside()) === "alpha 1\n", deadlineMs, "a script beside the copy knows the primary");
    const verified = await bravo.cli("verify", "app");
    expect(verified, verified.stderr).to.include({ code: 0 });
    await alpha.until(({ takeover }) => takeover?.verified?.ok === true, deadlineMs);
    const sentence =
      /^bravo could take over now: loses \d+ cuts? \([\d.]+ s\), opens in about 0\.2 s, last verified \d\d:\d\d today, no open forks\.$/m;
    for (const node of [alpha, bravo]) expect((await node.cli("status")).stdout).to.match(sentence);
    const scraped = await fetch(`http://127.0.0.1:${ports[0]}/metrics`);
    expect(await scraped.text()).to.include("understudy_cuts_total");
  });

  it("runs it again where an agent was killed, since the machine goes on, though nobody answers", async () => {
    await bravo.kill9();
    await alpha.restart();
    expect(await heard()).to.deep.equal(["start alpha 1 start", yes(1)]);
    expect((await alpha.cli("is-primary", "app")).code).to.equal(0);
  });

  it("does not after a start of the machine, until everybody has answered or a person says so", async () => {
    await alpha.kill9();
    reboot(alpha);
    await alpha.start();
    await alpha.until(({ role }) => role === "primary", deadlineMs);
    const asked = await alpha.cli("is-primary", "app");
    expect(asked).to.include({ code: 1, stdout: "primary epoch 1\n" });
    expect(asked.stderr).to.match(/bravo did not answer .* understudy confirm app --accept-unreachable/);
    expect((await alpha.cli("status")).stdout).to.match(/It is not in service: since the machine was started, bravo/);
    expect((await role(alpha, "primary")).why).to.match(/bravo did not answer/);
    await until(async () => (await target(alpha)) === "left", deadlineMs, "alpha's target is left");
    const refused = await alpha.cli("confirm", "app");
    expect(refused.code, refused.stderr).to.equal(3);
    expect(refused.stderr).to.match(/--accept-unreachable/);
    expect(await readFile(said, "utf8").catch(() => "nothing")).to.equal("nothing");
    const accepted = await alpha.cli("confirm", "app", "--accept-unreachable");
    expect(accepted, accepted.stderr).to.include({ code: 0 });
    expect(await heard()).to.deep.equal(["start alpha 1 confirm", yes(1)]);

    await alpha.kill9();
    reboot(alpha);
    await alpha.start();
    await alpha.until(({ role }) => role === "primary", deadlineMs);
    await bravo.start();
    expect(await heard(), "bravo has answered").to.deep.equal(["start alpha 1 start", yes(1)]);
    const names = (await alpha.events()).map(({ event }) => event);
    expect(names.slice(-4)).to.deep.equal([
      "primary.confirmed",
      "service.entered",
      "primary.confirmed",
      "service.entered",
    ]);
    expect(names).to.include("refusal.overridden");
  });

  it("never starts it on a node that comes back when another one was promoted", async () => {
    await bravo.until(({ peers }) => peers.alpha?.state === "streaming", deadlineMs);
    await alpha.kill9();
    reboot(alpha);
    await promote(bravo, "app", deadlineMs);
    expect(await heard()).to.deep.equal(["start bravo 2 promote", yes(2)]);
    await alpha.start();
    await alpha.until(({ role }) => role === "fenced", deadlineMs);
    expect(await heard()).to.deep.equal(["stop alpha 1 fenced by epoch 2"]);
    expect((await alpha.cli("is-primary", "app")).code).to.equal(1);
    expect((await alpha.cli("confirm", "app", "--accept-unreachable")).code).to.equal(3);
    expect(await role(alpha, "primary")).to.include({ status: 503, why: "this node is fenced" });
    expect(await role(bravo, "primary")).to.include({ status: 200, epoch: "2" });
    await until(async () => (await target(alpha)) === "left", deadlineMs, "alpha's target is left");
    expect(await target(bravo)).to.equal("reached");
    await bravo.restart();
    expect(await heard()).to.deep.equal(["start bravo 2 start", yes(2)]);
  });
});
