import { blockBirth } from "../../shared/catalog/content-change.ts";
import type { ObjectVersion } from "../../shared/catalog/manifest.ts";
import { blocksPerRun, hashInRun, isZero } from "../../shared/manifest/block-hash.ts";
import { hasBlock } from "../../shared/wire/touched-list.ts";
import type { ObjectId, Seq } from "../../shared/words.ts";
import type { PrimaryContext } from "../primary-context.ts";
import { framePayloadBytes } from "../ship/frame-memory.ts";
import { isHeld } from "../ship/held-blocks.ts";
import type { ReplicaSink } from "../ship/shipment.ts";
import type { TouchedThere } from "../ship/touched-there.ts";

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
export function comesWhole({ lastObject, damaged, touched }: ReplicaSink, object: ObjectId): boolean {
  return object > lastObject || damaged.includes(object) || touched?.lacksAll(object) === true;
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
  const touched = fresh ? undefined : sink.touched;
  for (const run of runsLacking(context, object, fresh ? (0n as Seq) : sink.base.seq, upTo, touched)) {
    if (run * blocksPerRun >= blocks) return;
    const there = touched?.blocks(object, run);
    const row = context.manifest.runWithBirths(object, run, upTo) ?? (there === undefined ? undefined : neverWritten);
    if (row === undefined) continue;
    const { hashes } = row;
    const tags = sink.held.tags(object, run);
    const count = Math.min(blocksPerRun, blocks - run * blocksPerRun);
    const wanted = (block: number): LackingRange["what"] | undefined => {
      if (!fresh && blockBirth(row, block) <= sink.base.seq && !hasBlock(there, block)) return undefined;
      if (isZero(hashInRun(hashes, block))) return fresh ? undefined : "zero";
      return isHeld(tags, hashes, block) ? "held" : "send";
    };
    for (let first = 0; first < count; ) {
      const what = wanted(first);
      const most = what === "send" ? Math.max(1, Math.floor(framePayloadBytes / blockSize)) : blocksPerRun;
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

/** Nothing but zeros, since ever. */
const neverWritten = { hashes: new Uint8Array(0), birth: 0, births: undefined };

const runsAtATime = 256;

/** Runs that changed here, or that the replica has otherwise, in order. */
function* runsLacking(
  { manifest }: PrimaryContext,
  object: ObjectId,
  after: Seq,
  upTo: Seq,
  touched: TouchedThere | undefined,
): Generator<number> {
  for (let from = 0; ; ) {
    const born = manifest.runsBorn(object, from, after, upTo, runsAtATime);
    const there = touched?.runs(object, from, runsAtATime) ?? [];
    const full = [born, there].filter((runs) => runs.length === runsAtATime);
    // Beyond the last of a page there may be more of the same in between.
    const upToRun = Math.min(...full.map((runs) => runs.at(-1)!));
    const both = there.length === 0 ? born : [...new Set([...born, ...there])].sort((a, b) => a - b);
    for (const run of both) if (run <= upToRun) yield run;
    if (full.length === 0) return;
    from = upToRun + 1;
  }
}
