import { createHash } from "node:crypto";
import { type BigIntStats, constants, lstatSync, readdirSync } from "node:fs";
import { isSystemError } from "../../../shared/errors.ts";
import { nativePath } from "./source-path.ts";

export type SourceType = "file" | "directory" | "symlink" | "other";

/** lstat by a latin1 path; undefined when there is nothing, also when a directory above is none any more. */
export function statSource(latin1: string): BigIntStats | undefined {
  try {
    return lstatSync(nativePath(latin1), { bigint: true, throwIfNoEntry: false });
  } catch (error) {
    if (isSystemError(error, "ENOTDIR")) return undefined;
    throw error;
  }
}

/** Names in latin1; undefined when the directory is gone or is none any more. */
export function listSource(latin1: string): string[] | undefined {
  try {
    return readdirSync(nativePath(latin1), { encoding: "latin1" });
  } catch (error) {
    if (isSystemError(error, "ENOENT", "ENOTDIR")) return undefined;
    throw error;
  }
}

export function typeOf(stat: BigIntStats): SourceType {
  switch (Number(stat.mode) & constants.S_IFMT) {
    case constants.S_IFREG:
      return "file";
    case constants.S_IFDIR:
      return "directory";
    case constants.S_IFLNK:
      return "symlink";
    default:
      return "other";
  }
}

/** True when nothing tells the two apart: any write, truncate, chmod, link or rename makes a new ctime. */
export function sameStamps(a: BigIntStats, b: BigIntStats): boolean {
  return a.ctimeNs === b.ctimeNs && a.mtimeNs === b.mtimeNs && a.size === b.size && a.ino === b.ino && a.dev === b.dev;
}

/** Identities that were made here, not by the filesystem of the root, lie from here on. */
const foreignIdentities = 2 ** 52;

/**
 * The number by which a file is known. Inode numbers of other filesystems mounted below the root, and those beyond
 * JavaScript's safe integers, are folded into a range of their own, so that two files never pass for one.
 */
export function identityOf(stat: BigIntStats, rootDevice: bigint): number {
  if (stat.dev === rootDevice && stat.ino < BigInt(foreignIdentities)) return Number(stat.ino);
  return foldedIdentity(`${stat.dev}:${stat.ino}`);
}

export function isForeign(identity: number): boolean {
  return identity >= foreignIdentities;
}

/** In a snapshot that is a copy, inode numbers mean nothing: a file is known by its path. */
export function identityOfPath(path: string): number {
  return foldedIdentity(`path:${path}`);
}

function foldedIdentity(text: string): number {
  const hash = createHash("sha256").update(text, "latin1").digest();
  return foreignIdentities + Number(hash.readBigUInt64BE() & (BigInt(foreignIdentities) - 1n));
}

/** Nanoseconds to microseconds, towards the past, as the manifest carries times. */
export function microseconds(ns: bigint): number {
  const rest = ((ns % 1000n) + 1000n) % 1000n;
  return Number((ns - rest) / 1000n);
}
