import type { CutRef, NamedPath } from "./json-names.ts";

/** What an agent answers about the forks that it keeps: what a former primary had beyond the last common cut. */
export interface ForkHandler {
  /** All that are kept on this node, by group, the oldest first. */
  forks(): Promise<ForksAnswer>;
  showFork(name: string): Promise<ForkAnswer>;
  /** Copies a fork into a directory that does not exist yet or is empty. Every byte is compared with its hash. */
  exportFork(name: string, options: ExportOptions, signal?: AbortSignal): Promise<ExportAnswer>;
  /** For ever, also one that cannot be read. */
  dropFork(name: string, caller?: Caller): Promise<DropAnswer>;
  /** What only this node has is kept as a fork, and it follows the primary that was promoted in its place. */
  rejoin(group: string, caller?: Caller): Promise<RejoinAnswer>;
}

/** Who asks, for the record of events. */
export interface Caller {
  readonly by?: string;
}

export interface ExportOptions {
  /** Absolute. */
  readonly to: string;
}

export interface ForksAnswer {
  readonly forks: readonly ForkDescription[];
  /** Those that cannot be read. */
  readonly damaged: readonly { readonly name: string; readonly problem: string }[];
}

export interface ForkDescription {
  readonly name: string;
  readonly group: string;
  /** Whose it was. */
  readonly node: string;
  readonly madeAt: string;
  /** The last cut that the promoted node had of it. */
  readonly common: CutRef;
  /** The last one that this node had: what lies between is the fork. */
  readonly last: CutRef & { readonly takenAt: string };
  readonly epochs: readonly { readonly epoch: number; readonly firstSeq: number }[];
  readonly promotion: { readonly node: string; readonly epoch: number };
  readonly counts: {
    readonly created: number;
    readonly changed: number;
    readonly removed: number;
    readonly files: number;
    readonly bytes: number;
  };
}

export interface ForkAnswer {
  readonly fork: ForkDescription;
  /** The first of them; `counts` counts all. */
  readonly paths: readonly ForkPathAnswer[];
}

export interface DropAnswer {
  readonly name: string;
  /** What it was; null where that could not be read any more. */
  readonly fork: ForkDescription | null;
}

export type ForkPathAnswer = NamedPath & {
  readonly store: string;
  readonly what: "created" | "changed" | "removed";
  /** Absent where it was removed. */
  readonly type?: "file" | "directory" | "symlink";
  readonly size?: number;
  /** What of a file is kept: all of it, its changed blocks, or nothing, since its bytes are as in the common cut. */
  readonly content?: "whole" | "blocks" | "same" | "none";
};

export interface RejoinAnswer {
  /** The primary that it follows. */
  readonly peer: string;
  /** The last common cut, at which it stands now. */
  readonly cut: CutRef;
  /** What it had beyond that; null where that was nothing. */
  readonly fork: ForkDescription | null;
}

export interface ExportAnswer {
  readonly name: string;
  readonly to: string;
  readonly files: number;
  readonly bytes: number;
  /** Paths whose owner or mode could not be set. */
  readonly metadataPartial: number;
}
