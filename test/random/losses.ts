import { cutRefText } from "../../deploy/control/api.ts";
import type { ForkDescription } from "../../deploy/control/fork-answers.ts";
import type { CutRef } from "../../deploy/control/json-names.ts";
import type { Entry } from "./application.ts";
import type { Begun, Taken } from "./node-record.ts";

/** A reign of the history that stands in the end, and the cut of it from which the next one goes on. */
export interface Kept {
  readonly epoch: number;
  /** Undefined: all of it is kept. */
  readonly upTo: CutRef | undefined;
}

/**
 * Which reigns led to `last`, by what each node said when its own began; the oldest first, from after `since` on. A reign that
 * began from all that its node had keeps all of the one before it.
 */
export function lineage(begun: readonly Begun[], last: number, since: number): Kept[] {
  const byEpoch = new Map(begun.map((one) => [one.epoch, one]));
  const kept: Kept[] = [{ epoch: last, upTo: undefined }];
  for (let at = last; at > since; ) {
    const one = byEpoch.get(at);
    const before = one === undefined ? undefined : parent(one, begun);
    if (before === undefined) break;
    kept.unshift(before);
    at = before.epoch;
  }
  return kept;
}

function parent({ epoch, node, from }: Begun, begun: readonly Begun[]): Kept | undefined {
  if (from !== undefined) return { epoch: from.epoch, upTo: from };
  const own = begun.filter((one) => one.node === node && one.epoch < epoch).map((one) => one.epoch);
  return own.length === 0 ? undefined : { epoch: Math.max(...own), upTo: undefined };
}

/**
 * What is there in the end and should not be, and what should be and is not: of each reign that led to it everything up to
 * the cut that was stated, and nothing after it; of any other reign nothing.
 */
export function wrongly(
  entries: readonly Entry[],
  final: ReadonlySet<string>,
  kept: readonly Kept[],
  taken: readonly Taken[],
): string[] {
  const [oldest] = kept;
  const byEpoch = new Map(kept.map((one) => [one.epoch, one]));
  const cuts = new Map(taken.map((cut) => [cutRefText(cut), cut]));
  return entries.flatMap((entry) => {
    // What came before was judged when that was the end.
    if (oldest === undefined || entry.epoch < oldest.epoch) return [];
    const should = belongs(entry, byEpoch.get(entry.epoch), cuts);
    if (should === undefined || should === final.has(entry.id)) return [];
    const upTo = byEpoch.get(entry.epoch)?.upTo;
    const stated = upTo === undefined ? `epoch ${entry.epoch}` : `cut ${cutRefText(upTo)}`;
    const times = `${new Date(entry.from).toISOString()} to ${new Date(entry.to).toISOString()}`;
    const cut = upTo === undefined ? undefined : cuts.get(cutRefText(upTo));
    const cutTimes =
      cut === undefined ? "" : ` of ${new Date(cut.begunAt).toISOString()} to ${new Date(cut.at).toISOString()}`;
    return [`${entry.id} (${times}) ${should ? "is gone" : "is there"}, ${stated}${cutTimes} was stated`];
  });
}

/** Undefined: it was written while the cut was taken, or nobody knows when that was. */
function belongs(entry: Entry, kept: Kept | undefined, cuts: ReadonlyMap<string, Taken>): boolean | undefined {
  if (kept === undefined) return false;
  if (kept.upTo === undefined) return true;
  const cut = cuts.get(cutRefText(kept.upTo));
  if (cut === undefined) return undefined;
  if (entry.to < cut.begunAt) return true;
  return entry.from > cut.at ? false : undefined;
}

/**
 * The last cut of the stated one's epoch that a node had as well as whoever goes on from that: it may have begun a reign of its own, or
 * have followed another one, from less.
 */
export function lastInCommon({ last, epochs }: Pick<ForkDescription, "last" | "epochs">, stated: CutRef): number {
  const next = epochs.find(({ epoch }) => epoch > stated.epoch);
  return Math.min(stated.seq, next === undefined ? last.seq : next.firstSeq - 1);
}
