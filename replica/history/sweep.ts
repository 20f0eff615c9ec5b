import type { Stat } from "../../shared/ports/disk.ts";
import type { ObjectId, Seq, StoreName, StorePath } from "../../shared/words.ts";
import { homeOf, objectFileName, type ReplicaContext } from "../replica-context.ts";

/** Somebody else touched the file of an object. */
export interface StrangersChange {
  readonly store: StoreName;
  readonly object: ObjectId;
  /** As this node's tree calls it; "" for a file that is kept for recovery points. */
  readonly path: StorePath;
  readonly what: string;
}

export interface SweepSlice {
  readonly checked: number;
  readonly changes: readonly StrangersChange[];
  /** Where the next slice begins; undefined when this was the last one. */
  readonly next: ObjectId | undefined;
}

interface Seen {
  readonly object: ObjectId;
  readonly store: number;
  readonly inode: number;
  readonly size: number;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
}

const seenColumns = "object, store, inode, size, mtime_ns, ctime_ns";

/**
 * Compares inode, size and times of the files of up to `objectsMax` objects after `after` with how apply left them;
 * reads no content. Begin with 0. What a batch that is being applied may touch is left to the next sweep.
 */
export function sweep(context: ReplicaContext, after: ObjectId | 0, objectsMax: number): SweepSlice {
  const { catalog } = context;
  const { applied } = catalog.standing;
  const rows = seenRows(context, after, objectsMax);
  const changes: StrangersChange[] = [];
  for (const seen of rows) {
    const found = compare(context, seen, applied);
    if (found.length === 0 || touchedMeanwhile(context, seen, applied)) continue;
    // A directory that apply removed and made again is opened anew before anybody is accused.
    homeOf(context, seen.store).tree.forget();
    const again = compare(context, seen, applied);
    if (again.length > 0 && !touchedMeanwhile(context, seen, applied)) changes.push(...again);
  }
  return { checked: rows.length, changes, next: rows.length < objectsMax ? undefined : rows.at(-1)?.object };
}

function seenRows({ catalog }: ReplicaContext, after: number, limit: number): Seen[] {
  const statement = catalog.statement(`SELECT ${seenColumns} FROM seen WHERE object > ? ORDER BY object LIMIT ?`);
  statement.setReadBigInts(true);
  return (statement.all(after, limit) as Record<string, bigint>[]).map(seenOf);
}

function seenOf(row: Record<string, bigint>): Seen {
  return {
    object: Number(row.object) as ObjectId,
    store: Number(row.store),
    inode: Number(row.inode),
    size: Number(row.size),
    mtimeNs: row.mtime_ns!,
    ctimeNs: row.ctime_ns!,
  };
}

function compare(context: ReplicaContext, seen: Seen, applied: Seq): StrangersChange[] {
  const { disk, manifest, homes } = context;
  const home = homes.get(seen.store);
  if (home === undefined) return [];
  const store = home.placement.name;
  const { object } = seen;
  const paths = manifest.pathsOf(object, applied);
  if (paths.length === 0) {
    const stat = disk.stat(home.kept, objectFileName(object));
    // Its last batch may have written to it before it died, and nobody looked at it then.
    const what = stat === undefined ? "is gone from what is kept for recovery points" : differing(seen, stat, "inode");
    return what === undefined ? [] : [{ store, object, path: "" as StorePath, what }];
  }
  const type = manifest.object(object, applied)?.type;
  return paths.flatMap((entry) => {
    const path = home.local(entry.path);
    const stat = home.tree.stat(path);
    // What lies in a directory changes its size and times, and that is not written down each time.
    const what = stat === undefined ? "is gone" : differing(seen, stat, type === "directory" ? "inode" : "times");
    return what === undefined ? [] : [{ store, object, path, what }];
  });
}

function differing(seen: Seen, stat: Stat, upTo: "inode" | "times"): string | undefined {
  if (stat.inode !== seen.inode) return "was replaced by another file";
  if (upTo === "inode") return undefined;
  if (stat.size !== seen.size) return `has ${stat.size} bytes instead of ${seen.size}`;
  if (stat.mtimeNs !== seen.mtimeNs) return "was written to";
  if (stat.ctimeNs !== seen.ctimeNs) return "was changed: content, owner, mode or links";
  return undefined;
}

/** True when a batch touched the object since its row was read, or may be touching it now. */
function touchedMeanwhile(context: ReplicaContext, seen: Seen, before: Seq): boolean {
  const { catalog } = context;
  const { applied, applying } = catalog.standing;
  const statement = catalog.statement(`SELECT ${seenColumns} FROM seen WHERE object = ?`);
  statement.setReadBigInts(true);
  const row = statement.get(seen.object) as Record<string, bigint> | undefined;
  if (row === undefined) return true;
  const now = seenOf(row);
  if (now.inode !== seen.inode || now.size !== seen.size || now.mtimeNs !== seen.mtimeNs || now.ctimeNs !== seen.ctimeNs) return true;
  const end = applying !== undefined && applying.to > applied ? applying.to : applied;
  if (end === before) return false;
  const born = catalog.get("SELECT 1 AS found FROM object_versions WHERE object=? AND birth>? AND birth<=? LIMIT 1", seen.object, before, end);
  if (born !== undefined) return true;
  // A hard link that comes or goes changes the ctime, and the row of a path only.
  return (
    catalog.get(
      `SELECT 1 AS found FROM path_versions p WHERE object=? AND EXISTS (
         SELECT 1 FROM path_versions n WHERE n.store=p.store AND n.dir=p.dir AND n.name=p.name AND n.birth>? AND n.birth<=?) LIMIT 1`,
      seen.object,
      before,
      end,
    ) !== undefined
  );
}
