import { hash } from "node:crypto";
import { fromTheSystem } from "../../shared/durable/system-error.ts";
import { UnderstudyError } from "../../shared/errors.ts";
import type { Directory, Disk, OpenFile } from "../../shared/ports/disk.ts";
import type { ObjectType } from "../../shared/wire/messages.ts";
import { type CutId, cutText, type StorePath } from "../../shared/words.ts";

/**
 * What a fork bundle looks like on disk, in `forks/<group>/<name>/`:
 *
 *     fork.json      whose it is, from which cut to which, how much; the hash of paths.jsonl
 *     paths.jsonl    a line for each path that was created, changed or removed after the common cut
 *     files/<store>/<path>      whole files, directories and symlinks
 *     blocks/<store>/o<object>  of larger files the changed blocks one after the other, and beside it
 *     blocks/<store>/o<object>.extents   where they belong: a line `offset length` in bytes for each range of them
 *
 * A directory of this name is whole: it is written under another name, synced, and renamed.
 */
export const forkVersion = 1;
export const forkFile = "fork.json";
export const pathsFile = "paths.jsonl";
export const filesDirectory = "files";
export const blocksDirectory = "blocks";
/** In the making; one that is found when the next one is made was left by a crash. */
export const stagedPrefix = ".staged-";
/** On its way out. */
export const droppedPrefix = ".dropped-";

export interface ForkCut {
  readonly epoch: number;
  readonly seq: number;
}

export interface ForkCounts {
  /** Paths that lead to what they led to at the common cut no more: new, replaced, or renamed to. */
  readonly created: number;
  /** Paths whose content or meta changed. */
  readonly changed: number;
  /** Paths that are gone, also those that came and went after the common cut. */
  readonly removed: number;
  /** Files of which the bundle has content. */
  readonly files: number;
  /** Of their content. */
  readonly bytes: number;
}

/** fork.json. */
export interface ForkRecord {
  readonly version: typeof forkVersion;
  readonly name: string;
  readonly group: string;
  readonly groupId: string;
  readonly node: string;
  readonly madeAt: string;
  /** The last cut that both had. */
  readonly common: ForkCut;
  /** The last one of this node: what lies between is in the bundle. */
  readonly last: ForkCut & { readonly takenAt: string };
  /** Of the last cut's set, 64 hex digits. */
  readonly digest: string;
  /** The reigns that this node's cuts are of. */
  readonly epochs: readonly { readonly epoch: number; readonly firstSeq: number }[];
  /** Whose promotion made a fork of it. */
  readonly promotion: { readonly node: string; readonly epoch: number };
  readonly counts: ForkCounts;
  /** SHA-256 of paths.jsonl, which has those of all the rest. */
  readonly pathsSha256: string;
}

export type ForkChange = "created" | "changed" | "removed";

/** A line of paths.jsonl. Paths are one character for each byte (latin1), as in the catalog. */
export interface ForkPath {
  readonly store: string;
  /** As it lies on this node, relative to the store; the file's own name where the store is a single file. */
  readonly path: StorePath;
  readonly what: ForkChange;
  /** What is there at the last cut; undefined where it was removed. */
  readonly entry: ForkEntry | undefined;
}

export interface ForkEntry {
  readonly type: ObjectType;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeUs: number;
  readonly size: number;
  /** Of a symlink, else "". */
  readonly target: string;
  readonly object: number;
  readonly blockSize: number;
  /** Content digest of a file at the last cut, as in the manifest, in hex. */
  readonly digest: string;
  /**
   * What of a file is in the bundle. `whole`: all of it, in files/. `blocks`: what changed, in blocks/. `same`: nothing, its
   * bytes are those that the common cut has under some path.
   */
  readonly content: "whole" | "blocks" | "same" | "none";
  /** Of the changed blocks. */
  readonly blocks: { readonly bytes: number; readonly sha256: string; readonly extentsSha256: string } | undefined;
}

/** The name tells the fork's last cut and when that was taken, so that the same fork has the same name. */
export function forkName(group: string, last: ForkCut, takenAt: Date): string {
  const time = takenAt.toISOString().replaceAll(/[-:]|\.\d+Z$/g, "");
  return `${group}-${last.epoch}.${last.seq}-${time}`;
}

/** Whether a bundle has what a group's node had up to this last cut of its own. */
export function isForkOf(name: string, group: string, last: CutId): boolean {
  return groupOfFork(name) === group && name.startsWith(`${group}-${cutText(last)}-`);
}

/** The group of a bundle by its name; undefined where no bundle is called that. */
export function groupOfFork(name: string): string | undefined {
  return /^([a-z0-9][a-z0-9_-]{0,63})-\d+\.\d+-\d{8}T\d{6}$/.exec(name)?.[1];
}

/** The bundle cannot be read, or is not what it was when it was written. */
export class ForkDamaged extends UnderstudyError {
  readonly code = "FORK_DAMAGED";
  readonly remedy = "stop";
  readonly state = "The bundle is left as it is.";
  readonly hint = "Look at the disk of the state directory. What else is in the bundle can be copied from it by hand.";
}

export function encodeForkPath({ store, path, what, entry }: ForkPath): string {
  return `${JSON.stringify({ store, ...named("path", path), what, ...(entry === undefined ? {} : encodeEntry(entry)) })}\n`;
}

function encodeEntry({ target, content, blocks, ...rest }: ForkEntry): Record<string, unknown> {
  return {
    ...rest,
    ...(rest.type === "symlink" ? named("target", target) : {}),
    content,
    ...(blocks === undefined ? {} : { blocks }),
  };
}

/** As text where the bytes are UTF-8, so that a person can read and search them. */
function named(key: string, latin1: string): Record<string, string> {
  const bytes = Buffer.from(latin1, "latin1");
  const text = bytes.toString("utf8");
  return Buffer.from(text, "utf8").equals(bytes) ? { [key]: text } : { [`${key}B64`]: bytes.toString("base64") };
}

/** @throws {ForkDamaged} */
export function decodeForkPath(line: string): ForkPath {
  const value = json(line, pathsFile);
  const what = choice(value.what, ["created", "changed", "removed"] as const);
  const path = { store: text(value.store), path: unnamed(value, "path") as StorePath, what };
  if (what === "removed") return { ...path, entry: undefined };
  const type = choice(value.type, ["file", "directory", "symlink"] as const);
  const blocks = value.blocks === undefined ? undefined : record(value.blocks);
  return {
    ...path,
    entry: {
      type,
      mode: number(value.mode),
      uid: number(value.uid),
      gid: number(value.gid),
      mtimeUs: number(value.mtimeUs),
      size: number(value.size),
      target: type === "symlink" ? unnamed(value, "target") : "",
      object: number(value.object),
      blockSize: number(value.blockSize),
      digest: text(value.digest),
      content: choice(value.content, ["whole", "blocks", "same", "none"] as const),
      blocks:
        blocks === undefined
          ? undefined
          : { bytes: number(blocks.bytes), sha256: text(blocks.sha256), extentsSha256: text(blocks.extentsSha256) },
    },
  };
}

/** @throws {ForkDamaged} */
export function decodeForkRecord(content: string): ForkRecord {
  const value = json(content, forkFile);
  if (value.version !== forkVersion)
    throw new ForkDamaged(`${forkFile} has version ${String(value.version)}, this program knows ${forkVersion}`);
  const cut = (of: unknown): ForkCut => ({ epoch: number(record(of).epoch), seq: number(record(of).seq) });
  const counts = record(value.counts);
  const promotion = record(value.promotion);
  if (!Array.isArray(value.epochs)) throw new ForkDamaged(`${forkFile} has no list of epochs`);
  return {
    version: forkVersion,
    name: text(value.name),
    group: text(value.group),
    groupId: text(value.groupId),
    node: text(value.node),
    madeAt: text(value.madeAt),
    common: cut(value.common),
    last: { ...cut(value.last), takenAt: text(record(value.last).takenAt) },
    digest: text(value.digest),
    epochs: value.epochs.map((item: unknown) => ({
      epoch: number(record(item).epoch),
      firstSeq: number(record(item).firstSeq),
    })),
    promotion: { node: text(promotion.node), epoch: number(promotion.epoch) },
    counts: {
      created: number(counts.created),
      changed: number(counts.changed),
      removed: number(counts.removed),
      files: number(counts.files),
      bytes: number(counts.bytes),
    },
    pathsSha256: text(value.pathsSha256),
  };
}

function json(content: string, of: string): Record<string, unknown> {
  try {
    return record(JSON.parse(content));
  } catch (cause) {
    if (cause instanceof ForkDamaged) throw cause;
    throw new ForkDamaged(`${of} is no JSON`, { cause });
  }
}

function record(value: unknown): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new ForkDamaged("a part of the bundle's description is missing");
}

function text(value: unknown): string {
  if (typeof value === "string") return value;
  throw new ForkDamaged(`${JSON.stringify(value)} is no text`);
}

function number(value: unknown): number {
  if (typeof value === "number" && Number.isSafeInteger(value)) return value;
  throw new ForkDamaged(`${JSON.stringify(value)} is no whole number`);
}

function choice<const T extends readonly string[]>(value: unknown, known: T): T[number] {
  const found = known.find((item) => item === value);
  if (found !== undefined) return found;
  throw new ForkDamaged(`${JSON.stringify(value)} is none of ${known.join(", ")}`);
}

function unnamed(value: Record<string, unknown>, key: string): string {
  const base64 = value[`${key}B64`];
  if (base64 !== undefined) return Buffer.from(text(base64), "base64").toString("latin1");
  return Buffer.from(text(value[key]), "utf8").toString("latin1");
}

const pieceBytes = 1024 * 1024;

/** All of a small file. @throws {ForkDamaged} */
export function readWhole(disk: Disk, directory: Directory, name: string): Buffer {
  const file = openKept(disk, directory, name);
  try {
    const { size } = disk.statFile(file);
    const bytes = Buffer.alloc(size);
    if (disk.read(file, bytes, 0, size, 0) < size) throw new ForkDamaged(`${name} ends too early`);
    return bytes;
  } finally {
    disk.closeFile(file);
  }
}

/** The file's bytes, a piece at a time, each good until the next one. */
export function* pieces(disk: Disk, file: OpenFile, length = pieceBytes): Generator<{ at: number; bytes: Uint8Array }> {
  const buffer = new Uint8Array(length);
  for (let at = 0; ; ) {
    const count = disk.read(file, buffer, 0, buffer.length, at);
    if (count === 0) return;
    yield { at, bytes: buffer.subarray(0, count) };
    at += count;
  }
}

/** @throws {ForkDamaged} where there is none, or it cannot be opened */
export function openKept(disk: Disk, directory: Directory, name: string): OpenFile {
  try {
    return disk.openFile(directory, name, "read");
  } catch (cause) {
    if (!fromTheSystem(cause)) throw cause;
    throw new ForkDamaged(`${name} cannot be opened`, { cause });
  }
}

export function sha256Hex(bytes: Uint8Array): string {
  return hash("sha256", bytes, "hex");
}

/** Removes a directory with all that is in it; one that a crash left half removed as well. */
export function removeTree(disk: Disk, parent: Directory, name: string): void {
  const directory = disk.openDirectory(parent, name);
  try {
    for (const inner of disk.list(directory)) {
      if (disk.stat(directory, inner)?.type === "directory") removeTree(disk, directory, inner);
      else disk.unlink(directory, inner);
    }
  } finally {
    disk.closeDirectory(directory);
  }
  disk.removeDirectory(parent, name);
}
