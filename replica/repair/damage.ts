import type { Catalog } from "../../shared/catalog/catalog.ts";
import { readablePath } from "../../shared/store-path.ts";
import { type ObjectId, type Seq, type StorePath, seq } from "../../shared/words.ts";
import { homeOf, type ReplicaContext } from "../replica-context.ts";

/** An object whose file is not as we left it: somebody else changed, moved, replaced or removed it. */
export interface Damage {
  readonly object: ObjectId;
  readonly store: number;
  /** As this node's tree calls it; "" for what is only kept for recovery points. */
  readonly path: StorePath;
  readonly what: string;
}

/** Objects that one acknowledgement asks for, and bytes of them but for a single larger one: the rest follows after those. */
const askedObjectsMax = 4096;
const askedBytesMax = 1024 * 1024 * 1024;

/**
 * Writes down what was found, durably, and that the copy is suspect. An object in `damaged` belongs to the repair: apply
 * changes nothing of it until its file is ours again. Gives how many were not known before.
 */
export function noteDamage(context: ReplicaContext, found: readonly Damage[]): number {
  const { catalog } = context;
  const fresh = found.filter(({ object }) => !isDamaged(catalog, object));
  if (fresh.length === 0) return 0;
  catalog.transaction("damaged", () => {
    for (const { object, store, path, what } of fresh) {
      catalog.run(
        "INSERT OR IGNORE INTO damaged (object, store, path, what) VALUES (?,?,?,?)",
        object,
        store,
        path,
        what,
      );
      const { name } = homeOf(context, store).placement;
      catalog.event("copy.damaged", { store: name, path, what }, context.nowUs());
    }
    settleSuspect(catalog);
  });
  return fresh.length;
}

export function isDamaged(catalog: Catalog, object: ObjectId): boolean {
  return catalog.get("SELECT 1 AS found FROM damaged WHERE object = ?", object) !== undefined;
}

export function anyDamage(catalog: Catalog): boolean {
  return catalog.get("SELECT 1 AS found FROM damaged LIMIT 1") !== undefined;
}

export function damagedObjects(catalog: Catalog): ReadonlySet<ObjectId> {
  return new Set(catalog.all("SELECT object FROM damaged").map((row) => Number(row.object) as ObjectId));
}

/** Within a transaction: the file of an object is ours again, or nobody wants it any more. */
export function clearDamage(catalog: Catalog, object: ObjectId): void {
  catalog.run("DELETE FROM damaged WHERE object = ?", object);
}

/** Within a transaction: the copy is suspect as long as anything in it is damaged. */
export function settleSuspect(catalog: Catalog): void {
  const suspect = suspectText(catalog);
  if (catalog.standing.suspect === suspect) return;
  // A batch that broke off has a reason of its own, which ends with it.
  if (suspect === "" && catalog.standing.applying !== undefined) return;
  catalog.stand({ suspect });
}

export function suspectText(catalog: Catalog): string {
  const rows = catalog.all("SELECT store, path, what FROM damaged ORDER BY object LIMIT 2");
  const [first] = rows;
  if (first === undefined) return "";
  const store = catalog.storeNames().get(Number(first.store)) ?? "";
  const path = String(first.path) as StorePath;
  const named = path === "" ? "a file that is kept for recovery points" : `${store}/${readablePath(path) ?? path}`;
  return `somebody changed ${named} in the copy: ${first.what}${rows.length > 1 ? ", and others" : ""}`;
}

/** What was found and not looked at yet, oldest object first. */
export function* unexamined({ catalog }: ReplicaContext): Generator<Damage> {
  for (let after = 0; ; ) {
    const row = catalog.get("SELECT * FROM damaged WHERE asked = 0 AND object > ? ORDER BY object LIMIT 1", after);
    if (row === undefined) return;
    after = Number(row.object);
    yield {
      object: after as ObjectId,
      store: Number(row.store),
      path: String(row.path) as StorePath,
      what: String(row.what),
    };
  }
}

/** Only the primary has its bytes. */
export function askFor(context: ReplicaContext, object: ObjectId): void {
  context.catalog.transaction("damaged", () =>
    context.catalog.run("UPDATE damaged SET asked = 1 WHERE object = ?", object),
  );
}

/**
 * What the primary is to send whole with its next cut, as much as goes into one. What has come and waits for apply is
 * not asked for again: its staged file is part of a committed cut.
 */
export function askedOfPrimary({ catalog, manifest }: ReplicaContext): ObjectId[] {
  const { committed, applied } = catalog.standing;
  const asked: ObjectId[] = [];
  let bytes = 0;
  const sql = "SELECT object FROM damaged WHERE asked = 1 AND (renewed IS NULL OR renewed <= ?) ORDER BY object";
  for (const row of catalog.statement(sql).iterate(applied)) {
    const object = Number((row as { object: number }).object) as ObjectId;
    const version = manifest.object(object, committed.seq);
    if (version?.type !== "file") continue; // It dies with a cut that waits for apply.
    bytes += version.size;
    if (asked.length > 0 && bytes > askedBytesMax) break;
    asked.push(object);
    if (asked.length === askedObjectsMax) break;
  }
  return asked;
}

/** An object that the copy has may come whole once more when its file is damaged, and not twice over. */
export function mayComeAnew(catalog: Catalog, object: ObjectId): boolean {
  const { applied } = catalog.standing;
  const sql = "SELECT 1 AS found FROM damaged WHERE object = ? AND (renewed IS NULL OR renewed <= ?)";
  return catalog.get(sql, object, applied) !== undefined;
}

/** Within the transaction that makes a cut visible: it brings these objects whole. */
export function noteRenewed(catalog: Catalog, objects: Iterable<ObjectId>, seq: Seq): void {
  for (const object of objects) catalog.run("UPDATE damaged SET renewed = ? WHERE object = ?", seq, object);
}

/** Damaged objects that cuts in (after, upTo] bring whole, with the cut. */
export function renewals(catalog: Catalog, after: bigint, upTo: bigint): Map<ObjectId, Seq> {
  const rows = catalog.all(
    `SELECT d.object, d.renewed FROM damaged d JOIN staged s ON s.object = d.object AND s.seq = d.renewed
       WHERE d.renewed>? AND d.renewed<=?`,
    after,
    upTo,
  );
  return new Map(rows.map((row) => [Number(row.object) as ObjectId, seq(Number(row.renewed))]));
}
