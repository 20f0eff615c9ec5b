import { joinPath, type ObjectVersion, objectVersion } from "../../shared/catalog/manifest.ts";
import { type ObjectId, type Seq, type StorePath, seq } from "../../shared/words.ts";
import { renewals } from "../repair/damage.ts";
import { homeOf, type ReplicaContext } from "../replica-context.ts";

/** What a run of committed cuts changes in the copy: states before and after, and the writes between them in order. */
export interface Batch {
  readonly from: Seq;
  readonly to: Seq;
  readonly seqs: readonly Seq[];
  readonly objects: readonly ChangedObject[];
  readonly paths: readonly ChangedPath[];
}

export interface ChangedObject {
  readonly object: ObjectId;
  readonly store: number;
  readonly type: "file" | "directory" | "symlink";
  /** Undefined: born within the batch. */
  readonly before: ObjectVersion | undefined;
  /** Undefined: no path leads to it at the end of the batch. */
  readonly after: ObjectVersion | undefined;
  /** Its file is damaged, and this cut of the batch brings all of it anew, in a staged file. */
  readonly renewed?: Seq;
  /** Its versions within the batch, oldest first; a death has `version` undefined. */
  readonly steps: readonly { readonly seq: Seq; readonly version: ObjectVersion | undefined }[];
}

export interface ChangedPath {
  readonly store: number;
  /** As this node's tree calls it. */
  readonly path: StorePath;
  readonly before: { readonly object: ObjectId; readonly type: ChangedObject["type"] } | undefined;
  readonly after: { readonly object: ObjectId; readonly type: ChangedObject["type"] } | undefined;
}

/** The committed cuts that apply takes next, up to `bytesMax` of payload but at least one; undefined when there is none. */
export function nextBatchEnd(context: ReplicaContext): Seq | undefined {
  const { catalog, limits } = context;
  const standing = catalog.standing;
  if (standing.applying !== undefined) return standing.applying.to;
  let bytes = 0;
  let end: Seq | undefined;
  for (const row of catalog.all(
    "SELECT seq, payload_bytes FROM cuts WHERE state = 'committed' AND seq > ? ORDER BY seq LIMIT 1000",
    standing.applied,
  )) {
    if (end !== undefined && bytes + Number(row.payload_bytes) > limits.batchBytesMax) break;
    bytes += Number(row.payload_bytes);
    end = seq(Number(row.seq));
    // A first copy was built beside, and what later cuts do to it is done to the copy.
    if (standing.applied === 0n) break;
  }
  return end;
}

/** The step at which its file in staging is all of it: its birth in the batch, or the cut that renews it. */
export function stagedAt(changed: ChangedObject): ChangedObject["steps"][number] | undefined {
  if (changed.renewed !== undefined) return changed.steps.find((step) => step.seq === changed.renewed);
  return changed.before === undefined ? changed.steps.find((step) => step.version !== undefined) : undefined;
}

/** It came to be in the batch and nothing happened to it since: what materialize or receive made of it is all. */
export function onlyBorn(changed: ChangedObject): boolean {
  return changed.before === undefined && changed.steps.length === 1 && changed.after !== undefined;
}

export function planBatch(context: ReplicaContext, from: Seq, to: Seq): Batch {
  const { catalog, manifest } = context;
  const seqs = catalog
    .all("SELECT seq FROM cuts WHERE seq>? AND seq<=? AND state<>'receiving' ORDER BY seq", from, to)
    .map((row) => seq(Number(row.seq)));
  if (from === 0n && seqs.length === 1) return planFirstCopy(context, to);
  const paths: ChangedPath[] = [];
  const storeOf = new Map<ObjectId, number>();
  for (const row of catalog.all(
    "SELECT DISTINCT store, dir, name FROM path_versions WHERE birth>? AND birth<=?",
    from,
    to,
  )) {
    const store = Number(row.store);
    const path = joinPath(String(row.dir), String(row.name));
    const before = manifest.objectAtPath(store, path, from);
    const after = manifest.objectAtPath(store, path, to);
    for (const object of [before, after]) if (object !== undefined) storeOf.set(object, store);
    if (before === after) continue;
    paths.push({
      store,
      path: homeOf(context, store).local(path),
      before: before === undefined ? undefined : { object: before, type: manifest.object(before, from)!.type },
      after: after === undefined ? undefined : { object: after, type: manifest.object(after, to)!.type },
    });
  }
  const renewedIn = renewals(catalog, from, to);
  const objects: ChangedObject[] = [];
  for (const { object, version: after } of manifest.objectsBorn(from, to)) {
    const before = manifest.object(object, from);
    const steps = catalog
      .all(
        "SELECT birth, type FROM object_versions WHERE object=? AND birth>? AND birth<=? ORDER BY birth",
        object,
        from,
        to,
      )
      .map((row) => {
        const at = seq(Number(row.birth));
        return { seq: at, version: row.type === 0 ? undefined : manifest.object(object, at) };
      });
    const type = (before ?? after ?? steps.find((step) => step.version !== undefined)?.version)?.type;
    if (type === undefined) continue; // A death that was written for an object that never lived here.
    const store = storeOf.get(object) ?? storeOfObject(context, object, from, to);
    if (store === undefined) continue; // Named and dropped again before it had a path.
    const renewed = before === undefined ? undefined : renewedIn.get(object);
    objects.push({ object, store, type, before, after, steps, ...(renewed === undefined ? {} : { renewed }) });
    if (renewed !== undefined) paths.push(...placesOf(context, object, type, from, to));
  }
  return { from, to, seqs, objects, paths };
}

/** Where the new file of a renewed object goes, also where its names are the same as before. */
function placesOf(
  context: ReplicaContext,
  object: ObjectId,
  type: ChangedObject["type"],
  from: Seq,
  to: Seq,
): ChangedPath[] {
  const { manifest } = context;
  return manifest.pathsOf(object, to).flatMap(({ store, path }) => {
    if (manifest.objectAtPath(store, path, from) !== object) return []; // A changed path, which is there already.
    const named = { object, type };
    return [{ store, path: homeOf(context, store).local(path), before: named, after: named }];
  });
}

const nothing = new Uint8Array(0);

/** Of object `o` of a first copy: see replica/receive/first-tree.ts. */
const notBuilt = `(NOT EXISTS (SELECT 1 FROM seen WHERE object = o.object)
  OR EXISTS (SELECT 1 FROM staged WHERE object = o.object))`;

/**
 * A first copy has nothing before it: one walk over its rows, where a change needs several look-ups for each. What
 * was built comes with the directories at the top of the first tree, and is not looked at.
 */
function planFirstCopy(context: ReplicaContext, to: Seq): Batch {
  const paths: ChangedPath[] = [];
  const objects = new Map<ObjectId, ChangedObject>();
  for (const row of context.catalog
    .statement(
      `SELECT p.store AS store, p.dir AS dir, p.name AS name, o.* FROM path_versions p
         JOIN object_versions o ON o.object = p.object AND o.birth = p.birth
         WHERE p.birth = ? AND (o.type = 2 OR ${notBuilt})`,
    )
    .iterate(to) as IterableIterator<Record<string, unknown>>) {
    const store = Number(row.store);
    // Nothing here asks for the digest of a newborn's content, and there may be a hundred thousand of them.
    const version = { ...objectVersion(row), content: nothing };
    const { object, type } = version;
    const path = homeOf(context, store).local(joinPath(String(row.dir), String(row.name)));
    paths.push({ store, path, before: undefined, after: { object, type } });
    if (objects.has(object)) continue;
    objects.set(object, { object, store, type, before: undefined, after: version, steps: [{ seq: to, version }] });
  }
  return { from: 0n as Seq, to, seqs: [to], objects: [...objects.values()], paths };
}

/** Files and symlinks of a first copy that were built right below the root of their store. */
export function builtAtTop({ catalog }: ReplicaContext, to: Seq): IterableIterator<Record<string, unknown>> {
  return catalog
    .statement(
      `SELECT p.store AS store, p.name AS name, p.object AS object FROM path_versions p
         JOIN object_versions o ON o.object = p.object AND o.birth = p.birth
         WHERE p.dir = '' AND p.birth = ? AND o.type <> 2 AND NOT ${notBuilt}`,
    )
    .iterate(to) as IterableIterator<Record<string, unknown>>;
}

function storeOfObject(context: ReplicaContext, object: ObjectId, from: Seq, to: Seq): number | undefined {
  const { catalog, manifest } = context;
  const seen = catalog.get("SELECT store FROM seen WHERE object = ?", object);
  if (seen !== undefined) return Number(seen.store);
  const path =
    manifest.pathsOf(object, to)[0] ??
    manifest.pathsOf(object, from)[0] ??
    catalog.get("SELECT store FROM path_versions WHERE object=? LIMIT 1", object);
  return path === undefined ? undefined : Number(path.store);
}

/** The writes of one cut to one object, in order. */
export interface PendingExtent {
  readonly seq: Seq;
  readonly object: ObjectId;
  readonly offset: number;
  readonly length: number;
  readonly place: "zero" | "inline" | "segment";
  readonly position: number;
  readonly payload: Uint8Array | undefined;
}

const places = ["zero", "inline", "segment"] as const;

export function* pendingExtents(
  context: ReplicaContext,
  object: ObjectId,
  after: Seq,
  upTo: Seq,
): Generator<PendingExtent> {
  for (const row of context.catalog
    .statement("SELECT * FROM extents WHERE object=? AND seq>? AND seq<=? ORDER BY seq, ordinal")
    .all(object, after, upTo) as Record<string, unknown>[]) {
    yield {
      seq: seq(Number(row.seq)),
      object,
      offset: Number(row.offset),
      length: Number(row.length),
      place: places[Number(row.place)]!,
      position: Number(row.position),
      payload: row.payload === null ? undefined : (row.payload as Uint8Array),
    };
  }
}
