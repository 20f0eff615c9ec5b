import type { Branded, Coherency, Consistency, CutId, ObjectId, StorePath } from "../words.ts";

/**
 * What travels between two agents, typed; `proto/understudy.proto` is the same on the wire and `codec.ts` the only place
 * that knows both. Epochs, seqs and other 64-bit counters are bigint where they may pass 2^53, sizes and offsets are
 * safe integers (the decoder refuses larger ones).
 */
export type Message =
  | { readonly kind: "hello"; readonly hello: Hello }
  | { readonly kind: "welcome"; readonly hello: Hello }
  | { readonly kind: "refusal"; readonly code: string; readonly message: string; readonly hint: string }
  | { readonly kind: "ping"; readonly nonce: number }
  | { readonly kind: "pong"; readonly nonce: number }
  /** Whether the other one still is what it said in its hello; whoever is about to be promoted itself does not answer. */
  | { readonly kind: "roleAsked"; readonly nonce: number }
  | { readonly kind: "roleHeld"; readonly nonce: number }
  | ({ readonly kind: "sourceState" } & SourceState)
  | ({ readonly kind: "acknowledgement" } & Acknowledgement)
  | {
      readonly kind: "cutRejected";
      readonly cut: CutId;
      readonly code: string;
      readonly message: string;
      readonly remedy: "retry" | "replan" | "stop";
      readonly committed: CutId;
    }
  | {
      readonly kind: "stagedRequest";
      readonly object: ObjectId;
      /** Where a copy that is being adopted, or a damaged file, may have the bytes already. */
      readonly store: string;
      readonly path: StorePath;
      readonly blockSize: number;
    }
  | { readonly kind: "stagedRuns"; readonly object: ObjectId; readonly blockSize: number }
  | ({ readonly kind: "aheadRequest" } & StagedPlace)
  | { readonly kind: "aheadHeld"; readonly last: boolean }
  | { readonly kind: "aheadRefused"; readonly reason: string }
  | ({ readonly kind: "touchedRequest" } & TouchedPlace)
  | { readonly kind: "touchedHeld"; readonly last: boolean }
  | SwitchoverMessage
  | BulkMessage;

/** Between a primary and the replica that is to take over by plan: see shared/session/switchover.ts. */
export type SwitchoverMessage =
  | { readonly kind: "switchoverPrepare"; readonly id: string }
  | {
      readonly kind: "switchoverReady";
      readonly id: string;
      readonly obstacles: readonly { readonly code: string; readonly message: string; readonly hint: string }[];
      /** How long its service took to start there when it last did; 0 where that is not known. */
      readonly startMs: number;
    }
  | { readonly kind: "handover"; readonly id: string; readonly cut: CutId; readonly digest: Uint8Array }
  | { readonly kind: "handoverRevoke"; readonly id: string }
  | {
      readonly kind: "handoverAnswer";
      readonly id: string;
      readonly accepted: boolean;
      readonly reason: string;
      readonly epoch: bigint;
      readonly digest: Uint8Array;
    }
  /** From the new primary to the former one. `reason`: why its service did not start; "" when it did. */
  | { readonly kind: "serviceStarted"; readonly id: string; readonly ms: number; readonly reason: string };

/** The messages of a cut, and what comes ahead of it: decoded by the replica's catalog worker, never by the main thread. */
export type BulkMessage =
  | ({ readonly kind: "cutBegin" } & CutBegin)
  | { readonly kind: "rows"; readonly objects: readonly ObjectRow[]; readonly paths: readonly PathRow[] }
  | {
      readonly kind: "extents";
      readonly extents: readonly Extent[];
      readonly encoding: PayloadEncoding;
      readonly decodedBytes: number;
    }
  | {
      /** Outside of any cut: bytes that a later one needs. */
      readonly kind: "ahead";
      readonly extents: readonly Extent[];
      readonly encoding: PayloadEncoding;
      readonly decodedBytes: number;
      /** Names of the stores in the order that `Extent.store` counts them. */
      readonly stores: readonly string[];
    }
  | { readonly kind: "objectDropped"; readonly object: ObjectId }
  | ({ readonly kind: "cutEnd" } & CutEnd)
  | { readonly kind: "cutAborted"; readonly cut: CutId; readonly reason: string };

export type PayloadEncoding = "plain" | "zstd";
/** 32 bytes. */
export type Digest = Branded<Uint8Array, "Digest">;

export interface Hello {
  readonly major: number;
  readonly minor: number;
  readonly features: readonly string[];
  readonly software: string;
  readonly node: string;
  readonly group: string;
  /** "" while unformed. */
  readonly groupId: string;
  readonly role: string;
  readonly epoch: bigint;
  readonly epochs: readonly { readonly epoch: bigint; readonly firstSeq: bigint }[];
  readonly incarnation: string;
  readonly committed: CutId;
  /** Of the set as of `committed`; empty when there is none. */
  readonly digest: Uint8Array;
  readonly stores: readonly { readonly name: string; readonly kind: string; readonly digest: Uint8Array }[];
  readonly generation: bigint;
  readonly epochSeen: bigint;
  /** The highest object that this node's manifest has: a later one is new to it. */
  readonly lastObject: number;
}

/** What a list of all that is staged goes on with: runs that came ahead, then objects with a staged file of their own. */
export interface StagedPlace {
  readonly object: number;
  readonly run: number;
  readonly files: boolean;
}

/** What a list of all that is touched goes on with: paths after this one while `object` is 0, then objects. */
export interface TouchedPlace {
  /** "": from the beginning. */
  readonly store: string;
  readonly path: StorePath;
  readonly object: number;
  readonly run: number;
}

export interface SourceState {
  readonly taken: CutId;
  readonly backlogBytes: number;
  readonly waitingMs: number;
  readonly paused: boolean;
  /** Why the group stands still; "" when it does not. */
  readonly halted: string;
}

export interface Acknowledgement {
  readonly received: CutId;
  readonly durable: CutId;
  readonly applied: CutId;
  /** Why the copy is suspect; "" when it is not. */
  readonly suspect: string;
  readonly unappliedBytes: number;
  /** Objects whose file somebody else changed there: to be sent whole with the next cut. */
  readonly damaged: readonly ObjectId[];
  /** Absent where the replica's program does not tell. */
  readonly report?: ReplicaReport;
}

/** What the operator of the primary wants to know of the copy; nothing is decided by it. */
export interface ReplicaReport {
  /** When every file was read and compared last; 0: never. By the replica's clock. */
  readonly verifiedAtUs: number;
  /** Something was otherwise than the manifest then. */
  readonly differed: boolean;
  /** Bundles of forks that are kept there. */
  readonly forks: number;
  /** Somebody holds back its failover: a promotion is refused there. */
  readonly paused: boolean;
}

export interface CutBegin {
  readonly cut: CutId;
  /** The cut that this one is a delta from; seq 0 for a first copy. */
  readonly base: CutId;
  readonly incarnation: string;
  readonly takenAtUs: number;
  readonly groupId: string;
  /** Names of the stores in the order that `PathRow.store` counts them. */
  readonly stores: readonly string[];
}

export type ObjectType = "file" | "directory" | "symlink";

export interface ObjectRow {
  readonly object: ObjectId;
  readonly type: ObjectType;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeUs: number;
  readonly size: number;
  /** 0 unless a file. */
  readonly blockSize: number;
  /** Of a symlink, in latin1. */
  readonly target: string;
  /** Content digest (shared/manifest/digest.ts); all zero for an empty or wholly zero file and for other types. */
  readonly content: Uint8Array;
  /** Index into `CutBegin.stores`. */
  readonly store: number;
  /** Names of the owner and its group where the source gives them (`owners: names`); absent: only the numbers count. */
  readonly owner?: string;
  readonly ownerGroup?: string;
}

export interface PathRow {
  /** Index into `CutBegin.stores`. */
  readonly store: number;
  readonly path: StorePath;
  /** undefined: the path is gone. */
  readonly object: ObjectId | undefined;
}

export interface Extent {
  readonly object: ObjectId;
  readonly offset: number;
  readonly length: number;
  /** 32 bytes for each block, in order; empty for a zero extent, and for a held one of what was sent ahead. */
  readonly hashes: Uint8Array;
  /** All bytes are zero: no hashes, no payload. */
  readonly zero: boolean;
  /** Index into `CutBegin.stores`. */
  readonly store: number;
  readonly blockSize: number;
  /**
   * The object is new to the replica, or damaged there: all its bytes come with this cut, for a file of their own. Of what
   * comes ahead: it is large enough for such a file.
   */
  readonly fresh: boolean;
  /** The replica has these bytes in staging: no payload. */
  readonly held: boolean;
}

export interface CutStore {
  readonly name: string;
  readonly kind: string;
  readonly consistency: Consistency;
  readonly position: string;
  readonly bytes: number;
  readonly files: number;
  readonly behind: readonly StorePath[];
}

export interface CutEnd {
  readonly cut: CutId;
  readonly digest: Uint8Array;
  readonly stores: readonly CutStore[];
  readonly coherency: Coherency;
  /** How many rows and payload bytes came since the begin: a last check against a lost frame. */
  readonly paths: number;
  readonly objects: number;
  readonly payloadBytes: number;
  readonly freezeMs: number;
}
