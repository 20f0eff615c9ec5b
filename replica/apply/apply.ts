import type { Standing } from "../../shared/catalog/catalog.ts";
import { assert } from "../../shared/errors.ts";
import type { ObjectId, Seq, StorePath } from "../../shared/words.ts";
import { takePartial } from "../receive/first-tree.ts";
import { adopting, distrustStaging } from "../receive/resume.ts";
import { segmentName } from "../receive/staging.ts";
import {
  anyDamage,
  clearDamage,
  type Damage,
  isDamaged,
  noteDamage,
  settleSuspect,
  suspectText,
} from "../repair/damage.ts";
import { homeOf, objectFileName, type ReplicaContext } from "../replica-context.ts";
import type { StoreHome } from "../store-home.ts";
import { SyncFailed } from "../sync.ts";
import { holdsContent } from "./holds-content.ts";
import { ForeignChange, locate } from "./locate.ts";
import { materialize } from "./materialize.ts";
import { type Batch, type ChangedObject, nextBatchEnd, planBatch } from "./plan-batch.ts";
import { pendingDamage, reachable } from "./reach.ts";
import { dropUnknownHistory, type SavedImage, saveImages } from "./save-images.ts";
import { putSeen } from "./seen.ts";
import { writeCopy } from "./write-copy.ts";

export interface Applied {
  readonly from: Seq;
  readonly to: Seq;
  readonly cuts: number;
  readonly imageBytes: number;
  readonly strangers: readonly string[];
  /** Paths of files that were damaged, and are again what the primary has. */
  readonly repaired: readonly string[];
  readonly metadataPartial: number;
}

/**
 * Brings the next batch of committed cuts into the copy, durably; undefined when there is none.
 *
 * Order, each step durable before the next: files of newborn objects and old images; the mark `applying`; the copy; one
 * commit that ends the mark. A crash before the mark leaves the copy untouched: begin anew. With the mark: write all
 * again, without saving images, which would be the new bytes.
 *
 * Objects whose file somebody else changed are left as they are until a cut brings them anew: cuts before the first one
 * that touches such an object are applied, the others wait.
 *
 * @throws {SyncFailed} the mark stays, so the whole batch is written anew after a restart
 * @throws {ForeignChange} the next cut has to wait for the repair of what somebody else changed, or he is at it just now
 *
 * `accepted: "suspect"`: a person has accepted that, and nobody is left to mend it from. What was changed is written over
 * as it is, what is gone stays gone; everything else is brought to the newest cut. The mark keeps it for a redo, and the
 * copy stays suspect until its reign begins: a promotion may be given up.
 */
export function applyNext(context: ReplicaContext, keepHistory: boolean, accepted?: "suspect"): Applied | undefined {
  const { catalog } = context;
  const { applying } = catalog.standing;
  const redo = applying !== undefined;
  const although = accepted ?? applying?.although;
  if (applying !== undefined && applying.although !== although)
    catalog.transaction("applying", () => catalog.stand({ applying: markOf(applying, although) }));
  const planned = nextBatch(context, although);
  if (planned === undefined) return undefined;
  const { to } = planned;
  const batch = withoutWhatIsGone(context, planned, redo, although);
  let imageBytes = 0;
  let metadataPartial = 0;
  if (!redo) {
    try {
      ({ imageBytes, metadataPartial } = prepare(context, batch, keepHistory, although));
    } catch (error) {
      if (error instanceof SyncFailed) distrustStaging(context);
      throw error;
    }
  }
  assert(catalog.standing.applying?.to === to, "the mark stands before the copy is touched");
  let written: ReturnType<typeof writeCopy>;
  try {
    written = writeCopy(context, batch, keepHistory, redo);
  } catch (error) {
    // A filesystem's sync that failed may have dropped what half a cut has staged there meanwhile.
    if (error instanceof SyncFailed) distrustStaging(context);
    if (error instanceof SyncFailed || error instanceof ForeignChange) markSuspect(context, error.message);
    throw error;
  }
  const repaired: string[] = [];
  const orphans: { readonly object: number; readonly store: number }[] = [];
  catalog.transaction("applied", () => {
    for (const { object, store, stat } of written.seen) putSeen(context, object, store, stat);
    const objects = new Map(batch.objects.map((changed) => [changed.object, changed]));
    for (const { object, store, bytes } of written.kept) {
      const death = objects.get(object)?.steps.find((step) => step.version === undefined);
      assert(death !== undefined, `object ${object} is kept and has not died`);
      catalog.run(
        "INSERT OR REPLACE INTO kept (object, died, store, bytes) VALUES (?,?,?,?)",
        object,
        death.seq,
        store,
        bytes,
      );
    }
    for (const { object, after } of planned.objects) {
      if (after !== undefined) continue;
      catalog.run("DELETE FROM seen WHERE object = ? AND object NOT IN (SELECT object FROM kept)", object);
      if (!isDamaged(catalog, object)) continue;
      clearDamage(catalog, object);
      if (keepHistory) catalog.event("history.lost", { object, before: batch.to }, context.nowUs());
    }
    for (const { object, renewed } of batch.objects) {
      if (renewed === undefined || !isDamaged(catalog, object)) continue;
      clearDamage(catalog, object);
      const path = context.manifest.pathsOf(object, batch.to)[0]?.path ?? "";
      catalog.event("copy.repaired", { object, path, seq: batch.to }, context.nowUs());
      repaired.push(path);
    }
    catalog.run("DELETE FROM extents WHERE seq > ? AND seq <= ?", batch.from, batch.to);
    for (const row of catalog.all(
      "SELECT object, store FROM staged WHERE seq > ? AND seq <= ?",
      batch.from,
      batch.to,
    )) {
      const object = Number(row.object) as ObjectId;
      if (objects.has(object)) continue;
      orphans.push({ object, store: Number(row.store) });
      catalog.run("DELETE FROM staged_runs WHERE object = ?", object);
    }
    catalog.run("DELETE FROM staged WHERE seq > ? AND seq <= ?", batch.from, batch.to);
    catalog.run(
      "UPDATE cuts SET state = 'applied', applied_at_us = ?, point = ? WHERE seq > ? AND seq <= ? AND state = 'committed'",
      context.nowUs(),
      keepHistory ? 1 : 0,
      batch.from,
      batch.to,
    );
    for (const path of written.strangers) catalog.event("stranger.put_aside", { path, seq: batch.to }, context.nowUs());
    const suspect = although === undefined ? "" : catalog.standing.suspect;
    catalog.stand({ applied: batch.to, applying: undefined, suspect });
    if (although === undefined) settleSuspect(catalog);
  });
  removeSegments(context, batch.seqs);
  // Kept of a broken session for a resume that never came: the object was gone when the primary planned again.
  for (const { object, store } of orphans) {
    const { staging } = homeOf(context, store);
    if (context.disk.stat(staging, objectFileName(object)) !== undefined)
      context.disk.unlink(staging, objectFileName(object));
  }
  return {
    from: batch.from,
    to: batch.to,
    cuts: batch.seqs.length,
    imageBytes,
    strangers: written.strangers,
    repaired,
    metadataPartial: metadataPartial + written.metadataPartial,
  };
}

/** Everything that can be done without touching the copy, ending with the mark. */
function prepare(
  context: ReplicaContext,
  batch: Batch,
  keepHistory: boolean,
  although: "suspect" | undefined,
): { imageBytes: number; metadataPartial: number } {
  const { catalog } = context;
  const { made, metadataPartial: ofMade } = materialize(context, batch);
  let metadataPartial = ofMade;
  // Newborn files are known to the catalog only with the mark; until then images are read from staging by name.
  const images: SavedImage[] = keepHistory ? saveImages(context, batch) : [];
  catalog.transaction("applying", () => {
    for (const { object, stat } of made) {
      putSeen(context, object.object, object.store, stat);
      if (batch.from === 0n) markUnbuilt(context, object, batch.to);
    }
    metadataPartial += takePartial(context);
    for (const image of images) {
      catalog.run(
        "INSERT INTO images (object, died, offset, length, store, file, position) VALUES (?,?,?,?,?,?,?)",
        image.object,
        image.died,
        image.offset,
        image.length,
        image.store,
        batch.to,
        image.position,
      );
    }
    catalog.stand({ applying: markOf(batch, although) });
  });
  return { imageBytes: images.reduce((sum, image) => sum + image.length, 0), metadataPartial };
}

/** In a first copy what was seen and is not staged lies in the first tree; the mark makes the others seen. */
function markUnbuilt({ catalog }: ReplicaContext, { object, store, after }: ChangedObject, to: Seq): void {
  catalog.run(
    "INSERT OR IGNORE INTO staged (object, store, seq, block_size) VALUES (?,?,?,?)",
    object,
    store,
    to,
    after?.blockSize ?? 0,
  );
}

function markOf(
  { from, to }: { readonly from: Seq; readonly to: Seq },
  although: "suspect" | undefined,
): Standing["applying"] {
  return although === undefined ? { from, to } : { from, to, although };
}

/** The batch that comes next; undefined when there is none. What is damaged and not renewed in it stays out of it. */
function nextBatch(context: ReplicaContext, although: "suspect" | undefined): Batch | undefined {
  const { catalog } = context;
  for (;;) {
    const wanted = nextBatchEnd(context);
    if (wanted === undefined) return undefined;
    const { applied, applying } = catalog.standing;
    if (applying !== undefined || although !== undefined) return planBatch(context, applied, wanted);
    const damage = pendingDamage(context);
    let end: bigint | undefined = wanted;
    if (damage.length > 0) {
      const cuts = catalog.cuts("committed").map(({ cut }) => cut.seq);
      end = reachable(applied, wanted, cuts, damage);
    }
    if (end === undefined) throw new ForeignChange(suspectText(catalog));
    const batch = planBatch(context, applied, end as Seq);
    // What is found only now may make it end earlier, or have to wait.
    if (noteDamage(context, foreignChanges(context, batch)) === 0) return batch;
  }
}

/** Objects that the batch changes, and those that only get another name. */
function* concerned({ manifest }: ReplicaContext, batch: Batch): Generator<ChangedObject> {
  yield* batch.objects;
  const known = new Set(batch.objects.map(({ object }) => object));
  for (const { store, after: named } of batch.paths) {
    if (named === undefined || named.type === "directory" || known.has(named.object)) continue;
    known.add(named.object);
    const { object, type } = named;
    const before = manifest.object(object, batch.from);
    yield { object, store, type, before, after: manifest.object(object, batch.to), steps: [] };
  }
}

/** Files that the batch is about to change must stand as we left them. */
function foreignChanges(context: ReplicaContext, batch: Batch): Damage[] {
  const { catalog, manifest } = context;
  const statement = catalog.statement("SELECT inode, size, mtime_ns, ctime_ns FROM seen WHERE object = ?");
  statement.setReadBigInts(true);
  const damage: Damage[] = [];
  if (batch.from === 0n) return damage; // Before a first copy there was nothing.
  for (const { object, store, type, before, after, renewed } of concerned(context, batch)) {
    if (before === undefined || type !== "file" || renewed !== undefined) continue;
    const row = statement.get(object) as { size: bigint; mtime_ns: bigint; ctime_ns: bigint } | undefined;
    const found = locate(context, object, store, batch.from, batch.to);
    const note = (what: string): void => {
      const path = manifest.pathsOf(object, batch.from)[0]?.path;
      damage.push({
        object,
        store,
        path: path === undefined ? ("" as StorePath) : homeOf(context, store).local(path),
        what,
      });
    };
    if (row === undefined || found === undefined) {
      note("is gone or was replaced");
      continue;
    }
    const { stat } = found;
    const same = (): boolean => holdsContent(context, found, before, batch.from);
    const written = BigInt(stat.size) !== row.size || stat.mtimeNs !== row.mtime_ns;
    // The ctime alone proves nothing: a rename sets it, no sync covers it, and a power failure takes it back.
    // Of what dies in the batch only the content counts.
    if (written ? after !== undefined || !same() : stat.ctimeNs !== row.ctime_ns && !same()) note("was written to");
  }
  return damage;
}

/**
 * Of an object whose file a stranger removed nothing can be written: the batch goes on without it, and what is missing
 * and lives on is damaged from here on. In a redo everything was found before the mark: what is gone went since.
 */
function withoutWhatIsGone(
  context: ReplicaContext,
  batch: Batch,
  redo: boolean,
  although: "suspect" | undefined,
): Batch {
  const gone = new Map<ObjectId, ChangedObject>();
  if (!redo && batch.from === 0n) return batch;
  // Files were found a moment ago, but for what is known to be damaged.
  const found = !redo && although === undefined && !anyDamage(context.catalog);
  for (const changed of concerned(context, batch)) {
    const { object, store, type, before, renewed } = changed;
    if (type === "directory" || (found && type === "file")) continue;
    if (!redo && (before === undefined || renewed !== undefined)) continue;
    if (locate(context, object, store, batch.from, batch.to) === undefined) gone.set(object, changed);
  }
  if (gone.size === 0) return batch;
  if (although === undefined) {
    const damage = [...gone.values()].flatMap(({ object, store, after }) => {
      if (after === undefined) return [];
      const path = context.manifest.pathsOf(object, batch.to)[0]?.path ?? ("" as StorePath);
      return [{ object, store, path: homeOf(context, store).local(path), what: "is gone or was replaced" }];
    });
    noteDamage(context, damage);
  }
  return {
    ...batch,
    objects: batch.objects.filter(({ object }) => !gone.has(object)),
    // The name is free for whoever comes back; whoever had it before gives it up all the same.
    paths: batch.paths.map((path) =>
      path.after !== undefined && gone.has(path.after.object) ? { ...path, after: undefined } : path,
    ),
  };
}

export function markSuspect(context: ReplicaContext, reason: string): void {
  const { catalog } = context;
  catalog.transaction("suspect", () => {
    catalog.event("copy.suspect", { reason }, context.nowUs());
    catalog.stand({ suspect: reason });
  });
}

/** What a crash left half-done before a mark, and files whose rows are gone. Called once before anything else. */
export function recoverApply(context: ReplicaContext): void {
  dropUnknownHistory(context);
  const { disk, homes, catalog } = context;
  if (catalog.standing.applying !== undefined) return;
  for (const home of homes.values()) {
    for (const name of disk.list(home.kept)) {
      if (catalog.get("SELECT 1 AS found FROM kept WHERE object = ?", Number(name.slice(1))) === undefined)
        disk.unlink(home.kept, name);
    }
    // A crash may have left it so, when the catalog had just forgotten a batch for an adoption.
    if (adopting(catalog)) emptyLimbo(context, home);
    assert(disk.list(home.limbo).length === 0, `without a mark nothing lies in limbo of store ${home.placement.name}`);
  }
}

/** A file that a broken apply had moved away may be the only one of its content: it goes to where strangers' files are. */
export function emptyLimbo({ disk, nowUs }: ReplicaContext, home: StoreHome): void {
  for (const name of disk.list(home.limbo)) disk.rename(home.limbo, name, home.strangers, `adopted-${nowUs()}-${name}`);
}

function removeSegments(context: ReplicaContext, seqs: readonly Seq[]): void {
  const { disk, homes } = context;
  for (const home of homes.values()) {
    for (const seq of seqs) {
      const name = segmentName(seq);
      if (disk.stat(home.staging, name) !== undefined) disk.unlink(home.staging, name);
    }
  }
}
