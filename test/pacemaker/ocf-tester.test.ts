import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect } from "chai";
import { keyOf, launcherFile } from "../../deploy/demo/local-agent.ts";
import { until } from "../end-to-end/harness.ts";
import { agentFile, Rig } from "./rig.ts";

const agent = "/usr/lib/ocf/resource.d/understudy/understudy";

describe("the resource agent, without a cluster", function () {
  this.timeout(300_000);

  it("is a script that any POSIX shell runs, without a fault that shellcheck knows", async () => {
    const scripts = [
      fileURLToPath(new URL("../../deploy/ocf/examples/pcs.sh", import.meta.url)),
      agentFile,
      ...["node-init.sh", "start-cluster.sh", "fence_switch", "fence_ipmilan", "hook.sh"].map((name) =>
        fileURLToPath(new URL(name, import.meta.url)),
      ),
    ];
    for (const script of scripts) {
      const checked = await promisify(execFile)("shellcheck", ["--shell", "sh", script]);
      expect(checked.stdout).to.equal("");
    }
  });

  it("does what ocf-tester wants of a promotable one, and leaves the group as it was", async () => {
    await using rig = await Rig.up({ nodes: ["n1"], cluster: false });
    const node = rig.node("n1");
    const [state, data] = [join(node.home, "state"), join(node.home, "data")];
    await mkdir(data);
    using database = new DatabaseSync(join(data, "app.db"));
    database.exec("PRAGMA journal_mode = WAL; CREATE TABLE entries (id INTEGER PRIMARY KEY)");
    const [config, hooks] = [join(rig.directory, "cluster.yaml"), join(rig.directory, "hooks.log")];
    const hook = (what: string): string => `["sh", "-c", "echo ${what} $UNDERSTUDY_EPOCH >>${hooks}"]`;
    await writeFile(
      config,
      `nodes:
  n1: { key: "${await keyOf(state)}", address: "${node.address}:7522" }
  n2: { key: "${await keyOf(join(rig.directory, "other"))}" }
groups:
  app:
    primary: n1
    replicas: [n2]
    stores:
      db: { kind: sqlite, path: ${join(data, "app.db")} }
    hooks: { stop_service: ${hook("stop")}, start_service: ${hook("start")} }
    ha: { engine: pacemaker }
`,
    );
    const log = join(rig.directory, "agent.log");
    const parameters = { group: "app", binary: launcherFile, state, config, log, run_agent: "true" };
    const told = join(rig.directory, "told");
    const environment = ["env", "OCF_ROOT=/usr/lib/ocf", "OCF_RESOURCE_INSTANCE=app", `HA_LOGFILE=${told}`];
    const given = Object.entries(parameters).map(([name, value]) => `OCF_RESKEY_${name}=${value}`);
    const act = async (action: string, ...more: string[]) =>
      await node.run([...environment, ...given, ...more, agent, action], 120_000);
    const ask = async (...words: string[]) => await node.run([launcherFile, ...words, "--state", state]);

    expect((await act("start")).code).to.equal(0);
    const formed = await ask("form", "app", "--alone");
    expect(formed, formed.stderr).to.include({ code: 0 });
    expect((await act("stop")).code).to.equal(0);
    await until(async () => (await ask("status")).code === 4, 60_000, "the agent is gone");

    const options = Object.entries(parameters).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
    const tester = ["ocf-tester", "-v", "-n", "app", ...options, agent];
    const tested = await node.run(["env", "OCF_ROOT=/usr/lib/ocf", ...tester], 240_000);
    const said = `${tested.stdout}\n${tested.stderr}\n${await readFile(log, "utf8")}`;
    expect(tested.code, said).to.equal(0);
    expect(tested.stdout, said).to.include("passed all tests");
    // Everything that it complains of begins with a star; this one it calls optional itself.
    expect(tested.stdout, said).not.to.match(/^\* (?!Your agent does not support the reload action)/m);
    // It is promoted more than once, each time in an epoch of its own, and its service ends before the next begins. A primary whose
    // service nobody has seen is told to stop it, too.
    const calls = (await readFile(hooks, "utf8")).trim().split("\n");
    const begun = calls.filter((line) => line.startsWith("start"));
    expect(begun.length).to.be.above(1).and.to.equal(new Set(begun).size);
    for (const line of begun) expect(calls[calls.indexOf(line) + 1], said).to.equal(line.replace("start", "stop"));

    expect((await act("monitor")).code, "not running").to.equal(7);
    expect((await act("frobnicate")).code, "unimplemented").to.equal(3);
    await act("start");
    expect((await act("monitor")).code).to.equal(0);
    const paused = await ask("pause", "app", "--failover");
    expect(paused, paused.stderr).to.include({ code: 0 });
    const monitored = async () => (await act("monitor", "OCF_RESKEY_CRM_meta_interval=10000")).code;
    for (const _ of [1, 2]) expect(await monitored()).to.equal(0);
    await ask("resume", "app");
    expect(await monitored()).to.equal(0);
    expect((await readFile(told, "utf8")).match(/app: (n1 is not to be|nothing keeps n1).*/g), "once").to.deep.equal([
      "app: n1 is not to be promoted: this node is unformed",
      "app: n1 is not to be promoted: failovers are paused",
      "app: nothing keeps n1 from being promoted any more",
    ]);
    expect((await act("promote")).code).to.equal(0);
    expect((await act("monitor")).code, "promoted").to.equal(8);
    expect((await act("stop")).code).to.equal(0);
    expect((await act("monitor")).code).to.equal(7);
  });
});
