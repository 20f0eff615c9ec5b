import type { StorePath } from "../../../shared/words.ts";

/** What is known of a dirty path, as bits that add up. */
export const dirtyHow = {
  /** Its content or meta may have changed. */
  changed: 1,
  /** It was created, deleted or moved: a watch by this path may stand on something else now. */
  renamed: 2,
  /** All below it may have changed as well. */
  deep: 4,
} as const;

/** Paths to look at; never more than `dirtyPathsMax`, since a scan is cheaper then. */
export type DirtyPaths = Map<StorePath, number>;

export const dirtyPathsMax = 50_000;

export function markDirty(paths: DirtyPaths, path: StorePath, how: number): void {
  paths.set(path, (paths.get(path) ?? 0) | how);
}

export function addDirty(into: DirtyPaths, from: DirtyPaths): void {
  for (const [path, how] of from) markDirty(into, path, how);
}
