import type { Catalog } from "../../shared/catalog/catalog.ts";
import { isSystemError } from "../../shared/errors.ts";
import { checkStorePath } from "../../shared/store-path.ts";
import { epoch, type ObjectId, type StorePath, seq } from "../../shared/words.ts";
import { objectFileName, type ReplicaContext } from "../replica-context.ts";
import { rehashStaged } from "./resume.ts";

const pieceBytes = 1024 * 1024;

/** True while the copy's place holds files that no cut of this group has written and that may be reused. */
export function adopting(catalog: Catalog): boolean {
  return catalog.get("SELECT 1 AS found FROM standing WHERE key = 'adopting'") !== undefined;
}

/**
 * Forgets everything that this node knows of the group's cuts, but not the group: the next session sends a first cut, and
 * what lies in the copy's place is compared with it. Files stay where they are; what the first cut does not have goes to
 * `strangers/`. Recovery points are given up. Until the first cut is durable there is nothing to promote.
 */
export function beginAdoption(context: ReplicaContext): void {
  const { catalog, disk, homes } = context;
  catalog.transaction("adopt", () => {
    for (const table of [
      "path_versions",
      "object_versions",
      "run_versions",
      "cuts",
      "extents",
      "staged",
      "staged_runs",
      "images",
      "kept",
      "seen",
    ]) {
      catalog.run(`DELETE FROM ${table}`);
    }
    catalog.event("replica.adopting", {}, context.nowUs());
    catalog.run("INSERT OR REPLACE INTO standing (key, value) VALUES ('adopting', 1)");
    catalog.stand({
      // As before the first cut: a primary of whatever epoch would take any other one for a cut that it never sent.
      committed: { epoch: epoch(0), seq: seq(0) },
      applied: seq(0),
      digest: new Uint8Array(32),
      applying: undefined,
      suspect: "",
    });
  });
  for (const home of homes.values()) {
    for (const part of ["staging", "history", "kept"] as const) {
      for (const name of disk.list(home[part])) disk.unlink(home[part], name);
    }
    // A file that a broken apply had moved away may be the only one of its content here.
    for (const name of disk.list(home.limbo))
      disk.rename(home.limbo, name, home.strangers, `adopted-${context.nowUs()}-${name}`);
    disk.syncFilesystem(home.home);
  }
}

/** The first cut is durable: what is left over was put aside by its apply. */
export function endAdoption(context: ReplicaContext): void {
  if (!adopting(context.catalog)) return;
  context.catalog.transaction("adopted", () => context.catalog.run("DELETE FROM standing WHERE key = 'adopting'"));
}

/**
 * Copies the file that lies at a path into staging, as if an earlier session had brought it, so that only blocks that
 * differ are sent. The file itself stays untouched.
 */
export function stageFromCopy(
  context: ReplicaContext,
  asked: { readonly object: ObjectId; readonly store: string; readonly path: string; readonly blockSize: number },
): void {
  const { catalog, disk } = context;
  const home = [...context.homes.values()].find((item) => item.placement.name === asked.store);
  if (home === undefined || !adopting(context.catalog)) return;
  if (catalog.get("SELECT 1 AS found FROM staged WHERE object = ?", asked.object) !== undefined) return;
  const place = home.tree.place(home.local(checkStorePath(asked.path) as StorePath));
  if (place === undefined || disk.stat(place.directory, place.name)?.type !== "file") return;
  const name = objectFileName(asked.object);
  if (disk.stat(home.staging, name) !== undefined) disk.unlink(home.staging, name);
  const from = disk.openFile(place.directory, place.name, "read");
  try {
    const to = disk.openFile(home.staging, name, "create");
    try {
      const buffer = new Uint8Array(pieceBytes);
      for (let at = 0; ; at += pieceBytes) {
        const length = disk.read(from, buffer, 0, buffer.length, at);
        if (length === 0) break;
        disk.write(to, buffer.subarray(0, length), at);
      }
    } catch (error) {
      // Not worth more than the bytes that it would have saved: they are sent.
      if (!isSystemError(error, "ENOSPC", "EDQUOT")) throw error;
      disk.unlink(home.staging, name);
      return;
    } finally {
      disk.closeFile(to);
    }
  } finally {
    disk.closeFile(from);
  }
  catalog.begin();
  const seq = catalog.standing.committed.seq + 1n;
  catalog.run(
    "INSERT INTO staged (object, store, seq, block_size) VALUES (?,?,?,?)",
    asked.object,
    home.number,
    seq,
    asked.blockSize,
  );
  rehashStaged(context, asked.object, home.number, asked.blockSize);
}
