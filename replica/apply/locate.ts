import { UnderstudyError } from "../../shared/errors.ts";
import type { Directory, Stat } from "../../shared/ports/disk.ts";
import type { ObjectId, Seq } from "../../shared/words.ts";
import { homeOf, objectFileName, type ReplicaContext } from "../replica-context.ts";

/** Somebody else changed the copy. */
export class ForeignChange extends UnderstudyError {
  readonly code = "FOREIGN_CHANGE";
  readonly remedy = "stop";
  readonly state = "The copy is suspect: nothing is applied to it until it was compared and repaired.";
  readonly hint =
    "The primary sends again what was changed; find out who writes into the copy. `understudy adopt GROUP` compares all of it anew.";
}

export interface Located {
  readonly directory: Directory;
  readonly name: string;
  readonly where: "staging" | "limbo" | "kept" | "tree";
  readonly stat: Stat;
}

/** The inode that an object's file has on this node. */
export function inodeOf(context: ReplicaContext, object: ObjectId): number | undefined {
  const row = context.catalog.get("SELECT inode FROM seen WHERE object = ?", object);
  return row === undefined ? undefined : Number(row.inode);
}

/** The file of an object in one of the private directories, where its name says whose it is. */
export function locatePrivate(
  context: ReplicaContext,
  object: ObjectId,
  store: number,
  inode: number | undefined = inodeOf(context, object),
): Located | undefined {
  const { disk } = context;
  const home = homeOf(context, store);
  const name = objectFileName(object);
  for (const where of ["staging", "limbo", "kept"] as const) {
    const directory = home[where];
    const stat = disk.stat(directory, name);
    if (stat !== undefined && stat.inode === inode) return { directory, name, where, stat };
  }
  return undefined;
}

/**
 * Finds the file of an object wherever a crash may have left it, known by its inode, never by a name's presence alone:
 * the private directories first, then its paths after and before the batch.
 */
export function locate(
  context: ReplicaContext,
  object: ObjectId,
  store: number,
  from: Seq,
  to: Seq,
): Located | undefined {
  const inode = inodeOf(context, object);
  if (inode === undefined) return undefined;
  const found = locatePrivate(context, object, store, inode);
  if (found !== undefined) return found;
  const { disk, manifest } = context;
  const home = homeOf(context, store);
  for (const at of [to, from]) {
    for (const entry of manifest.pathsOf(object, at)) {
      const place = home.tree.place(home.local(entry.path));
      if (place === undefined) continue;
      const stat = disk.stat(place.directory, place.name);
      // A directory that a redo made may have the number of a file that is gone for good.
      if (stat?.inode === inode && stat.type !== "directory") return { ...place, where: "tree", stat };
    }
  }
  return undefined;
}

export function locateOrFail(context: ReplicaContext, object: ObjectId, store: number, from: Seq, to: Seq): Located {
  const found = locate(context, object, store, from, to);
  if (found === undefined) {
    const paths = context.manifest.pathsOf(object, from).map((entry) => entry.path);
    throw new ForeignChange(`the file of object ${object} (${paths.join(", ") || "no path"}) is gone from the copy`);
  }
  return found;
}
