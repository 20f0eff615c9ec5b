import { type BigIntStats, realpathSync } from "node:fs";
import { explain } from "../../../shared/errors.ts";
import { SourceUnusable } from "../source-unusable.ts";
import { joinPath, rootPath } from "./source-path.ts";
import { listSource, statSource, typeOf } from "./source-stat.ts";

const namesComparedMax = 64;

/** Hooks of the operator that make and remove a snapshot: of a volume, of a filesystem, or a copy by reflinks. */
export interface SnapshotHooks {
  /** Makes a snapshot that shows the store's tree at the path it returns. */
  create(): Promise<string>;
  /** Removes it; also one that a lost predecessor left. */
  remove(): Promise<void>;
}

export interface SnapshotTree {
  readonly root: string;
  readonly rootStat: BigIntStats;
  /** `live`: its inodes are those of the live tree. `copied`: they are its own, and a rename is a new file. */
  readonly stamps: "live" | "copied";
  remove(): Promise<void>;
}

/** Makes a snapshot; when that fails since a lost predecessor's still stands, removes it and tries once more. */
export async function openSnapshot(hooks: SnapshotHooks, live: string): Promise<SnapshotTree> {
  const path = await hooks.create().catch(async (error: unknown) => {
    await hooks.remove().catch((second: unknown) => {
      throw new Error(`the snapshot could not be made: ${explain(error)}; nor an older one removed`, { cause: second });
    });
    return await hooks.create();
  });
  const remove = () => hooks.remove();
  try {
    const root = realpathSync.native(path, { encoding: "latin1" });
    const rootStat = statSource(root);
    if (rootStat === undefined || typeOf(rootStat) !== "directory")
      throw new SourceUnusable(path, "is not a directory");
    return { root, rootStat, stamps: keepsInodes(live, root) ? "live" : "copied", remove };
  } catch (error) {
    await remove();
    throw error;
  }
}

/** A copy has inodes of its own; taking those for the live tree's would mix up files. In doubt it is a copy. */
function keepsInodes(live: string, snapshot: string): boolean {
  const root = statSource(live);
  if (root === undefined || root.ino !== statSource(snapshot)?.ino) return false;
  let same = 0;
  for (const name of (listSource(snapshot) ?? []).slice(0, namesComparedMax)) {
    const path = joinPath(rootPath, name);
    const [ours, theirs] = [statSource(`${live}/${path}`), statSource(`${snapshot}/${path}`)];
    if (ours?.mtimeNs !== theirs?.mtimeNs) continue; // Changed since, or gone.
    if (ours?.ino !== theirs?.ino || ours?.ctimeNs !== theirs?.ctimeNs) return false;
    same++;
  }
  return same > 0;
}
