import { ProtocolViolation } from "../../shared/errors.ts";
import { features } from "../../shared/session/connect.ts";
import type { Acknowledgement, ReplicaReport } from "../../shared/wire/messages.ts";
import {
  type CutId,
  compareCuts,
  cutText,
  type ObjectId,
  type PeerState,
  type Seq,
  sameCut,
} from "../../shared/words.ts";
import type { AheadState } from "../workers/primary-calls.ts";
import type { Session } from "./session.ts";

/** A replica in a session, as its primary knows it. */
export interface Follower {
  readonly session: Session;
  readonly number: number;
  /** It takes bytes ahead of a cut. */
  readonly takesAhead: boolean;
  /** What it lacks is on its way outside of any cut; it gets none meanwhile, and holds nobody up. */
  shippingAhead: boolean;
  ahead: AheadState | undefined;
  /** Why it takes nothing ahead; "" when it does. */
  aheadRefusal: string;
  awaitingList: PromiseWithResolvers<{ payload: Uint8Array; last: boolean }> | undefined;
  awaitingTouched: PromiseWithResolvers<{ payload: Uint8Array; last: boolean }> | undefined;
  /** The cut that it has something otherwise than, where it rejoins. */
  readonly rejoiningFrom: CutId | undefined;
  base: CutId;
  lastObject: number;
  durable: CutId;
  applied: CutId;
  received: CutId;
  suspect: string;
  unappliedBytes: number;
  report: ReplicaReport | undefined;
  /** Cuts that are not acknowledged, with the time at which they were begun: all that was written before is in them. */
  inFlight: { readonly cut: CutId; readonly begunAt: number }[];
  /** Everything written before this is durable there. Monotonic, ms. */
  coveredAt: number;
  dueAt: number;
  /** Objects whose file somebody else changed there, as it said last. */
  damaged: readonly ObjectId[];
  /** Those that were sent whole, with the cut that brought them: until that is durable there, nothing is sent twice. */
  readonly renewed: Map<ObjectId, Seq>;
  /** No cut is taken for a repair before this. Monotonic, ms. */
  renewAt: number;
  /** It says that its copy's place holds files which it may reuse for its first cut. */
  resuming: boolean;
  gone: boolean;
  awaitingRuns: Map<number, PromiseWithResolvers<{ blockSize: number; digests: Uint8Array }>>;
}

/** What a primary knows of a replica that is or was connected in this reign. */
export interface FollowerView {
  readonly state: PeerState;
  readonly reason: string;
  readonly received: CutId | undefined;
  readonly durable: CutId | undefined;
  readonly applied: CutId | undefined;
  readonly lagSeconds: number | undefined;
  readonly lagCuts: number | undefined;
  /** Why its copy is not to be trusted; "" when it is. */
  readonly suspect: string;
  readonly unappliedBytes: number;
  readonly report: ReplicaReport | undefined;
}

/** What has to be known of a replica that is to take over. */
export interface SuccessorFacts {
  readonly state: PeerState;
  readonly features: readonly string[];
  readonly software: string;
  readonly suspect: string;
  readonly damaged: number;
  readonly durable: CutId;
  readonly lagSeconds: number;
}

/** One that joins, at `base`. `coveredAt`: as far as it is known from before. */
export function newFollower(session: Session, number: number, base: CutId, coveredAt: number): Follower {
  return {
    session,
    base,
    lastObject: session.theirs.lastObject,
    durable: base,
    applied: base,
    received: base,
    suspect: "",
    unappliedBytes: 0,
    report: undefined,
    inFlight: [],
    coveredAt,
    dueAt: 0,
    damaged: [],
    renewed: new Map(),
    renewAt: 0,
    resuming: session.theirs.features.includes(features.adopting),
    gone: false,
    awaitingRuns: new Map(),
    number,
    // Who rejoins is asked what it lacks, and no cut waits for that answer.
    takesAhead: [features.ahead, features.rejoining].some((feature) => session.theirs.features.includes(feature)),
    shippingAhead: false,
    ahead: undefined,
    aheadRefusal: "",
    awaitingList: undefined,
    awaitingTouched: undefined,
    rejoiningFrom: session.theirs.features.includes(features.rejoining) ? base : undefined,
  };
}

/** `newest`: what may have been sent so far. @throws {ProtocolViolation} when it says what cannot be */
export function checkAcknowledgement(
  { durable, applied, received }: Acknowledgement,
  follower: Pick<Follower, "durable">,
  newest: CutId,
  committed: CutId,
): void {
  // By number too: a cut of an older epoch compares as older, whatever number it has. What is being received may be
  // a cut that was given up here meanwhile.
  if (compareCuts(durable, newest) > 0 || durable.seq > newest.seq)
    throw new ProtocolViolation(`cut ${cutText(durable)} was acknowledged and never sent`);
  if (received.seq > committed.seq + 1n)
    throw new ProtocolViolation(`cut ${cutText(received)} is received there and was never sent`);
  if (compareCuts(durable, follower.durable) < 0)
    throw new ProtocolViolation(`cut ${cutText(durable)} was acknowledged after ${cutText(follower.durable)}`);
  if (applied.seq > durable.seq)
    throw new ProtocolViolation(`cut ${cutText(applied)} was applied where only ${cutText(durable)} is durable`);
}

/** What the next cut has to bring whole, since somebody damaged it there. */
export function toRenew({ damaged, renewed, renewAt }: Follower, now: number): ObjectId[] {
  return now < renewAt ? [] : damaged.filter((object) => !renewed.has(object));
}

/** No cut of this reign has brought right yet what it has otherwise. */
export function isRejoining({ base, rejoiningFrom }: Follower): boolean {
  return rejoiningFrom !== undefined && sameCut(base, rejoiningFrom);
}

export function rejoinReason(follower: Follower): string {
  return isRejoining(follower) ? `rejoins from cut ${cutText(follower.base)}` : "";
}

/** How far a replica is that gets what it lacks ahead of a cut, and how long it will take if nothing more changes. */
export function aheadReason({ ahead, aheadRefusal, shippingAhead }: Follower): string {
  if (aheadRefusal !== "") return `takes nothing ahead of a cut: ${aheadRefusal}`;
  if (ahead === undefined || (!shippingAhead && ahead.lackingBytes === 0)) return "";
  const { lackingBytes, bytesPerSecond } = ahead;
  const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  const missing = `${mebibytes(lackingBytes)} of the last cut are still to be sent`;
  if (bytesPerSecond === undefined || bytesPerSecond === 0) return missing;
  const seconds = Math.ceil(lackingBytes / bytesPerSecond);
  return `${missing}, at ${mebibytes(bytesPerSecond)}/s about ${seconds} s if nothing changes`;
}
