import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
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

/** A node whose other member is never there. */
class LoneNode implements AsyncDisposable {
  readonly directory: string;
  readonly #closing = new AsyncDisposableStack();
  #options: Omit<ConstructorParameters<typeof GroupAgent>[0], "forks"> | undefined;
  agent: GroupAgent | undefined;

  private constructor(directory: string) {
    this.directory = directory;
    this.#closing.defer(async () => await rm(directory, { recursive: true, force: true }));
  }

  static async formed(): Promise<LoneNode> {
    const node = new LoneNode(await mkdtemp(join(tmpdir(), "us-lone-")));
    await node.#configure();
    const agent = await node.start();
    await agent.roles.form(true);
    return node;
  }

  async #configure(): Promise<void> {
    const [state, tree] = [join(this.directory, "state"), join(this.directory, "tree")];
    await mkdir(tree, { recursive: true });
    const keyOf = async (at: string): Promise<string> => (await ensureIdentity(identityDirectory(at))).publicKey;
    const configPath = join(this.directory, "cluster.yaml");
    await writeFile(
      configPath,
      `nodes:
  alpha: { address: "127.0.0.1:1", key: "${await keyOf(state)}" }
  bravo: { address: "127.0.0.1:2", key: "${await keyOf(join(this.directory, "bravo"))}" }
groups:
  app: { primary: alpha, replicas: [bravo], stores: { tree: { kind: files, path: ${JSON.stringify(tree)} } } }
`,
    );
    const config = await loadConfig(configPath);
    const metrics = createMetrics();
    this.#closing.defer(() => metrics[Symbol.dispose]());
    this.#options = {
      config,
      group: config.groups.get("app" as GroupName)!,
      node: "alpha" as NodeName,
      stateDirectory: state,
      software: "test",
      log: silentLog,
      events: this.#closing.use(await EventLog.open(state, "alpha")),
      bootId: "boot",
      hooks: await HookLedger.open(join(state, "hooks"), silentLog),
      metrics,
      onFatal: (error) => {
        throw error;
      },
    };
  }

  /** Anew, where it ran before. */
  async start(): Promise<GroupAgent> {
    await this.agent?.stop();
    const options = this.#options!;
    const forks = new Forks(options.stateDirectory, silentLog, options.events);
    this.agent = new GroupAgent({ ...options, forks });
    await this.agent.start();
    this.agent.service.serve();
    return this.agent;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.agent?.stop();
    await this.#closing.disposeAsync();
  }
}

describe("a handover to a node that is gone for ever", () => {
  it("is given up also where the configuration names that node no more", async () => {
    await using node = await LoneNode.formed();
    const { reign } = node.agent!;
    const { cut, standing } = await reign!.requestCut();
    const digest = new Uint8Array(standing.digest);
    await reign!.keepSwitchover({ id: "0123456789abcdef", to: "charlie", reason: "", step: "handing", cut, digest });
    const agent = await node.start();
    expect(agent.service.state).to.include({ kind: "out", code: "SWITCHOVER" });
    const { ended } = await agent.switchover.abort({ acceptUnreachable: true, by: "somebody" });
    expect(ended?.outcome).to.equal("rolled-back");
    expect(agent.service.state.kind).to.equal("in-service");
    expect((agent.standing?.epoch ?? 0n) > 64n, "above whatever that node may have begun").to.equal(true);
  });
});

describe("a node whose state was lost or restored", () => {
  it("begins no reign with a number that it has used, as what it told scripts says, and over restarts", async () => {
    await using node = await LoneNode.formed();
    const told = join(node.directory, ".understudy", "app", ".primary");
    await mkdir(dirname(told), { recursive: true });
    await node.agent?.stop();
    await writeFile(told, "alpha 7\n");
    await node.start();
    await node.agent?.stop();
    await writeFile(told, "alpha 1\n");
    const agent = await node.start();
    await agent.reign!.standStill("a replica is newer");
    await agent.roles.acceptSource();
    expect(agent.standing?.epoch).to.equal(9n);
  });

  it("believes no number that cannot be", async () => {
    await using node = await LoneNode.formed();
    const told = join(node.directory, ".understudy", "app", ".primary");
    await mkdir(dirname(told), { recursive: true });
    await node.agent?.stop();
    await writeFile(told, "alpha 400000\n");
    const agent = await node.start();
    await agent.reign!.standStill("a replica is newer");
    await agent.roles.acceptSource();
    expect(agent.standing?.epoch).to.equal(3n);
  });
});
