import { createHash } from "node:crypto";
import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";

/** What the agent tells scripts about its role is written again all the time; its first time opens the directory above. */
const toldToScripts = /\/\.understudy\/[^/.]+$/;
const openedForScripts = /\/\.understudy$/;

/**
 * Names, types, modes, owners, times, sizes and contents of everything below these directories, private files included, but
 * for what is told to scripts.
 */
export function treeDigest(...roots: readonly string[]): string {
  const sum = createHash("sha256");
  const walk = (path: string): void => {
    if (toldToScripts.test(path)) return;
    const stat = lstatSync(path, { bigint: true });
    const { mode, uid, gid, size, mtimeNs } = stat;
    // A directory's own time and size change when a file is staged beside and taken away again.
    const varying = stat.isDirectory() ? "" : ` ${size} ${mtimeNs}`;
    const opened = openedForScripts.test(path) ? "" : ` ${mode}`;
    sum.update(`${path}${opened} ${uid} ${gid}${varying}\n`);
    if (stat.isSymbolicLink()) sum.update(readlinkSync(path));
    if (stat.isFile()) sum.update(readFileSync(path));
    if (stat.isDirectory()) for (const name of readdirSync(path).sort()) walk(join(path, name));
  };
  for (const root of roots) walk(root);
  return sum.digest("hex");
}

const tables = [
  "standing",
  "stores",
  "cuts",
  "path_versions",
  "object_versions",
  "run_versions",
  "extents",
  "staged",
  "staged_runs",
  "seen",
  "images",
  "kept",
];

/** Every row of the tables that say what the replica holds, as text that can be compared and read. */
export function catalogDump(path: string): string {
  using database = new DatabaseSync(path, { readOnly: true });
  const lines: string[] = [];
  for (const table of tables) {
    const columns = database.prepare(`PRAGMA table_info(${table})`).all().length;
    const order = Array.from({ length: columns }, (_, index) => index + 1).join(",");
    const rows = database.prepare(`SELECT * FROM ${table} ORDER BY ${order}`);
    rows.setReadBigInts(true);
    for (const row of rows.iterate()) lines.push(`${table} ${JSON.stringify(row, readable)}`);
  }
  return lines.join("\n");
}

function readable(_key: string, value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  return value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value;
}
