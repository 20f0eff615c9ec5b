import type { TakenCut } from "../../primary/plan/take-cut.ts";
import type { StagedQuestion } from "../../primary/ship/shipment.ts";
import type { ForkRecord } from "../../replica/rejoin/fork-bundle.ts";
import type { ForkRequest } from "../../replica/rejoin/make-fork.ts";
import type { Standing } from "../../shared/catalog/catalog.ts";
import type { Touched } from "../../shared/catalog/collapse.ts";
import type { StoreOnNode } from "../../shared/config/config.ts";
import type { StoreCosts, StoreHealth } from "../../shared/ports/store-adapter.ts";
import type { Turn } from "../../shared/session/epochs.ts";
import type { Paused } from "../../shared/session/paused.ts";
import type { SwitchoverRecord } from "../../shared/session/switchover.ts";
import type { CutStore, StagedPlace, TouchedPlace } from "../../shared/wire/messages.ts";
import type { CutId, ObjectId } from "../../shared/words.ts";
import type { CopyPlaces } from "./own-copies.ts";
import type { PlainError } from "./port-peer.ts";

/** What the main thread and the thread that takes a group's cuts ask of each other. */

export interface SinkState {
  readonly name: string;
  /** Number of the session: what is sent in one never leaves by another. */
  readonly session: number;
  readonly takesAhead: boolean;
  readonly base: CutId;
  readonly lastObject: number;
  readonly compress: boolean;
  readonly resuming: boolean;
  /** It has something otherwise than `base`, and tells what when it is asked. */
  readonly rejoining: boolean;
  readonly damaged: readonly ObjectId[];
}

export type PrimaryWorkerCalls = {
  open(argument: {
    catalogPath: string;
    stores: readonly StoreOnNode[];
    holdSecondsMax: number;
    environment: Record<string, string>;
    bootId: string;
  }): PrimaryStanding;
  /** Born here: a new group id, epoch 1. Its service may run at once unless a cluster decides about that. */
  form(argument: { confirmed: boolean }): PrimaryStanding;
  /** Begins to watch the stores, those that are not watched yet. */
  start(argument: undefined): void;
  cut(argument: {
    depth: "changes" | "scan";
    prune: boolean;
    /** `hooks`: the application is paused and continued. `still`: its service is stopped, and nothing moves. */
    freeze: "none" | "hooks" | "still";
    preCopyRounds: number;
    sinks: readonly SinkState[];
    forgottenUpTo: bigint;
  }): Promise<CutResult>;
  /** The service is about to run: a cut that counts on it standing still is given up, unless it is committed already. */
  dropStill(argument: undefined): void;
  /** Whatever their stamps say: the next scan reads these again. */
  reread(argument: { objects: readonly ObjectId[] }): void;
  /** One pass over what a replica lacks, outside of any cut. */
  ahead(argument: { sink: SinkState }): Promise<AheadResult>;
  aheadRefused(argument: { name: string; session: number }): void;
  sinkGone(argument: { name: string; session: number }): void;
  /** Bytes of frames that left for a sink; `memory` is needed there no more. */
  sent(argument: { name: string; session: number; bytes: number; memory: ArrayBuffer | undefined }): void;
  /** `costs` and `health` by store, of kinds that have any. */
  backlog(argument: undefined): {
    dirty: boolean;
    bytes: number;
    costs: Readonly<Record<string, StoreCosts>>;
    health: ReadonlyMap<string, StoreHealth>;
  };
  fence(argument: { by: bigint }): PrimaryStanding;
  /** What a person holds back from here on. */
  pause(argument: { paused: Paused | undefined }): PrimaryStanding;
  /** This reign is known to be the only one, as long as the machine runs. */
  confirm(argument: { bootId: string }): PrimaryStanding;
  /** A reign of its own from here on: what a replica has beyond it belongs to another one. */
  newEpoch(argument: { turn: Turn }): PrimaryStanding;
  /** A reign of its own that a cluster has granted: it goes on from what it had when it was demoted, or when its machine failed. */
  reignAnew(argument: { turn: Turn }): PrimaryStanding;
  halt(argument: { reason: string }): PrimaryStanding;
  /** How far a switchover is. Between two cuts. */
  switchover(argument: { record: SwitchoverRecord | undefined }): PrimaryStanding;
  /**
   * Goes back from a switchover whose target cannot be asked, in an epoch above the one that the target may have begun: it is
   * fenced by that if it did. `target` is undefined of one that is no member any more.
   */
  abandon(argument: { record: SwitchoverRecord; turn: Turn; target: Turn | undefined }): PrimaryStanding;
  /** Stores that somebody else has open, with the processes, as far as their kinds can tell. */
  users(argument: undefined): readonly { readonly store: string; readonly pids: readonly number[] }[];
  digestAt(argument: { seq: bigint }): Uint8Array | undefined;
  /**
   * Makes what a copy needs beside the stores' files, so that they could become one.
   * @throws when they could not
   */
  prepareDemotion(argument: CopyPlaces): void;
  /**
   * The stores come to an orderly end: from here on their files are what the last cut says, and nobody of ours writes or
   * follows them. Before `demote` the node is what it was; this worker is of no more use then, but to be closed.
   */
  settle(argument: CopyPlaces): Promise<void>;
  /** Where this node stands when it gives up what is beyond `common`: see shared/catalog/touched.ts. */
  lastHad(argument: { common: CutId; reach: bigint }): CutId;
  /** All that is beyond the common cut, once the stores are settled; undefined where that is nothing. */
  keepFork(argument: ForkRequest): Promise<ForkRecord | undefined>;
  /** What was settled is the copy of a replica from here on, which stands at the cut `common`. */
  demote(argument: { common: CutId; keepHistory: boolean }): Demoted;
  standing(argument: undefined): PrimaryStanding;
  close(argument: undefined): void;
};

export type PrimaryMainCalls = {
  wake(argument: undefined): void;
  frame(argument: { sink: string; session: number; header: Uint8Array; payload: Uint8Array }): void;
  stagedRuns(
    argument: StagedQuestion & { sink: string; session: number },
  ): Promise<{ blockSize: number; digests: Uint8Array }>;
  stagedList(
    argument: StagedPlace & { sink: string; session: number },
  ): Promise<{ payload: Uint8Array; last: boolean }>;
  touchedList(
    argument: TouchedPlace & { sink: string; session: number },
  ): Promise<{ payload: Uint8Array; last: boolean }>;
  aheadProgress(argument: AheadState & { sink: string; session: number }): void;
  freeze(argument: undefined): Promise<void>;
  thaw(argument: undefined): Promise<number>;
  /** The thread cannot go on: the process has to end and recover. */
  failed(argument: { error: PlainError }): void;
};

export interface Demoted {
  /** Where it stands as a replica. */
  readonly cut: CutId;
  /** What it has otherwise than that cut. */
  readonly touched: Touched;
  /** Of what had to be read, since nothing else said what is in it. */
  readonly filesRead: number;
  readonly bytesRead: number;
  /** Left out by the configuration and changed since: the primary brings what the cut has. */
  readonly damaged: number;
  /** Files that have names outside of their store, where what they get from here on is seen as well. */
  readonly linkedOutside: number;
}

export interface CutResult extends TakenCut {
  /** Commits of all stores so far, as far as their kinds can count. */
  readonly commitsCounted: number;
  readonly standing: PrimaryStanding;
  readonly sinks: readonly {
    readonly name: string;
    readonly base: CutId;
    readonly lastObject: number;
    readonly gone: boolean;
    /** It was left out: what it lacks goes ahead of another cut. */
    readonly late: boolean;
  }[];
}

/** How far a replica is that lags by more than goes into a cut. */
export interface AheadState {
  readonly lackingBytes: number;
  /** What its line carries, where that is known. */
  readonly bytesPerSecond: number | undefined;
}

export interface AheadResult extends AheadState {
  readonly sentBytes: number;
  /** The replica has no room for more. */
  readonly refused: boolean;
}

export interface PrimaryStanding extends Standing {
  readonly stores: readonly CutStore[];
  readonly incarnation: string;
  readonly coherency: string;
  /** Of removals up to here nothing is known any more: a replica further back cannot be told of them. */
  readonly forgotten: bigint;
}
