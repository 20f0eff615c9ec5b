import { expect } from "chai";
import { Reign, type ReignOptions } from "../../../deploy/agent/reign.ts";
import type { Session } from "../../../deploy/agent/session.ts";
import type { WorkerThread } from "../../../deploy/agent/worker-thread.ts";
import type { PrimaryMainCalls, PrimaryStanding, PrimaryWorkerCalls } from "../../../deploy/workers/primary-worker.ts";
import { silentLog } from "../../../shared/log.ts";
import { createMetrics } from "../../../shared/metrics.ts";
import { encodeMessage } from "../../../shared/wire/codec.ts";
import { type CutId, epoch, seq } from "../../../shared/words.ts";
import { until } from "../../end-to-end/harness.ts";

const cut = (at: number, number: number): CutId => ({ epoch: epoch(at), seq: seq(number) });

describe("a reign", () => {
  it("takes the acknowledgement of its first cut, also before its own worker is done with that", async () => {
    // Epoch 4 began after cut 1.50.
    const standing = { role: "primary", epoch: epoch(4), committed: cut(1, 50), halted: "" } as PrimaryStanding;
    const taken = Promise.withResolvers<never>();
    const cutting = Promise.withResolvers<void>();
    const worker = {
      note() {},
      call(name: keyof PrimaryWorkerCalls) {
        if (name !== "cut") return Promise.resolve({ dirty: false, bytes: 0, costs: {}, health: new Map() });
        cutting.resolve();
        return taken.promise;
      },
    } as unknown as WorkerThread<PrimaryMainCalls, PrimaryWorkerCalls>;
    const options = {
      config: { name: "app", replicas: new Map([["bravo", {}]]), hooks: {}, interval: { kind: "on-change" } },
      log: silentLog,
    } as unknown as ReignOptions;
    const acknowledged = { received: cut(4, 51), durable: cut(4, 51), applied: cut(1, 50) };
    const header = encodeMessage({
      kind: "acknowledgement",
      ...acknowledged,
      suspect: "",
      unappliedBytes: 0,
      damaged: [],
    });
    const frames = [{ kind: "control", header, payload: new Uint8Array(0) }];
    const session = {
      peer: "bravo",
      theirs: { features: [], lastObject: 0 },
      send: async () => {},
      async next() {
        await cutting.promise;
        return frames.shift();
      },
    } as unknown as Session;

    const reign = new Reign(worker, standing, options);
    reign.run();
    await reign.serve(session, cut(1, 50));
    const { durable } = reign.view("bravo");
    const stopped = reign.stop();
    taken.reject(new Error("the test is over"));
    await stopped;
    expect(durable).to.deep.equal(cut(4, 51));
  });

  it("calls a replica as far behind as the oldest change is that it lacks, however long nothing changed before", async () => {
    let found: CutId | undefined;
    const standing = { role: "primary", epoch: epoch(1), committed: cut(1, 50), halted: "" } as PrimaryStanding;
    const worker = {
      note() {},
      async call(name: keyof PrimaryWorkerCalls) {
        if (name !== "cut") return { dirty: false, bytes: 0, costs: {}, health: new Map() };
        const committed = found ?? standing.committed;
        const sinks = [{ name: "bravo", base: committed, lastObject: 0, late: false }];
        const shipped = { fresh: found !== undefined, shippedTo: ["bravo"], payloadBytes: 1, freezeMs: 0 };
        return {
          standing: { ...standing, committed },
          cut: committed,
          sinks,
          stores: [],
          commitsCounted: 0,
          ...shipped,
        };
      },
    } as unknown as WorkerThread<PrimaryMainCalls, PrimaryWorkerCalls>;
    const options = {
      config: { name: "app", replicas: new Map([["bravo", {}]]), hooks: {}, interval: { kind: "on-change" } },
      metrics: createMetrics(),
      onStanding() {},
      log: silentLog,
    } as unknown as ReignOptions;
    const over = Promise.withResolvers<undefined>();
    const theirs = { features: [], lastObject: 0 };
    const session = { peer: "bravo", theirs, send: async () => {}, next: () => over.promise } as unknown as Session;
    const reign = new Reign(worker, standing, options);
    reign.run();
    const served = reign.serve(session, cut(1, 50));
    await using _ = {
      [Symbol.asyncDispose]: async () => {
        over.resolve(undefined);
        await Promise.all([served, reign.stop()]);
      },
    };
    await until(() => reign.view("bravo").lagSeconds === 0, 20_000, "the first look found nothing");
    const quietSince = performance.now();
    await until(() => performance.now() - quietSince > 50, 20_000, "a while has gone by");

    found = cut(1, 51);
    const changedAt = performance.now();
    reign.changed();
    await until(() => reign.view("bravo").lagCuts === 1 && reign.standing.committed.seq === 51n, 20_000, "it is cut");
    const { lagSeconds = Number.POSITIVE_INFINITY } = reign.view("bravo");
    expect(lagSeconds * 1000)
      .to.be.above(0)
      .and.at.most(performance.now() - changedAt);
  });
});
