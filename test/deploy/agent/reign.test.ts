import { expect } from "chai";
import { Reign, type ReignOptions } from "../../../deploy/agent/reign.ts";
import type { Session } from "../../../deploy/agent/session.ts";
import type { WorkerThread } from "../../../deploy/agent/worker-thread.ts";
import type { PrimaryMainCalls, PrimaryStanding, PrimaryWorkerCalls } from "../../../deploy/workers/primary-calls.ts";
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
      compressFor: () => false,
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
      compressFor: () => false,
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

  /** A worker whose cuts end when the test says so. */
  function slowCutter(): {
    worker: WorkerThread<PrimaryMainCalls, PrimaryWorkerCalls>;
    begun: { freeze: string; prune: boolean; end: PromiseWithResolvers<unknown> }[];
    notes: string[];
  } {
    const begun: ReturnType<typeof slowCutter>["begun"] = [];
    const notes: string[] = [];
    const worker = {
      note: (name: string) => notes.push(name),
      call(name: keyof PrimaryWorkerCalls, argument: { freeze: string; prune: boolean }) {
        if (name !== "cut") return Promise.resolve({ dirty: false, bytes: 0, costs: {}, health: new Map() });
        const end = Promise.withResolvers<unknown>();
        begun.push({ freeze: argument.freeze, prune: argument.prune, end });
        return end.promise;
      },
    } as unknown as WorkerThread<PrimaryMainCalls, PrimaryWorkerCalls>;
    return { worker, begun, notes };
  }

  const freezing = {
    config: {
      name: "app",
      replicas: new Map(),
      hooks: { freeze: { run: ["true"] } },
      interval: { kind: "on-change" },
    },
    log: silentLog,
    frozenMarkPath: "/nowhere/frozen",
    onStanding: () => {},
    metrics: { cuts: { inc() {} } },
  } as unknown as ReignOptions;

  const takenCut = (standing: PrimaryStanding) => ({
    ...{ cut: standing.committed, fresh: false, shippedTo: [], payloadBytes: 0, freezeMs: 0, stores: [] },
    ...{ commitsCounted: 0, standing, sinks: [] },
  });
  const standing = { role: "primary", epoch: epoch(1), committed: cut(1, 5), halted: "" } as PrimaryStanding;
  const outcome = async (asked: Promise<unknown>): Promise<string> =>
    await asked.then(
      () => "taken",
      (error: unknown) => (error instanceof Error ? error.message : "?"),
    );

  it("forgets a cut that counts on a stopped service with whoever asked for it: the next one pauses the application", async () => {
    const { worker, begun } = slowCutter();
    const reign = new Reign(worker, standing, freezing);
    reign.run();
    const first = reign.requestCut();
    await until(() => begun.length === 1, 10_000, "a cut is being taken");
    const goesBack = new AbortController();
    const still = outcome(reign.requestCut({ still: goesBack.signal }));
    goesBack.abort(new Error("it goes back"));
    expect(await still).to.equal("it goes back");
    const next = reign.requestCut();
    begun[0]!.end.resolve(takenCut(standing));
    await first;
    await until(() => begun.length === 2, 10_000, "the next cut is being taken");
    begun[1]!.end.resolve(takenCut(standing));
    await next;
    await reign.stop();
    expect(begun.map(({ freeze }) => freeze)).to.deep.equal(["hooks", "hooks"]);
  });

  it("has no cut of a stopped service under way any more when the service is started, and takes the others anew", async () => {
    const { worker, begun, notes } = slowCutter();
    const reign = new Reign(worker, standing, freezing);
    reign.run();
    const still = outcome(reign.requestCut({ still: new AbortController().signal }));
    const pruned = outcome(reign.requestCut({ prune: true }));
    await until(() => begun.length === 1, 10_000, "a cut is being taken");
    let moves = false;
    const moving = reign.moving().then(() => {
      moves = true;
    });
    expect(notes).to.deep.equal(["dropStill"]);
    await new Promise((resolve) => setImmediate(resolve));
    expect(moves).to.equal(false);
    begun[0]!.end.reject(new Error("given up"));
    await moving;
    expect(await still).to.include("the service runs again");
    await until(() => begun.length === 2, 10_000, "what was asked otherwise is taken anew");
    begun[1]!.end.resolve(takenCut(standing));
    expect(await pruned).to.equal("taken");
    expect(reign.halted).to.equal("");
    await reign.stop();
    expect(begun.map(({ freeze, prune }) => `${freeze} ${prune}`)).to.deep.equal(["still true", "hooks true"]);
  });

  it("holds how far a switchover is until that is written down, whatever else its worker says meanwhile", async () => {
    const id = "0123456789abcdef";
    const stopping = { ...{ id, to: "bravo", reason: "" }, step: "stopping" } as const;
    const goesBack = { ...{ id, to: "bravo", reason: "late" }, step: "rolling-back" } as const;
    const catalog = { ...standing, switchover: stopping } as PrimaryStanding;
    const worker = {
      note() {},
      call: async (name: keyof PrimaryWorkerCalls, argument: { record?: typeof goesBack }) =>
        name === "switchover" ? { ...catalog, switchover: argument.record } : catalog,
    } as unknown as WorkerThread<PrimaryMainCalls, PrimaryWorkerCalls>;
    const reign = new Reign(worker, catalog, freezing);
    reign.holdSwitchover(goesBack);
    await reign.confirm("boot");
    expect(reign.standing.switchover).to.equal(goesBack);
    await reign.keepSwitchover(goesBack);
    await reign.keepSwitchover(undefined);
    await reign.confirm("boot");
    expect(reign.standing.switchover).to.equal(stopping);
  });

  it("lets nobody wait for it when it is over", async () => {
    const { worker, begun } = slowCutter();
    const reign = new Reign(worker, standing, freezing);
    reign.run();
    const asked = outcome(reign.requestCut());
    await until(() => begun.length === 1, 10_000, "a cut is being taken");
    const never = new AbortController().signal;
    const waits = outcome(reign.durableAt(cut(1, 6), ["bravo"], never));
    const stopped = reign.stop();
    expect(await waits).to.equal("this node's reign is over");
    begun[0]!.end.reject(new Error("closing"));
    expect(await asked).to.equal("this node's reign is over");
    await stopped;
  });
});
