import type { Catalog } from "../../shared/catalog/catalog.ts";
import { joinPath } from "../../shared/catalog/manifest.ts";
import { dropNote, keepNote } from "../../shared/catalog/notes.ts";
import { clearTouched } from "../../shared/catalog/touched.ts";
import { assert, isSystemError } from "../../shared/errors.ts";
import type { Directory, Disk } from "../../shared/ports/disk.ts";
import { checkStorePath, privateName } from "../../shared/store-path.ts";
import { epoch, type ObjectId, type StorePath, seq } from "../../shared/words.ts";
import { emptyLimbo } from "../apply/apply.ts";
import { putSidecarsAside } from "../promote/promote.ts";
import { mayComeAnew } from "../repair/damage.ts";
import { objectFileName, type ReplicaContext } from "../replica-context.ts";
import type { StoreHome } from "../store-home.ts";
import { failing } from "../sync.ts";
import { aheadOf } from "./ahead.ts";
import { clearFirstTrees } from "./first-tree.ts";
import { adopting, rehashStaged } from "./resume.ts";
import { forgetUnproven } from "./unproven.ts";

const pieceBytes = 1024 * 1024;

/** Whether what lies in the copy's place may be reused for the first cut. */
export function setAdopting(catalog: Catalog, wanted: boolean): void {
  catalog.transaction("adopt", () => (wanted ? keepNote(catalog, "adopting", 1) : dropNote(catalog, "adopting")));
}

/**
 * Forgets everything that this node knows of the group's cuts, but not the group; a primary that was fenced becomes a
 * replica by it. The next session sends a first cut, and
 * what lies in the copy's place is compared with it. Files stay where they are; what the first cut does not have goes to
 * `strangers/`. Recovery points are given up. Until the first cut is durable there is nothing to promote.
 */
export function beginAdoption(context: ReplicaContext): void {
  const { catalog, disk, homes } = context;
  aheadOf(context).clear();
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
      "damaged",
    ]) {
      catalog.run(`DELETE FROM ${table}`);
    }
    clearTouched(catalog);
    forgetUnproven(catalog);
    catalog.event("replica.adopting", {}, context.nowUs());
    keepNote(catalog, "adopting", 1);
    // Cuts of the same numbers may come, of another history.
    dropNote(catalog, "thinning");
    dropNote(catalog, "removals");
    catalog.stand({
      role: "replica",
      halted: "",
      // As before the first cut: a primary of whatever epoch would take any other one for a cut that it never sent.
      committed: { epoch: epoch(0), seq: seq(0) },
      applied: seq(0),
      digest: new Uint8Array(32),
      applying: undefined,
      suspect: "",
    });
  });
  clearFirstTrees(context);
  for (const home of homes.values()) {
    for (const part of ["staging", "history", "kept"] as const) {
      for (const name of disk.list(home[part])) disk.unlink(home[part], name);
    }
    emptyLimbo(context, home);
    failing(() => disk.syncFilesystem(home.home));
  }
}

/**
 * The first cut is applied: what still lies in the copies and is not in it is put aside, whole directories at once, and
 * so are the logs beside a database. Gives the paths. Until it is done the node says that it adopts, so a crash in between
 * begins it anew.
 */
export function endAdoption(context: ReplicaContext): string[] {
  const { catalog, disk, homes } = context;
  assert(catalog.standing.applied === catalog.standing.committed.seq, "what came is applied");
  const aside: string[] = [];
  for (const home of homes.values()) {
    if (home.placement.shape === "file") aside.push(...putSidecarsAside(context, home));
    else aside.push(...putLeftoversAside(context, home));
    failing(() => disk.syncFilesystem(home.home));
  }
  catalog.transaction("adopted", () => {
    for (const path of aside) catalog.event("stranger.put_aside", { path }, context.nowUs());
    dropNote(catalog, "adopting");
  });
  return aside;
}

function putLeftoversAside(context: ReplicaContext, home: StoreHome): string[] {
  const { catalog, disk, manifest } = context;
  const at = catalog.standing.applied;
  const aside: string[] = [];
  const pending: StorePath[] = ["" as StorePath];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    const directory = home.tree.directory(path);
    if (directory === undefined) continue; // Somebody took it away meanwhile: the sweep will say so.
    const known = new Map(manifest.children(home.number, path, at).map(({ name, object }) => [name, object]));
    for (const name of disk.list(directory)) {
      const object = known.get(name);
      const inner = joinPath(path, name);
      if (object !== undefined) {
        if (manifest.object(object, at)?.type === "directory") pending.push(inner);
      } else if (path !== "" || (name !== privateName && name !== "lost+found")) {
        try {
          disk.rename(directory, name, home.strangers, freeName(context, home));
          aside.push(inner);
        } catch (error) {
          // Whoever put it there took it away again: that is as good.
          if (!isSystemError(error, "ENOENT")) throw error;
        }
      }
    }
  }
  home.tree.forget();
  return aside;
}

function freeName({ catalog, disk }: ReplicaContext, home: StoreHome): string {
  for (let attempt = 0; ; attempt++) {
    const name = `${catalog.standing.applied}-${attempt}`;
    if (disk.stat(home.strangers, name) === undefined) return name;
  }
}

/**
 * Copies the file that lies at a path into staging, as if an earlier session had brought it, so that only blocks that
 * differ are sent: while the copy's place is adopted, and of a damaged file. The file itself stays untouched.
 */
export function stageFromCopy(
  context: ReplicaContext,
  asked: { readonly object: ObjectId; readonly store: string; readonly path: string; readonly blockSize: number },
): void {
  const { catalog, disk } = context;
  const home = [...context.homes.values()].find((item) => item.placement.name === asked.store);
  if (home === undefined || (!adopting(catalog) && !mayComeAnew(catalog, asked.object))) return;
  if (catalog.get("SELECT 1 AS found FROM staged WHERE object = ?", asked.object) !== undefined) return;
  home.tree.forget();
  const place = home.tree.place(home.local(checkStorePath(asked.path) as StorePath));
  if (place === undefined || disk.stat(place.directory, place.name)?.type !== "file") return;
  const name = objectFileName(asked.object);
  if (disk.stat(home.staging, name) !== undefined) disk.unlink(home.staging, name);
  try {
    copyFile(disk, place, { directory: home.staging, name });
  } catch (error) {
    // Not worth more than the bytes that it would have saved: they are sent.
    if (!isSystemError(error, "ENOSPC", "EDQUOT", "ENOENT", "ELOOP", "EACCES", "EPERM")) throw error;
    if (disk.stat(home.staging, name) !== undefined) disk.unlink(home.staging, name);
    return;
  }
  catalog.begin();
  const seq = catalog.standing.committed.seq + 1n;
  catalog.run("DELETE FROM staged_runs WHERE object = ?", asked.object);
  catalog.run(
    "INSERT INTO staged (object, store, seq, block_size) VALUES (?,?,?,?)",
    asked.object,
    home.number,
    seq,
    asked.blockSize,
  );
  rehashStaged(context, asked.object, home.number, asked.blockSize);
}

interface Place {
  readonly directory: Directory;
  readonly name: string;
}

function copyFile(disk: Disk, source: Place, target: Place): void {
  const from = disk.openFile(source.directory, source.name, "read");
  try {
    const to = disk.openFile(target.directory, target.name, "create");
    try {
      const buffer = new Uint8Array(pieceBytes);
      for (let at = 0; ; at += pieceBytes) {
        const length = disk.read(from, buffer, 0, buffer.length, at);
        if (length === 0) break;
        disk.write(to, buffer.subarray(0, length), at);
      }
    } finally {
      disk.closeFile(to);
    }
  } finally {
    disk.closeFile(from);
  }
}
