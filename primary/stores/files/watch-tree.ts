import { readdirSync } from "node:fs";
import { isSystemError } from "../../../shared/errors.ts";
import type { StorePath } from "../../../shared/words.ts";
import type { DirectoryWatcher } from "../../watch/directory-watcher.ts";
import type { Exclude } from "./exclude.ts";
import { joinPath, nativePath } from "./source-path.ts";
import { identityOf, statSource, typeOf } from "./source-stat.ts";

/** Watches a directory and all below it without looking at files. True when it is a directory. */
export function watchTree(
  root: string,
  from: StorePath,
  rootDevice: bigint,
  watcher: DirectoryWatcher,
  exclude: Exclude,
): boolean {
  const directories = [from];
  let found = false;
  for (let path = directories.pop(); path !== undefined; path = directories.pop()) {
    const at = path === "" ? root : `${root}/${path}`;
    const stat = statSource(at);
    if (stat === undefined || typeOf(stat) !== "directory" || exclude.matches(path, true)) continue;
    if (!watcher.add(path, identityOf(stat, rootDevice))) continue;
    found = true;
    for (const name of subdirectories(at)) directories.push(joinPath(path, name));
  }
  return found;
}

function subdirectories(at: string): string[] {
  try {
    const entries = readdirSync(nativePath(at) as string, { encoding: "latin1", withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch (error) {
    // Gone, or not to be read: the view meets the same and says so.
    if (isSystemError(error, "ENOENT", "ENOTDIR", "EACCES")) return [];
    throw error;
  }
}
