import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { ForkDescription } from "../../deploy/control/fork-answers.ts";
import type { ClusterNode } from "../end-to-end/harness.ts";
import { idsIn } from "./application.ts";

/** The application's entries in all forks that a node keeps; those that were looked through are dropped. */
export async function forkedIds(
  { name: node, control }: ClusterNode,
  scratch: string,
): Promise<{ ids: Set<string>; forks: readonly ForkDescription[] }> {
  const ids = new Set<string>();
  const { forks, damaged } = await control.forks();
  if (damaged.length > 0) throw new Error(`damaged forks on ${node}: ${JSON.stringify(damaged)}`);
  for (const { name } of forks) {
    const to = join(scratch, `${node}-${name}`);
    await control.exportFork(name, { to });
    for (const found of await readdir(to, { recursive: true, withFileTypes: true })) {
      if (found.isFile() && /^(database|app\.db)$/.test(found.name))
        for (const id of idsIn(join(found.parentPath, found.name))) ids.add(id);
    }
    await control.dropFork(name);
  }
  return { ids, forks };
}
