import type { Consistency, StoreKind, StorePath } from "../words.ts";

/**
 * What a store kind gives the primary. An adapter runs in the group's cut worker (synchronous file access is allowed
 * there), knows its own files and their consistency, and nothing of hashes, manifests, cuts or replicas: it says what it
 * *found*, and the plan stage compares that with the manifest.
 */
export interface StoreAdapter {
  readonly kind: StoreKind;
  /** What `promote` insists on unless the group's `require` says otherwise. */
  readonly defaultRequire: Consistency;
  /**
   * Leaves whatever a lost predecessor left behind (a holder process, a frozen application), checks the source and
   * begins to watch. `wake` is called at any sign of change, from any tick; it is a hint, never the truth.
   * @throws SourceUnusable when the path is missing or not what the kind expects
   */
  start(wake: () => void): Promise<void>;
  /** True when a change was seen, or may have been missed, since the last view was entered. Cheap. */
  dirty(): boolean;
  /** Bytes known to be waiting beyond the last view that was left with `taken`; 0 when unknown but clean. */
  backlogBytes(): number;
  /** Commits counted so far, less only after the source was opened anew; absent where the kind cannot count. Cheap. */
  commitsCounted?(): number;
  /** Absent where following a store never touches its writers. */
  costs?(): StoreCosts;
  /**
   * Bytes of a file as they are at this moment, outside of any view: torn, perhaps, or of no commit. For whoever compares
   * them with hashes and has no use for others. Undefined where there is no such file, or it cannot be read.
   */
  peek(path: StorePath, offset: number, length: number): Uint8Array | undefined;
  /** Processes of others that have the store open, as far as the kind can tell; absent where it never can. Cheap. */
  users?(): readonly number[];
  /** Enters a snapshot. At most one view is open at a time. */
  enter(seen: SeenIndex, request: ViewRequest, signal: AbortSignal): Promise<StoreView>;
  close(): Promise<void>;
  /**
   * In place of `close`, when the store is to be a copy: brings everything into the files that a copy has, and lets go.
   * `covered`: by the kind's own log, these are what the last view told that was taken. Absent where there is nothing to
   * bring together and only the files themselves can tell.
   * @throws {StoreInUse} while somebody else has it open; then the adapter is of no more use, but to be closed
   */
  end?(): Promise<{ readonly covered: boolean }>;
  /** For status; undefined where the kind has nothing to say beyond its cuts. */
  readonly health?: StoreHealth | undefined;
}

/** How changes are noticed, and what cannot be read. */
export interface StoreHealth {
  /** `scanning`: events cannot be had, or some were lost: the next view compares the whole store. */
  readonly mode: "watching" | "scanning" | "listing";
  /** Why it is scanning; "" else. */
  readonly reason: string;
  readonly watchedDirectories: number;
  /** Times that events were lost since the start. */
  readonly losses: number;
  /** Paths that could not be read when that was tried last, with the reason; cuts keep their previous version. */
  readonly unreadable: ReadonlyMap<StorePath, string>;
  /** Left out by kind: fifos, sockets, devices. */
  readonly skipped: number;
  /** Cut before the configuration excluded them, and kept as they were; a directory stands for all below it. */
  readonly excluded: readonly StorePath[];
  /** Undefined where files are never cloned: how many were since the start, and why the last one could not be. */
  readonly reflink: { readonly cloned: number; readonly reason: string } | undefined;
}

/** What following a store has cost its writers, and what happened on the way. */
export interface StoreCosts {
  /** How long writers were shut out, the last hundred times; ms. */
  readonly writerWaitsMs: readonly number[];
  /** Since the start, each by a name in camelCase that `deploy/docs/status.md` explains. */
  readonly counts: Readonly<Record<string, number>>;
}

export interface ViewRequest {
  /**
   * `changes`: what is known to have changed (watcher, log). `scan`: compare everything with what was seen (start,
   * overflow, interval). An adapter may always do more than was asked.
   */
  readonly depth: "changes" | "scan";
  /** The application is paused by hooks: nothing moves, and what is found is one instant. */
  readonly frozen: boolean;
  /** What the configuration has excluded since it was cut is given as gone; with `scan`. Else it stays as it was cut. */
  readonly prune?: boolean;
}

export interface StoreView {
  /**
   * Everything that differs, or may differ, from what was seen; may be iterated again for another round (pre-copy),
   * which then gives what changed since the round before. Order: a removal or replacement of a path may come in any
   * order; the first path of an object before its further hard links. The consumer handles one item wholly before
   * it asks for the next.
   */
  changes(): AsyncIterable<Found>;
  /**
   * Bytes of a file for a replica that lacks them although nothing changed since the last cut. The file may have moved
   * on meanwhile: the caller compares with the hashes that it has, and leaves the replica to a later cut when they
   * differ, or when this is undefined, since there is no such file or it cannot be read.
   * Blocks or shorter at the end of the file; `offset` and `length` as the caller likes.
   */
  read(path: StorePath, offset: number, length: number): Uint8Array | undefined;
  /** Known only after `changes()` was consumed. */
  summary(): ViewSummary;
  /**
   * Ends the snapshot. `taken`: the manifest holds what was found, the next view starts from here. `dropped`: it does
   * not, all of it must be found again.
   */
  leave(outcome: "taken" | "dropped"): Promise<void>;
}

export interface ViewSummary {
  readonly consistency: Consistency;
  /** In the store's own terms, for people; "" where the kind has none. */
  readonly position: string;
  /** Paths that keep an older state in this cut since they moved while they were read. */
  readonly behind: StorePath[];
  /** Left out by kind: fifos, sockets, devices. */
  readonly skipped: number;
}

/** What is gone is gone with everything below it. */
export type Found = { readonly kind: "gone"; readonly path: StorePath } | FoundEntry;

export interface FoundEntry {
  readonly kind: "entry";
  readonly path: StorePath;
  readonly entry: Entry;
  readonly content?: Content;
  /**
   * The store was never cut, this view has not given the path before, and the file has no other: there is nothing
   * to compare it with. Only a help: it may be left out.
   */
  readonly anew?: boolean;
  /** Of a file with several links: whether another path is one of them by now. Looks at the file system. */
  readonly isLink?: (path: StorePath) => boolean;
  /** Of a further link, in place of the content: the path under which this view has given it. */
  readonly linkOf?: StorePath;
}

/** A directory, file or symlink as stat says. A `file` without `content` has changed only in its meta or its paths. */
export interface Entry {
  readonly type: "file" | "directory" | "symlink";
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Microseconds; 0 for directories, and for files of kinds where it means nothing: it counts in the digest. */
  readonly mtimeUs: number;
  /** Of a file in bytes, else 0. */
  readonly size: number;
  /** Of a symlink, in latin1, else "". */
  readonly target: string;
  readonly seen: Seen;
}

/** How the source looked when it was read: identity and the stamps that tell a change. */
export interface Seen {
  readonly inode: number;
  readonly size: number;
  readonly mtimeNs: bigint;
  /** 0n where a read is due again whatever stat says (it was read within 2 s of its last change): equals no real one. */
  readonly ctimeNs: bigint;
  /** More than 1: other paths may lead to the same content. */
  readonly links: number;
}

/** Content of a file, read block by block. */
export interface Content {
  /** A power of two from 512; fixed at the object's birth: a kind gives the same for the same object (page size). */
  readonly blockSize: number;
  /** Where it may differ from what was seen, block-aligned, ascending; `all` where the kind cannot know. */
  readonly ranges: "all" | readonly Range[];
  /**
   * Fills `buffer` (at most its length) with the bytes at `offset`; fewer at the end of the file. Bytes beyond the
   * entry's size are never asked for. May return 0 early when the file shrank: then `settle` says moved.
   */
  read(buffer: Uint8Array, offset: number): number;
  /** Called once after the reads, also when not all was read; releases the file. `moved`: what was read is torn. */
  settle(): "stable" | "moved";
}

export interface Range {
  readonly offset: number;
  readonly length: number;
}

/** What the last cut saw of a store; synchronous look-ups in the catalog. */
export interface SeenIndex {
  byPath(path: StorePath): SeenEntry | undefined;
  /** Direct children of a directory by name, unordered; names only under `directory`. */
  children(directory: StorePath): Iterable<{ name: string; entry: SeenEntry }>;
  /** Paths that lead to the same object. */
  pathsOf(object: number): StorePath[];
  /**
   * Paths that lead to an object last seen under this inode. An adapter that finds the inode under a new path looks at
   * these in the same view: otherwise the content of a new file that got the inode of a deleted one would be taken for
   * the old path's too.
   */
  pathsOfInode?(inode: number): StorePath[];
  /** All paths of the store; false when the store was never cut. */
  everCut(): boolean;
  count(): number;
}

export interface SeenEntry {
  readonly object: number;
  readonly type: "file" | "directory" | "symlink";
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeUs: number;
  readonly size: number;
  readonly target: string;
  /** Undefined on a node that has not read the source itself yet, or where a read is due again (young ctime). */
  readonly seen: { inode: number; size: number; mtimeNs: bigint; ctimeNs: bigint } | undefined;
}
