import { randomBytes } from "node:crypto";
import { parentPort } from "node:worker_threads";
import { dropTaking } from "../../primary/plan/prune.ts";
import { forgetStamps } from "../../primary/plan/seen-index.ts";
import { shipAhead } from "../../primary/plan/ship-ahead.ts";
import { type TakenCut, takeCut } from "../../primary/plan/take-cut.ts";
import type { PrimaryContext } from "../../primary/primary-context.ts";
import { dropFrameMemory, giveFrameMemory } from "../../primary/ship/frame-memory.ts";
import { checkPlaces, demote, type Settled, settleFiles } from "../../replica/rejoin/demote.ts";
import { makeFork } from "../../replica/rejoin/make-fork.ts";
import type { ReplicaContext } from "../../replica/replica-context.ts";
import { Catalog } from "../../shared/catalog/catalog.ts";
import { CatalogFailed, catalogProblem } from "../../shared/catalog/catalog-errors.ts";
import { Manifest } from "../../shared/catalog/manifest.ts";
import { forgottenUpTo } from "../../shared/catalog/notes.ts";
import { lastHad } from "../../shared/catalog/touched.ts";
import type { StoreOnNode } from "../../shared/config/config.ts";
import { RealDisk } from "../../shared/durable/real-disk.ts";
import { assert } from "../../shared/errors.ts";
import type { StoreAdapter } from "../../shared/ports/store-adapter.ts";
import { newReign, unheardReign } from "../../shared/session/epochs.ts";
import { confirmation } from "../../shared/session/in-service.ts";
import type { CutStore } from "../../shared/wire/messages.ts";
import { epoch, type GroupId, seq } from "../../shared/words.ts";
import { checkpointing } from "./checkpointing.ts";
import { type CopyPlaces, closeCopies, endStores, openOwnCopies } from "./own-copies.ts";
import { PortPeer, plainError } from "./port-peer.ts";
import type { AheadResult, PrimaryMainCalls, PrimaryStanding, PrimaryWorkerCalls, SinkState } from "./primary-calls.ts";
import { SinkSession } from "./sink-session.ts";
import { openSink } from "./sinks.ts";
import { enterStage, traceAdapter, traceCommits, traceDisk } from "./step-trace.ts";
import { createAdapter, singleFilePath } from "./store-adapters.ts";

/** The thread that takes a group's cuts: the only writing connection to its catalog, and all reading of its stores. */

/** Of a hold that much may be spent on waiting for lines: then a cut goes on without whom it waits for. */
const patienceShare = 0.5;
const progressMs = 1000;

let context: PrimaryContext | undefined;
let adapters: StoreAdapter[] = [];
/** By store, as they are themselves: what stands around them passes on what a cut needs. */
let ownAdapters = new Map<string, StoreAdapter>();
let listed: readonly StoreOnNode[] = [];
const started = new Set<StoreAdapter>();
let settled: { readonly copies: ReplicaContext; readonly files: Settled } | undefined;
let stores: readonly CutStore[] = [];
let coherency = "independent";
let bootId = "";
let cutting = false;
/** Of the cut that is being taken of what stands still. */
let still: AbortController | undefined;
let patienceMs = Number.POSITIVE_INFINITY;
const sessions = new Map<string, SinkSession>();
const rates = new Map<string, number>();
const closing = new AbortController();

assert(parentPort !== null, "runs as a worker");
const main: PortPeer<PrimaryWorkerCalls, PrimaryMainCalls> = new PortPeer(
  parentPort,
  {
    open(argument) {
      const catalog = new Catalog(argument.catalogPath, traceCommits);
      bootId = argument.bootId;
      patienceMs = argument.holdSecondsMax * 1000 * patienceShare;
      const incarnation = randomBytes(8).toString("hex");
      listed = [...argument.stores].sort((a, b) => (a.name < b.name ? -1 : 1));
      ownAdapters = new Map(listed.map((store) => [store.name, createAdapter(store, argument)]));
      const primaryStores = catalog.transaction("stores", () =>
        listed.map((store) => ({
          number: catalog.storeNumber(store.name, store.kind),
          name: store.name as string,
          adapter: traceAdapter(singleFilePath(store, ownAdapters.get(store.name)!)),
        })),
      );
      adapters = primaryStores.map((store) => store.adapter);
      context = {
        catalog,
        manifest: new Manifest(catalog),
        stores: primaryStores,
        incarnation,
        nowUs: () => Date.now() * 1000,
      };
      // A cut that was being taken when the last process ended.
      dropTaking(context, seq(catalog.standing.committed.seq + 1n));
      const last = catalog.cut(catalog.standing.committed.seq);
      stores = last?.stores ?? [];
      coherency = last?.coherency ?? "independent";
      return standing();
    },
    form({ confirmed }) {
      const { catalog } = opened();
      assert(catalog.standing.groupId === "", "a group is born once");
      catalog.transaction("form", () => {
        catalog.event("group.formed", {}, Date.now() * 1000);
        catalog.stand({
          groupId: randomBytes(16).toString("hex") as GroupId,
          role: "primary",
          epoch: epoch(1),
          epochSeen: epoch(1),
          epochs: [{ epoch: 1n, firstSeq: 1n }],
          committed: { epoch: epoch(1), seq: seq(0) },
          confirmed: confirmed ? confirmation(bootId, 1n) : "",
        });
      });
      return standing();
    },
    async start() {
      for (const adapter of adapters) {
        if (started.has(adapter)) continue;
        await adapter.start(() => main.note("wake", undefined));
        started.add(adapter);
      }
    },
    async cut(argument) {
      const { catalog } = opened();
      using inUse = new DisposableStack();
      still = argument.freeze === "still" ? new AbortController() : undefined;
      const unfounded = still?.signal;
      const sinks = argument.sinks.map((state) => {
        const session = sessionOf(state);
        inUse.use(session.inUse());
        return openSink(main, opened().catalog.standing.committed, state, session, "cut", unfounded);
      });
      const freeze = {
        none: undefined,
        hooks: {
          freeze: async () => await main.call("freeze", undefined),
          thaw: async () => await main.call("thaw", undefined),
        },
        still: { freeze: async () => {}, thaw: async () => 0 },
      }[argument.freeze];
      cutting = true;
      let taken: TakenCut;
      try {
        taken = await takeCut(
          opened(),
          {
            depth: argument.depth,
            prune: argument.prune,
            freeze,
            preCopyRounds: argument.preCopyRounds,
            patienceMs,
            sinks,
            forgottenUpTo: seq(argument.forgottenUpTo),
            unfounded,
          },
          closing.signal,
        );
      } catch (error) {
        // With a full disk it is tried again; what cannot be read any more is nothing to go on from.
        if (catalogProblem(error) instanceof CatalogFailed) main.note("failed", { error: plainError(error) });
        throw error;
      } finally {
        cutting = false;
        still = undefined;
        dropFrameMemory();
      }
      enterStage("wait");
      for (const sink of sinks) if (taken.shippedTo.includes(sink.name)) sessions.get(sink.name)?.caughtUp();
      stores = taken.stores;
      coherency = catalog.cut(taken.cut.seq)?.coherency ?? coherency;
      return {
        ...taken,
        commitsCounted: adapters.reduce((sum, adapter) => sum + (adapter.commitsCounted?.() ?? 0), 0),
        standing: standing(),
        sinks: sinks.map(({ name, base, lastObject, gone, late }) => ({ name, base, lastObject, gone, late })),
      };
    },
    dropStill() {
      still?.abort(new Error("the service is about to run again"));
    },
    reread({ objects }) {
      forgetStamps(opened().catalog, objects);
    },
    async ahead({ sink: state }) {
      const session = sessionOf(state);
      using _ = session.inUse();
      return await passAhead(state, session);
    },
    aheadRefused({ name, session: number }) {
      const session = sessions.get(name);
      if (session?.number === number) session.refused = true;
    },
    sinkGone({ name, session: number }) {
      const session = sessions.get(name);
      if (session?.number !== number) return;
      session.end();
      sessions.delete(name);
      // A line's next session is as slow as this one.
      if (session.bytesPerSecond !== undefined) rates.set(name, session.bytesPerSecond);
    },
    sent({ name, session: number, bytes, memory }) {
      if (memory !== undefined && cutting) giveFrameMemory(memory);
      const session = sessions.get(name);
      if (session?.number === number) session.carried(bytes);
    },
    backlog() {
      return {
        dirty: adapters.some((adapter) => adapter.dirty()),
        bytes: adapters.reduce((sum, adapter) => sum + adapter.backlogBytes(), 0),
        costs: Object.fromEntries(
          opened().stores.flatMap(({ name, adapter }) =>
            adapter.costs === undefined ? [] : [[name, adapter.costs()] as const],
          ),
        ),
        health: new Map(
          [...ownAdapters].flatMap(([name, { health }]) => (health === undefined ? [] : [[name, health]])),
        ),
      };
    },
    fence({ by }) {
      const { catalog } = opened();
      catalog.transactionBetween("fence", () => {
        catalog.event("primary.fenced", { by: String(by) }, Date.now() * 1000);
        catalog.stand({ role: "fenced", epochSeen: epoch(by), switchover: undefined });
      });
      return standing();
    },
    pause({ paused }) {
      const { catalog } = opened();
      catalog.transactionBetween("pause", () => catalog.stand({ paused }));
      return standing();
    },
    confirm({ bootId: of }) {
      const { catalog } = opened();
      catalog.transactionBetween("confirm", () =>
        catalog.stand({ confirmed: confirmation(of, catalog.standing.epoch) }),
      );
      return standing();
    },
    newEpoch({ turn }) {
      const { catalog } = opened();
      const before = catalog.standing;
      const reign = newReign(before, turn);
      catalog.transaction("epoch", () => {
        catalog.event("source.accepted", { epoch: String(reign.epoch) }, Date.now() * 1000);
        catalog.stand({ ...reign, halted: "", confirmed: confirmation(bootId, reign.epoch) });
      });
      return standing();
    },
    reignAnew({ turn }) {
      const { catalog } = opened();
      const reign = newReign(catalog.standing, turn);
      catalog.transaction("epoch", () => {
        catalog.event("reign.granted", { epoch: String(reign.epoch) }, Date.now() * 1000);
        catalog.stand({
          ...reign,
          role: "primary",
          // What a fenced primary stood still for is over with the reign in which it did.
          ...(catalog.standing.role === "fenced" ? { halted: "" } : {}),
          switchover: undefined,
          confirmed: confirmation(bootId, reign.epoch),
        });
      });
      return standing();
    },
    halt({ reason }) {
      const { catalog } = opened();
      if (catalog.standing.halted !== reason) {
        catalog.transactionBetween("halt", () => {
          if (reason !== "") catalog.event("group.halted", { reason }, Date.now() * 1000);
          catalog.stand({ halted: reason });
        });
      }
      return standing();
    },
    switchover({ record }) {
      const { catalog } = opened();
      enterStage("switchover");
      catalog.transactionBetween(record?.step ?? "in service", () => catalog.stand({ switchover: record }));
      enterStage("wait");
      return standing();
    },
    abandon({ record, turn, target }) {
      const { catalog } = opened();
      const before = catalog.standing;
      const highest = before.epoch > before.epochSeen ? before.epoch : before.epochSeen;
      const theirs = epoch(unheardReign(highest, target));
      const reign = newReign({ ...before, epochSeen: theirs }, turn);
      catalog.transaction("epoch", () => {
        catalog.event("switchover.abandoned", { epoch: String(reign.epoch) }, Date.now() * 1000);
        catalog.stand({ ...reign, switchover: record, confirmed: confirmation(bootId, reign.epoch) });
      });
      return standing();
    },
    users() {
      return [...ownAdapters]
        .map(([store, adapter]) => ({ store, pids: adapter.users?.() ?? [] }))
        .filter(({ pids }) => pids.length > 0);
    },
    digestAt({ seq: at }) {
      const digest = opened().catalog.cut(seq(at))?.digest;
      return digest === undefined ? undefined : new Uint8Array(digest);
    },
    prepareDemotion(places) {
      const copies = openCopies(places);
      try {
        checkPlaces(copies);
      } finally {
        closeCopies(copies);
      }
    },
    async settle(places) {
      enterStage("demote");
      const { catalog, stores: followed } = opened();
      // A cut that was given up for want of room.
      dropTaking(opened(), seq(catalog.standing.committed.seq + 1n));
      assert(settled === undefined, "the stores come to their end once");
      const copies = openCopies(places);
      try {
        checkPlaces(copies);
        settled = { copies, files: settleFiles(copies, await endStores(followed, listed), bootId) };
        adapters = [];
      } finally {
        if (settled === undefined) closeCopies(copies);
      }
    },
    lastHad({ common, reach }) {
      return lastHad(opened().catalog, common, reach);
    },
    async keepFork(request) {
      assert(settled !== undefined, "the stores are settled first");
      enterStage("keep fork");
      const { catalog, manifest, disk, homes, nowUs } = settled.copies;
      const placements = [...homes.values()].map((home) => home.placement);
      const foreign = new Set(settled.files.damaged.map(({ object }) => object));
      return await makeFork({ catalog, manifest, disk, placements, nowUs }, { ...request, foreign }, closing.signal);
    },
    demote({ common, keepHistory }) {
      enterStage("demote");
      assert(settled !== undefined, "the stores are settled first");
      const { copies, files } = settled;
      const touched = demote(copies, common, files, keepHistory);
      const { filesRead, bytesRead, damaged, linkedOutside } = files;
      const { committed: cut } = copies.catalog.standing;
      return { cut, touched, filesRead, bytesRead, damaged: damaged.length, linkedOutside };
    },
    standing,
    async close() {
      closing.abort();
      for (const adapter of adapters) await adapter.close();
      if (settled !== undefined) closeCopies(settled.copies);
      context?.catalog.close();
      context = undefined;
    },
  },
  (error) => {
    throw error;
  },
);

function opened(): PrimaryContext {
  assert(context !== undefined, "the catalog is open");
  return context;
}

function openCopies(places: CopyPlaces): ReplicaContext {
  return openOwnCopies(opened(), traceDisk(new RealDisk()), places, bootId);
}

function standing(): PrimaryStanding {
  return {
    ...opened().catalog.standing,
    stores,
    incarnation: opened().incarnation,
    coherency,
    forgotten: forgottenUpTo(opened().catalog),
  };
}

function sessionOf({ name, session: number }: SinkState): SinkSession {
  const known = sessions.get(name);
  if (known?.number === number) return known;
  known?.end();
  const session = new SinkSession(name, number, known?.bytesPerSecond ?? rates.get(name));
  sessions.set(name, session);
  return session;
}

async function passAhead(state: SinkState, session: SinkSession): Promise<AheadResult> {
  session.refused = false;
  const of = { sink: state.name, session: state.session };
  let reportedAt = Number.NEGATIVE_INFINITY;
  const pass = await shipAhead(
    opened(),
    openSink(main, opened().catalog.standing.committed, state, session, "ahead"),
    (lackingBytes) => session.passBegins(lackingBytes),
    ({ lackingBytes, sentBytes }) => {
      const now = performance.now();
      if (now - reportedAt < progressMs) return;
      reportedAt = now;
      const left = Math.max(0, lackingBytes - sentBytes);
      main.note("aheadProgress", { ...of, lackingBytes: left, bytesPerSecond: session.bytesPerSecond });
    },
  );
  // What was sent after the refusal was dropped there.
  if (session.refused) session.held.forget();
  return { ...pass, bytesPerSecond: session.bytesPerSecond, refused: session.refused };
}

checkpointing(
  () => context?.catalog,
  () => cutting,
  (error) => main.note("failed", { error: plainError(error) }),
);
