import { setImmediate } from "node:timers/promises";
import type { ObjectVersion } from "../../shared/catalog/manifest.ts";
import { hashBytes } from "../../shared/manifest/block-hash.ts";
import type { Extent } from "../../shared/wire/messages.ts";
import type { ObjectId, Seq } from "../../shared/words.ts";
import type { PrimaryContext } from "../primary-context.ts";
import { Outbox } from "../ship/outbox.ts";
import type { ReplicaSink } from "../ship/shipment.ts";
import { askStaged, resumeBytesMin } from "./ask-staged.ts";
import { haveHashes } from "./catch-up.ts";
import { comesWhole, lackingOf } from "./lacking.ts";

/** Between two looks at what else there is to do for this thread. */
const turnMs = 8;

export interface AheadProgress {
  /** What the replica lacks of the last cut and had not been sent when this pass began. */
  readonly lackingBytes: number;
  /** Of it, sent in this pass. */
  readonly sentBytes: number;
}

/**
 * One pass over what a replica lacks of the last cut, outside of any: bytes are read as they are now, and sent where they
 * still are what the manifest says. What has moved on is left to a later pass, or to a cut. Nothing waits for it: other
 * cuts are taken in between, and memory holds no more than what the sink's line has room for.
 *
 * What has not changed for longest comes first: it is what will still be wanted when a cut asks for it. `begins` hears
 * how much there is to send, and says whether it is worth while.
 */
export async function shipAhead(
  context: PrimaryContext,
  sink: ReplicaSink,
  begins: (lackingBytes: number) => boolean,
  report: (progress: AheadProgress) => void,
): Promise<AheadProgress> {
  if (!sink.held.listed) await sink.listStaged();
  await sink.touched?.list();
  const turn = new Turn();
  const files = await filesBorn(context, sink.base.seq, turn);
  for (const object of sink.touched?.objects() ?? []) {
    files.add(object);
    if (turn.over()) await turn.take();
  }
  for (const object of sink.damaged) files.add(object);
  let lacking = 0;
  for (const object of files) {
    const version = await asOfNow(context, sink, object);
    if (version === undefined) continue;
    for (const range of lackingOf(context, sink, version, committed(context))) {
      if (range.what === "send") lacking += range.length;
      if (turn.over()) await turn.take();
      if (sink.gone) break;
    }
  }
  let sentBytes = 0;
  const names = context.stores.map((store) => store.name);
  const outbox = new Outbox(
    async (message, payload) => {
      if (message.kind !== "extents") throw new Error(`a ${message.kind} is not sent ahead`);
      await sink.send({ ...message, kind: "ahead", stores: names }, payload);
      sentBytes += message.decodedBytes;
      report({ lackingBytes: lacking, sentBytes });
    },
    { compress: sink.compress },
  );
  report({ lackingBytes: lacking, sentBytes });
  if (!begins(lacking)) return { lackingBytes: lacking, sentBytes };
  for (const object of files) {
    if (sink.gone) break;
    const version = context.manifest.object(object, committed(context));
    if (version?.type !== "file") continue;
    await sendSteady(context, sink, version, outbox, turn);
  }
  await outbox.flush();
  return { lackingBytes: lacking, sentBytes };
}

/** Blocks of a file that are what the manifest says, as it says when each is read. */
async function sendSteady(
  context: PrimaryContext,
  sink: ReplicaSink,
  version: ObjectVersion,
  outbox: Outbox,
  turn: Turn,
): Promise<void> {
  const { object, blockSize, size } = version;
  const upTo = committed(context);
  const entry = context.manifest.pathsOf(object, upTo)[0];
  const storeIndex = context.stores.findIndex(({ number }) => number === entry?.store);
  const store = context.stores[storeIndex];
  if (entry === undefined || store === undefined) return;
  const fresh = comesWhole(sink, object) && size >= resumeBytesMin;
  for (const range of lackingOf(context, sink, version, upTo)) {
    if (turn.over()) await turn.take();
    if (sink.gone) return;
    if (range.what !== "send") continue;
    const bytes = store.adapter.peek(entry.path, range.offset, range.length);
    if (bytes === undefined || bytes.length === 0) continue;
    for (const piece of steadyPieces(bytes, blockSize, range.first, range.count, range.hashes)) {
      const hashes = Buffer.from(
        range.hashes.subarray(piece.first * hashBytes, (piece.first + piece.count) * hashBytes),
      );
      const extent: Extent = {
        object,
        offset: range.offset + (piece.first - range.first) * blockSize,
        length: piece.bytes.length,
        hashes,
        zero: false,
        store: storeIndex,
        blockSize,
        fresh,
        held: false,
      };
      await outbox.extent(extent, piece.bytes);
      sink.held.note(object, range.run, piece.first, hashes);
    }
  }
}

/** Runs of blocks that have their hashes. */
function* steadyPieces(
  bytes: Uint8Array,
  blockSize: number,
  first: number,
  count: number,
  hashes: Uint8Array,
): Generator<{ first: number; count: number; bytes: Uint8Array }> {
  const steady = (block: number): boolean => {
    const part = bytes.subarray((block - first) * blockSize, (block - first + 1) * blockSize);
    return part.length > 0 && haveHashes(part, blockSize, hashes.subarray(block * hashBytes, (block + 1) * hashBytes));
  };
  for (let from = first; from < first + count; ) {
    if (!steady(from)) {
      from++;
      continue;
    }
    let to = from + 1;
    while (to < first + count && steady(to)) to++;
    yield {
      first: from,
      count: to - from,
      bytes: bytes.subarray((from - first) * blockSize, (to - first) * blockSize),
    };
    from = to;
  }
}

/** Files that changed after `base`, those first that changed longest ago. */
async function filesBorn(context: PrimaryContext, base: Seq, turn: Turn): Promise<Set<ObjectId>> {
  const files = new Set<ObjectId>();
  let [birth, object] = [Number(base), Number.MAX_SAFE_INTEGER];
  for (;;) {
    const rows = context.catalog.all(
      `SELECT object, birth FROM object_versions WHERE (birth, object) > (?, ?) AND birth <= ? AND type = 1
         ORDER BY birth, object LIMIT 2000`,
      birth,
      object,
      committed(context),
    );
    const last = rows.at(-1);
    if (last === undefined) return files;
    for (const row of rows) files.add(Number(row.object) as ObjectId);
    [birth, object] = [Number(last.birth), Number(last.object)];
    if (turn.over()) await turn.take();
  }
}

/** The file as of the last cut, with what the replica has staged of it known. */
async function asOfNow(
  context: PrimaryContext,
  sink: ReplicaSink,
  object: ObjectId,
): Promise<ObjectVersion | undefined> {
  const version = context.manifest.object(object, committed(context));
  if (version?.type !== "file") return undefined;
  const asks = sink.held.unasked.delete(object) || (sink.resuming && version.size >= resumeBytesMin);
  if ((asks || sink.damaged.includes(object)) && comesWhole(sink, object) && !sink.held.asked.has(object)) {
    sink.held.asked.add(object);
    await askStaged(context, sink, version, committed(context));
  }
  return version;
}

function committed(context: PrimaryContext): Seq {
  return context.catalog.standing.committed.seq;
}

/** Gives way to the event loop now and then: cuts for others are taken by this very thread. */
class Turn {
  #ends = performance.now() + turnMs;

  over(): boolean {
    return performance.now() >= this.#ends;
  }

  async take(): Promise<void> {
    await setImmediate();
    this.#ends = performance.now() + turnMs;
  }
}
