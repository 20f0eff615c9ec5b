import { assert, exitCodes, UnderstudyError } from "../errors.ts";
import { type CutId, type Epoch, epoch, seq } from "../words.ts";

/** Where one reign begins: all cuts from `firstSeq` on are its own, up to where the next one begins. */
export interface EpochStart {
  readonly epoch: bigint;
  readonly firstSeq: bigint;
}

/** Objects of a reign: so many has the range of each. */
const objectsMax = 2 ** 34;
/** No reign is above that: its objects would have no numbers. Half a million promotions of a group with one member. */
export const epochMax = BigInt(Math.floor(Number.MAX_SAFE_INTEGER / objectsMax)) - 1n;
/**
 * Nobody who was away missed that many: what is further above all that a node knows is a fault, and believing it would use up
 * the numbers that are left.
 */
export const epochJumpMax = 10_000n;

/** Why an epoch that somebody speaks of is none to act upon, for a node that knows `known` (0: none yet); "" when it may be. */
export function epochFault(said: bigint, known: bigint): string {
  if (said > epochMax) return `epoch ${said} is out of range: the last one that can be is ${epochMax}`;
  if (known > 0n && said > known + epochJumpMax)
    return `epoch ${said} is more than ${epochJumpMax} above epoch ${known}, the highest that is known here`;
  return "";
}

/** Somebody speaks of an epoch that no promotion has led to. */
class EpochUnbelievable extends UnderstudyError {
  readonly code = "EPOCH_UNBELIEVABLE";
  readonly remedy = "stop";
  readonly state = "Nothing was changed.";
  readonly hint = "Find out who wrote that number, and write down the epoch of the group's last primary instead.";
  override readonly exitCode = exitCodes.refused;
}

/** The epochs of a group have come to their end. */
class EpochsUsedUp extends UnderstudyError {
  readonly code = "EPOCHS_USED_UP";
  readonly remedy = "stop";
  readonly state = "Nothing was changed.";
  readonly hint =
    "Form the group anew: keep the newest copy as the source, and move the state directories of all nodes away.";
  override readonly exitCode = exitCodes.refused;
  constructor(next: bigint) {
    super(`the next epoch would be ${next}, and the last one that can be is ${epochMax}`);
  }
}

/** What a node's cuts are: the reigns that they are of, oldest first, and the last one. */
export interface CutHistory {
  readonly epochs: readonly EpochStart[];
  readonly committed: CutId;
}

/** A member's place in its group's configuration, the candidate first: whose turn an epoch is. */
export interface Turn {
  readonly member: number;
  readonly members: number;
  /** The highest epoch that another node spoke of: below it a reign would be over before it began. */
  readonly heard?: bigint;
  /** What a cluster has granted: that epoch, or none. */
  readonly granted?: bigint;
}

/** The epoch that was granted is none that this node can begin now. */
class GrantStale extends UnderstudyError {
  readonly code = "GRANT_STALE";
  readonly remedy = "retry";
  readonly state = "Nothing was changed.";
  readonly hint = "A later reign was heard of meanwhile: let the cluster ask again.";
  override readonly exitCode = exitCodes.refused;
  constructor(granted: bigint, highest: bigint) {
    super(`epoch ${granted} was granted, and epoch ${highest} is known here`);
  }
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

/** A node that the configuration does not name any more was one of at most so many members. */
const formerMembersMax = 64n;

/**
 * What a reign that another node began without our having heard of it may be at most, above what is known here. Its turn is
 * not known where it is no member any more: every number is left out then that could have been its own.
 */
export function unheardReign(highest: bigint, other: Turn | undefined): bigint {
  return other === undefined ? highest + formerMembersMax : nextEpoch(highest, other.member, other.members);
}

/**
 * The last cut that both nodes have, undefined where their histories have nothing in common. An epoch is one node's reign,
 * so where both have cuts of it, they have the same ones, as far as each of them got.
 */
export function commonCut(ours: CutHistory, theirs: CutHistory): CutId | undefined {
  const there = reignsOf(theirs);
  for (const reign of reignsOf(ours).toReversed()) {
    const other = there.find((item) => item.epoch === reign.epoch);
    if (other !== undefined)
      return { epoch: epoch(reign.epoch), seq: seq(reign.last < other.last ? reign.last : other.last) };
  }
  return undefined;
}

/**
 * The reigns that a node has cuts of, with the last that it has of each. A replica has heard of reigns that began beyond
 * its own last cut, and a primary that has taken no cut yet knows its own: neither has a cut of them.
 */
function reignsOf({ epochs, committed }: CutHistory): { readonly epoch: bigint; readonly last: bigint }[] {
  return epochs
    .map((start, index) => {
      const next = epochs[index + 1]?.firstSeq ?? committed.seq + 1n;
      return { epoch: start.epoch, first: start.firstSeq, last: next > committed.seq ? committed.seq : next - 1n };
    })
    .filter(({ first, last }) => first <= last);
}

/** What changes in a catalog when a reign begins. */
export interface Reign {
  readonly epoch: Epoch;
  readonly epochSeen: Epoch;
  readonly epochs: readonly EpochStart[];
  readonly nextObject: number;
}

/**
 * The reign that this node begins after its last cut. Reigns that it has heard of and has no cut of are no part of what its
 * cuts come from: they are left out, since what began beyond this cut is nobody's past here.
 * @throws {GrantStale | EpochUnbelievable} when it cannot begin what was granted
 * @throws {EpochsUsedUp} when there is none after those that were heard of
 */
export function newReign(
  before: CutHistory & { readonly epoch: Epoch; readonly epochSeen: Epoch; readonly nextObject: number },
  { member, members, granted, heard = 0n }: Turn,
): Reign {
  const highest = [before.epoch, before.epochSeen, heard].reduce((a, b) => (a > b ? a : b));
  const fault = granted === undefined ? "" : epochFault(granted, highest);
  if (fault !== "") throw new EpochUnbelievable(fault);
  if (granted !== undefined && (granted <= highest || nextEpoch(granted - 1n, member, members) !== granted))
    throw new GrantStale(granted, highest);
  const next = epoch(granted ?? nextEpoch(highest, member, members));
  if (next > epochMax) throw new EpochsUsedUp(next);
  const { committed } = before;
  const past = before.epochs.filter((start) => start.epoch <= committed.epoch && start.firstSeq <= committed.seq);
  return {
    epoch: next,
    epochSeen: next,
    epochs: [...past, { epoch: next, firstSeq: before.committed.seq + 1n }],
    nextObject: Math.max(before.nextObject, firstObjectOf(next)),
  };
}

/** Objects that a reign gives numbers to: each has a range of its own, so that two reigns never give the same number. */
export function firstObjectOf(reign: bigint): number {
  assert(reign <= epochMax, `epoch ${reign} is out of range`);
  return Number(reign) * objectsMax;
}
