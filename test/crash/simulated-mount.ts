/** One simulated filesystem: inodes, names, and the journal of what no sync has covered yet. */

import type { FileMeta, Stat } from "../../shared/ports/disk.ts";
import { Content, contentAfter, type DataChange, type DataFate, everythingSurvives } from "./simulated-content.ts";

export const powerLossModes = ["lose-all", "keep-all", "torn", "reordered", "prefix"] as const;
export type PowerLossMode = (typeof powerLossModes)[number];

/**
 * Marks what one disk may change in place. A snapshot gives both sides a new owner, so that whoever changes something
 * shared makes a copy of it first.
 */
export type Owner = object;

export type InodeType = "file" | "directory" | "symlink";

export interface InodeMeta {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
}

interface MetaVersion {
  sequence: number;
  /** Set by a caller; consecutive changes of time by writes count as one. */
  explicit: boolean;
  meta: InodeMeta;
}

export class Inode {
  owner: Owner;
  /** Never used again, unlike the number, which the next new inode may have. */
  readonly key: number;
  readonly number: number;
  readonly type: InodeType;
  readonly target: string;
  /** Names of a file or symlink; 1 or 0 for a directory. */
  links = 0;
  meta: InodeMeta;
  durableMeta: InodeMeta;
  metaVersions: MetaVersion[] = [];
  content = noContent;
  durableContent = noContent;
  dataChanges: DataChange[] = [];
  /** A sync of this file failed: what is read is not what is on the disk. */
  deceptive = false;
  /** For directories: keys by name. */
  entries: Map<string, number> = noEntries;
  durableEntries: Map<string, number> = noEntries;
  parent = 0;

  constructor(owner: Owner, key: number, number: number, type: InodeType, meta: InodeMeta, target = "") {
    this.owner = owner;
    this.key = key;
    this.number = number;
    this.type = type;
    this.target = target;
    this.meta = meta;
    this.durableMeta = meta;
    if (type === "directory") {
      this.entries = new Map();
      this.durableEntries = new Map();
    }
  }

  copy(owner: Owner): Inode {
    const copy = new Inode(owner, this.key, this.number, this.type, this.meta, this.target);
    copy.links = this.links;
    copy.durableMeta = this.durableMeta;
    copy.metaVersions = this.metaVersions.map((version) => ({ ...version }));
    copy.durableContent = this.durableContent;
    // The content may be changed in place only by whoever made it; equal to the durable one it is copied at need.
    copy.content = this.content === this.durableContent ? this.content : this.content.copy();
    copy.dataChanges = this.dataChanges.map((change) => ({ ...change }));
    copy.deceptive = this.deceptive;
    copy.parent = this.parent;
    if (this.type === "directory") {
      copy.entries = new Map(this.entries);
      copy.durableEntries = new Map(this.durableEntries);
    }
    return copy;
  }

  /** Nothing of this inode itself waits for a sync. */
  get settled(): boolean {
    return this.metaVersions.length === 0 && this.dataChanges.length === 0 && !this.deceptive;
  }
}

const noContent = new Content();
const noEntries = new Map<string, number>();

/** One directory operation that no sync has covered yet. It survives whole or not at all. */
interface NameChange {
  readonly sequence: number;
  readonly sets: readonly { directory: number; name: string; key: number | undefined }[];
  /** It cannot survive when an earlier change that provides one of these is lost. */
  readonly requires: readonly string[];
  readonly provides: readonly string[];
  /** The same, but a sync does not bring the other change along: a directory's own name is its parent's business. */
  readonly within: readonly string[];
  /** A sync of its directory failed: later ones leave it out and still succeed. */
  dropped: boolean;
  /** The same until something else changes in that directory, or the whole filesystem is synced. */
  stuck: boolean;
}

/** What a power failure does to one filesystem. */
interface Fate {
  name(change: NameChange): boolean;
  data: DataFate;
  meta(inode: Inode): InodeMeta;
}

export class Mount {
  owner: Owner;
  readonly device: number;
  readonly chunksMax: number;
  readonly rootKey: number = 1;
  /** Chunks that live files and directories take up. */
  chunksUsed = 0;
  private inodes = new Map<number, Inode>();
  private nextKey = 1;
  private nextNumber = 2;
  private freeNumbers: number[] = [];
  private names: NameChange[] = [];
  private sequence = 0;
  /** Everything up to here is durable where the journal is written in order. */
  private durableSequence = 0;

  constructor(owner: Owner, device: number, chunksMax: number) {
    this.owner = owner;
    this.device = device;
    this.chunksMax = chunksMax;
  }

  static empty(owner: Owner, device: number, chunksMax: number, meta: InodeMeta): Mount {
    const mount = new Mount(owner, device, chunksMax);
    const root = mount.addInode("directory", meta);
    root.links = 1;
    return mount;
  }

  copy(owner: Owner): Mount {
    const copy = new Mount(owner, this.device, this.chunksMax);
    copy.chunksUsed = this.chunksUsed;
    copy.inodes = new Map(this.inodes);
    copy.nextKey = this.nextKey;
    copy.nextNumber = this.nextNumber;
    copy.freeNumbers = [...this.freeNumbers];
    copy.names = this.names.map((change) => ({ ...change }));
    copy.sequence = this.sequence;
    copy.durableSequence = this.durableSequence;
    return copy;
  }

  inode(key: number): Inode {
    const inode = this.inodes.get(key);
    if (!inode) throw new Error(`no inode with key ${key}`);
    return inode;
  }

  /** The inode, as one that may be changed. */
  change(key: number): Inode {
    const inode = this.inode(key);
    if (inode.owner === this.owner) return inode;
    const copy = inode.copy(this.owner);
    this.inodes.set(key, copy);
    return copy;
  }

  lookup(directory: number, name: string): Inode | undefined {
    const key = this.inode(directory).entries.get(name);
    return key === undefined ? undefined : this.inode(key);
  }

  /** A new inode without a name. The lowest free number is used again at once, as ext4 does. */
  addInode(type: InodeType, meta: InodeMeta, target = ""): Inode {
    let number = this.nextNumber;
    if (this.freeNumbers.length > 0) {
      number = Math.min(...this.freeNumbers);
      this.freeNumbers.splice(this.freeNumbers.indexOf(number), 1);
    } else {
      this.nextNumber++;
    }
    const inode = new Inode(this.owner, this.nextKey++, number, type, meta, target);
    this.inodes.set(inode.key, inode);
    if (type === "directory") this.chunksUsed++;
    return inode;
  }

  /** Gives back number and space of an inode without names and handles; it may come back until the next power loss. */
  release(inode: Inode): void {
    this.freeNumbers.push(inode.number);
    this.chunksUsed -= inode.type === "directory" ? 1 : inode.content.chunks.size;
  }

  /** Changes names, as one operation that survives whole or not at all. `undefined` removes the name. */
  setNames(sets: readonly { directory: number; name: string; inode: Inode | undefined }[]): void {
    const requires: string[] = [];
    const provides: string[] = [];
    const within: string[] = [];
    const placed = new Set(sets.map(({ inode }) => inode?.key));
    for (const { directory, name, inode } of sets) {
      const parent = this.change(directory);
      const before = parent.entries.get(name);
      const nameKey = `name ${directory}/${name}`;
      requires.push(nameKey);
      provides.push(nameKey, `entries ${directory}`);
      within.push(`inode ${parent.number}`);
      for (const key of [before, inode?.key]) {
        if (key === undefined) continue;
        const touched = this.inode(key);
        // Changes of one inode keep their order; so do those of two inodes that have the same number in turn.
        requires.push(`inode ${touched.number}`);
        provides.push(`inode ${touched.number}`);
        if (touched.type !== "directory" || key !== before) continue;
        if (placed.has(key)) {
          // Moves of directories keep their order, or two of them could make a circle.
          requires.push("moves");
          provides.push("moves");
        } else {
          // A directory that is removed was empty: whatever emptied it came first.
          requires.push(`entries ${key}`);
        }
      }
      if (before !== undefined) this.change(before).links--;
      if (inode === undefined) {
        parent.entries.delete(name);
      } else {
        parent.entries.set(name, inode.key);
        const named = this.change(inode.key);
        named.links++;
        named.parent = directory;
      }
    }
    this.names.push({
      sequence: ++this.sequence,
      sets: sets.map(({ directory, name, inode }) => ({ directory, name, key: inode?.key })),
      requires,
      provides,
      within,
      dropped: false,
      stuck: false,
    });
  }

  setMeta(inode: Inode, meta: InodeMeta, explicit: boolean): void {
    inode.meta = meta;
    const last = inode.metaVersions.at(-1);
    this.sequence++;
    if (last && !last.explicit && !explicit) {
      last.meta = meta;
      last.sequence = this.sequence;
    } else {
      inode.metaVersions.push({ sequence: this.sequence, explicit, meta });
    }
  }

  write(inode: Inode, bytes: Uint8Array, position: number): void {
    const content = this.contentToChange(inode);
    const sizeBefore = content.size;
    const allocatedBefore = content.chunks.size;
    const chunks = content.write(bytes, position);
    this.chunksUsed += content.chunks.size - allocatedBefore;
    inode.dataChanges.push({
      kind: "write",
      sequence: ++this.sequence,
      position,
      length: bytes.length,
      grewTo: content.size > sizeBefore ? content.size : undefined,
      chunks,
      dropped: false,
    });
  }

  truncate(inode: Inode, size: number): void {
    const content = this.contentToChange(inode);
    const allocatedBefore = content.chunks.size;
    content.truncate(size);
    this.chunksUsed += content.chunks.size - allocatedBefore;
    inode.dataChanges.push({ kind: "truncate", sequence: ++this.sequence, size });
  }

  /** How many of `length` bytes from `position` on there is space for. */
  roomFor(inode: Inode, position: number, length: number, chunkBytes: number): number {
    let free = this.chunksMax - this.chunksUsed;
    for (let at = position; at < position + length; ) {
      const index = Math.floor(at / chunkBytes);
      if (!inode.content.chunks.has(index) && free-- <= 0) return at - position;
      at = (index + 1) * chunkBytes;
    }
    return length;
  }

  /** Data and size; owner, mode and times only `withMeta`. */
  syncFile(inode: Inode, withMeta: boolean): void {
    for (const change of inode.dataChanges) {
      if (change.kind === "truncate" || change.grewTo !== undefined) this.commitJournal(change.sequence);
    }
    if (inode.dataChanges.length > 0) {
      inode.durableContent = inode.deceptive ? onDisk(inode) : inode.content;
      inode.dataChanges = [];
    }
    if (withMeta) this.syncMeta(inode);
  }

  /** As Linux does: the pages count as clean, the next sync has nothing to do and succeeds. */
  failToSyncFile(inode: Inode): void {
    for (const change of inode.dataChanges) {
      if (change.kind !== "write") continue;
      change.dropped = true;
      inode.deceptive = true;
    }
  }

  /** The directory's own owner, mode and times, and the changes of its names, with what those build upon. */
  syncDirectory(key: number): void {
    this.syncMeta(this.change(key));
    const needed = new Set<string>();
    const synced = new Set<NameChange>();
    const here = this.names.filter(({ sets }) => sets.some(({ directory }) => directory === key));
    // What is written then is the directory as it is, with what could not be written before.
    if (here.some(({ stuck }) => !stuck)) for (const change of here) change.stuck = false;
    for (const change of survivors(this.names, ({ dropped, stuck }) => !dropped && !stuck, false).reverse()) {
      const concerned = here.includes(change);
      if (!concerned && !change.provides.some((provided) => needed.has(provided))) continue;
      synced.add(change);
      for (const required of change.requires) needed.add(required);
    }
    this.makeNamesDurable(synced);
  }

  failToSyncDirectory(key: number, goingOn: boolean): void {
    for (const change of this.names) {
      if (!change.sets.some(({ directory }) => directory === key)) continue;
      if (goingOn) change.stuck = true;
      else change.dropped = true;
    }
  }

  syncAll(): void {
    for (const { key, settled } of this.inodes.values()) {
      if (!settled) this.syncFile(this.change(key), true);
    }
    this.makeNamesDurable(new Set(survivors(this.names, ({ dropped }) => !dropped, false)));
    this.commitJournal(this.sequence);
  }

  failToSyncAll(): void {
    for (const inode of this.inodes.values()) {
      if (inode.dataChanges.length > 0) this.failToSyncFile(this.change(inode.key));
    }
  }

  /** What was written, but is not on the disk although it counts as synced, is read from there from now on. */
  forgetPages(): void {
    for (const { key, deceptive } of this.inodes.values()) {
      if (!deceptive) continue;
      const inode = this.change(key);
      const before = inode.content.chunks.size;
      inode.content = onDisk(inode);
      inode.deceptive = false;
      if (inode.links > 0) this.chunksUsed += inode.content.chunks.size - before;
    }
  }

  /** The filesystem as it comes up again; this one must have a new owner afterwards, as they share what is equal. */
  afterPowerLoss(owner: Owner, mode: PowerLossMode, random: () => number): Mount {
    const fate = this.fateFor(mode, random);
    const directories = new Map<number, Map<string, number>>();
    for (const change of survivors(this.names, fate.name, true)) {
      for (const { directory, name, key } of change.sets) {
        let entries = directories.get(directory);
        if (!entries) {
          entries = new Map(this.inode(directory).durableEntries);
          directories.set(directory, entries);
        }
        if (key === undefined) entries.delete(name);
        else entries.set(name, key);
      }
    }
    const unsettledDirectories = new Set(this.names.flatMap(({ sets }) => sets.map(({ directory }) => directory)));

    const after = new Mount(owner, this.device, this.chunksMax);
    after.nextKey = this.nextKey;
    const links = new Map<number, number>([[this.rootKey, 1]]);
    const reached = [this.rootKey];
    const parents = new Map<number, number>();
    for (const key of reached) {
      let inode = this.inode(key);
      if (!inode.settled || unsettledDirectories.has(key)) {
        inode = this.inodeAfter(inode, owner, directories.get(key), fate);
      }
      after.inodes.set(key, inode);
      for (const child of inode.entries.values()) {
        const seen = links.get(child) ?? 0;
        links.set(child, seen + 1);
        parents.set(child, key);
        if (seen === 0) reached.push(child);
      }
    }
    for (const [key, count] of links) {
      const parent = parents.get(key) ?? 0;
      const inode = after.inode(key);
      if (inode.links === count && (inode.parent === parent || inode.type !== "directory")) continue;
      const changed = after.change(key);
      changed.links = count;
      changed.parent = parent;
    }
    after.countUse();
    return after;
  }

  stat(inode: Inode): Stat {
    const { mode, uid, gid, mtimeNs, ctimeNs } = inode.meta;
    return {
      type: inode.type,
      mode,
      uid,
      gid,
      mtimeUs: microseconds(mtimeNs),
      size: inode.type === "file" ? inode.content.size : inode.target.length,
      inode: inode.number,
      device: this.device,
      links: inode.type === "directory" ? this.directoryLinks(inode) : inode.links,
      mtimeNs,
      ctimeNs,
      allocated: inode.type === "file" ? inode.content.allocated : 0,
    };
  }

  private directoryLinks(inode: Inode): number {
    if (inode.links === 0) return 0;
    let links = 2;
    for (const key of inode.entries.values()) if (this.inode(key).type === "directory") links++;
    return links;
  }

  private inodeAfter(inode: Inode, owner: Owner, entries: Map<string, number> | undefined, fate: Fate): Inode {
    const meta = fate.meta(inode);
    const after = new Inode(owner, inode.key, inode.number, inode.type, meta, inode.target);
    after.links = inode.links;
    after.parent = inode.parent;
    if (inode.type === "file") {
      after.durableContent = contentAfter(inode.durableContent, inode.dataChanges, fate.data);
      after.content = after.durableContent;
    } else if (inode.type === "directory") {
      after.entries = new Map(entries ?? inode.durableEntries);
      after.durableEntries = new Map(after.entries);
    }
    return after;
  }

  private fateFor(mode: PowerLossMode, random: () => number): Fate {
    const mostly = 0.1 + 0.8 * random();
    const coin = () => random() < mostly;
    const anyMeta = (inode: Inode) => {
      const version = inode.metaVersions[Math.floor(random() * (inode.metaVersions.length + 1)) - 1];
      return version?.meta ?? inode.durableMeta;
    };
    switch (mode) {
      case "lose-all":
        return {
          name: () => false,
          data: { sector: () => false, size: () => false, stale: () => false },
          meta: ({ durableMeta }) => durableMeta,
        };
      case "keep-all":
        return {
          name: ({ dropped }) => !dropped,
          data: everythingSurvives,
          meta: ({ meta }) => meta,
        };
      case "torn":
        return {
          name: ({ dropped }) => !dropped,
          data: { sector: coin, size: () => random() < 0.5, stale: () => random() < 0.25 },
          meta: anyMeta,
        };
      case "reordered":
        return {
          name: coin,
          data: { sector: coin, size: coin, stale: () => random() < 0.25 },
          meta: anyMeta,
        };
      case "prefix": {
        const open = this.sequence - this.durableSequence;
        const last = this.durableSequence + Math.floor(random() * (open + 1));
        return {
          name: ({ sequence, dropped }) => sequence <= last && !dropped,
          data: { sector: coin, size: (sequence) => sequence <= last, stale: () => false },
          meta: ({ metaVersions, durableMeta }) =>
            metaVersions.findLast(({ sequence }) => sequence <= last)?.meta ?? durableMeta,
        };
      }
    }
  }

  private contentToChange(inode: Inode): Content {
    if (inode.content === inode.durableContent) inode.content = inode.content.copy();
    return inode.content;
  }

  private syncMeta(inode: Inode): void {
    const last = inode.metaVersions.at(-1);
    if (!last) return;
    this.commitJournal(last.sequence);
    inode.durableMeta = inode.meta;
    inode.metaVersions = [];
  }

  private makeNamesDurable(synced: ReadonlySet<NameChange>): void {
    if (synced.size === 0) return;
    const left: NameChange[] = [];
    for (const change of this.names) {
      if (!synced.has(change)) {
        left.push(change);
        continue;
      }
      this.commitJournal(change.sequence);
      for (const { directory, name, key } of change.sets) {
        const { durableEntries } = this.change(directory);
        if (key === undefined) durableEntries.delete(name);
        else durableEntries.set(name, key);
      }
    }
    this.names = left;
  }

  private commitJournal(sequence: number): void {
    this.durableSequence = Math.max(this.durableSequence, sequence);
  }

  private countUse(): void {
    const used = new Set<number>();
    this.chunksUsed = 0;
    for (const inode of this.inodes.values()) {
      used.add(inode.number);
      this.nextNumber = Math.max(this.nextNumber, inode.number + 1);
      this.chunksUsed += inode.type === "directory" ? 1 : inode.content.chunks.size;
    }
    for (let number = 2; number < this.nextNumber; number++) if (!used.has(number)) this.freeNumbers.push(number);
  }
}

/**
 * The changes that survive when `keep` wants them and everything that they build upon survives, too. A change inside a
 * directory needs that directory's own name only if `within`.
 */
function survivors(names: readonly NameChange[], keep: (change: NameChange) => boolean, within: boolean): NameChange[] {
  const lost = new Set<string>();
  const kept: NameChange[] = [];
  for (const change of names) {
    const possible =
      !change.requires.some((required) => lost.has(required)) &&
      !(within && change.within.some((required) => lost.has(required)));
    if (keep(change) && possible) kept.push(change);
    else for (const provided of change.provides) lost.add(provided);
  }
  return kept;
}

/** What the disk would hold if everything were written that still can be. */
function onDisk(inode: Inode): Content {
  return contentAfter(inode.durableContent, inode.dataChanges, everythingSurvives);
}

export function microseconds(ns: bigint): number {
  return Number(ns >= 0n ? ns / 1000n : (ns - 999n) / 1000n);
}

export function withMeta(meta: InodeMeta, change: Partial<FileMeta>, type: InodeType, now: bigint): InodeMeta {
  let { mode } = meta;
  const owned = change.uid !== undefined || change.gid !== undefined;
  // A new owner does not inherit what the file may do in the old one's name.
  if (owned && type === "file") mode &= mode & 0o010 ? ~0o6000 : ~0o4000;
  if (change.mode !== undefined && type !== "symlink") mode = change.mode;
  return {
    mode,
    uid: change.uid ?? meta.uid,
    gid: change.gid ?? meta.gid,
    mtimeNs: change.mtimeUs === undefined ? meta.mtimeNs : BigInt(change.mtimeUs) * 1000n,
    ctimeNs: now,
  };
}
