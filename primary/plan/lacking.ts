import { blockBirth } from "../../shared/catalog/content-change.ts";
import type { ObjectVersion } from "../../shared/catalog/manifest.ts";
import { blocksPerRun, hashInRun, isZero } from "../../shared/manifest/block-hash.ts";
import type { ObjectId, Seq } from "../../shared/words.ts";
import type { PrimaryContext } from "../primary-context.ts";
import { frameBytesMax } from "../ship/frame-memory.ts";
import { isHeld } from "../ship/held-blocks.ts";
import type { ReplicaSink } from "../ship/shipment.ts";

/** Consecutive blocks of one run that a replica needs for a file. */
export interface LackingRange {
  /** `held`: it has them in staging. `zero`: it has something else there, and they are zeros. */
  readonly what: "send" | "held" | "zero";
  readonly run: number;
  /** Within the run. */
  readonly first: number;
  readonly count: number;
  readonly offset: number;
  readonly length: number;
  /** Of all blocks of the run. */
  readonly hashes: Uint8Array;
}

/** All of an object comes to a replica that has nothing of it, or a damaged file. */
export function comesWhole({ lastObject, damaged }: ReplicaSink, object: ObjectId): boolean {
  return object > lastObject || damaged.includes(object);
}

/** What a replica needs of a file to have it as of `upTo`, in the order of its offsets. */
export function* lackingOf(
  context: PrimaryContext,
  sink: ReplicaSink,
  version: ObjectVersion,
  upTo: Seq,
): Generator<LackingRange> {
  const { object, blockSize, size } = version;
  const fresh = comesWhole(sink, object);
  const blocks = Math.ceil(size / blockSize);
  for (const run of runsBorn(context, object, fresh ? (0n as Seq) : sink.base.seq, upTo)) {
    if (run * blocksPerRun >= blocks) return;
    const row = context.manifest.runWithBirths(object, run, upTo);
    if (row === undefined) continue;
    const { hashes } = row;
    const tags = sink.held.tags(object, run);
    const count = Math.min(blocksPerRun, blocks - run * blocksPerRun);
    const wanted = (block: number): LackingRange["what"] | undefined => {
      if (!fresh && blockBirth(row, block) <= sink.base.seq) return undefined;
      if (isZero(hashInRun(hashes, block))) return fresh ? undefined : "zero";
      return isHeld(tags, hashes, block) ? "held" : "send";
    };
    for (let first = 0; first < count; ) {
      const what = wanted(first);
      const most = what === "send" ? Math.max(1, Math.floor(frameBytesMax / blockSize)) : blocksPerRun;
      let to = first + 1;
      while (to < count && to - first < most && wanted(to) === what) to++;
      if (what !== undefined) {
        const offset = (run * blocksPerRun + first) * blockSize;
        const length = Math.min((to - first) * blockSize, size - offset);
        yield { what, run, first, count: to - first, offset, length, hashes };
      }
      first = to;
    }
  }
}

const runsAtATime = 256;

function* runsBorn({ manifest }: PrimaryContext, object: ObjectId, after: Seq, upTo: Seq): Generator<number> {
  for (let from = 0; ; ) {
    const runs = manifest.runsBorn(object, from, after, upTo, runsAtATime);
    yield* runs;
    const last = runs.at(-1);
    if (last === undefined || runs.length < runsAtATime) return;
    from = last + 1;
  }
}
