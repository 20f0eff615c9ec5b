import { decodeMessage } from "../../shared/wire/codec.ts";
import { type Frame, FrameDecoder } from "../../shared/wire/frame.ts";
import type { SystemCall } from "./syscall-trace.ts";

/**
 * The order on which every acknowledgement rests, read from a replica's system calls: payload sync < catalog sync <
 * acknowledgement, and no byte of the copy before the catalog's sync.
 *
 * How each is told from all the others:
 * - a **payload** is what is written below a store's `staging`, its name what is created or renamed into there;
 * - the **flip** of a cut is the catalog's commit between the worker's own two marks in its step file, which are system
 *   calls of the same thread: what the log is written and synced for besides (rows, applying, applied) is none;
 * - an **acknowledgement** is a frame in clear on the socket of the bridge from OpenSSH, decoded: it says for which cut.
 *   Each acknowledgement of a later cut than before needs one more flip that was synced before the call began.
 */
export interface OrderPaths {
  /** `catalog.db-wal` */
  readonly log: string;
  readonly stepFile: string;
  /** Directory of the copies, with `.understudy` in it. */
  readonly copies: string;
}

export interface Order {
  readonly flips: number;
  /** Flips before which something was staged. */
  readonly flipsWithPayload: number;
  readonly acknowledged: readonly bigint[];
  readonly violations: readonly string[];
}

interface Flip {
  /** Line of the mark before the commit. */
  readonly begun: number;
  /** Line at which the sync of the log was done. */
  readonly durable: number;
}

export function checkOrder(calls: readonly SystemCall[], paths: OrderPaths): Order {
  const violations: string[] = [];
  const flips = flipsIn(calls, paths, violations);
  let flipsWithPayload = 0;
  for (const [index, flip] of flips.entries()) {
    const since = flips[index - 1]?.begun ?? 0;
    const before = calls.filter((call) => call.done > since && call.begun < flip.begun && call.result >= 0);
    if (payloadFaults(before, flip, violations)) flipsWithPayload++;
    copyFaults(before, flip, paths, violations);
  }
  const acknowledged = acknowledgementFaults(calls, flips, violations);
  return { flips: flips.length, flipsWithPayload, acknowledged, violations };
}

function flipsIn(calls: readonly SystemCall[], { log, stepFile }: OrderPaths, violations: string[]): Flip[] {
  const flips: Flip[] = [];
  const marks = calls.filter(({ name, path }) => name === "pwrite64" && path === stepFile);
  for (const [index, mark] of marks.entries()) {
    if (!stepIn(mark).endsWith(": catalog cut")) continue;
    const after = marks[index + 1];
    const inside = calls.filter(
      (call) =>
        call.path === log &&
        call.thread === mark.thread &&
        call.begun > mark.done &&
        (after === undefined || call.done < after.begun),
    );
    const wrote = inside.findLast(({ name }) => name === "pwrite64");
    const synced = inside.findLast((call) => isSync(call) && call.result === 0);
    if (wrote === undefined || synced === undefined || synced.begun < wrote.done) {
      violations.push(`line ${mark.begun}: the catalog's log was not written and then synced in the commit of a cut`);
      continue;
    }
    flips.push({ begun: mark.begun, durable: synced.done });
  }
  return flips;
}

/** Whether anything was staged for this flip. */
function payloadFaults(before: readonly SystemCall[], flip: Flip, violations: string[]): boolean {
  const written = new Map<string, number>();
  const named = new Map<string, number>();
  for (const call of before) {
    if (call.name === "pwrite64" && isStaged(call.path)) written.set(call.path, call.done);
    if (call.name === "openat" && call.flags.includes("O_CREAT") && isStaged(call.path))
      named.set(parentOf(call.path), call.done);
    if (call.name.startsWith("rename") && isStaged(call.target)) named.set(parentOf(call.target), call.done);
  }
  const syncedSince = (path: string, line: number): boolean =>
    before.some(
      (call) =>
        call.begun > line &&
        call.done < flip.begun &&
        call.result === 0 &&
        (call.name === "syncfs" || (isSync(call) && call.path === path)),
    );
  for (const [path, line] of written) {
    if (!syncedSince(path, line))
      violations.push(`line ${flip.begun}: a cut is committed, ${path}, written at line ${line}, was not synced`);
  }
  for (const [directory, line] of named) {
    if (!syncedSince(directory, line))
      violations.push(`line ${flip.begun}: a cut is committed, a name of line ${line} in ${directory} was not synced`);
  }
  return written.size > 0;
}

/** From the first payload of a cut to its flip nobody touches the copy. */
function copyFaults(before: readonly SystemCall[], flip: Flip, { copies }: OrderPaths, violations: string[]): void {
  const first = before.find((call) => call.name === "pwrite64" && isStaged(call.path));
  if (first === undefined) return;
  const ofCopy = (path: string): boolean => path.startsWith(`${copies}/`) && !path.startsWith(`${copies}/.understudy/`);
  for (const call of before) {
    if (call.begun <= first.begun || call.done >= flip.begun) continue;
    const changes = call.name === "openat" ? /O_CREAT|O_TRUNC/.test(call.flags) : !isSync(call);
    if (changes && (ofCopy(call.path) || ofCopy(call.target)))
      violations.push(`line ${call.begun}: ${call.name} of ${call.path} ${call.target} before the commit of its cut`);
  }
}

/** Cuts that wait together share a flip and its acknowledgement, so there is never one more of these than of those. */
function acknowledgementFaults(calls: readonly SystemCall[], flips: readonly Flip[], violations: string[]): bigint[] {
  const acknowledged: bigint[] = [];
  for (const call of calls) {
    for (const durable of acknowledgementsIn(call)) {
      if (durable <= (acknowledged.at(-1) ?? 0n)) continue;
      acknowledged.push(durable);
      const synced = flips.filter((flip) => flip.durable < call.begun).length;
      if (synced < acknowledged.length) {
        violations.push(
          `line ${call.begun}: acknowledgement ${acknowledged.length}, of cut ${durable}, after ${synced} commits of cuts that were synced`,
        );
      }
    }
  }
  return acknowledged;
}

const socketWrites = new Set(["write", "writev", "sendto", "sendmsg"]);

function acknowledgementsIn({ name, bytes }: SystemCall): bigint[] {
  if (!socketWrites.has(name) || bytes.length === 0) return [];
  let frames: Frame[];
  try {
    frames = [...new FrameDecoder().push(bytes)];
  } catch {
    // Something else than frames: an event descriptor, the log, HTTP of the control socket.
    return [];
  }
  return frames.flatMap((frame) => {
    if (frame.kind !== "control") return [];
    const message = decodeMessage(frame.header);
    return message.kind === "acknowledgement" ? [message.durable.seq] : [];
  });
}

function isSync({ name }: SystemCall): boolean {
  return name === "fsync" || name === "fdatasync";
}

function isStaged(path: string): boolean {
  return /\/\.understudy\/[^/]+\/staging\/./.test(path);
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/"));
}

export function stepIn({ bytes }: SystemCall): string {
  return bytes.toString("latin1").trim();
}
