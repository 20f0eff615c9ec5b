import type { ObjectVersion } from "../../shared/catalog/manifest.ts";
import type { Stat } from "../../shared/ports/disk.ts";
import type { ObjectId, Seq, StoreName, StorePath } from "../../shared/words.ts";
import { holdsContent } from "../apply/holds-content.ts";
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
  /** Files whose ctime alone was another one, and whose content and meta are ours: for `restamp`. */
  readonly restamps: readonly Restamp[];
  /** Where the next slice begins; undefined when this was the last one. */
  readonly next: ObjectId | undefined;
}

export interface Restamp {
  readonly object: ObjectId;
  readonly before: bigint;
  readonly ctimeNs: bigint;
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
 * Compares inode, size and times of the files of up to `objectsMax` objects after `after` with how apply left them.
 * Begin with 0. What a batch that is being applied may touch is left to the next sweep.
 *
 * No content is read but where only the ctime differs: no sync covers it and a power failure takes it back, so by itself
 * it accuses nobody.
 */
export function sweep(context: ReplicaContext, after: ObjectId | 0, objectsMax: number): SweepSlice {
  const { applied } = context.catalog.standing;
  // What is seen already then is of the first copy, and not where it belongs yet.
  if (applied === 0n) return { checked: 0, changes: [], restamps: [], next: undefined };
  const rows = seenRows(context, after, objectsMax);
  const changes: StrangersChange[] = [];
  const restamps: Restamp[] = [];
  for (const seen of rows) {
    if (compare(context, seen, applied).length === 0 || touchedMeanwhile(context, seen, applied)) continue;
    // A directory that apply removed and made again is opened anew before anybody is accused.
    homeOf(context, seen.store).tree.forget();
    const found = compare(context, seen, applied);
    const restamp = restampOf(context, seen, found, applied);
    if (touchedMeanwhile(context, seen, applied)) continue;
    if (restamp !== undefined) restamps.push(restamp);
    else changes.push(...found.map(({ store, object, path, what }) => ({ store, object, path, what })));
  }
  return { checked: rows.length, changes, restamps, next: rows.length < objectsMax ? undefined : rows.at(-1)?.object };
}

/** Writes down the times of files that were found to be ours all the same. For the connection that writes. */
export function restamp({ catalog }: ReplicaContext, restamps: readonly Restamp[]): void {
  if (restamps.length === 0) return;
  catalog.transaction("seen", () => {
    for (const { object, before, ctimeNs } of restamps) {
      catalog.run("UPDATE seen SET ctime_ns = ? WHERE object = ? AND ctime_ns = ?", ctimeNs, object, before);
    }
  });
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

interface Found extends StrangersChange {
  /** Where nothing but the ctime differs. */
  readonly onlyCtime: Stat | undefined;
}

function compare(context: ReplicaContext, seen: Seen, applied: Seq): Found[] {
  const { disk, manifest, homes } = context;
  const home = homes.get(seen.store);
  if (home === undefined) return [];
  const { object } = seen;
  const found: Found[] = [];
  const look = (path: StorePath, stat: Stat | undefined, upTo: "inode" | "times"): void => {
    const what = stat === undefined ? "is gone" : differing(seen, stat, upTo);
    if (what === undefined) return;
    const onlyCtime = what === ctimeDiffers ? stat : undefined;
    found.push({ store: home.placement.name, object, path, what, onlyCtime });
  };
  const paths = manifest.pathsOf(object, applied);
  if (paths.length === 0) {
    // Its last batch may have written to it before it died, and nobody looked at it then.
    look("" as StorePath, disk.stat(home.kept, objectFileName(object)), "inode");
    return found;
  }
  // What lies in a directory changes its size and times, and that is not written down each time.
  const upTo = manifest.object(object, applied)?.type === "directory" ? "inode" : "times";
  for (const { path } of paths) look(home.local(path), home.tree.stat(home.local(path)), upTo);
  return found;
}

const ctimeDiffers = "was changed: content, owner, mode or links";

function differing(seen: Seen, stat: Stat, upTo: "inode" | "times"): string | undefined {
  if (stat.inode !== seen.inode) return "was replaced by another file";
  if (upTo === "inode") return undefined;
  if (stat.size !== seen.size) return `has ${stat.size} bytes instead of ${seen.size}`;
  if (stat.mtimeNs !== seen.mtimeNs) return "was written to";
  return stat.ctimeNs === seen.ctimeNs ? undefined : ctimeDiffers;
}

function restampOf(context: ReplicaContext, seen: Seen, found: readonly Found[], applied: Seq): Restamp | undefined {
  const [first] = found;
  const stat = first?.onlyCtime;
  if (first === undefined || stat === undefined || found.some((item) => item.onlyCtime === undefined)) return undefined;
  const version = context.manifest.object(seen.object, applied);
  const home = homeOf(context, seen.store);
  const place = home.tree.place(first.path);
  if (version === undefined || place === undefined) return undefined;
  if (version.type === "file") {
    const same = metaHolds(stat, version) && holdsContent(context, { ...place, where: "tree", stat }, version, applied);
    if (!same) return undefined;
  } else if (context.disk.readSymlink(place.directory, place.name) !== version.target) {
    return undefined;
  }
  return { object: seen.object, before: seen.ctimeNs, ctimeNs: stat.ctimeNs };
}

/** Who may not give files away cannot tell by its owner that one was. */
function metaHolds(stat: Stat, version: ObjectVersion): boolean {
  const owner = process.getuid?.() !== 0 || (stat.uid === version.uid && stat.gid === version.gid);
  return owner && stat.mode === version.mode;
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
  if (
    now.inode !== seen.inode ||
    now.size !== seen.size ||
    now.mtimeNs !== seen.mtimeNs ||
    now.ctimeNs !== seen.ctimeNs
  )
    return true;
  const end = applying !== undefined && applying.to > applied ? applying.to : applied;
  if (end === before) return false;
  const born = catalog.get(
    "SELECT 1 AS found FROM object_versions WHERE object=? AND birth>? AND birth<=? LIMIT 1",
    seen.object,
    before,
    end,
  );
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
