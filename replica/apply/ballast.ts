import { randomFillSync } from "node:crypto";
import { isSystemError, UnderstudyError } from "../../shared/errors.ts";
import type { OpenFile } from "../../shared/ports/disk.ts";
import { defaultReplicaLimits, type ReplicaContext } from "../replica-context.ts";
import type { StoreHome } from "../store-home.ts";
import { SyncFailed } from "../sync.ts";
import { type Applied, applyNext } from "./apply.ts";

/** There is no room to bring into the copy what was acknowledged. */
export class CopyFull extends UnderstudyError {
  readonly code = "COPY_FULL";
  readonly remedy = "retry";
  readonly state = "What was acknowledged is kept, and brought into the copy as soon as there is room.";
  readonly hint =
    "Make room on the filesystem of the copy: it is tried again by itself. What history takes is bounded by retention.max_bytes.";
}

const ballastName = "ballast";
const pieceBytes = 1024 * 1024;
const pieceBytesPerSync = 8 * pieceBytes;
/** Where less is free than so many times the ballast, it would only bring the full disk nearer. */
const plentyFactor = 16;
export const ballastFreeBytesMin = plentyFactor * defaultReplicaLimits.ballastBytes;

/**
 * Applies as `applyNext`, and finishes with the room of the ballast where there is no other: what a batch needs was
 * reserved before its cuts were promised, so somebody else has taken it meanwhile, or another group on the same mount.
 */
export function applyWithBallast(
  context: ReplicaContext,
  keepHistory: boolean,
  accepted?: "suspect",
): Applied | undefined {
  try {
    return applyNext(context, keepHistory, accepted);
  } catch (error) {
    if (!isFull(error)) throw error;
    const released = releaseBallast(context);
    // A sync that failed is not asked again: with that room the next start writes all of it anew.
    if (error instanceof SyncFailed) throw error;
    for (const home of context.homes.values()) home.tree.forget();
    if (released === 0) throw new CopyFull("there is no room to apply what is committed", { cause: error });
  }
  return applyWithBallast(context, keepHistory, accepted);
}

export function isFull(error: unknown): boolean {
  return isSystemError(error instanceof SyncFailed ? error.cause : error, "ENOSPC", "EDQUOT");
}

/**
 * Makes a file of `limits.ballastBytes` on every mount that has plenty of room and none yet. In small steps, since it is
 * written in full: a file with a hole would reserve nothing, and neither would bytes that compress.
 */
export function* makeBallast(context: ReplicaContext): Generator<void> {
  const { disk, limits } = context;
  for (const home of oneForEachMount(context)) {
    const size = disk.stat(home.home, ballastName)?.size ?? 0;
    if (size >= limits.ballastBytes || disk.freeBytes(home.home) < plentyFactor * limits.ballastBytes) continue;
    const known = disk.stat(home.home, ballastName) !== undefined;
    const file = disk.openFile(home.home, ballastName, known ? "write" : "create");
    try {
      yield* fill(context, file, size);
    } catch (error) {
      if (!isFull(error)) throw error;
      releaseBallast(context);
    } finally {
      disk.closeFile(file);
    }
  }
}

function* fill({ disk, limits }: ReplicaContext, file: OpenFile, from: number): Generator<void> {
  const piece = new Uint8Array(Math.min(pieceBytes, limits.ballastBytes));
  for (let at = from; at < limits.ballastBytes; at += piece.length) {
    // It was needed meanwhile.
    if (disk.statFile(file).links === 0) return;
    disk.write(file, randomFillSync(piece).subarray(0, Math.min(piece.length, limits.ballastBytes - at)), at);
    // Only then the blocks are surely taken; in pieces, so that the thread never waits for long.
    if ((at + piece.length) % pieceBytesPerSync === 0) disk.syncFile(file);
    yield;
  }
  disk.syncFile(file);
}

/** Gives the room of the ballasts back, and says how much that was. */
export function releaseBallast({ disk, homes }: ReplicaContext): number {
  let bytes = 0;
  for (const home of homes.values()) {
    const stat = disk.stat(home.home, ballastName);
    if (stat === undefined) continue;
    disk.unlink(home.home, ballastName);
    bytes += stat.size;
  }
  return bytes;
}

function oneForEachMount({ disk, homes }: ReplicaContext): StoreHome[] {
  const devices = new Map<number, StoreHome>();
  for (const home of homes.values()) {
    const { device } = disk.statDirectory(home.home);
    if (!devices.has(device)) devices.set(device, home);
  }
  return [...devices.values()];
}
