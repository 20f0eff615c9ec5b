import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { WorkerThread } from "../../../deploy/agent/worker-thread.ts";
import type { ReplicaMainCalls, ReplicaWorkerCalls } from "../../../deploy/workers/replica-calls.ts";
import { placementOf } from "../../../deploy/workers/store-adapters.ts";
import type { StoreName } from "../../../shared/words.ts";
import { until } from "../../until.ts";

describe("the thread of a replica", () => {
  it("refuses the primary of another epoch, and takes on what whom it follows sends", async () => {
    const directory = await mkdtemp(join(tmpdir(), "us-replica-worker-"));
    const rejected: string[] = [];
    const failed: unknown[] = [];
    const worker = new WorkerThread<ReplicaMainCalls, ReplicaWorkerCalls>(
      "replica-worker",
      {
        taken() {},
        acknowledged() {},
        applied() {},
        foreign() {},
        rejected: ({ error }) => rejected.push(error.message),
        waiting() {},
        aheadRefused() {},
        failed: ({ error }) => failed.push(error),
      },
      (error) => failed.push(error),
    );
    try {
      await worker.call("open", {
        groupName: "app",
        catalogPath: join(directory, "catalog.db"),
        placements: [placementOf({ name: "db" as StoreName, kind: "sqlite", path: join(directory, "data", "app.db") })],
        stagingBytesMax: 2 ** 30,
        keepHistory: false,
        retention: { keep: { allMs: 0, perMinuteMs: 0, perHourMs: 0, perDayMs: 0 }, bytesMax: 2 ** 30 },
        exclude: new Map(),
        sweepEveryMs: 60_000,
        bootId: "boot",
      });
      await worker.call("join", { groupId: "0".repeat(32), epoch: 3n, epochs: [{ epoch: 3n, firstSeq: 1n }] });
      const session = { incarnation: "0".repeat(32), primary: "bravo", epoch: 3n };
      await worker.call("startSession", { ...session, generation: 1 });
      const other = { ...session, primary: "charlie", epoch: 2n, generation: 2 };
      const refusal = await worker.call("startSession", other).catch((error: unknown) => error);
      expect(refusal).to.include({ code: "SENDER_REFUSED" });
      // It is still looked at: what cannot be read is refused.
      worker.note("frame", { generation: 1, header: new Uint8Array([255]), payload: new Uint8Array() });
      await until(() => rejected.length > 0, "the frame is met by the session's receiver");
      expect(failed).to.deep.equal([]);
    } finally {
      await worker.close();
      await rm(directory, { recursive: true });
    }
  });
});
