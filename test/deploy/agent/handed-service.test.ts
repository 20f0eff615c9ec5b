import { mock } from "node:test";
import { expect } from "chai";
import type { GroupWorkers } from "../../../deploy/agent/group-workers.ts";
import { HandedService } from "../../../deploy/agent/handed-service.ts";
import { SwitchoverRun } from "../../../deploy/agent/switchover-run.ts";
import { SwitchoverStory } from "../../../deploy/agent/switchover-story.ts";
import { silentLog } from "../../../shared/log.ts";
import type { NodeName } from "../../../shared/words.ts";
import { standIn } from "./stand-in.ts";

/** alpha's side, whose last switchover to bravo was handed over. */
function handedOver(): { story: SwitchoverStory; handed: HandedService } {
  const workers = standIn<GroupWorkers>("workers", {
    config: { limits: { switchoverStepMs: 1000 }, hooks: {} },
    options: { node: "alpha" as NodeName },
    log: silentLog,
    event: async () => {},
  });
  const story = new SwitchoverStory(workers);
  story.run = new SwitchoverRun("1".repeat(16), "alpha", "bravo");
  const handed = new HandedService(workers, story, () => {
    throw new Error("nothing is handed back here");
  });
  handed.awaitFrom("bravo");
  return { story, handed };
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
});
