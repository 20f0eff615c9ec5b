import { mock } from "node:test";
import { expect } from "chai";
import type { SuccessorFacts } from "../../../deploy/agent/follower.ts";
import type { Following } from "../../../deploy/agent/following.ts";
import type { GroupPromotion } from "../../../deploy/agent/group-promotion.ts";
import type { GroupWorkers, ReplicaWorker } from "../../../deploy/agent/group-workers.ts";
import { HandedService } from "../../../deploy/agent/handed-service.ts";
import { SwitchoverRun } from "../../../deploy/agent/switchover-run.ts";
import { SwitchoverStory } from "../../../deploy/agent/switchover-story.ts";
import { SwitchoverTarget } from "../../../deploy/agent/switchover-target.ts";
import type { SwitchoverTimes } from "../../../deploy/agent/switchover-times.ts";
import { silentLog } from "../../../shared/log.ts";
import { epoch, type NodeName, seq } from "../../../shared/words.ts";
import { type Part, standIn } from "./stand-in.ts";

/** alpha's side, whose last switchover to bravo was handed over. */
function handedOver(more: Part<GroupWorkers> = {}): {
  workers: GroupWorkers;
  story: SwitchoverStory;
  handed: HandedService;
  events: string[];
} {
  const events: string[] = [];
  const workers = standIn<GroupWorkers>("workers", {
    config: { limits: { switchoverStepMs: 1000 }, hooks: { stopService: { run: ["true"], timeoutMs: 1000 } } },
    options: { node: "alpha" as NodeName, onFatal: (error: unknown) => events.push(String(error)) },
    log: silentLog,
    event: async (name: string) => {
      events.push(name);
    },
    ...more,
  });
  const story = new SwitchoverStory(workers);
  story.run = new SwitchoverRun("1".repeat(16), "alpha", "bravo");
  const handed = new HandedService(workers, story, () => {
    throw new Error("nothing is handed back here");
  });
  handed.awaitFrom("bravo");
  return { workers, story, handed, events };
}

describe("a service that was handed over", () => {
  beforeEach(() => mock.timers.enable({ apis: ["setTimeout"] }));
  afterEach(() => mock.timers.reset());

  it("and is not heard of in time is told to be unknown", () => {
    const { story } = handedOver();
    mock.timers.tick(1001);
    expect(story.run?.progress(0).outcome).to.equal("service-unknown");
  });

  it("and came back by another way is nothing that ends the next switchover", () => {
    const { story, handed } = handedOver();
    handed.primaryAgain();
    expect(story.run?.progress(0).outcome).to.equal("service-unknown");
    story.run = new SwitchoverRun("2".repeat(16), "alpha", "bravo");
    handed.forget();
    mock.timers.tick(1001);
    expect(story.run.progress(0).outcome).to.equal(null);
  });

  it("and starts on neither node stays where it came back to", async () => {
    const cut = { epoch: epoch(2), seq: seq(5) };
    const standing = { role: "replica", epoch: epoch(2), committed: cut, digest: new Uint8Array(32) } as const;
    const following = standIn<Following>("following", {
      over: false,
      session: { peer: "bravo" as NodeName, send: async () => {} },
    });
    const { workers, story, handed, events } = handedOver({
      ...{ role: "primary", stopped: false, following, replicaStanding: standing, copyProblem: "" },
      turn: { member: 0, members: 2 },
      exclusively: async (change) => await change(),
      replica: standIn<ReplicaWorker>("replica", {
        call: (async (name: string) =>
          name === "standing"
            ? standing
            : { accepted: true, reason: "", standing }) as unknown as ReplicaWorker["call"],
      }),
      primary: {
        reign: { follower: () => standIn<SuccessorFacts>("bravo", { state: "streaming" }), tell: async () => true },
      },
    });
    const promotion = standIn<GroupPromotion>("promotion", {
      reignBegun: async () => {
        expect(handed.cameBack("no room here")).to.equal(true);
        return { failure: "no room here", servedAt: 0 };
      },
    });
    const target = new SwitchoverTarget(workers, promotion, standIn<SwitchoverTimes>("times", {}), handed);
    handed.heard("bravo", { kind: "serviceStarted", id: "1".repeat(16), ms: 5, reason: "no room" });
    await target.heard(following, { kind: "handover", id: "2".repeat(16), cut, digest: new Uint8Array(32) });
    expect(story.run?.progress(0)).to.include({ outcome: "rolled-back", hint: "no room here" });
    expect(events).to.deep.equal(["switchover.start_failed", "switchover.came_back"]);
  });
});
