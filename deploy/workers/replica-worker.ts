import { parentPort } from "node:worker_threads";
import { type applyNext, markSuspect, recoverApply } from "../../replica/apply/apply.ts";
import { applyWithBallast, CopyFull, isFull, makeBallast } from "../../replica/apply/ballast.ts";
import { ForeignChange } from "../../replica/apply/locate.ts";
import { closeTransaction, commit } from "../../replica/commit/commit.ts";
import { PinnedPoints } from "../../replica/history/pinned-points.ts";
import type { StrangersChange } from "../../replica/history/sweep.ts";
import { historyBytes, recoverThinning, thinningByRetention } from "../../replica/history/thin.ts";
import { seal, takeOver, takeOverHanded, unseal } from "../../replica/promote/promote.ts";
import { beginAdoption, endAdoption, setAdopting, stageFromCopy } from "../../replica/receive/adopt.ts";
import { aheadOf } from "../../replica/receive/ahead.ts";
import { decodePayload } from "../../replica/receive/decode-payload.ts";
import { checkSender, followedNode, rememberPrimary } from "../../replica/receive/followed.ts";
import { checkBlockSize } from "../../replica/receive/pending-content.ts";
import { Receiver } from "../../replica/receive/receive.ts";
import { isRefusal, SenderRefused } from "../../replica/receive/refusals.ts";
import { adopting, forgetOpenCut, recoverStaging, stagedRunDigests } from "../../replica/receive/resume.ts";
import { noteUnproven, unproven } from "../../replica/receive/unproven.ts";
import { goBack, NotApplied } from "../../replica/rejoin/demote.ts";
import { makeFork } from "../../replica/rejoin/make-fork.ts";
import { anyDamage, askedOfPrimary, type Damage, damagedObjects } from "../../replica/repair/damage.ts";
import { Repairing, strangersCodes } from "../../replica/repair/repairing.ts";
import { defaultReplicaLimits, type ReplicaContext } from "../../replica/replica-context.ts";
import { openStoreHomes, singleFileName } from "../../replica/store-home.ts";
import { SyncFailed } from "../../replica/sync.ts";
import { Catalog } from "../../shared/catalog/catalog.ts";
import { CatalogFull, catalogProblem } from "../../shared/catalog/catalog-errors.ts";
import { anyTouched } from "../../shared/catalog/collapse.ts";
import { Manifest } from "../../shared/catalog/manifest.ts";
import { lastHad, lastObjectOf, ownCutOf, touchedPage } from "../../shared/catalog/touched.ts";
import type { RetentionConfig } from "../../shared/config/config.ts";
import { RealDisk } from "../../shared/durable/real-disk.ts";
import { assert, isSystemError, ProtocolViolation } from "../../shared/errors.ts";
import { checkStorePath } from "../../shared/store-path.ts";
import { decodeMessage } from "../../shared/wire/codec.ts";
import type { Message } from "../../shared/wire/messages.ts";
import { packStagedList } from "../../shared/wire/staged-list.ts";
import { packTouchedList } from "../../shared/wire/touched-list.ts";
import {
  type CutId,
  cutText,
  epoch,
  type GroupId,
  type ObjectId,
  type Seq,
  type StorePath,
  sameCut,
  seq,
} from "../../shared/words.ts";
import { checkpointing } from "./checkpointing.ts";
import { housekeeper } from "./housekeeping.ts";
import { type PlainError, PortPeer, plainError } from "./port-peer.ts";
import type { ReplicaMainCalls, ReplicaStanding, ReplicaWorkerCalls } from "./replica-calls.ts";
import { enterStage, traceCommits, traceDisk } from "./step-trace.ts";
import { excludedBy } from "./store-adapters.ts";

/** The thread that receives, commits and applies a group's cuts: the only writing connection to its catalog. */

let options: Parameters<ReplicaWorkerCalls["open"]>[0] | undefined;
let catalog: Catalog | undefined;
let context: ReplicaContext | undefined;
let receiver: Receiver | undefined;
let repairing: Repairing | undefined;
let generation = 0;
const pinned = new PinnedPoints();
/** As of the last thinning: adding it up costs what the history holds. */
let historyBytesKnown = 0;
let flushPlanned = false;
let applyTimer: NodeJS.Timeout | undefined;
let unappliedSince = 0;
let committedAt = Number.NEGATIVE_INFINITY;
let broken = false;
/** The rows of a cut that was given up lie in the catalog still, for lack of room to take them back. */
let forgetting = false;
let waitTimer: NodeJS.Timeout | undefined;
/** What comes ahead is dropped, since there is no room for it. */
let aheadRefused = false;

/**
 * Apply waits so long for the stream to pause, and no longer than the bounds for a promotion within a second. What comes
 * while a batch is applied waits for its acknowledgement, so a steady stream is applied in large batches, seldom.
 */
const applyDelayMs = 20;
/** A cut that comes alone has nothing behind it that would wait. */
const applyDelayAloneMs = 3;
const aloneMs = 100;
const unappliedMsMax = 300;
/** Of one page of what is touched. */
const touchedBytesMax = 256 * 1024;
const unappliedBytesMax = 64 * 1024 * 1024;

assert(parentPort !== null, "runs as a worker");
const main = new PortPeer<ReplicaWorkerCalls, ReplicaMainCalls>(
  parentPort,
  {
    open(argument) {
      options = argument;
      catalog = new Catalog(argument.catalogPath, traceCommits);
      return standing();
    },
    openCopy() {
      if (context === undefined) openCopy();
      return standing();
    },
    join({ groupId, epoch: at, epochs }) {
      const opened = openCatalog();
      assert(opened.standing.groupId === "", "a node joins a group once");
      opened.transaction("join", () => {
        opened.event("group.joined", { groupId }, nowUs());
        opened.stand({ groupId: groupId as GroupId, role: "replica", epoch: epoch(at), epochSeen: epoch(at), epochs });
      });
      openCopy();
      return standing();
    },
    adoptEpoch({ epoch: at, epochs, said }) {
      const opened = openCatalog();
      // Whom this node followed until now may have sent it a cut since it said what it has: no part of this reign's past.
      endSession();
      const { role, committed } = opened.standing;
      if (role !== "replica") throw new SenderRefused(`this node is ${role} by now`);
      if (!sameCut(committed, said))
        throw new SenderRefused(
          `this node has cut ${cutText(committed)} by now, and said that it has ${cutText(said)}`,
        );
      assert(at >= opened.standing.epoch, "an older reign is never followed");
      opened.transaction("epoch", () => {
        opened.event("replica.followed", { epoch: String(at) }, nowUs());
        opened.stand({
          epoch: epoch(at),
          epochSeen: epoch(at > opened.standing.epochSeen ? at : opened.standing.epochSeen),
          epochs,
        });
      });
      return standing();
    },
    startSession({ incarnation, generation: now, primary, epoch: at }) {
      // Before the session is ended that is there: its primary may be the one that this node has come to follow meanwhile.
      checkSender(openCatalog(), primary, at);
      endSession();
      if (forgetting) forget();
      rememberPrimary(openCatalog(), primary, at);
      generation = now;
      aheadRefused = false;
      receiver = new Receiver(openContext(), incarnation);
      return standing();
    },
    frame({ generation: of, header, payload }) {
      if (of === generation) takeFrame(header, payload);
      const bytes = header.length + payload.length;
      const { buffer } = payload;
      const whole = payload.length > 0 && buffer.byteLength === payload.length;
      const memory = whole && buffer instanceof ArrayBuffer ? buffer : undefined;
      main.note("taken", { generation: of, bytes, memory }, memory === undefined ? [] : [memory]);
    },
    endSession() {
      endSession();
      return standing();
    },
    stagedRuns(asked) {
      checkStorePath(asked.path);
      checkBlockSize(asked.blockSize);
      stageFromCopy(openContext(), asked);
      return stagedRunDigests(openContext(), asked.object);
    },
    stagedList(from) {
      const { entries, last } = aheadOf(openContext()).list(from);
      return { payload: packStagedList(entries), last };
    },
    touchedList(from) {
      const { entries, last } = touchedPage(openCatalog(), from, touchedBytesMax);
      return { payload: packTouchedList(entries), last };
    },
    adopt() {
      const opened = openCatalog();
      endSession();
      // Nothing is known yet: what is found is reused when the node joins.
      if (opened.standing.groupId === "") setAdopting(opened, true);
      else {
        if (context === undefined) openToAdopt();
        beginAdoption(openContext());
      }
      return standing();
    },
    differs(found) {
      makeWay();
      noteDifferences(found);
    },
    pin({ seq: at }) {
      pinned.pin(seq(at));
    },
    unpin({ seq: at }) {
      pinned.unpin(seq(at));
    },
    seal({ heard }) {
      endSession();
      enterStage("promote");
      seal(openContext(), heard);
      return standing();
    },
    unseal() {
      // Also where the copy is not there: nothing of it is needed.
      unseal({ catalog: openCatalog(), nowUs });
      return standing();
    },
    settle() {
      endSession();
      if (forgetting) forget();
      applyAll();
      const { applied, committed } = openCatalog().standing;
      if (applied !== committed.seq) throw new NotApplied(`cut ${cutText(committed)} is not applied`);
      return standing();
    },
    lastHad({ common, reach }) {
      return lastHad(openCatalog(), common, reach);
    },
    async keepFork(request) {
      enterStage("keep fork");
      const { catalog, manifest, disk, homes } = openContext();
      const placements = [...homes.values()].map((home) => home.placement);
      const foreign = damagedObjects(catalog);
      const never = new AbortController().signal;
      return await makeFork({ catalog, manifest, disk, placements, nowUs }, { ...request, foreign }, never);
    },
    goBack({ common, own }) {
      // Another session may have begun while the fork was kept: half a cut of it is one of what this node was until now.
      endSession();
      const of = openContext();
      const { committed } = of.catalog.standing;
      if (!sameCut(committed, own))
        throw new NotApplied(`cut ${cutText(committed)} came after ${cutText(own)} was kept`);
      const touched = goBack(of, common);
      aheadOf(of).clear();
      // Files whose rows are gone.
      recoverStaging(of);
      recoverApply(of);
      return { touched, standing: standing() };
    },
    takeOver({ accepted, turn }) {
      assert(options !== undefined, "open");
      enterStage("promote");
      if (forgetting) forget();
      // Also cuts that wait for a repair, which nobody will bring any more.
      applyAll(accepted.suspect === true ? "suspect" : undefined);
      return takeOver(openContext(), options.keepHistory, turn, accepted, options.bootId);
    },
    takeOverHanded({ handover, barred, turn }) {
      // Cuts that came whole count.
      const { rejoining } = standing();
      const reason = rejoining ? "this node rejoins" : barred;
      if (context !== undefined && reason === "") applyAll();
      enterStage("handover");
      makeWay();
      const refusal =
        context === undefined
          ? reason || "the copy is not open"
          : takeOverHanded(context, handover, reason, turn, options?.bootId ?? "");
      if (refusal === "") endSession();
      enterStage("wait");
      return { accepted: refusal === "", reason: refusal, standing: standing() };
    },
    standing,
    points() {
      return openCatalog().cuts("point");
    },
    setHalted({ reason }) {
      const opened = openCatalog();
      if (opened.standing.halted !== reason) opened.transaction("halt", () => opened.stand({ halted: reason }));
      return standing();
    },
    pause({ paused }) {
      makeWay();
      openCatalog().transaction("pause", () => openCatalog().stand({ paused }));
      return standing();
    },
    close() {
      endSession();
      clearTimeout(applyTimer);
      clearTimeout(waitTimer);
      for (const home of context?.homes.values() ?? []) home.close();
      catalog?.close();
      catalog = undefined;
      context = undefined;
    },
  },
  fatal,
);

/** What lies in the copy's place keeps it from being opened, unless it is to be adopted. */
function openToAdopt(): void {
  setAdopting(openCatalog(), true);
  try {
    openCopy();
  } catch (error) {
    setAdopting(openCatalog(), false);
    throw error;
  }
}

function isAdopting(): boolean {
  return adopting(openCatalog());
}

function nowUs(): number {
  return Date.now() * 1000;
}

function openCatalog(): Catalog {
  assert(catalog !== undefined, "the catalog is open");
  return catalog;
}

function openContext(): ReplicaContext {
  assert(context !== undefined, "the copy is open");
  return context;
}

/** Opens the copies and finishes what a crash left: the ordinary start and the recovery are the same. */
function openCopy(): void {
  assert(options !== undefined, "open");
  const opened = openCatalog();
  // A primary's files are its application's: nothing of the replica's recovery may touch them.
  const { role } = opened.standing;
  const given = role === "fenced" && isAdopting();
  assert(role === "replica" || role === "promoting" || given, `a copy is opened by a replica, not by a ${role} node`);
  const disk = traceDisk(new RealDisk());
  enterStage("recover");
  opened.transaction("stores", () => {
    for (const store of options!.placements) opened.storeNumber(store.name, store.kind);
  });
  const homes = openStoreHomes(disk, opened, options.groupName, options.placements, isAdopting());
  context = {
    catalog: opened,
    manifest: new Manifest(opened),
    disk,
    homes,
    nowUs,
    limits: { ...defaultReplicaLimits, stagingBytesMax: options.stagingBytesMax },
  };
  recoverStaging(context);
  recoverApply(context);
  recoverThinning(context);
  repairing = new Repairing(context, excludedBy(options.exclude), repairEvents);
  enterStage("wait");
  planApply(0);
}

function standing(): ReplicaStanding {
  // A cut that came whole stands in the open transaction already, and nobody may hear of it before it is durable.
  flushOrFail();
  assert(!broken, "who cannot go on says nothing any more");
  const opened = openCatalog();
  const { standing: now } = opened;
  return {
    ...now,
    lastObject: lastObjectOf(opened),
    record: opened.cut(now.committed.seq),
    unappliedBytes: openCatalog().unappliedBytes(),
    adopting: isAdopting(),
    rejoining: anyTouched(opened),
    ownCut: ownCutOf(opened),
    unproven: unproven(opened),
    damaged: askedNow(),
    followed: followedNode(opened),
    ...opened.pointSummary(),
    historyBytes: historyBytesKnown,
  };
}

function takeFrame(header: Uint8Array, payload: Uint8Array): void {
  if (receiver === undefined || broken) return; // A frame of a session that has ended meanwhile.
  enterStage("receive");
  try {
    const message = decodeMessage(header);
    switch (message.kind) {
      case "cutBegin":
        receiver.begin(message);
        break;
      case "rows":
        receiver.rows(message.objects, message.paths);
        break;
      case "extents":
        receiver.extents(message.extents, decodePayload(message.encoding, message.decodedBytes, payload));
        break;
      case "ahead":
        takeAhead(receiver, message, payload);
        break;
      case "objectDropped":
        receiver.dropObject(message.object);
        break;
      case "cutEnd":
        receiver.end(message);
        planFlush();
        break;
      case "cutAborted":
        flush();
        receiver.abort();
        break;
      default:
        throw new ProtocolViolation(`a ${message.kind} came as part of a cut`);
    }
  } catch (error) {
    reject(error);
  }
  enterStage("wait");
}

function takeAhead(
  by: Receiver,
  { extents, encoding, decodedBytes, stores }: Extract<Message, { kind: "ahead" }>,
  payload: Uint8Array,
): void {
  flush();
  if (aheadRefused) return;
  const reason = by.ahead(extents, decodePayload(encoding, decodedBytes, payload), stores);
  if (reason === undefined) return;
  aheadRefused = true;
  main.note("aheadRefused", { generation, reason });
}

/** A cut that cannot be taken ends the session; what came whole before it, and was not durable yet, comes again with it. */
function reject(error: unknown): void {
  assert(receiver !== undefined, "a session is open");
  const cut = receiver.receiving ?? { epoch: epoch(0), seq: seq(0) };
  const plain = plainError(error);
  if (!isRefusal(plain.code)) {
    fatal(error);
    return;
  }
  receiver.abort();
  receiver = undefined;
  // It takes the room that the cut lacks, or may be what was not as it should be: then it would be so again.
  if (plain.code === "REJOIN_UNPROVEN") noteUnproven(openCatalog(), plain.message);
  if (plain.code === "NO_ROOM" || plain.code === "CUT_DAMAGED") aheadOf(openContext()).clear();
  if (plain.code === "NO_ROOM" && askedNow().length > 0) repairing?.asking.failed(performance.now());
  main.note("rejected", { cut, committed: openCatalog().standing.committed, error: plain });
}

/** After everything that is in the port's queue now: cuts that wait together share one commit. */
function planFlush(): void {
  if (flushPlanned) return;
  flushPlanned = true;
  setImmediate(() => {
    flushPlanned = false;
    flushOrFail();
  });
}

function flushOrFail(): void {
  try {
    flush();
  } catch (error) {
    fatal(error);
  }
}

function flush(): void {
  if (receiver === undefined || receiver.ended.length === 0) return;
  enterStage("commit");
  commit(openContext(), receiver);
  aheadRefused = false;
  const now = performance.now();
  const alone = now - committedAt >= aloneMs;
  committedAt = now;
  if (unappliedSince === 0) unappliedSince = now;
  // At the bound acknowledgements wait for apply: that is what keeps a promotion short.
  if (openCatalog().unappliedBytes() > unappliedBytesMax) applyOrWait();
  enterStage("acknowledge");
  acknowledge();
  enterStage("wait");
  planApply(alone ? applyDelayAloneMs : applyDelayMs);
}

function acknowledge(): void {
  const opened = openCatalog();
  const { committed, applied, suspect } = opened.standing;
  main.note("acknowledged", {
    received: receiver?.receiving ?? committed,
    durable: committed,
    applied: applied === committed.seq ? committed : cutOf(applied),
    suspect,
    unappliedBytes: openCatalog().unappliedBytes(),
    damaged: askedNow(),
  });
}

/** Nothing where a cut with all of it was refused a moment ago: other cuts come through meanwhile. */
function askedNow(): readonly ObjectId[] {
  if (context === undefined || repairing === undefined || openCatalog().standing.suspect === "") return [];
  return repairing.asking.passed(performance.now()) ? askedOfPrimary(context) : [];
}

const repairEvents = {
  suspectChanged(): void {
    acknowledge();
  },
  damaged(found: readonly StrangersChange[]): void {
    foreign(
      "damaged",
      found.map(({ store, path, what }) => `${store}/${path} ${what}`),
    );
  },
  mended: (damage: Damage) => foreign("mended", [pathOf(damage)]),
  lost: (damage: Damage) => foreign("lost", [pathOf(damage)]),
  again: (damage: Damage, attempt: number) => foreign("again", [`${pathOf(damage)} (${attempt} times)`]),
  putAside: (found: readonly { readonly store: string; readonly path: string }[]) =>
    foreign(
      "put-aside",
      found.map(({ store, path }) => `${store}/${path}`),
    ),
};

function foreign(what: Parameters<ReplicaMainCalls["foreign"]>[0]["what"], paths: readonly string[]): void {
  main.note("foreign", { what, paths: paths.slice(0, 20) });
}

function pathOf({ store, path }: Damage): string {
  return `${openCatalog().storeNames().get(store) ?? store}/${path}`;
}

/** Only where the manifest knows the path: what else lies there is for the next sweep. */
function noteDifferences(found: Parameters<ReplicaWorkerCalls["differs"]>[0]): void {
  if (context === undefined || repairing === undefined) return;
  const { homes, manifest, catalog: opened } = context;
  const { applied } = opened.standing;
  const changes = found.flatMap(({ store, path, what }): StrangersChange[] => {
    const home = [...homes.values()].find(({ placement }) => placement.name === store);
    if (home === undefined) return [];
    const named = home.placement.shape === "file" ? singleFileName : (path as StorePath);
    const object = manifest.objectAtPath(home.number, named, applied);
    return object === undefined ? [] : [{ store: home.placement.name, object, path: path as StorePath, what }];
  });
  repairing.note(changes);
}

function cutOf(at: Seq): CutId {
  return openCatalog().cut(at)?.cut ?? { epoch: epoch(0), seq: at };
}

function planApply(delayMs: number): void {
  if (applyTimer !== undefined) {
    if (performance.now() - unappliedSince < unappliedMsMax) applyTimer.refresh();
    return;
  }
  applyTimer = setTimeout(() => {
    applyTimer = undefined;
    applyOrWait();
  }, delayMs);
}

/** What is damaged may let nothing through yet: then it is said, and the repair goes on. */
function applyOrWait(): void {
  try {
    applyAll();
  } catch (error) {
    fatal(error);
  }
}

function applyAll(accepted?: "suspect"): void {
  if (context === undefined || options === undefined) return;
  makeWay();
  enterStage("apply");
  for (;;) {
    const begun = performance.now();
    const applied = applyOrSuspect(context, options.keepHistory, accepted);
    if (applied === undefined) break;
    repairing?.redoing.succeeded();
    if (applied.repaired.length > 0) repairing?.asking.succeeded();
    main.note("applied", {
      cuts: applied.cuts,
      ms: performance.now() - begun,
      strangers: applied.strangers,
      repaired: applied.repaired,
      metadataPartial: applied.metadataPartial,
    });
  }
  unappliedSince = 0;
  adoptFirstCut();
  if (receiver !== undefined) acknowledge();
  enterStage("wait");
}

/** A stranger who is quicker than we are makes the copy suspect, as one does who is found; he does not end the agent. */
function applyOrSuspect(
  opened: ReplicaContext,
  keepHistory: boolean,
  accepted: "suspect" | undefined,
): ReturnType<typeof applyNext> {
  try {
    return applyWithBallast(opened, keepHistory, accepted);
  } catch (error) {
    // What is kept open may lie elsewhere by now.
    for (const home of opened.homes.values()) home.tree.forget();
    if (!isSystemError(error, ...strangersCodes) || opened.catalog.standing.applying === undefined) throw error;
    repairing?.redoing.failed(performance.now());
    const reason = `somebody changed names in the copy while a batch was written: ${error.message}`;
    markSuspect(opened, reason);
    throw new ForeignChange(reason, { cause: error });
  }
}

/** What an adopted place held beyond the first cut goes out of the way, before anybody can take it for a part of the copy. */
function adoptFirstCut(): void {
  if (!isAdopting() || openCatalog().standing.applied === 0n) return;
  const strangers = endAdoption(openContext());
  main.note("applied", { cuts: 0, ms: 0, strangers, repaired: [], metadataPartial: 0 });
}

/** Only a session leaves a transaction open, and without the copy there is none. */
function makeWay(): void {
  if (context === undefined || !closeTransaction(context, receiver)) return;
  acknowledge();
  planApply(applyDelayMs);
}

function endSession(): void {
  if (receiver === undefined) return;
  if (receiver.ended.length > 0) {
    commit(openContext(), receiver);
    // No other cut may come that would have it applied.
    planApply(applyDelayMs);
  }
  receiver.abort();
  receiver = undefined;
}

function fatal(error: unknown): void {
  if (broken) return;
  broken = true;
  const noRoom = isFull(error) && !(error instanceof SyncFailed);
  const plain = plainError(noRoom ? new CopyFull("there is no room beside the copy", { cause: error }) : error);
  if (plain.code === "FOREIGN_CHANGE") {
    // The copy is suspect, durably; what was committed is kept, nothing more is applied to it.
    broken = false;
    acknowledge();
    return;
  }
  if (plain.code === "CATALOG_FULL" || plain.code === "COPY_FULL") {
    broken = false;
    waitForRoom(plain);
    return;
  }
  main.note("failed", { error: plain });
}

const waitMs = 1000;

/** What was being written is taken back; what is durable is kept, and everything else comes again. */
function waitForRoom(error: PlainError): void {
  if (receiver !== undefined) {
    const cut = receiver.receiving ?? { epoch: epoch(0), seq: seq(0) };
    giveUpReceiver();
    main.note("rejected", { cut, committed: openCatalog().standing.committed, error });
  }
  openCatalog().rollback();
  if (waitTimer !== undefined) return;
  main.note("waiting", { error });
  goOnLater();
}

function giveUpReceiver(): void {
  try {
    receiver?.abort();
  } catch (error) {
    if (!(catalogProblem(error) instanceof CatalogFull)) throw error;
    forgetting = true;
  }
  receiver = undefined;
}

function forget(): void {
  forgetOpenCut(openContext());
  forgetting = false;
}

function goOnLater(): void {
  waitTimer = setTimeout(() => {
    waitTimer = undefined;
    try {
      if (forgetting) forget();
      applyAll();
    } catch (error) {
      if (catalogProblem(error) instanceof CatalogFull || error instanceof CopyFull) goOnLater();
      else fatal(error);
    }
  }, waitMs);
}

/** Recovery points are thinned and strangers looked for in small steps, between frames. */
const thinEveryMs = 5000;
const repairEveryMs = 1000;
const ballastEveryMs = 60_000;

function* thinMeasured(of: ReplicaContext, retention: RetentionConfig): Generator<void> {
  // The live map: a point that somebody begins to read between two steps stays.
  yield* thinningByRetention(of, retention, pinned);
  historyBytesKnown = historyBytes(of);
}

function* repairAll(of: Repairing): Generator<void> {
  const { standing: now } = openCatalog();
  if (now.applying !== undefined) {
    // A stranger broke a batch: it is written again, without what he took away.
    if (of.redoing.passed(performance.now())) applyOrWait();
    return;
  }
  yield* of.mend(() => performance.now());
  if (openCatalog().standing.suspect !== "" && !anyDamage(openCatalog())) yield* of.sweep(() => performance.now());
  // Said again as long as it lasts: the primary may not have heard, or could not send it with its last cut.
  if (receiver !== undefined && openCatalog().standing.suspect !== "") acknowledge();
  applyOrWait();
}

const housekeeping = housekeeper({
  over: () => broken,
  waits: () => context === undefined || broken,
  makeWay,
  failed: fatal,
});
housekeeping(
  () => ballastEveryMs,
  () => (context === undefined ? undefined : makeBallast(context)),
);
housekeeping(
  () => thinEveryMs,
  () => (context === undefined || options === undefined ? undefined : thinMeasured(context, options.retention)),
);
housekeeping(
  () => options?.sweepEveryMs ?? repairEveryMs,
  () => (openCatalog().standing.applying === undefined ? repairing?.sweep(() => performance.now()) : undefined),
);
housekeeping(
  () => repairEveryMs,
  () => (repairing === undefined || openCatalog().standing.suspect === "" ? undefined : repairAll(repairing)),
);

checkpointing(
  () => catalog,
  () => receiver?.receiving !== undefined,
  fatal,
);
