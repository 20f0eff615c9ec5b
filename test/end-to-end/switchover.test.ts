import { chmod, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { type Cluster, type ClusterNode, type ClusterPaths, startCluster } from "./harness.ts";

const deadlineMs = 30_000;

/** Hooks that say in `control/said` what they do, and fail or hang where `control/NODE-HOOK` says so. */
async function hookFile(control: string): Promise<string> {
  const path = join(control, "hook");
  await writeFile(
    path,
    `#!/bin/sh
set -eu
cd ${control}
echo "$UNDERSTUDY_NODE $1 $UNDERSTUDY_ROLE $UNDERSTUDY_EPOCH $UNDERSTUDY_REASON" >> said
mode=$(cat "$UNDERSTUDY_NODE-$1" 2>/dev/null || true)
case "$mode" in
  fail) echo 'not now' >&2; exit 3 ;;
  hang) exec sleep 600 ;;
esac
`,
  );
  await chmod(path, 0o755);
  return JSON.stringify(path);
}

describe("a switchover", function () {
  this.timeout(90_000);
  let cluster: Cluster;
  let control: string;
  let alpha: ClusterNode;
  let bravo: ClusterNode;

  async function groupYaml({ directory, data }: ClusterPaths): Promise<string> {
    control = join(directory, "control");
    for (const folder of [control, join(data("alpha"), "files")]) await mkdir(folder, { recursive: true });
    await writeFile(join(data("alpha"), "files", "text"), "first");
    const hook = await hookFile(control);
    const at = (node: string): string => JSON.stringify(join(data(node), "files"));
    return `  app:
    primary: alpha
    replicas: [bravo]
    stores:
      files: { kind: files, path: ${at("alpha")}, at: { bravo: ${at("bravo")} } }
    hooks:
      stop_service: { run: [${hook}, stop], timeout: 1s }
      start_service: { run: [${hook}, start], timeout: 1s }
      before_promote: { run: [${hook}, before], timeout: 1s }
    limits: { switchover_step: 3s }`;
  }

  before(async () => {
    cluster = await startCluster({ groupYaml });
    [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
    await bravo.until(({ cut }) => cut !== null, deadlineMs);
  });
  after(async () => await cluster?.[Symbol.asyncDispose]());

  async function said(): Promise<string[]> {
    const text = await readFile(join(control, "said"), "utf8").catch(() => "");
    await rm(join(control, "said"), { force: true });
    return text.split("\n").filter((line) => line !== "");
  }

  async function textOf(node: ClusterNode): Promise<string> {
    return await readFile(join(node.dataDirectory, "files", "text"), "utf8");
  }

  it("goes there and back, telling each step, and nothing is copied", async () => {
    await said();
    const plan = await alpha.cli("switchover", "app", "--to", "bravo", "--dry-run");
    expect(plan, plan.stderr).to.include({ code: 0 });
    expect(plan.stdout)
      .to.match(/stop the service on alpha: not known yet/)
      .and.match(/Nothing stands in the way/);
    expect(await said(), "nothing was done").to.deep.equal([]);
    for (const [from, to, epoch] of [
      [alpha, bravo, 1],
      [bravo, alpha, 2],
    ] as const) {
      await writeFile(join(from.dataDirectory, "files", "text"), `written on ${from.name}`);
      const moved = await from.cli("switchover", "app", "--to", to.name);
      expect(moved, moved.stdout + moved.stderr).to.include({ code: 0 });
      expect(moved.stdout).to.match(
        /nothing stands in the way.*the service is stopped.*last cut.*applied.*sealed.*both digests are equal.*nothing is copied.*the service runs on/s,
      );
      expect(await said()).to.deep.equal([
        `${from.name} stop primary ${epoch} switchover`,
        `${to.name} before replica ${epoch} switchover`,
        `${to.name} start primary ${epoch + 1} switchover`,
      ]);
      expect(await textOf(to)).to.equal(`written on ${from.name}`);
      expect((await to.cli("is-primary", "app")).code).to.equal(0);
      expect((await from.cli("is-primary", "app")).code).to.equal(1);
      await from.until(({ role, peers }) => role === "replica" && peers[to.name]?.state === "streaming", deadlineMs);
      const events = (await readFile(join(from.stateDirectory, "events.jsonl"), "utf8")).trim().split("\n");
      const handed = events.map((line) => JSON.parse(line)).findLast(({ event }) => event === "switchover.handed_over");
      expect(handed.digest)
        .to.equal(handed.digestThere)
        .and.match(/^[0-9a-f]{64}$/);
    }
    const again = await alpha.cli("switchover", "app", "--to", "bravo", "--dry-run");
    expect(again.stdout, "it knows by now").to.match(/stop the service on alpha: about \d+/);
  });
});
