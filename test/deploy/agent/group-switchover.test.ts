import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { SuccessorFacts } from "../../../deploy/agent/follower.ts";
import type { Following } from "../../../deploy/agent/following.ts";
import type { GroupPeers } from "../../../deploy/agent/group-peers.ts";
import type { GroupPromotion } from "../../../deploy/agent/group-promotion.ts";
import type { GroupService } from "../../../deploy/agent/group-service.ts";
import { GroupSwitchover } from "../../../deploy/agent/group-switchover.ts";
import type { GroupWorkers } from "../../../deploy/agent/group-workers.ts";
import type { Reign } from "../../../deploy/agent/reign.ts";
import { silentLog } from "../../../shared/log.ts";
import type { SwitchoverRecord } from "../../../shared/session/switchover.ts";
import type { SwitchoverMessage } from "../../../shared/wire/messages.ts";
import { epoch, type GroupName, type NodeName, seq } from "../../../shared/words.ts";
import { until } from "../../end-to-end/harness.ts";
import { standIn } from "./stand-in.ts";

/** A primary that was started anew while it was handing over to bravo, which is not there. */
class InDoubt implements AsyncDisposable {
  readonly switchover: GroupSwitchover;
  readonly told: string[] = [];
  readonly events: string[] = [];
  abandoned = 0;
  /** What the target answers to the handover. */
  readonly handed: (from: string, accepted: boolean) => void;
  /** bravo follows; or what it says of itself where it does not. */
  follows = false;
  says: string | undefined;
  #changing: Promise<unknown> = Promise.resolve();
  readonly #directory: string;

  private constructor(directory: string, stepMs: number) {
    this.#directory = directory;
    const cut = { epoch: epoch(1), seq: seq(5) };
    const record: SwitchoverRecord = {
      ...{ id: "0123456789abcdef", to: "bravo", reason: "", step: "handing" },
      ...{ cut, digest: new Uint8Array(32) },
    };
    const reign = standIn<Reign>("reign", {
      standing: { epoch: epoch(1), switchover: record },
      keepSwitchover: async () => {},
      holdSwitchover: () => {},
      abandonSwitchover: async () => {
        this.abandoned++;
      },
      follower: () => (this.follows ? standIn<SuccessorFacts>("follower", {}) : undefined),
      tell: async (peer: string, { kind }: SwitchoverMessage) => {
        this.told.push(kind);
        if (this.follows) this.handed(peer, false);
        return this.follows;
      },
    });
    const workers = standIn<GroupWorkers>("workers", {
      directory,
      role: "primary",
      stopped: false,
      primary: { reign },
      config: { name: "app" as GroupName, limits: { switchoverStepMs: stepMs }, hooks: {} },
      options: { node: "alpha" as NodeName, onFatal: (error: unknown) => this.events.push(String(error)) },
      log: silentLog,
      turn: { member: 0, members: 2 },
      turnOf: () => ({ member: 1, members: 2 }),
      exclusively: async (change) => await this.exclusively(change),
      event: async (name: string) => {
        this.events.push(name);
      },
      overridden: async () => {
        this.events.push("refusal.overridden");
      },
      onReign: (_: Reign) => {},
    });
    const peers = standIn<GroupPeers>("peers", {
      others: () => [{ node: "bravo" as NodeName, says: this.says }],
      closeSessions: () => {},
    });
    const service: GroupService = standIn<GroupService>("service", {
      onEntered: () => {},
      update: async () => service.onEntered({ ms: 0, failure: "there is none", at: 0 }),
    });
    this.switchover = new GroupSwitchover(workers, peers, standIn<GroupPromotion>("promotion", {}), service);
    workers.onReign(reign);
    this.handed = (from, accepted) => {
      const answer = { ...{ accepted, reason: "", epoch: 2n }, digest: new Uint8Array(32) };
      reign.onSwitchover(from, { kind: "handoverAnswer", id: record.id, ...answer });
    };
  }

  static async start(stepMs = 60_000): Promise<InDoubt> {
    const node = new InDoubt(await mkdtemp(join(tmpdir(), "us-in-doubt-")), stepMs);
    await node.switchover.load();
    await node.switchover.restarted();
    return node;
  }

  async exclusively<T>(change: () => Promise<T>): Promise<T> {
    const turn = this.#changing.then(change);
    this.#changing = turn.catch(() => undefined);
    return await turn;
  }

  /** Asks for it while another change of role is under way, in which `meanwhile` happens. Gives why it is refused. */
  async giveUp(meanwhile: () => void): Promise<string> {
    const other = Promise.withResolvers<void>();
    const changed = this.exclusively(async () => await other.promise);
    const aborted = this.switchover.abort({ acceptUnreachable: true, by: "operator" });
    // The plan that there is none of is read first.
    await new Promise((resolve) => setImmediate(resolve));
    meanwhile();
    other.resolve();
    await changed;
    return await aborted.then(
      () => "",
      (error: { code?: string }) => error.code ?? String(error),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.switchover.stop();
    await rm(this.#directory, { recursive: true, force: true });
  }
}

describe("a target that has taken over", () => {
  it("and is not met again: whoever follows the switchover is told, and what stood in the way", async () => {
    await using node = await InDoubt.start(20);
    node.handed("bravo", true);
    node.switchover.notDemoted("bravo", new Error("ledger is in use"));
    node.switchover.notDemoted("bravo", new Error("ledger is in use"));
    const progress = await until(
      async () => {
        const now = await node.switchover.progress(0);
        return now.outcome === null ? undefined : now;
      },
      20_000,
      "it has an end",
    );
    expect(progress.outcome).to.equal("in-doubt");
    expect(progress.reason).to.match(/bravo has taken over, and alpha does not follow it yet: ledger is in use/);
    const steps = progress.steps.map(({ step }) => step);
    expect(steps).to.deep.equal(["restarted", "handed-over", "not-demoted", "not-followed"]);
    expect(node.events).to.include("switchover.not_demoted");
  });
});

describe("giving up a target that is not there", () => {
  it("goes on here in an epoch that fences it", async () => {
    await using node = await InDoubt.start();
    expect(await node.giveUp(() => undefined)).to.equal("");
    expect(node.abandoned).to.equal(1);
    expect(node.events).to.include("refusal.overridden");
  });

  it("asks it instead, where it follows again by then", async () => {
    await using node = await InDoubt.start();
    const refused = await node.giveUp(() => {
      node.follows = true;
    });
    expect(refused).to.equal("");
    expect(node.abandoned).to.equal(0);
    expect(node.told).to.deep.equal(["handoverRevoke"]);
    expect(node.events).not.to.include("refusal.overridden");
  });

  it("is refused where it is there by then and has taken over", async () => {
    await using node = await InDoubt.start();
    const refused = await node.giveUp(() => {
      node.says = "primary";
    });
    expect(refused).to.equal("TARGET_ANSWERS");
    expect(node.abandoned).to.equal(0);
  });
});

describe("a target whose service does not start", () => {
  it("hands back again where that is refused, and says so when it could not", async () => {
    const directory = await mkdtemp(join(tmpdir(), "us-hand-back-"));
    const events: [string, unknown][] = [];
    const cut = { epoch: epoch(1), seq: seq(5) };
    const standing = { role: "replica", epoch: epoch(1), committed: cut, digest: new Uint8Array(32) };
    const reign = {
      standing: { epoch: epoch(2) },
      halted: "",
      freezing: { thawOwed: false },
      follower: () => ({
        ...{ state: "streaming", features: ["switchover"], software: "1.0.0", suspect: "", damaged: 0 },
        ...{ durable: cut, lagSeconds: 0 },
      }),
      tell: async () => false,
    } as unknown as Reign;
    const workers = {
      ...{ directory, role: "replica", stopped: false, replicaStanding: standing, copyProblem: "" },
      replica: {
        call: async (name: string) =>
          name === "standing" ? standing : { accepted: true, reason: "", standing: { ...standing, epoch: epoch(2) } },
      },
      config: {
        ...{ name: "app", ha: { engine: "none" }, limits: { switchoverStepMs: 600 } },
        hooks: { stopService: { run: ["true"], timeoutMs: 1000 } },
      },
      options: { node: "bravo", software: "1.0.0", onFatal: (error: unknown) => events.push([String(error), ""]) },
      log: silentLog,
      turn: { member: 1, members: 2 },
      exclusively: async (change: () => Promise<unknown>) => await change(),
      prepareDemotion: async () => {},
      event: async (name: string, { why, reason }: { why?: string; reason?: string }) => {
        events.push([name, why ?? reason]);
      },
      onReign: (_: Reign) => {},
    };
    const agent = workers as unknown as GroupWorkers;
    const promotion = {
      reignBegun: async () => {
        Object.assign(workers, { role: "primary", primary: { reign } });
        return { failure: "it does not start", servedAt: performance.now() };
      },
    } as unknown as GroupPromotion;
    const peers = { members: () => ["alpha", "bravo"], namingOthers: () => [], note: () => undefined };
    const service = { onEntered: () => {}, state: { kind: "in-service" } } as unknown as GroupService;
    const switchover = new GroupSwitchover(agent, peers as unknown as GroupPeers, promotion, service);
    try {
      await switchover.load();
      const following = { over: false, session: { peer: "alpha", send: async () => {} } } as unknown as Following;
      Object.assign(workers, { following });
      const handover = { kind: "handover", id: "0".repeat(16), cut, digest: new Uint8Array(32) } as const;
      await switchover.asked(following, handover);
      const told = await until(() => events.find(([name]) => name === "switchover.not_returned"), 20_000, "it is told");
      expect(told[1]).to.match(/alpha does not answer/);
      const names = events.map(([name]) => name);
      expect(names.filter((name) => name === "switchover.returned")).to.have.length(1);
      expect(names.filter((name) => name === "switchover.refused").length).to.be.above(1);
    } finally {
      switchover.stop();
      await rm(directory, { recursive: true, force: true });
    }
  });
});
