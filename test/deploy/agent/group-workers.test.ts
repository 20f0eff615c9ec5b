import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { type GroupOptions, GroupWorkers } from "../../../deploy/agent/group-workers.ts";
import { groupDirectory } from "../../../deploy/control/state-layout.ts";
import { silentLog } from "../../../shared/log.ts";

describe("a node whose catalog cannot be opened for its new role", () => {
  it("ends its agent, which no worker could speak for, and starts anew from what is durable", async () => {
    const state = await mkdtemp(join(tmpdir(), "us-workers-"));
    const fatal: unknown[] = [];
    const group = {
      ...{ name: "app", primary: "alpha", replicas: new Map(), stores: new Map(), hooks: {} },
      limits: { stagingBytes: 2 ** 30, snapshotHoldMs: 30_000, sweepMs: 60_000, switchoverStepMs: 30_000 },
      retention: { keep: {}, maxBytes: undefined },
    };
    const workers = new GroupWorkers({
      ...{ group, node: "alpha", stateDirectory: state, log: silentLog, bootId: "boot" },
      onFatal: (error: unknown) => fatal.push(error),
    } as unknown as GroupOptions);
    try {
      const directory = groupDirectory(state, "app");
      await mkdir(directory, { recursive: true });
      await workers.openReplica();
      await rename(directory, `${directory}.gone`);
      const failed = await workers.becomePrimary().then(
        () => undefined,
        (error: unknown) => error,
      );
      expect(failed).to.be.instanceOf(Error);
      expect(fatal).to.deep.equal([failed]);
    } finally {
      await workers.stop();
      await rm(state, { recursive: true, force: true });
    }
  });
});
