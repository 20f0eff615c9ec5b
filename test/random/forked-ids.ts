import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { ClusterNode } from "../end-to-end/harness.ts";
import { idsIn } from "./application.ts";

/** The application's entries in all forks that a node keeps; those that were looked through are dropped. */
export async function forkedIds(node: ClusterNode, scratch: string): Promise<{ ids: Set<string>; forks: number }> {
  const ids = new Set<string>();
  const listed = await node.cli("forks", "list", "--json");
  if (listed.code !== 0) throw new Error(`forks list on ${node.name}: ${listed.stderr}`);
  const { forks } = JSON.parse(listed.stdout) as { forks: { name: string }[] };
  for (const { name } of forks) {
    const to = join(scratch, `${node.name}-${name}`);
    const exported = await node.cli("forks", "export", name, "--to", to);
    if (exported.code !== 0) throw new Error(`forks export of ${name} on ${node.name}: ${exported.stderr}`);
    for (const found of await readdir(to, { recursive: true, withFileTypes: true })) {
      if (found.isFile() && /^(database|app\.db)$/.test(found.name))
        for (const id of idsIn(join(found.parentPath, found.name))) ids.add(id);
    }
    const dropped = await node.cli("forks", "drop", name, "--yes");
    if (dropped.code !== 0) throw new Error(`forks drop of ${name} on ${node.name}: ${dropped.stderr}`);
  }
  return { ids, forks: forks.length };
}
