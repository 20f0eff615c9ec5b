import { appendFile, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { EventLog } from "../../../deploy/agent/event-log.ts";
import { eventLogPath } from "../../../deploy/control/state-layout.ts";

describe("the log of events", () => {
  it("keeps every line over restarts, in order, also after one that was torn by a crash", async () => {
    const state = await mkdtemp(join(tmpdir(), "us-events-"));
    try {
      {
        await using events = await EventLog.open(state, "alpha");
        await Promise.all(
          [1, 2, 3].map(async (epoch) => await events.append("replica.promoted", { group: "app", epoch })),
        );
      }
      await appendFile(eventLogPath(state), '{"at":"20');
      {
        await using events = await EventLog.open(state, "alpha");
        await events.append("primary.fenced", { group: "app", by: 4n });
      }
      const lines = (await readFile(eventLogPath(state), "utf8")).split("\n");
      expect(lines.slice(0, 3).map((line) => (JSON.parse(line) as { epoch: number }).epoch)).to.deep.equal([1, 2, 3]);
      expect(JSON.parse(lines[4] ?? "")).to.include({ node: "alpha", event: "primary.fenced", group: "app", by: 4 });
      expect(lines.slice(5)).to.deep.equal([""]);
    } finally {
      await rm(state, { recursive: true });
    }
  });
});
