import type { AcceptedCopy } from "../../replica/promote/promote.ts";
import type { ForkRecord } from "../../replica/rejoin/fork-bundle.ts";
import type { ForkRequest } from "../../replica/rejoin/make-fork.ts";
import type { StorePlacement } from "../../replica/store-home.ts";
import type { CutRecord, Standing } from "../../shared/catalog/catalog.ts";
import type { Touched } from "../../shared/catalog/collapse.ts";
import type { OwnCut } from "../../shared/catalog/touched.ts";
import type { RetentionConfig } from "../../shared/config/config.ts";
import type { Turn } from "../../shared/session/epochs.ts";
import type { Paused } from "../../shared/session/paused.ts";
import type { Handover } from "../../shared/session/switchover.ts";
import type { Acknowledgement, StagedPlace, TouchedPlace } from "../../shared/wire/messages.ts";
import type { CutId, Epoch, ObjectId } from "../../shared/words.ts";
import type { PlainError } from "./port-peer.ts";

/** What the main thread and the thread that receives, commits and applies ask of each other. */

export type ReplicaWorkerCalls = {
  open(argument: {
    groupName: string;
    catalogPath: string;
    placements: readonly StorePlacement[];
    stagingBytesMax: number;
    keepHistory: boolean;
    retention: RetentionConfig;
    /** Globs that each store's configuration leaves out. */
    exclude: ReadonlyMap<string, readonly string[]>;
    sweepEveryMs: number;
    bootId: string;
  }): ReplicaStanding;
  /**
   * Opens the copies of a replica and finishes what a crash left.
   * @throws {CopyNotThere | CopyOccupied}
   */
  openCopy(argument: undefined): ReplicaStanding;
  /** Becomes replica of a group that was born elsewhere. */
  join(argument: { groupId: string; epoch: bigint; epochs: Standing["epochs"] }): ReplicaStanding;
  /** A newer reign of the same group is followed from here on; `said`: the cut by which its primary was found to have ours. */
  adoptEpoch(argument: { epoch: bigint; epochs: Standing["epochs"]; said: CutId }): ReplicaStanding;
  /** Frames of any other generation are of a session that is over, and are dropped. */
  startSession(argument: { incarnation: string; generation: number; primary: string; epoch: bigint }): ReplicaStanding;
  frame(argument: { generation: number; header: Uint8Array; payload: Uint8Array }): void;
  endSession(argument: undefined): ReplicaStanding;
  stagedRuns(argument: StagedAsked): { blockSize: number; digests: Uint8Array };
  /** What is staged beyond single objects, packed for the wire. */
  stagedList(argument: StagedPlace): { payload: Uint8Array; last: boolean };
  /** What is here otherwise than the last cut, packed for the wire. */
  touchedList(argument: TouchedPlace): { payload: Uint8Array; last: boolean };
  /** Begins anew with what lies in the copy's place: see replica/receive/adopt.ts. */
  adopt(argument: undefined): ReplicaStanding;
  /** What `verify` found in the copy that is not as it should be, by its path there. */
  differs(argument: readonly { readonly store: string; readonly path: string; readonly what: string }[]): void;
  /** The point stays while somebody reads it. */
  pin(argument: { seq: bigint }): void;
  unpin(argument: { seq: bigint }): void;
  /** `heard`: the highest epoch that another node spoke of. */
  seal(argument: { heard: bigint }): ReplicaStanding;
  unseal(argument: undefined): ReplicaStanding;
  /**
   * What is committed is applied, and nothing more comes: what a fork is kept from.
   * @throws when it cannot be
   */
  settle(argument: undefined): ReplicaStanding;
  /** Where this node stands when it gives up what is beyond `common`: see shared/catalog/touched.ts. */
  lastHad(argument: { common: CutId; reach: bigint }): CutId;
  /** All that is beyond the common cut; undefined where that is nothing. After `settle`. */
  keepFork(argument: ForkRequest): Promise<ForkRecord | undefined>;
  /** It has cuts that the new primary's history has not: see replica/rejoin/demote.ts. After `settle`. */
  goBack(argument: { common: CutId; own: CutId }): { readonly touched: Touched; readonly standing: ReplicaStanding };
  takeOver(argument: { accepted: AcceptedCopy; turn: Turn }): { epoch: Epoch; cut: CutId };
  /** Takes over exactly what is handed over, or says why not. `barred`: why this node shall not; "" when it may. */
  takeOverHanded(argument: { handover: Handover; barred: string; turn: Turn }): {
    accepted: boolean;
    reason: string;
    standing: ReplicaStanding;
  };
  standing(argument: undefined): ReplicaStanding;
  points(argument: undefined): readonly CutRecord[];
  setHalted(argument: { reason: string }): ReplicaStanding;
  /** What a person holds back from here on. */
  pause(argument: { paused: Paused | undefined }): ReplicaStanding;
  close(argument: undefined): void;
};

export interface StagedAsked {
  readonly object: ObjectId;
  readonly store: string;
  readonly path: string;
  readonly blockSize: number;
}

export type ReplicaMainCalls = {
  /** So many bytes of frames were taken in: the link may bring more, into `memory` if it likes. */
  taken(argument: { generation: number; bytes: number; memory: ArrayBuffer | undefined }): void;
  acknowledged(argument: Acknowledgement): void;
  applied(argument: {
    cuts: number;
    ms: number;
    strangers: readonly string[];
    repaired: readonly string[];
    metadataPartial: number;
  }): void;
  /** What somebody else did to the copy, and what became of it. */
  foreign(argument: { what: "damaged" | "mended" | "lost" | "put-aside" | "again"; paths: readonly string[] }): void;
  rejected(argument: { cut: CutId; committed: CutId; error: PlainError }): void;
  /** There is no room to go on; it is tried again until there is. */
  waiting(argument: { error: PlainError }): void;
  /** There is no room for what comes ahead of a cut: it is dropped until one is durable. */
  aheadRefused(argument: { generation: number; reason: string }): void;
  /** The thread cannot go on: the process has to end and recover. */
  failed(argument: { error: PlainError }): void;
};

export interface ReplicaStanding extends Standing {
  readonly lastObject: number;
  readonly record: CutRecord | undefined;
  readonly unappliedBytes: number;
  readonly pointCount: number;
  readonly historyBytes: number;
  /** When the oldest recovery point was taken; 0 when there is none. */
  readonly oldestPointUs: number;
  readonly adopting: boolean;
  /** It has something otherwise than the cut that it stands at, from when it was primary itself. */
  readonly rejoining: boolean;
  /** While it rejoins: its last cut from then, which is what it has; undefined where that is not known. */
  readonly ownCut: OwnCut | undefined;
  /** Why it does not rejoin by what it knows to be otherwise, but by comparison only. */
  readonly unproven: string | undefined;
  /** What the primary is asked to send whole. */
  readonly damaged: readonly ObjectId[];
  /** Whose reign the current epoch is, once this node has followed it. */
  readonly followed: string | undefined;
}
