import { copyFile, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { isSystemError } from "../../shared/errors.ts";
import type { ClusterNode } from "../end-to-end/harness.ts";
import { idsIn } from "./application.ts";

/** What an application would find on a node: its entries in the order in which they were written, and its files. */
export interface Contents {
  readonly ids: ReadonlySet<string>;
  readonly files: ReadonlyMap<string, string>;
}

/** Of the node whose service runs there. */
export async function contentsInUse(node: ClusterNode): Promise<Contents> {
  return { ids: idsIn(join(node.dataDirectory, "app.db")), files: await filesOf(node) };
}

/** Of a copy, which nobody but its agent opens: read from bytes that were put aside. */
export async function contentsOfCopy(node: ClusterNode, scratch: string): Promise<Contents> {
  const aside = join(scratch, `${node.name}.db`);
  for (const end of ["", "-wal"]) {
    try {
      await copyFile(join(node.dataDirectory, `app.db${end}`), `${aside}${end}`);
    } catch (error) {
      if (end === "" || !isSystemError(error, "ENOENT")) throw error;
    }
  }
  return { ids: idsIn(aside), files: await filesOf(node) };
}

async function filesOf(node: ClusterNode): Promise<Map<string, string>> {
  const directory = join(node.dataDirectory, "files");
  const files = new Map<string, string>();
  for (const entry of await readdir(directory, { withFileTypes: true }))
    if (entry.isFile()) files.set(entry.name, await readFile(join(directory, entry.name), "utf8"));
  return files;
}

/** The first of what differs, in words; "" where nothing does. */
export function difference(one: Contents, other: Contents): string {
  const ids = [...new Set([...one.ids, ...other.ids])].filter((id) => one.ids.has(id) !== other.ids.has(id));
  const names = [...new Set([...one.files.keys(), ...other.files.keys()])];
  const files = names.filter((name) => one.files.get(name) !== other.files.get(name));
  return [...ids.map((id) => `entry ${id}`), ...files.map((name) => `files/${name}`)].slice(0, 10).join(", ");
}
