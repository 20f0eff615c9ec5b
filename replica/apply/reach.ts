import type { Catalog } from "../../shared/catalog/catalog.ts";
import { joinPath } from "../../shared/catalog/manifest.ts";
import { type ObjectId, type StorePath, seq } from "../../shared/words.ts";
import { anyDamage, isDamaged, renewals } from "../repair/damage.ts";
import type { ReplicaContext } from "../replica-context.ts";

/** What committed cuts that wait for apply do to a damaged object. */
export interface PendingDamage {
  /** The first cut that touches it. */
  readonly first: bigint;
  /** The cut that brings all of it anew, or in which it dies; undefined when none of them does. */
  readonly resolved: bigint | undefined;
}

/**
 * How far apply may go at once: not into a cut that touches a damaged object before the one that renews it; that one it
 * takes along, although the batch gets larger. Undefined when the very next cut has to wait.
 */
export function reachable(
  applied: bigint,
  wanted: bigint,
  cuts: readonly bigint[],
  damage: readonly PendingDamage[],
): bigint | undefined {
  let limit = cuts.at(-1) ?? applied;
  for (const { first, resolved } of damage) if (resolved === undefined && first <= limit) limit = first - 1n;
  let end = wanted < limit ? wanted : limit;
  for (let settled = false; !settled; ) {
    settled = true;
    for (const { first, resolved } of damage) {
      if (resolved === undefined || first > end || resolved <= end) continue;
      if (resolved <= limit) end = resolved;
      else {
        limit = first - 1n;
        end = limit;
      }
      settled = false;
    }
  }
  return cuts.findLast((cut) => cut <= end && cut > applied);
}

/** Of every damaged object that the cuts after the applied one touch. */
export function pendingDamage({ catalog, manifest }: ReplicaContext): PendingDamage[] {
  if (!anyDamage(catalog)) return [];
  const { applied, committed } = catalog.standing;
  const touched = new Map<ObjectId, { first: bigint; resolved: bigint | undefined }>();
  const touch = (object: ObjectId, at: bigint): void => {
    const known = touched.get(object);
    if (known === undefined) touched.set(object, { first: at, resolved: undefined });
    else if (at < known.first) known.first = at;
  };
  const range = [applied, committed.seq] as const;
  for (const row of catalog.all(
    `SELECT o.object, min(o.birth) AS first FROM object_versions o JOIN damaged d ON d.object = o.object
       WHERE o.birth>? AND o.birth<=? GROUP BY o.object`,
    ...range,
  ))
    touch(Number(row.object) as ObjectId, BigInt(Number(row.first)));
  for (const row of catalog.all(
    "SELECT store, dir, name, birth, object FROM path_versions WHERE birth>? AND birth<=? ORDER BY birth",
    ...range,
  )) {
    const at = BigInt(Number(row.birth));
    const path: StorePath = joinPath(String(row.dir), String(row.name));
    const before = manifest.objectAtPath(Number(row.store), path, seq(at - 1n));
    for (const object of [before, row.object === null ? undefined : (Number(row.object) as ObjectId)]) {
      if (object !== undefined && isDamaged(catalog, object)) touch(object, at);
    }
  }
  const renewed = renewals(catalog, ...range);
  for (const [object, found] of touched) found.resolved = resolvedIn(catalog, object, range, renewed.get(object));
  // Directories are known by their path, and made again wherever they lack: nothing waits for them.
  return [...touched].flatMap(([object, found]) =>
    manifest.object(object, applied)?.type === "directory" ? [] : [found],
  );
}

function resolvedIn(
  catalog: Catalog,
  object: ObjectId,
  range: readonly [bigint, bigint],
  renewed: bigint | undefined,
): bigint | undefined {
  const death = catalog.get(
    "SELECT birth FROM object_versions WHERE object = ? AND type = 0 AND birth>? AND birth<=?",
    object,
    ...range,
  );
  const seqs = [renewed, death?.birth].flatMap((at) => (at === undefined ? [] : [BigInt(Number(at))]));
  return seqs.length === 0 ? undefined : seqs.reduce((least, at) => (at < least ? at : least));
}
