import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { describeNode } from "./model-store.ts";

/** A real tree in the words of `ModelSource.describe`. */
export function describeTree(root: string): Record<string, string> {
  const result: Record<string, string> = {};
  const walk = (path: string): void => {
    const full = join(root, path);
    const stat = lstatSync(full, { bigint: true });
    const type = stat.isDirectory() ? "directory" : stat.isSymbolicLink() ? "symlink" : "file";
    result[path] = describeNode({
      type,
      mode: Number(stat.mode & 0o7777n),
      mtimeUs: Number(stat.mtimeNs / 1000n),
      bytes: type === "file" ? readFileSync(full) : new Uint8Array(0),
      target: type === "symlink" ? readlinkSync(full) : "",
    });
    if (type === "directory") for (const name of readdirSync(full)) walk(path === "" ? name : `${path}/${name}`);
  };
  walk("");
  return Object.fromEntries(Object.entries(result).sort(([a], [b]) => (a < b ? -1 : 1)));
}
