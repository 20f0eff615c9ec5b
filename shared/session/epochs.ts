import { assert } from "../errors.ts";
import { type CutId, epoch, seq } from "../words.ts";

/** Where one reign begins: all cuts from `firstSeq` on are its own, up to where the next one begins. */
export interface EpochStart {
  readonly epoch: bigint;
  readonly firstSeq: bigint;
}

/** What a node's cuts are: the reigns that they are of, oldest first, and the last one. */
export interface CutHistory {
  readonly epochs: readonly EpochStart[];
  readonly committed: CutId;
}

/**
 * The number of the next reign of a group's member, above every one that was heard of. The members take turns by their
 * place in the configuration (`member` of `members`, the candidate first, whose reign at birth is 1): so no two of them
 * ever begin the same epoch, even where each was promoted by hand without hearing of the other.
 */
export function nextEpoch(highest: bigint, member: number, members: number): bigint {
  assert(member >= 0 && member < members, `member ${member} of ${members}`);
  const turn = BigInt(member);
  const round = BigInt(members);
  const after = highest % round;
  return highest + 1n + ((turn - after + round) % round);
}

/**
 * The last cut that both nodes have, undefined where their histories have nothing in common. An epoch is one node's reign,
 * so where both know it, they have the same cuts of it, as far as each of them got.
 */
export function commonCut(ours: CutHistory, theirs: CutHistory): CutId | undefined {
  for (let index = ours.epochs.length - 1; index >= 0; index--) {
    const start = ours.epochs[index]!;
    if (!theirs.epochs.some((item) => item.epoch === start.epoch)) continue;
    const end = [endOf(ours, start.epoch), endOf(theirs, start.epoch)].reduce((a, b) => (a < b ? a : b));
    return { epoch: epoch(start.epoch), seq: seq(end) };
  }
  return undefined;
}

/** The last cut of an epoch in a history that knows it; below its first one where it has none of it. */
function endOf({ epochs, committed }: CutHistory, of: bigint): bigint {
  const index = epochs.findIndex((start) => start.epoch === of);
  const next = epochs[index + 1];
  return next === undefined ? committed.seq : next.firstSeq - 1n;
}

/** Objects that a reign gives numbers to: each has a range of its own, so that two reigns never give the same number. */
export function firstObjectOf(reign: bigint): number {
  const first = Number(reign) * 2 ** 34;
  assert(Number.isSafeInteger(first + 2 ** 34), `epoch ${reign} is out of range`);
  return first;
}
