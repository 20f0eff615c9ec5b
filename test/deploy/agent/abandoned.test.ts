import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { EventLog } from "../../../deploy/agent/event-log.ts";
import { Forks } from "../../../deploy/agent/forks.ts";
import { GroupAgent } from "../../../deploy/agent/group.ts";
import { HookLedger } from "../../../deploy/agent/hook-ledger.ts";
import { identityDirectory } from "../../../deploy/control/state-layout.ts";
import { loadConfig } from "../../../shared/config/load.ts";
import { ensureIdentity } from "../../../shared/link/identity.ts";
import { silentLog } from "../../../shared/log.ts";
import { createMetrics } from "../../../shared/metrics.ts";
import type { GroupName, NodeName } from "../../../shared/words.ts";

describe("a handover to a node that is gone for ever", () => {
  it("is given up also where the configuration names that node no more", async () => {
    await using closing = new AsyncDisposableStack();
    const directory = await mkdtemp(join(tmpdir(), "us-abandoned-"));
    closing.defer(async () => await rm(directory, { recursive: true, force: true }));
    const state = join(directory, "state");
    const tree = join(directory, "tree");
    await mkdir(tree, { recursive: true });
    const keyOf = async (at: string): Promise<string> => (await ensureIdentity(identityDirectory(at))).publicKey;
    const configPath = join(directory, "cluster.yaml");
    await writeFile(
      configPath,
      `nodes:
  alpha: { address: "127.0.0.1:1", key: "${await keyOf(state)}" }
  bravo: { address: "127.0.0.1:2", key: "${await keyOf(join(directory, "bravo"))}" }
groups:
  app: { primary: alpha, replicas: [bravo], stores: { tree: { kind: files, path: ${JSON.stringify(tree)} } } }
`,
    );
    const config = await loadConfig(configPath);
    const events = closing.use(await EventLog.open(state, "alpha"));
    const metrics = createMetrics();
    closing.defer(() => metrics[Symbol.dispose]());
    const hooks = await HookLedger.open(join(state, "hooks"), silentLog);
    const start = async (): Promise<GroupAgent> => {
      const agent = new GroupAgent({
        config,
        group: config.groups.get("app" as GroupName)!,
        node: "alpha" as NodeName,
        stateDirectory: state,
        software: "test",
        log: silentLog,
        events,
        bootId: "boot",
        hooks,
        forks: new Forks(state, silentLog, events),
        metrics,
        onFatal: (error) => {
          throw error;
        },
      });
      await agent.start();
      agent.service.serve();
      return agent;
    };
    let agent = await start();
    await agent.roles.form(true);
    const { cut, standing } = await agent.reign!.requestCut();
    const digest = new Uint8Array(standing.digest);
    await agent.reign!.keepSwitchover({
      id: "0123456789abcdef",
      to: "charlie",
      reason: "",
      step: "handing",
      cut,
      digest,
    });
    await agent.stop();
    agent = await start();
    closing.defer(async () => await agent.stop());
    expect(agent.service.state).to.include({ kind: "out", code: "SWITCHOVER" });
    const { ended } = await agent.switchover.abort({ acceptUnreachable: true, by: "somebody" });
    expect(ended?.outcome).to.equal("rolled-back");
    expect(agent.service.state.kind).to.equal("in-service");
    expect((agent.standing?.epoch ?? 0n) > 64n, "above whatever that node may have begun").to.equal(true);
  });
});
