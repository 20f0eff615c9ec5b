/** The words of the design as types. Ids are branded so that an epoch never passes for a seq. */

declare const brand: unique symbol;
export type Branded<T, B extends string> = T & { readonly [brand]: B };

/** Number of one reign. Each promotion takes the next; a lower epoch is fenced. */
export type Epoch = Branded<bigint, "Epoch">;
/** Number of a cut within a group, rising over all epochs; holes are normal. 0 is "no cut". */
export type Seq = Branded<bigint, "Seq">;
/** Random id of a group, 32 hex digits, given once at its birth. */
export type GroupId = Branded<string, "GroupId">;
/** Random id of one start of a primary, 16 hex digits. */
export type Incarnation = Branded<string, "Incarnation">;
export type NodeName = Branded<string, "NodeName">;
export type GroupName = Branded<string, "GroupName">;
export type StoreName = Branded<string, "StoreName">;

/** Number of a content within its group; given by the primary, never used again. A safe integer from 1. */
export type ObjectId = Branded<number, "ObjectId">;

/**
 * A path relative to its store's root, one character for each byte (latin1), components joined by "/"; "" is the root
 * itself. Names in any bytes survive; `Buffer.from(path, "latin1")` is what the kernel sees.
 */
export type StorePath = Branded<string, "StorePath">;

export interface CutId {
  readonly epoch: Epoch;
  readonly seq: Seq;
}

export const storeKinds = ["files", "sqlite"] as const;
export type StoreKind = (typeof storeKinds)[number];

/** What a store of a cut is worth, best first; always shown with it. */
export const consistencies = ["transactional", "quiesced", "crash", "whole", "fuzzy"] as const;
export type Consistency = (typeof consistencies)[number];

/** Who decides about promotions: nobody but a person, or an engine that can fence. */
export const engines = ["none", "pacemaker"] as const;
export type Engine = (typeof engines)[number];

export type Coherency = "instant" | "independent";
export type Role = "unformed" | "replica" | "promoting" | "primary" | "fenced";
export type PeerState = "connecting" | "refused" | "seeding" | "catching-up" | "streaming" | "paused" | "halted";

export function epoch(value: bigint | number): Epoch {
  return BigInt(value) as Epoch;
}

export function seq(value: bigint | number): Seq {
  return BigInt(value) as Seq;
}

/** `epoch.seq`, as the command line takes and prints it. */
export function cutText(cut: CutId): string {
  return `${cut.epoch}.${cut.seq}`;
}

export function compareCuts(a: CutId, b: CutId): -1 | 0 | 1 {
  if (a.epoch !== b.epoch) return a.epoch < b.epoch ? -1 : 1;
  if (a.seq !== b.seq) return a.seq < b.seq ? -1 : 1;
  return 0;
}

/** The same cut; "no cut" is the same in every epoch. */
export function sameCut(a: CutId, b: CutId): boolean {
  return a.seq === b.seq && (a.seq === 0n || a.epoch === b.epoch);
}

/** True when `actual` is at least as good as `required`. */
export function meets(actual: Consistency, required: Consistency): boolean {
  return consistencies.indexOf(actual) <= consistencies.indexOf(required);
}

/** Closes a switch over a union: a new member does not compile until it is decided. */
export function unreachable(value: never): never {
  throw new Error(`unreachable: ${JSON.stringify(value)}`);
}
