import { homeOf, objectFileName, type ReplicaContext } from "../replica-context.ts";
import { setMetaAsPermitted } from "../set-meta.ts";
import { failing } from "../sync.ts";
import { PayloadReader } from "./payload-reader.ts";
import type { Batch, ChangedObject } from "./plan-batch.ts";
import { pendingExtents, stagedAt } from "./plan-batch.ts";
import { type Stamps, stampsOf } from "./stamps.ts";
import { writeZeros } from "./write-zeros.ts";

export interface Materialized {
  readonly object: ChangedObject;
  readonly stat: Stamps;
}

/**
 * Gives every file and symlink that is born in the batch a file of its own in staging, as it was at its birth, synced;
 * of damaged files that are renewed it is there already, and is theirs from the mark on.
 * What a crash leaves of this is not known to the catalog and is made again.
 */
export function materialize(context: ReplicaContext, batch: Batch): { made: Materialized[]; metadataPartial: number } {
  const { disk, catalog, limits } = context;
  using payloads = new PayloadReader(context);
  const made: Materialized[] = [];
  let partial = 0;
  const touched = new Map<number, { files: number; symlinks: number }>();
  for (const changed of batch.objects) {
    if (changed.type === "directory") continue;
    const birth = stagedAt(changed);
    if (birth?.version === undefined) continue;
    const { staging, placement } = homeOf(context, changed.store);
    const { owners } = placement;
    const name = objectFileName(changed.object);
    const staged = catalog.get("SELECT 1 AS found FROM staged WHERE object = ?", changed.object) !== undefined;
    if (!staged) {
      if (disk.stat(staging, name) !== undefined) disk.unlink(staging, name);
      const names = touched.get(changed.store) ?? { files: 0, symlinks: 0 };
      touched.set(changed.store, names);
      if (changed.type === "symlink") {
        disk.makeSymlink(staging, name, birth.version.target);
        if (!setMetaAsPermitted((meta) => disk.setMeta(staging, name, meta), birth.version, owners)) partial++;
        names.symlinks++;
      } else {
        const file = disk.openFile(staging, name, "create");
        try {
          for (const extent of pendingExtents(context, changed.object, batch.from, birth.seq)) {
            if (extent.place !== "zero") disk.write(file, payloads.read(changed.store, extent), extent.offset);
            else writeZeros(disk, file, extent.offset, extent.length);
          }
          disk.truncate(file, birth.version.size);
          if (!setMetaAsPermitted((meta) => disk.setFileMeta(file, meta), birth.version, owners)) partial++;
          // A sync covers meta only through the handle that set it; beyond the bound the filesystem's sync does it.
          if (++names.files <= limits.singleSyncsMax) failing(() => disk.syncFile(file));
        } finally {
          disk.closeFile(file);
        }
      }
    }
    made.push({ object: changed, stat: stampsOf(disk.stat(staging, name)!) });
  }
  for (const [store, { files, symlinks }] of touched) {
    const { staging } = homeOf(context, store);
    // Nothing but the filesystem's sync keeps a symlink's owner and time.
    if (files > limits.singleSyncsMax || symlinks > 0) failing(() => disk.syncFilesystem(staging));
    else failing(() => disk.syncDirectory(staging));
  }
  return { made, metadataPartial: partial };
}
