import { mkdirSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { WorkerThread } from "../../../deploy/agent/worker-thread.ts";
import type { ReplicaMainCalls, ReplicaWorkerCalls } from "../../../deploy/workers/replica-calls.ts";
import type { PrimaryContext } from "../../../primary/primary-context.ts";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import { encodeMessage } from "../../../shared/wire/codec.ts";
import type { StoreName } from "../../../shared/words.ts";
import {
  cutInto,
  openPrimary,
  openReplica,
  receiverOf,
  sinkInto,
  testGroup,
  testIncarnation,
} from "../../model/in-process.ts";
import { ModelSource } from "../../model/model-store.ts";
import { until } from "../../until.ts";

describe("the thread of a replica", () => {
  let directory: string;
  let worker: WorkerThread<ReplicaMainCalls, ReplicaWorkerCalls>;
  let rejected: string[];
  let failed: unknown[];

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "us-replica-worker-"));
    [rejected, failed] = [[], []];
    worker = new WorkerThread(
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
    await worker.call("open", {
      groupName: "app",
      catalogPath: join(directory, "catalog.db"),
      placements: [
        { name: "tree" as StoreName, kind: "files", shape: "tree", path: join(directory, "copy"), sidecars: [] },
      ],
      stagingBytesMax: 2 ** 30,
      keepHistory: false,
      retention: { keep: { allMs: 0, perMinuteMs: 0, perHourMs: 0, perDayMs: 0 }, bytesMax: 2 ** 30 },
      exclude: new Map(),
      sweepEveryMs: 60_000,
      bootId: "boot",
    });
  });

  afterEach(async () => {
    await worker.close();
    await rm(directory, { recursive: true });
  });

  it("refuses the primary of another epoch, and takes on what whom it follows sends", async () => {
    await worker.call("join", { groupId: testGroup, epoch: 3n, epochs: [{ epoch: 3n, firstSeq: 1n }] });
    const session = { incarnation: testIncarnation, primary: "bravo", epoch: 3n };
    await worker.call("startSession", { ...session, generation: 1 });
    const other = { ...session, primary: "charlie", epoch: 2n, generation: 2 };
    const refusal = await worker.call("startSession", other).catch((error: unknown) => error);
    expect(refusal).to.include({ code: "SENDER_REFUSED" });
    // It is still looked at: what cannot be read is refused.
    worker.note("frame", { generation: 1, header: new Uint8Array([255]), payload: new Uint8Array() });
    await until(() => rejected.length > 0, "the frame is met by the session's receiver");
    expect(failed).to.deep.equal([]);
  });

  const comings: { readonly name: string; readonly come: () => Promise<unknown> }[] = [
    { name: "the session ends", come: async () => await worker.call("endSession", undefined) },
    { name: "it is paused", come: async () => await worker.call("pause", { paused: undefined }) },
  ];
  for (const { name, come } of comings) {
    it(`applies a cut that came whole just before ${name}, although none comes after it`, async () => {
      const source = new ModelSource();
      source.write("a", "of the cut");
      await worker.call("join", { groupId: testGroup, epoch: 1n, epochs: [{ epoch: 1n, firstSeq: 1n }] });
      const session = { incarnation: testIncarnation, primary: "alpha", epoch: 1n };
      await worker.call("startSession", { ...session, generation: 1 });
      const primary = openPrimary(join(directory, "primary.db"), { tree: source.adapter() });
      for (const [header, payload] of await framesOf(primary)) {
        worker.note("frame", { generation: 1, header, payload });
      }
      primary.catalog.close();
      await come();
      await until(async () => {
        const { applied, committed } = await worker.call("standing", undefined);
        return committed.seq === 1n && applied === 1n;
      }, "the cut is durable and applied");
      expect(await readFile(join(directory, "copy", "a"), "utf8")).to.equal("of the cut");
      expect(failed).to.deep.equal([]);
    });
  }

  /** The next cut, as a link would bring it. */
  async function framesOf(primary: PrimaryContext): Promise<[header: Uint8Array, payload: Uint8Array][]> {
    mkdirSync(join(directory, "other"));
    const replica = openReplica(join(directory, "other.db"), new RealDisk(), {
      tree: join(directory, "other", "copy"),
    });
    const frames: [Uint8Array, Uint8Array][] = [];
    const sink = sinkInto(replica, receiverOf(replica));
    await cutInto(primary, [
      {
        ...sink,
        send: async (message, payload) => {
          frames.push([encodeMessage(message), new Uint8Array(payload)]);
        },
      },
    ]);
    replica.catalog.close();
    for (const home of replica.homes.values()) home.close();
    return frames;
  }
});
