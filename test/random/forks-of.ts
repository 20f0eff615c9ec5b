import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { ForkDescription } from "../../deploy/control/fork-answers.ts";
import type { ClusterNode } from "../end-to-end/harness.ts";
import { idsIn } from "./application.ts";

/** A fork that a node kept, and the application's entries in it, in the order in which they were written. */
export interface KeptFork {
  readonly fork: ForkDescription;
  readonly ids: readonly string[];
}

/** All forks that a node keeps; those that were looked through are dropped. */
export async function forksOf({ name: node, control }: ClusterNode, scratch: string): Promise<KeptFork[]> {
  const { forks, damaged } = await control.forks();
  if (damaged.length > 0) throw new Error(`damaged forks on ${node}: ${JSON.stringify(damaged)}`);
  const kept: KeptFork[] = [];
  for (const fork of forks) {
    const to = join(scratch, `${node}-${fork.name}`);
    await control.exportFork(fork.name, { to });
    const ids: string[] = [];
    for (const found of await readdir(to, { recursive: true, withFileTypes: true })) {
      if (found.isFile() && /^(database|app\.db)$/.test(found.name))
        ids.push(...idsIn(join(found.parentPath, found.name)));
    }
    kept.push({ fork, ids });
    await control.dropFork(fork.name);
  }
  return kept;
}
