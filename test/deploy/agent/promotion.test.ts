import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import type { GroupHistory } from "../../../deploy/agent/group-history.ts";
import type { GroupPeers } from "../../../deploy/agent/group-peers.ts";
import { GroupPromotion } from "../../../deploy/agent/group-promotion.ts";
import type { GroupService } from "../../../deploy/agent/group-service.ts";
import type { GroupWorkers } from "../../../deploy/agent/group-workers.ts";
import type { ReplicaStanding } from "../../../deploy/workers/replica-calls.ts";
import { runHook } from "../../../shared/hooks.ts";
import { silentLog } from "../../../shared/log.ts";
import { epoch, type GroupName, type NodeName, seq } from "../../../shared/words.ts";
import { standIn } from "./stand-in.ts";

const committed = { epoch: epoch(1), seq: seq(3) };
const history = standIn<GroupHistory>("history", {});
const service = standIn<GroupService>("service", {});

/** A former primary of two nodes, whose successor is not there. */
class FencedNode implements AsyncDisposable {
  readonly directory: string;
  readonly promotion: GroupPromotion;
  reigns = 0;

  private constructor(directory: string, hook: string | undefined) {
    this.directory = directory;
    const node = this;
    const standing = standIn<ReplicaStanding>("standing", {
      role: "fenced",
      committed,
      record: undefined,
      paused: undefined,
      suspect: "",
      halted: "",
      rejoining: false,
    });
    let changing: Promise<unknown> = Promise.resolve();
    const run = hook === undefined ? undefined : ["/bin/sh", "-c", `touch ${directory}/runs; ${hook}`];
    const workers = standIn<GroupWorkers>("workers", {
      get role() {
        return node.reigns === 0 ? "fenced" : "primary";
      },
      replica: { call: async () => standing as never },
      replicaStanding: standing,
      copyProblem: "",
      config: {
        ha: { engine: "none" },
        require: new Map(),
        hooks: { beforePromote: run === undefined ? undefined : { run, timeoutMs: 600_000 } },
      },
      turn: { member: 0, members: 2 },
      options: { hooks: { run: runHook } },
      log: silentLog,
      exclusively: async (change) => {
        const turn = changing.then(change);
        changing = turn.catch(() => undefined);
        return await turn;
      },
      environment: () => ({}),
      refresh: async () => {},
      overridden: async () => {},
      event: async () => {},
      becomePrimary: async () => {
        node.reigns++;
      },
    });
    const peers = standIn<GroupPeers>("peers", {
      others: () => [{ node: "bravo" as NodeName, says: undefined }],
      namingOthers: () => [],
      loss: () => ({ empty: false, alive: false, text: "", seconds: 1, cuts: undefined, bytes: undefined }),
      aspiring: async (promotion) => await promotion(),
      answers: { highest: 2n },
      closeSessions: () => {},
    });
    this.promotion = new GroupPromotion(workers, peers, history, service);
  }

  static async start(beforePromote?: string): Promise<FencedNode> {
    return new FencedNode(await mkdtemp(join(tmpdir(), "us-promotion-")), beforePromote);
  }

  /** Resolves to why it was not promoted. */
  async promote(): Promise<string> {
    const accept = ["fenced", "unreachable-primary"];
    return await this.promotion.promote({ accept }).then(
      () => "promoted",
      (error: { code?: string; message: string }) => error.code ?? error.message,
    );
  }

  async hookRuns(): Promise<void> {
    for (const end = performance.now() + 60_000; performance.now() < end; await sleep(10)) {
      const found = await readFile(join(this.directory, "runs")).catch(() => undefined);
      if (found !== undefined) return;
    }
    throw new Error("the hook did not run");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.directory, { recursive: true, force: true });
  }
}

describe("the promotion of a former primary", () => {
  it("can be aborted while its hook runs: it is fenced as before", async () => {
    await using node = await FencedNode.start("sleep 600");
    const promoted = node.promote();
    await Promise.race([node.hookRuns(), promoted.then((outcome) => expect.fail(`before that: ${outcome}`))]);
    await node.promotion.abort();
    expect(await promoted).to.equal("PROMOTION_ABORTED");
    expect(node.reigns).to.equal(0);
  });

  it("can be aborted while its service is still being stopped", async () => {
    await using node = await FencedNode.start();
    const stopping = Promise.withResolvers<void>();
    const waits = Promise.withResolvers<void>();
    node.promotion.serviceQuiesced = async () => {
      waits.resolve();
      await stopping.promise;
    };
    const promoted = node.promote();
    await Promise.race([waits.promise, promoted.then((outcome) => expect.fail(`before that: ${outcome}`))]);
    const aborted = node.promotion.abort();
    stopping.resolve();
    await aborted;
    expect(await promoted).to.equal("PROMOTION_ABORTED");
    expect(node.reigns).to.equal(0);
  });

  it("is not there to be aborted where nobody promotes", async () => {
    await using node = await FencedNode.start();
    const failure = await node.promotion.abort().then(
      () => undefined,
      (error: Error) => error,
    );
    expect(failure).to.include({ code: "WRONG_ROLE" });
  });
});

describe("a promotion that its agent has not lived to end", () => {
  it("is given up at the next start, and that is an event: another node may be primary by now", async () => {
    const calls: string[] = [];
    const events: string[] = [];
    const standing = standIn<ReplicaStanding>("standing", { role: "replica", committed });
    const workers = standIn<GroupWorkers>("workers", {
      role: "promoting",
      replica: {
        call: async (name) => {
          calls.push(name);
          return standing as never;
        },
      },
      config: { name: "app" as GroupName, ha: { engine: "none" } },
      log: silentLog,
      exclusively: async (change) => await change(),
      event: async (name, { cut }) => {
        events.push(`${name} ${cut}`);
      },
      openCopy: async () => {
        calls.push("openCopy");
      },
    });
    const peers = standIn<GroupPeers>("peers", { answers: { highest: 0n }, closeSessions: () => {} });
    const promotion = new GroupPromotion(workers, peers, history, service);
    await promotion.giveUp();
    expect(calls).to.deep.equal(["unseal", "openCopy"]);
    expect(events).to.deep.equal(["promotion.given_up 1.3"]);
    expect(workers.replicaStanding).to.equal(standing);
  });
});
