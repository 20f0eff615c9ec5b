import type { ObjectVersion } from "../../shared/catalog/manifest.ts";
import { dropNote, forgottenUpTo, keepForgottenUpTo, keepNote, noteOf } from "../../shared/catalog/notes.ts";
import { keepsHistory, type RetentionConfig } from "../../shared/config/config.ts";
import { type ObjectId, type Seq, seq } from "../../shared/words.ts";
import { imageBytesMax } from "../apply/save-images.ts";
import { homeOf, objectFileName, type ReplicaContext } from "../replica-context.ts";
import { historyFileNumber, settleHistoryFiles } from "./history-files.ts";
import { type KeptPoint, pointsToDrop } from "./retention.ts";

export interface Thinned {
  points: number;
  images: number;
  imageBytes: number;
  /** Files of dead objects that no point wants any more. */
  keptFiles: number;
  historyFiles: number;
  /** Of images that were moved out of history files that were more than half empty. */
  rewrittenBytes: number;
}

/** Rows that are looked at in one transaction. */
const rowsPerTransactionMax = 2000;
const pointsPerRunMax = 256;
/**
 * Where no history is kept, so many removals are remembered all the same: of paths, and of objects that died. A replica that is
 * further back when this node is promoted, and a node that is itself ahead of the one that is, are told by them what is gone.
 */
export const removalsMax = 100_000;
/** How far back they go is known by spans of cuts, of which there are at most so many. */
const removalSpansMax = 64;
/** Rows of cuts that are no points any more stay so long, for `status` and for who asks what happened. */
const cutsRememberedMax = 1000;

/**
 * Neighbouring points that go together. `after`: the kept point before them, 0 for none; `until`: the kept one, or the
 * applied cut, behind them. In the catalog from the moment the points are none until everything that only they wanted is
 * gone, so that a crash leaves no rubbish.
 */
interface Run {
  readonly after: Seq;
  readonly first: Seq;
  readonly until: Seq;
  /** Up to here marks of what is gone were forgotten before. */
  readonly forgotten: Seq;
  /** Up to here they are forgotten with this run, where it begins with the oldest cut of all. */
  readonly gone: Seq;
}

/** Of the cuts after the span before it up to `until`: how many removals are remembered. */
interface RemovalSpan {
  readonly until: Seq;
  readonly count: number;
}

/** Points that somebody reads. A set or map of the caller's own, so that what is pinned between two steps counts. */
export type Pins = Pick<ReadonlySet<Seq>, "has" | "keys">;

/** Everything of `thinning` at once. */
export function dropPoints(context: ReplicaContext, seqs: Iterable<Seq>, pinned: Pins): Thinned {
  const steps = thinning(context, seqs, pinned);
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
  }
}

/** Ends what a crash left of a thinning. Called once at start, after `recoverApply`. */
export function recoverThinning(context: ReplicaContext): Thinned {
  return dropPoints(context, [], new Set());
}

/**
 * Gives up recovery points and what only they wanted, in small transactions: between two steps the worker may do other
 * work, but begin no second thinning. What is pinned (somebody reads it) stays a point, and so does the applied cut. The
 * cost follows what changed between the neighbours of a point, never the size of the manifest.
 *
 * Rows go first, durably, then files: a file without a row is removed at the next start, a row without its file would
 * be a lost point.
 *
 * What this node is at may become another history between two steps, when it goes back to a cut or is adopted anew. Its cuts
 * then have numbers that were others' before: whoever does that takes the mark away, and what was under way ends there.
 */
export function* thinning(
  context: ReplicaContext,
  seqs: Iterable<Seq>,
  pinned: Pins,
  removals: "forgotten" | "remembered" = "forgotten",
): Generator<void, Thinned> {
  const result: Thinned = { points: 0, images: 0, imageBytes: 0, keptFiles: 0, historyFiles: 0, rewrittenBytes: 0 };
  const touched = new HistoryTouched();
  const left = markedRun(context);
  if (left !== undefined) {
    // What lost images before the crash is not known any more.
    touched.addAll(context);
    if (!(yield* whileMarked(context, clear(context, left, touched, result)))) return result;
  }
  let wanted = droppable(context, seqs);
  for (let points = nextRun(context, wanted, pinned); points.length > 0; points = nextRun(context, wanted, pinned)) {
    const last = points.at(-1)!;
    wanted = wanted.filter((at) => at > last);
    const run = begin(context, points, pinned, removals);
    result.points += points.length;
    if (!(yield* whileMarked(context, clear(context, run, touched, result)))) return result;
  }
  if (left === undefined && result.points === 0) return result;
  if (yield* whileMarked(context, settleHistoryFiles(context, touched.files(), result))) unmark(context);
  return result;
}

/** False when it was ended since the mark is gone. */
function* whileMarked(context: ReplicaContext, steps: Generator<void>): Generator<void, boolean> {
  while (steps.next().done !== true) {
    yield;
    if (markedRun(context) === undefined) return false;
  }
  return true;
}

/** Keeps to a group's retention: what goes by the ladder, and what does not fit the budget. */
export function* thinningByRetention(
  context: ReplicaContext,
  retention: RetentionConfig,
  pinned: Pins,
  rememberedMax = removalsMax,
): Generator<void, Thinned> {
  const points: KeptPoint[] = context.catalog
    .all("SELECT seq, taken_at_us FROM cuts WHERE point = 1 AND state = 'applied' ORDER BY seq")
    .map((row) => ({ seq: seq(Number(row.seq)), takenAtUs: Number(row.taken_at_us) }));
  if (!keepsHistory(retention)) return yield* thinningWithoutHistory(context, points, pinned, rememberedMax);
  const usedBytes = historyBytes(context);
  const sizes = usedBytes > retention.bytesMax ? pointBytes(context, points) : new Map<Seq, number>();
  const budget = { usedBytes, bytesMax: retention.bytesMax, bytesOf: (point: Seq) => sizes.get(point) ?? 0 };
  const dropped = pointsToDrop(points, retention.keep, context.nowUs(), budget);
  return yield* thinning(context, dropped, pinned);
}

/**
 * No images are saved any more, so no point is one; and of everything only what holds now is wanted. That something is gone is
 * remembered, of the newest cuts, as long as that is not too much.
 */
function* thinningWithoutHistory(
  context: ReplicaContext,
  points: readonly KeptPoint[],
  pinned: Pins,
  rememberedMax: number,
): Generator<void, Thinned> {
  const { catalog } = context;
  const result = yield* thinning(
    context,
    points.map((point) => point.seq),
    pinned,
    "remembered",
  );
  if (catalog.get("SELECT 1 AS found FROM cuts WHERE point = 1 LIMIT 1") !== undefined) return result;
  const clearRun = function* (run: Run, met?: { removals: number }): Generator<void, boolean> {
    catalog.transaction("thin", () => mark(context, run));
    return yield* whileMarked(context, clear(context, run, new HistoryTouched(), result, met));
  };
  const forgotten = forgottenUpTo(context.catalog);
  const spans = removalSpans(context);
  const known = spans.at(-1)?.until ?? seq(0);
  const first = known > forgotten ? known : forgotten;
  const until = [...pinned.keys()].reduce((least, pin) => (pin < least ? pin : least), catalog.standing.applied);
  if (until > first) {
    const met = { removals: 0 };
    if (!(yield* clearRun({ after: seq(0), first, until, forgotten, gone: forgotten }, met))) return result;
    spans.push({ until, count: met.removals });
  }
  const gone = tooMany(spans, rememberedMax);
  if (gone > forgotten && !(yield* clearRun({ after: seq(0), first: forgotten, until: gone, forgotten, gone })))
    return result;
  if (until > first || gone > forgotten) {
    catalog.transaction("thin", () => {
      dropNote(catalog, "thinning");
      keepSpans(context, spans, gone);
    });
  }
  return result;
}

/** Up to where removals are forgotten: half of them at once, so that it is not done with each cut. */
function tooMany(spans: readonly RemovalSpan[], rememberedMax: number): Seq {
  if (spans.reduce((sum, { count }) => sum + count, 0) <= rememberedMax) return seq(0);
  let left = 0;
  for (const { until, count } of spans.toReversed()) {
    left += count;
    if (left > rememberedMax / 2) return until;
  }
  return seq(0);
}

function removalSpans({ catalog }: ReplicaContext): RemovalSpan[] {
  const text = String(noteOf(catalog, "removals") ?? "");
  return text
    .split(" ")
    .filter((span) => span !== "")
    .map((span) => {
      const [until = "0", count = "0"] = span.split(":");
      return { until: seq(BigInt(until)), count: Number(count) };
    });
}

function keepSpans({ catalog }: ReplicaContext, spans: readonly RemovalSpan[], gone: Seq): void {
  let kept: RemovalSpan[] = [];
  for (const [index, { until, count }] of spans.entries()) {
    const left = until <= gone ? 0 : count;
    // The last one says up to where they were counted.
    if (left > 0 || index === spans.length - 1) kept.push({ until, count: left });
  }
  if (kept.length > removalSpansMax) kept = inPairs(kept);
  const text = kept.map(({ until, count }) => `${until}:${count}`).join(" ");
  keepNote(catalog, "removals", text);
}

function inPairs(spans: readonly RemovalSpan[]): RemovalSpan[] {
  return spans.flatMap(({ until, count }, index) => {
    if (index % 2 === 1) return [{ until, count: count + (spans[index - 1]?.count ?? 0) }];
    return index === spans.length - 1 ? [{ until, count }] : [];
  });
}

/** Bytes of everything that is kept only for recovery points, as it lies on the disks. */
export function historyBytes({ catalog, disk, homes }: ReplicaContext): number {
  let bytes = Number(catalog.get("SELECT coalesce(sum(bytes), 0) AS bytes FROM kept")?.bytes ?? 0);
  for (const home of homes.values()) {
    for (const name of disk.list(home.history)) bytes += disk.stat(home.history, name)?.size ?? 0;
  }
  return bytes;
}

/** What would go with each point: what died between it and the next one. */
function pointBytes({ catalog }: ReplicaContext, points: readonly KeptPoint[]): Map<Seq, number> {
  const result = new Map<Seq, number>();
  let index = 0;
  for (const row of catalog.all(
    `SELECT died, sum(length) AS bytes FROM (
       SELECT died, length FROM images UNION ALL SELECT died, bytes FROM kept) GROUP BY died ORDER BY died`,
  )) {
    const died = BigInt(Number(row.died));
    while (index + 1 < points.length && points[index + 1]!.seq < died) index++;
    const point = points[index];
    if (point !== undefined && point.seq < died)
      result.set(point.seq, (result.get(point.seq) ?? 0) + Number(row.bytes));
  }
  return result;
}

function droppable({ catalog }: ReplicaContext, seqs: Iterable<Seq>): Seq[] {
  const { applied } = catalog.standing;
  return [...new Set(seqs)]
    .filter((at) => at < applied)
    .filter((at) => catalog.get("SELECT 1 AS found FROM cuts WHERE seq = ? AND point = 1", at) !== undefined)
    .sort((a, b) => (a < b ? -1 : 1));
}

/** The first of the wanted points that nobody reads, with those that follow it without a kept one between. */
function nextRun(context: ReplicaContext, wanted: readonly Seq[], pinned: Pins): Seq[] {
  const run: Seq[] = [];
  for (const at of wanted) {
    if (pinned.has(at)) continue;
    const last = run.at(-1);
    if (last !== undefined && (run.length >= pointsPerRunMax || keptAfter(context, last, pinned) !== at)) break;
    run.push(at);
  }
  return run;
}

function keptAfter({ catalog }: ReplicaContext, at: Seq, pinned: Pins): Seq {
  const { applied } = catalog.standing;
  const row = catalog.get("SELECT min(seq) AS seq FROM cuts WHERE seq > ? AND seq < ? AND point = 1", at, applied);
  let found = row?.seq == null ? applied : seq(Number(row.seq));
  for (const pin of pinned.keys()) if (pin > at && pin < found) found = pin;
  return found;
}

function keptBefore({ catalog }: ReplicaContext, at: Seq, pinned: Pins): Seq {
  const row = catalog.get("SELECT max(seq) AS seq FROM cuts WHERE seq < ? AND point = 1", at);
  let found = seq(Number(row?.seq ?? 0));
  for (const pin of pinned.keys()) if (pin < at && pin > found) found = pin;
  return found;
}

/** From here on nobody takes these for points. */
function begin(
  context: ReplicaContext,
  points: readonly Seq[],
  pinned: Pins,
  removals: "forgotten" | "remembered",
): Run {
  const { catalog } = context;
  const first = points[0]!;
  const last = points.at(-1)!;
  const until = keptAfter(context, last, pinned);
  const forgotten = forgottenUpTo(context.catalog);
  const run: Run = {
    after: keptBefore(context, first, pinned),
    first,
    until,
    forgotten,
    gone: removals === "forgotten" ? until : forgotten,
  };
  catalog.transaction("thin", () => {
    catalog.run("UPDATE cuts SET point = 0 WHERE seq >= ? AND seq <= ?", first, last);
    mark(context, run);
  });
  return run;
}

function mark({ catalog }: ReplicaContext, run: Run): void {
  const value = [run.after, run.first, run.until, run.forgotten, run.gone].join(" ");
  keepNote(catalog, "thinning", value);
}

function unmark({ catalog }: ReplicaContext): void {
  catalog.transaction("thin", () => dropNote(catalog, "thinning"));
}

function markedRun({ catalog }: ReplicaContext): Run | undefined {
  const note = noteOf(catalog, "thinning");
  if (note === undefined) return undefined;
  // An earlier program remembered nothing.
  const [after = 0n, first = 0n, until = 0n, forgotten = 0n, gone = until] = String(note).split(" ").map(BigInt);
  return { after: seq(after), first: seq(first), until: seq(until), forgotten: seq(forgotten), gone: seq(gone) };
}

/** Every step may be done again: it looks at what the kept points want, not at what it did before. */
function* clear(
  context: ReplicaContext,
  run: Run,
  touched: HistoryTouched,
  result: Thinned,
  met = { removals: 0 },
): Generator<void> {
  yield* clearImages(context, run, touched, result);
  yield* clearObjects(context, run, result, met);
  yield* clearRuns(context, run);
  yield* clearPaths(context, run, met);
  if (run.after === 0n) yield* forgetTombstones(context, run);
  const { catalog } = context;
  catalog.transaction("thin", () => {
    catalog.run(
      `DELETE FROM cuts WHERE point = 0 AND state = 'applied' AND seq <= (
         SELECT seq FROM cuts WHERE point = 0 AND state = 'applied' ORDER BY seq DESC LIMIT 1 OFFSET ?)`,
      cutsRememberedMax,
    );
  });
  yield;
}

/** Walks rows in the order of a key, each handful in a transaction of its own; `after` gives the key of a row. */
function* inSmallTransactions<Key extends readonly (number | string)[]>(
  { catalog }: ReplicaContext,
  first: Key,
  rowsAfter: (key: Key) => Record<string, unknown>[],
  keyOf: (row: Record<string, unknown>) => Key,
  change: (row: Record<string, unknown>) => void,
  then: () => void = () => {},
): Generator<void> {
  let key = first;
  for (;;) {
    const rows = rowsAfter(key);
    const last = rows.at(-1);
    if (last === undefined) return;
    key = keyOf(last);
    catalog.transaction("thin", () => {
      for (const row of rows) change(row);
    });
    then();
    if (rows.length < rowsPerTransactionMax) return;
    yield;
  }
}

/**
 * An image goes when no kept point is older than its death, when the object was not there or not so long as of the
 * newest such point, or when older images that this point sees first cover it wholly.
 */
function* clearImages(context: ReplicaContext, run: Run, touched: HistoryTouched, result: Thinned): Generator<void> {
  const { catalog, manifest } = context;
  let known: { object: number; version: ObjectVersion | undefined } | undefined;
  yield* inSmallTransactions<readonly [number, number, number]>(
    context,
    [Number(run.first) + 1, 0, 0],
    ([died, object, offset]) =>
      catalog.all(
        `SELECT died, object, offset, length, store, file FROM images
           WHERE (died, object, offset) > (?,?,?) AND died <= ? ORDER BY died, object, offset LIMIT ?`,
        died,
        object,
        offset,
        run.until,
        rowsPerTransactionMax,
      ),
    (row) => [Number(row.died), Number(row.object), Number(row.offset)],
    (row) => {
      const object = Number(row.object) as ObjectId;
      const offset = Number(row.offset);
      if (known?.object !== object) known = { object, version: manifest.object(object, run.after) };
      const end = Math.min(offset + Number(row.length), known.version?.size ?? 0);
      if (offset < end && !covered(context, object, offset, end, run.after, Number(row.died))) return;
      catalog.run("DELETE FROM images WHERE object=? AND offset=? AND died=?", object, offset, Number(row.died));
      touched.add(Number(row.store), Number(row.file));
      result.images++;
      result.imageBytes += Number(row.length);
    },
  );
}

/** True when images that died after `after` and before `died` hold all of a range of an object. */
function covered(
  { catalog }: ReplicaContext,
  object: ObjectId,
  start: number,
  end: number,
  after: Seq,
  died: number,
): boolean {
  let at = start;
  while (at < end) {
    // Most often the very same blocks were written again.
    const same = catalog.get(
      "SELECT max(length) AS length FROM images WHERE object=? AND offset=? AND died>? AND died<?",
      object,
      at,
      after,
      died,
    );
    if (same?.length != null) {
      at += Number(same.length);
      continue;
    }
    const over = catalog.get(
      `SELECT max(offset + length) AS stop FROM images
         WHERE object=? AND offset<? AND offset>? AND died>? AND died<? AND offset+length>?`,
      object,
      at,
      at - imageBytesMax,
      after,
      died,
      at,
    );
    if (over?.stop == null) return false;
    at = Number(over.stop);
  }
  return true;
}

/**
 * Superseded versions of objects; and all of an object that died without a kept point in its life, but for that it died, where
 * that is remembered.
 */
function* clearObjects(context: ReplicaContext, run: Run, result: Thinned, met: { removals: number }): Generator<void> {
  const { catalog, disk } = context;
  const unlinked: { store: number; object: number }[] = [];
  yield* inSmallTransactions<readonly [number, number]>(
    context,
    [Number(run.first) + 1, 0],
    ([birth, object]) =>
      catalog.all(
        `SELECT birth, object, type FROM object_versions WHERE (birth, object) > (?,?) AND birth <= ?
           ORDER BY birth, object LIMIT ?`,
        birth,
        object,
        run.until,
        rowsPerTransactionMax,
      ),
    (row) => [Number(row.birth), Number(row.object)],
    (row) => {
      const object = Number(row.object);
      const born = Number(catalog.get("SELECT min(birth) AS birth FROM object_versions WHERE object=?", object)?.birth);
      if (row.type !== 0 || born <= run.after) {
        catalog.run(
          `DELETE FROM object_versions WHERE object=? AND birth>? AND birth = (
             SELECT max(birth) FROM object_versions WHERE object=? AND birth<?)`,
          object,
          run.after,
          object,
          Number(row.birth),
        );
        return;
      }
      const kept = catalog.get("SELECT store FROM kept WHERE object=?", object);
      if (kept !== undefined) unlinked.push({ store: Number(kept.store), object });
      for (const table of ["run_versions", "kept", "seen"]) catalog.run(`DELETE FROM ${table} WHERE object=?`, object);
      if (Number(row.birth) > run.gone) {
        catalog.run("DELETE FROM object_versions WHERE object=? AND birth<?", object, Number(row.birth));
        met.removals++;
        return;
      }
      catalog.run("DELETE FROM object_versions WHERE object=?", object);
      // A promoted node counts on from the highest object that it knows: this number must never come again.
      if (catalog.standing.nextObject <= object) catalog.stand({ nextObject: object + 1 });
    },
    () => {
      for (const { store, object } of unlinked) {
        const { kept } = homeOf(context, store);
        if (disk.stat(kept, objectFileName(object)) === undefined) continue;
        disk.unlink(kept, objectFileName(object));
        result.keptFiles++;
      }
      unlinked.length = 0;
    },
  );
}

function* clearRuns(context: ReplicaContext, run: Run): Generator<void> {
  const { catalog } = context;
  yield* inSmallTransactions<readonly [number, number, number]>(
    context,
    [Number(run.first) + 1, 0, 0],
    ([birth, object, number]) =>
      catalog.all(
        `SELECT birth, object, run FROM run_versions WHERE (birth, object, run) > (?,?,?) AND birth <= ?
           ORDER BY birth, object, run LIMIT ?`,
        birth,
        object,
        number,
        run.until,
        rowsPerTransactionMax,
      ),
    (row) => [Number(row.birth), Number(row.object), Number(row.run)],
    (row) =>
      catalog.run(
        `DELETE FROM run_versions WHERE object=? AND run=? AND birth>? AND birth = (
           SELECT max(birth) FROM run_versions WHERE object=? AND run=? AND birth<?)`,
        Number(row.object),
        Number(row.run),
        run.after,
        Number(row.object),
        Number(row.run),
        Number(row.birth),
      ),
  );
}

function* clearPaths(context: ReplicaContext, run: Run, met: { removals: number }): Generator<void> {
  const { catalog } = context;
  yield* inSmallTransactions<readonly [number, number, string, string]>(
    context,
    [Number(run.first) + 1, 0, "", ""],
    (key) =>
      catalog.all(
        `SELECT birth, store, dir, name, object FROM path_versions WHERE (birth, store, dir, name) > (?,?,?,?)
           AND birth <= ? ORDER BY birth, store, dir, name LIMIT ?`,
        ...key,
        run.until,
        rowsPerTransactionMax,
      ),
    (row) => [Number(row.birth), Number(row.store), String(row.dir), String(row.name)],
    (row) => {
      const path = [Number(row.store), String(row.dir), String(row.name)] as const;
      if (row.object === null) met.removals++;
      catalog.run(
        `DELETE FROM path_versions WHERE store=? AND dir=? AND name=? AND birth>? AND birth = (
           SELECT max(birth) FROM path_versions WHERE store=? AND dir=? AND name=? AND birth<?)`,
        ...path,
        run.after,
        ...path,
        Number(row.birth),
      );
    },
  );
}

/**
 * Marks of paths that were gone before the oldest point say nothing any more. `forgotten` is what a promoted node goes
 * by: a replica that is further back cannot be told what to remove.
 */
function* forgetTombstones(context: ReplicaContext, { forgotten, gone }: Run): Generator<void> {
  const { catalog } = context;
  if (gone <= forgotten) return;
  // Said before the first one goes: a crash in between must not leave a promise that is not kept.
  catalog.transaction("thin", () => keepForgottenUpTo(catalog, gone));
  yield* inSmallTransactions<readonly [number, number, string, string]>(
    context,
    [Number(forgotten) + 1, 0, "", ""],
    (key) =>
      catalog.all(
        `SELECT birth, store, dir, name, object FROM path_versions WHERE (birth, store, dir, name) > (?,?,?,?)
           AND birth <= ? ORDER BY birth, store, dir, name LIMIT ?`,
        ...key,
        gone,
        rowsPerTransactionMax,
      ),
    (row) => [Number(row.birth), Number(row.store), String(row.dir), String(row.name)],
    (row) => {
      if (row.object !== null) return;
      // With everything older of this path, or that would hold again.
      catalog.run(
        "DELETE FROM path_versions WHERE store=? AND dir=? AND name=? AND birth<=?",
        Number(row.store),
        String(row.dir),
        String(row.name),
        Number(row.birth),
      );
    },
  );
}

/** History files that lost images. */
class HistoryTouched {
  readonly #files = new Map<number, Set<number>>();

  add(store: number, file: number): void {
    let files = this.#files.get(store);
    if (files === undefined) {
      files = new Set();
      this.#files.set(store, files);
    }
    files.add(file);
  }

  addAll({ disk, homes }: ReplicaContext): void {
    for (const home of homes.values()) {
      for (const name of disk.list(home.history)) this.add(home.number, historyFileNumber(name));
    }
  }

  files(): ReadonlyMap<number, ReadonlySet<number>> {
    return this.#files;
  }
}
