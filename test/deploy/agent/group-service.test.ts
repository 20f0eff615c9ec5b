import { expect } from "chai";
import type { GroupPeers } from "../../../deploy/agent/group-peers.ts";
import { GroupService } from "../../../deploy/agent/group-service.ts";
import type { GroupWorkers } from "../../../deploy/agent/group-workers.ts";
import { silentLog } from "../../../shared/log.ts";
import { confirmation } from "../../../shared/session/in-service.ts";
import { until } from "../../end-to-end/harness.ts";

/** A confirmed primary whose agent was just started in the middle of a switchover that goes back. */
function startedAnew(events: string[]): { service: GroupService; heard: { note: object | undefined } } {
  const heard: { note: object | undefined } = { note: undefined };
  const workers = {
    config: { name: "app", ha: { engine: "none" }, hooks: {} },
    options: { config: { nodes: new Map([["alpha", {}]]) }, node: "alpha", bootId: "boot", onFatal: () => {} },
    role: "primary",
    standing: {
      ...{ epoch: 1n, halted: "", confirmed: confirmation("boot", 1n) },
      switchover: { id: "1", to: "bravo", reason: "restarted", step: "rolling-back" },
    },
    primary: { reign: { moving: async () => {} } },
    stopped: false,
    log: silentLog,
    environment: () => ({}),
    exclusively: async (change: () => Promise<unknown>) => await change(),
    event: async (name: string) => events.push(name),
  } as unknown as GroupWorkers;
  const peers = {
    members: () => ["alpha", "bravo"],
    note: () => heard.note,
    answers: { highestEpoch: () => undefined },
  } as unknown as GroupPeers;
  return { service: new GroupService(workers, peers), heard };
}

describe("a switchover that goes back after a start of the agent", () => {
  it("starts the service no sooner than the others could object, or were not to be reached", async () => {
    const events: string[] = [];
    const { service, heard } = startedAnew(events);
    try {
      await service.update("rollback");
      service.serve();
      await service.update("rollback");
      expect(events).to.deep.equal([]);
      heard.note = {};
      await until(() => events.length > 0, 20_000, "it is started");
      expect(events).to.deep.equal(["service.entered"]);
    } finally {
      service.stop();
    }
  });
});
