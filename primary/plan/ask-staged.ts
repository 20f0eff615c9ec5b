import type { ObjectVersion } from "../../shared/catalog/manifest.ts";
import { blocksPerRun, equalBytes } from "../../shared/manifest/block-hash.ts";
import { runTerm } from "../../shared/manifest/digest.ts";
import type { Seq } from "../../shared/words.ts";
import type { PrimaryContext } from "../primary-context.ts";
import type { ReplicaSink } from "../ship/shipment.ts";

/** From here on a new object gets a staged file of its own, and the replica is asked what it has of it. */
export const resumeBytesMin = 1024 * 1024;

/** Learns which runs of a new file the replica has staged as they are now, from a broken session or where it adopts. */
export async function askStaged(
  context: PrimaryContext,
  sink: ReplicaSink,
  { object, blockSize, size }: ObjectVersion,
  upTo: Seq,
): Promise<void> {
  const { manifest, stores } = context;
  const entry = manifest.pathsOf(object, upTo)[0];
  const store = stores.find(({ number }) => number === entry?.store);
  if (entry === undefined || store === undefined) return;
  const staged = await sink.stagedRuns({ object, store: store.name, path: entry.path, blockSize });
  if (staged.blockSize !== blockSize) return;
  const runs = Math.ceil(Math.ceil(size / blockSize) / blocksPerRun);
  for (let run = 0; run < runs && (run + 1) * 32 <= staged.digests.length; run++) {
    const row = manifest.runWithBirths(object, run, upTo);
    if (row === undefined || row.hashes.length === 0) continue;
    const term = runTerm(run, row.hashes);
    if (term !== undefined && equalBytes(staged.digests.subarray(run * 32, run * 32 + 32), term))
      sink.held.note(object, run, 0, row.hashes);
  }
}
