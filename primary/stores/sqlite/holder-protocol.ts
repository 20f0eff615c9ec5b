import type { WalPosition } from "./wal.ts";

/** What is said between the adapter and its holder: one JSON object a line, one answer for each request, in order. */
export type HolderRequest =
  /** Begins the standing read transaction. */
  | { readonly op: "hold" }
  /** Ends it. */
  | { readonly op: "release" }
  /** Begins a second read transaction, at the log's present end. */
  | { readonly op: "second" }
  /** Ends the older one: the second becomes the standing one. */
  | { readonly op: "swap" }
  /** Lets frames go to the database file, as far as the readers permit, without waiting for anybody. */
  | { readonly op: "checkpoint" }
  /**
   * Shuts everybody out for good; busy while somebody else has the database open (WAL mode), or is at work in it. Only for a
   * process that holds nothing.
   */
  | { readonly op: "exclude" }
  /** After `exclude`: SQLite brings the whole log into the file and removes it, the last to close the database. */
  | { readonly op: "finish" }
  /** Ends the generation with writers shut out; `from` is where the adapter has read to. */
  | ({ readonly op: "turn"; readonly from: WalPosition } & TurnLimits);

export interface TurnLimits {
  /** What may be left to read while writers wait. */
  readonly tailBytesMax: number;
  /** How long the write lock is waited for. */
  readonly lockWaitMs: number;
  /** How long copying and syncing what is left may take by the time that writers are shut out. */
  readonly roundMsMax: number;
}

/** What a passive checkpoint said: frames in the log and how many of them are in the database file. */
export interface Checkpointed {
  /** Another checkpoint was at work; nothing is known. */
  readonly busy: boolean;
  /** -1 where the database is not in WAL mode. */
  readonly log: number;
  readonly checkpointed: number;
}

export interface LoggedCommit {
  /** Page numbers in the log's order. */
  readonly pages: readonly number[];
  readonly firstFrame: number;
  readonly databasePages: number;
}

export interface TurnResult {
  /** How far the log was read before any reader let go. */
  readonly end: WalPosition;
  /** What was committed since `from`. */
  readonly commits: readonly LoggedCommit[];
  /** The database file holds exactly this end, and the next writer may begin a new generation. */
  readonly complete: boolean;
  /** How long writers had to wait; 0 when the write lock was not had. */
  readonly lockedMs: number;
}

export interface HolderResults {
  hold: { readonly journal: "wal" | "rollback" };
  release: null;
  second: null;
  swap: null;
  checkpoint: Checkpointed;
  exclude: { readonly journal: "wal" | "rollback" };
  finish: null;
  turn: TurnResult;
}

export type HolderReply =
  | { readonly ok: true; readonly result: HolderResults[keyof HolderResults] }
  | {
      readonly ok: false;
      readonly message: string;
      /** SQLite's primary result code, such as 5 (busy); 0 for anything else. */
      readonly sqliteCode: number;
    };

export interface HolderArguments {
  readonly path: string;
  /** To run as, when started by root; the database's owner. */
  readonly owner?: { readonly uid: number; readonly gid: number };
  readonly busyMs: number;
  /** A holder that sits on the write lock for longer is killed by its watchdog. */
  readonly writeLockMsMax: number;
}
