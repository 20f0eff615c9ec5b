import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ClusterNode, ClusterPaths } from "./harness.ts";

/** The group `app` of one tree, `text` in its first file; what else the first primary has in it, and lines of configuration. */
export function fileGroup(
  members: readonly string[],
  { files = {}, more = "" }: { files?: Readonly<Record<string, Uint8Array>>; more?: string } = {},
): (paths: ClusterPaths) => Promise<string> {
  const [primary = "", ...replicas] = members;
  return async ({ data }) => {
    const tree = join(data(primary), "files");
    await mkdir(tree);
    await writeFile(join(tree, "text"), "first");
    for (const [name, bytes] of Object.entries(files)) await writeFile(join(tree, name), bytes);
    const at = replicas.map((name) => `${name}: ${JSON.stringify(join(data(name), "files"))}`).join(", ");
    return `  app:
    primary: ${primary}
    replicas: [${replicas.join(", ")}]
    stores:
      files: { kind: files, path: ${JSON.stringify(tree)}, at: { ${at} } }
${more}`;
  };
}

/** Where a node has the group's first file. */
export function fileOf(node: ClusterNode): string {
  return join(node.dataDirectory, "files", "text");
}

/** What is in it; "" where it is not there. */
export async function textOf(node: ClusterNode): Promise<string> {
  return await readFile(fileOf(node), "utf8").catch(() => "");
}

/** Path to content of everything below a directory, a character for each byte. */
export async function treeOf(directory: string): Promise<Record<string, string>> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const files = entries
    .filter((entry) => entry.isFile())
    .map(async (entry) => {
      const path = join(entry.parentPath, entry.name);
      return [path.slice(directory.length + 1), (await readFile(path)).toString("latin1")] as const;
    });
  return Object.fromEntries((await Promise.all(files)).sort());
}
