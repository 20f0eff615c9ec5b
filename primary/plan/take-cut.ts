import { Breath } from "../../shared/breath.ts";
import { NewRows } from "../../shared/catalog/new-rows.ts";
import { assert } from "../../shared/errors.ts";
import type { StoreView, ViewRequest, ViewSummary } from "../../shared/ports/store-adapter.ts";
import type { CutStore } from "../../shared/wire/messages.ts";
import { type Coherency, type CutId, type ObjectId, type Seq, sameCut, seq } from "../../shared/words.ts";
import type { PrimaryContext, PrimaryStore } from "../primary-context.ts";
import { type ReplicaSink, Shipment } from "../ship/shipment.ts";
import { CatchUp } from "./catch-up.ts";
import { type CompareScope, compareEntry, removeSubtree } from "./compare-entry.ts";
import { FirstCut } from "./first-cut.ts";
import { LeftTorn } from "./left-torn.ts";
import { isNewborn, takeNewborn } from "./newborn.ts";
import { dropTaking, pruneSuperseded } from "./prune.ts";
import { seenIndex } from "./seen-index.ts";

const rowsPerTransactionMax = 4000;

export interface CutRequest {
  readonly depth: ViewRequest["depth"];
  /** What the configuration has excluded since it was cut leaves the manifest. */
  readonly prune?: boolean;
  /** Pauses and continues the application; with it every store is cut at one instant. */
  readonly freeze: Freeze | undefined;
  /** Rounds while the application runs, before the freeze. */
  readonly preCopyRounds: number;
  /** So long in all the cut waits for lines; a replica that is slower gets what it lacks ahead of a later one. */
  readonly patienceMs?: number;
  /** Replicas that get this cut. */
  readonly sinks: readonly ReplicaSink[];
  /** No replica needs to hear of removals up to here any more. */
  readonly forgottenUpTo: Seq;
  /** What it counts on holds no longer: it is given up, unless it is committed already. */
  readonly unfounded?: AbortSignal | undefined;
}

export interface Freeze {
  freeze(): Promise<void>;
  /** Always called after a freeze that began, also when it failed. Gives how long the application stood, in ms. */
  thaw(): Promise<number>;
}

export interface TakenCut {
  readonly cut: CutId;
  /** False: nothing had changed; replicas that lacked something were brought to the cut that stands. */
  readonly fresh: boolean;
  readonly shippedTo: readonly string[];
  readonly payloadBytes: number;
  readonly freezeMs: number;
  readonly stores: readonly CutStore[];
}

/**
 * Takes one cut of a group: enters every store, compares what is found with the manifest and ships the difference to the
 * replicas that stand at the cut before, while it is read; replicas further back get everything since their own base.
 * The manifest of the cut is durable before any replica is told that it is whole.
 */
export async function takeCut(context: PrimaryContext, request: CutRequest, closing: AbortSignal): Promise<TakenCut> {
  const { catalog, manifest } = context;
  const { unfounded } = request;
  const signal = unfounded === undefined ? closing : AbortSignal.any([closing, unfounded]);
  if (dropsOwed.has(context)) dropOwed(context);
  const before = catalog.standing;
  const birth = seq(before.committed.seq + 1n);
  const cut: CutId = { epoch: before.epoch, seq: birth };
  const takenAtUs = Math.max(context.nowUs(), before.lastTakenAtUs + 1000);
  const storeNames = context.stores.map((store) => store.name);
  const begin = { incarnation: context.incarnation, groupId: before.groupId, stores: storeNames };
  const isCurrent = (sink: ReplicaSink): boolean =>
    sameCut(sink.base, before.committed) && !sink.resuming && sink.damaged.length === 0 && sink.touched === undefined;
  const current = request.sinks.filter((sink) => !sink.gone && isCurrent(sink));
  const shipment = new Shipment(
    current,
    { ...begin, cut, base: before.committed, takenAtUs },
    before.nextObject - 1,
    new Set(),
    request.patienceMs,
  );
  const lagging: { readonly sink: ReplicaSink; readonly shipment: Shipment; readonly catchUp: CatchUp }[] = [];
  const views: { store: PrimaryStore; index: number; view: StoreView }[] = [];
  let outcome: "taken" | "dropped" = "dropped";
  let frozen = false;
  let freezeMs = 0;
  try {
    catalog.begin();
    const depth = request.prune ? ({ depth: "scan", prune: true } as const) : ({ depth: request.depth } as const);
    // A reign begins with a cut of its own, also when nothing changed: replicas take none of an epoch that is over.
    // And what is damaged in a copy, or otherwise there, comes with a cut as all bytes do.
    const wantsMore = (sink: ReplicaSink): boolean => sink.damaged.length > 0 || sink.touched !== undefined;
    let changed =
      before.committed.epoch !== before.epoch ||
      request.sinks.some((sink) => !sink.gone && wantsMore(sink) && sameCut(sink.base, before.committed));
    const first = before.committed.seq === 0n ? new FirstCut() : undefined;
    const scopes = context.stores.map(
      (store, storeIndex): CompareScope => ({
        context,
        store,
        storeIndex,
        birth,
        shipment,
        preCopy: false,
        torn: new Set(),
        first,
        breath: unfounded === undefined ? undefined : new Breath(undefined, signal),
      }),
    );
    const rounds = request.freeze === undefined ? 0 : request.preCopyRounds;
    if (rounds > 0) {
      for (let round = 0; round < rounds; round++) {
        for (const [index, store] of context.stores.entries()) {
          const view = await store.adapter.enter(
            seenIndex(catalog, manifest, store.number, birth),
            { ...depth, frozen: false },
            signal,
          );
          let left: "taken" | "dropped" = "dropped";
          try {
            if (await compareView({ ...scopes[index]!, preCopy: true }, view)) changed = true;
            left = "taken";
          } finally {
            await view.leave(left);
          }
        }
      }
    }
    if (request.freeze !== undefined) {
      frozen = true;
      shipment.hold();
      await request.freeze.freeze();
    }
    for (const [index, store] of context.stores.entries()) {
      const view = await store.adapter.enter(
        seenIndex(catalog, manifest, store.number, birth),
        { ...depth, frozen: request.freeze !== undefined },
        signal,
      );
      views.push({ store, index, view });
    }
    for (const { index, view } of views) {
      if (await compareView(scopes[index]!, view)) changed = true;
    }
    for (const { index, view } of views) {
      const { store, torn } = scopes[index]!;
      // What a view lists as `behind` it keeps in mind itself, and the manifest has its previous version.
      const behind = new Set(request.freeze === undefined ? view.summary().behind : []);
      const path = [...torn].find((item) => !behind.has(item));
      if (path !== undefined) throw new LeftTorn(`${store.name}/${path}`);
    }
    const upTo = changed ? birth : before.committed.seq;
    for (const sink of request.sinks) {
      if (sink.gone || isCurrent(sink)) continue;
      const damaged = new Set(sink.damaged);
      const own = new Shipment(
        [sink],
        {
          ...begin,
          cut: changed ? cut : before.committed,
          base: sink.base,
          takenAtUs: changed ? takenAtUs : before.lastTakenAtUs,
        },
        sink.lastObject,
        { has: (object) => damaged.has(object) || sink.touched?.lacksAll(object) === true },
      );
      lagging.push({ sink, shipment: own, catchUp: new CatchUp(context, own, sink, upTo) });
    }
    const viewOf = new Map(views.map(({ store, view }) => [store.number, view]));
    // Nothing of it waits for a line, so it is read while nothing moves. Whoever takes nothing ahead waits for the others.
    const caughtUp = new Map<ReplicaSink, ReadonlySet<ObjectId>>();
    const readFor = async ({ sink, shipment: own, catchUp }: (typeof lagging)[number]): Promise<void> => {
      const unasked = (sink.resuming && !sink.held.listed) || sink.touched?.listed === false;
      const sent = sink.takesAhead && unasked ? "unasked" : await catchUp.sendBytes(viewOf);
      if (sent !== "unasked" && sent.kind === "sent") {
        caughtUp.set(sink, sent.complete);
        return;
      }
      sink.late = sink.takesAhead;
      if (sent !== "unasked" && sent.kind === "moved") {
        await own.abort(`${sent.path} moved while it was sent`);
        sink.held.forget();
      }
    };
    for (const behind of lagging) if (behind.sink.takesAhead) await readFor(behind);
    if (frozen && request.freeze !== undefined) {
      frozen = false;
      freezeMs = await request.freeze.thaw();
      await shipment.release();
    }
    unfounded?.throwIfAborted();
    const coherency: Coherency = request.freeze !== undefined || views.length === 1 ? "instant" : "independent";
    const counted = first?.isExact === true ? first : undefined;
    if (counted !== undefined) {
      for (const { store } of views) rememberTotals(context, store.number, birth, counted.totals(store.number));
    }
    // Before anything is counted: what died is not there any more.
    if (changed && counted === undefined) manifest.settleDeaths(birth, before.committed.seq);
    const stores = describe(context, views, changed ? birth : before.committed.seq);
    let end = { cut: before.committed, digest: before.digest, stores, coherency, freezeMs };
    if (changed) {
      const digest = counted?.digest() ?? manifest.digestAfter(before.committed.seq, before.digest, birth);
      end = { ...end, cut, digest };
      catalog.recordCut({
        cut,
        incarnation: context.incarnation,
        base: before.committed.seq,
        takenAtUs,
        state: "applied",
        digest,
        coherency,
        stores,
        payloadBytes: shipment.payloadBytes,
        freezeMs,
        committedAtUs: context.nowUs(),
        appliedAtUs: context.nowUs(),
        point: false,
      });
      catalog.stand({ committed: cut, applied: cut.seq, digest, lastTakenAtUs: takenAtUs });
      if (counted === undefined) pruneSuperseded(context, birth, request.forgottenUpTo);
    }
    if (changed) await shipment.flush();
    catalog.begin();
    catalog.commit("cut");
    outcome = "taken";
    const lastObject = catalog.standing.nextObject - 1;
    if (changed) await shipment.end(end, lastObject);
    let payloadBytes = shipment.payloadBytes;
    const shippedTo = changed ? shipment.sinks.map((sink) => sink.name) : [];
    for (const behind of lagging) if (!behind.sink.takesAhead && unfounded?.aborted !== true) await readFor(behind);
    // What is left needs the manifest only: however slow a line is, the stores are not held for it.
    for (const { view } of views) await view.leave(outcome);
    for (const { sink, shipment: own, catchUp } of lagging) {
      const complete = caughtUp.get(sink);
      if (complete === undefined) continue;
      await catchUp.sendRest(complete);
      await own.end(end, lastObject);
      payloadBytes += own.payloadBytes;
      if (!sink.gone) shippedTo.push(sink.name);
    }
    return { cut: end.cut, fresh: changed, shippedTo, payloadBytes, freezeMs, stores };
  } catch (error) {
    let failure: unknown = error;
    if (frozen && request.freeze !== undefined) {
      // The application first: what is to be cleared away may wait for a slow link. That it could not be thawed, or was
      // thawed at its limit, is what must be told.
      frozen = false;
      await request.freeze.thaw().catch((worse: unknown) => {
        failure = worse;
      });
    }
    if (outcome === "dropped") {
      catalog.rollback();
      totalsKnown.delete(context);
      dropsOwed.add(context);
      try {
        dropOwed(context);
      } catch (worse) {
        failure = worse;
      }
      const reason = failure instanceof Error ? failure.message : String(failure);
      await shipment.abort(reason);
      for (const { sink, shipment: own } of lagging) {
        await own.abort(reason);
        sink.held.forget();
      }
    }
    throw failure;
  } finally {
    for (const { view } of views) await view.leave(outcome);
  }
}

/** Where there was no room even to take a cut's rows back: nothing may be planned on top of them. */
const dropsOwed = new WeakSet<PrimaryContext>();

function dropOwed(context: PrimaryContext): void {
  dropTaking(context, seq(context.catalog.standing.committed.seq + 1n));
  dropsOwed.delete(context);
}

async function compareView(scope: CompareScope, view: StoreView): Promise<boolean> {
  const { catalog } = scope.context;
  const newRows = new NewRows(catalog);
  let changed = false;
  let rows = 0;
  for await (const found of view.changes()) {
    catalog.begin();
    let differs: boolean;
    if (found.kind === "entry" && isNewborn(found)) {
      differs = takeNewborn(scope, newRows, found.path, found.entry, found.content);
      if (scope.shipment.isPacked) await scope.shipment.send();
    } else {
      newRows.flush();
      differs = found.kind === "gone" ? await removeSubtree(scope, found.path) : await compareEntry(scope, found);
    }
    if (differs) changed = true;
    if (++rows >= rowsPerTransactionMax) {
      // Rows of a birth above the committed seq are seen by nobody; a crash drops them.
      assert(catalog.standing.committed.seq < scope.birth, "a cut in the making is not committed");
      newRows.flush();
      catalog.commit("rows");
      rows = 0;
    }
  }
  catalog.begin();
  newRows.flush();
  return changed;
}

function describe(
  context: PrimaryContext,
  views: readonly { store: PrimaryStore; view: StoreView }[],
  at: Seq,
): CutStore[] {
  return views.map(({ store, view }) => {
    const summary: ViewSummary = view.summary();
    const totals = storeTotals(context, store.number, at);
    return {
      name: store.name,
      kind: store.adapter.kind,
      consistency: summary.consistency,
      position: summary.position,
      bytes: totals.bytes,
      files: totals.files,
      behind: summary.behind.slice(0, 100),
    };
  });
}

/** Kept in memory between cuts: adding it up anew costs what the store costs, not what the change costs. */
const totalsKnown = new WeakMap<PrimaryContext, Map<number, { at: Seq; bytes: number; files: number }>>();

function rememberTotals(
  context: PrimaryContext,
  store: number,
  at: Seq,
  { bytes, files }: { readonly bytes: number; readonly files: number },
): void {
  const known = totalsKnown.get(context) ?? new Map<number, { at: Seq; bytes: number; files: number }>();
  known.set(store, { at, bytes, files });
  totalsKnown.set(context, known);
}

/** As they were counted last; after a start, as the last cut says. */
function lastTotals(
  context: PrimaryContext,
  store: number,
): { readonly at: Seq; readonly bytes: number; readonly files: number } | undefined {
  const known = totalsKnown.get(context)?.get(store);
  if (known !== undefined) return known;
  const at = context.catalog.standing.committed.seq;
  const name = context.stores.find(({ number }) => number === store)?.name;
  const recorded = context.catalog.cut(at)?.stores.find((described) => described.name === name);
  return recorded === undefined ? undefined : { at, bytes: recorded.bytes, files: recorded.files };
}

function storeTotals(context: PrimaryContext, store: number, at: Seq): { bytes: number; files: number } {
  const { catalog, manifest } = context;
  const last = lastTotals(context, store);
  if (last !== undefined && last.at === at) return last;
  let bytes = 0;
  let files = 0;
  if (last !== undefined && last.at < at) {
    ({ bytes, files } = last);
    const changed = catalog.statement("SELECT DISTINCT object FROM object_versions WHERE birth > ? AND birth <= ?");
    for (const row of changed.iterate(last.at, at) as IterableIterator<Record<string, unknown>>) {
      const object = Number(row.object) as ObjectId;
      const old = manifest.object(object, last.at);
      const now = manifest.object(object, at);
      const of = old ?? now;
      if (of?.type !== "file") continue;
      const place = catalog.get("SELECT store FROM path_versions WHERE object = ? LIMIT 1", object);
      if (Number(place?.store) !== store) continue;
      bytes += (now?.size ?? 0) - (old?.size ?? 0);
      files += (now === undefined ? 0 : 1) - (old === undefined ? 0 : 1);
    }
  } else {
    const row = catalog.get(
      `SELECT count(*) AS files, coalesce(sum(size), 0) AS bytes FROM object_versions o WHERE type = 1 AND birth <= ? AND NOT EXISTS (
         SELECT 1 FROM object_versions n WHERE n.object = o.object AND n.birth > o.birth AND n.birth <= ?)
       AND EXISTS (SELECT 1 FROM path_versions p WHERE p.object = o.object AND p.store = ?)`,
      at,
      at,
      store,
    );
    bytes = Number(row?.bytes ?? 0);
    files = Number(row?.files ?? 0);
  }
  rememberTotals(context, store, at, { bytes, files });
  return { bytes, files };
}
