import { type CutId, compareCuts, cutText, type Epoch, epoch, type PeerState, type Role, seq } from "../words.ts";
import { type EpochStart, epochFault, nextEpoch } from "./epochs.ts";

/**
 * What a node says to a cluster manager that decides about promotions, as functions of values. The manager remembers two
 * things over every restart: the epoch that it granted last, and for each node a mark that the primary of that time put there.
 * Raising the epoch makes every mark of an older reign worthless at one blow.
 */

/** What the manager remembers. */
export interface EngineMemory {
  /** The epoch that was granted last; 0 when none ever was. */
  readonly epoch: bigint;
  /** This node's mark, as it is written; "" for none. */
  readonly mark: string;
}

/**
 * `ok`: in step in that reign. `stale`: behind the limit, or away. `paused`: a person does not want failovers. `forced`: an
 * operator accepts whatever is lost by promoting this node.
 */
export type Mark =
  | { readonly kind: "ok" | "stale" | "paused"; readonly epoch: bigint }
  | { readonly kind: "forced" }
  | { readonly kind: "none" };

export function markText(mark: Mark): string {
  switch (mark.kind) {
    case "ok":
    case "stale":
    case "paused":
      return `${mark.kind.toUpperCase()}@${mark.epoch}`;
    case "forced":
      return "FORCED";
    case "none":
      return "";
  }
}

/** What cannot be read is no mark: it gives no right. */
export function parseMark(text: string): Mark {
  if (text === "FORCED") return { kind: "forced" };
  const match = /^(OK|STALE|PAUSED)@(\d{1,16})$/.exec(text);
  if (match === null) return { kind: "none" };
  return { kind: match[1]!.toLowerCase() as "ok" | "stale" | "paused", epoch: BigInt(match[2]!) };
}

export const scores = {
  /** Of the node that is promoted. */
  promoted: 10_000,
  /** Of one to whom another gave way, since its copy is newer. */
  givenWay: 1500,
  /** Of the last primary, which is not in service: nobody has more than it. */
  lastPrimary: 1100,
  /** Of a replica in step; less by `perSecond` for each second of lag, and never less than `inStepLeast`. */
  inStep: 1000,
  perSecond: 100,
  inStepLeast: 100,
  /** Of a replica that the last primary left in step, before another one has spoken. */
  remembered: 5,
} as const;

/** What a primary knows of one of its replicas. */
export interface FollowerFacts {
  readonly state: PeerState;
  /** Why its copy is worth less than its cut says; "" when it is not. */
  readonly reason: string;
  readonly lagSeconds: number | undefined;
}

/** What the primary has written down for a replica: whether it may take over, and how gladly. */
export function followerMark(
  facts: FollowerFacts,
  { epoch: reign, lagSecondsMax, paused }: { epoch: bigint; lagSecondsMax: number; paused: boolean },
): { readonly mark: Mark; readonly score: number | undefined } {
  const { state, reason, lagSeconds } = facts;
  const inStep = state === "streaming" && reason === "" && lagSeconds !== undefined && lagSeconds <= lagSecondsMax;
  if (!inStep) return { mark: { kind: "stale", epoch: reign }, score: undefined };
  if (paused) return { mark: { kind: "paused", epoch: reign }, score: undefined };
  // In whole seconds: each change of a score makes the manager think again.
  const score = Math.max(scores.inStepLeast, scores.inStep - Math.floor(lagSeconds) * scores.perSecond);
  return { mark: { kind: "ok", epoch: reign }, score };
}

/** What this node is, where it is not in service. */
export interface CandidateFacts {
  readonly role: Role;
  /** A primary that was demoted by the manager: its last cut is all that it has. */
  readonly sealed: boolean;
  /** Of its own reign, or of the one that it follows. */
  readonly epoch: Epoch;
  readonly epochSeen: Epoch;
  readonly epochs: readonly EpochStart[];
  readonly committed: CutId;
  readonly digest: string;
  /** Why its copy must not be taken into service, however many are lost; "" when it may. */
  readonly barred: string;
  /** Failovers are paused, as far as this node was told. */
  readonly paused: boolean;
  /** A primary that is in service answers it. */
  readonly primaryAlive: boolean;
}

/**
 * What a node has to say before a promotion, for the others to compare: the reign that it is of, and how far it got in it.
 * Of two in one reign the one with more has everything that the other has. "": it does not stand.
 */
export function voteOf(facts: CandidateFacts): string {
  const { role, sealed, epoch: reign, committed } = facts;
  if (barOf(facts) !== "") return "";
  // What was written since the last cut is here and nowhere else.
  if (role === "primary" && !sealed) return voteText({ epoch: reign, seq: seq(committed.seq + 1n) });
  return role === "primary" || role === "replica" ? voteText({ epoch: reign, seq: committed.seq }) : "";
}

/** Why nothing can make this copy fit for service; "" when nothing is wrong with it. */
function barOf({ barred, epochs, committed }: CandidateFacts): string {
  if (barred !== "") return barred;
  const own = epochs.findIndex((start) => start.epoch === committed.epoch);
  const next = own < 0 ? undefined : epochs[own + 1];
  // It heard of a reign that began further back than it had got: what it has more is nobody's past.
  return next !== undefined && next.firstSeq <= committed.seq
    ? `cut ${cutText(committed)} is not in the history of epoch ${next.epoch}`
    : "";
}

function voteText(at: CutId): string {
  return `${at.epoch}#${at.seq}`;
}

function parseVote(text: string): CutId | undefined {
  const match = /^(\d{1,16})#(\d{1,16})$/.exec(text);
  return match === null ? undefined : { epoch: epoch(BigInt(match[1]!)), seq: seq(BigInt(match[2]!)) };
}

/**
 * The score that a node that is not in service may give itself: a number, `none`, or `keep` where the primary's word stands.
 * It never rises above what a primary left behind.
 */
export function claimOf(
  facts: CandidateFacts,
  memory: EngineMemory,
): { readonly score: number | "none" | "keep"; readonly why: string } {
  const why = unfit(facts, memory);
  if (why !== "") return { score: "none", why };
  if (facts.role === "primary") return { score: scores.lastPrimary, why: "" };
  if (facts.primaryAlive) return { score: "keep", why: "" };
  return { score: scores.remembered, why: "" };
}

/** Why the manager may not promote this node; "" when it may. */
function unfit(facts: CandidateFacts, memory: EngineMemory): string {
  const { role, paused, epochSeen } = facts;
  const barred = barOf(facts);
  if (barred !== "") return barred;
  if (paused) return "failovers are paused";
  const fault = rememberedFault(facts, memory.epoch);
  if (fault !== "") return fault;
  if (role === "primary") {
    return facts.epoch >= memory.epoch
      ? ""
      : `its reign is of epoch ${facts.epoch}, and the cluster has granted ${memory.epoch}`;
  }
  if (role !== "replica") return `this node is ${role}`;
  const mark = parseMark(memory.mark);
  if (mark.kind === "forced") return "";
  if (memory.epoch < epochSeen) return `epoch ${epochSeen} was seen, which the cluster did not grant`;
  if (mark.kind === "none" || mark.epoch !== memory.epoch)
    return `no primary of epoch ${memory.epoch} has said that this copy was in step`;
  if (mark.kind === "stale") return `the primary of epoch ${mark.epoch} left this copy behind or cut off`;
  return mark.kind === "paused" ? `failovers were paused in epoch ${mark.epoch}` : "";
}

/** Why nothing follows from the epoch that the manager remembers; "" where it may be right. */
export function rememberedFault(facts: { readonly epoch: bigint; readonly epochSeen: bigint }, said: bigint): string {
  const { epoch: reign, epochSeen } = facts;
  const fault = epochFault(said, epochSeen > reign ? epochSeen : reign);
  return fault === "" ? "" : `what the cluster remembers cannot be: ${fault}`;
}

/** What a primary that was demoted in good order had last. */
export interface Seal {
  /** Of its reign, which may have had no cut. */
  readonly reign: bigint;
  readonly cut: CutId;
  readonly digest: string;
}

export function sealText({ reign, cut, digest }: Seal): string {
  return `${reign}:${cutText(cut)}:${digest}`;
}

/** Undefined where it cannot be read. */
export function parseSeal(text: string): Seal | undefined {
  const match = /^(\d{1,16}):(\d{1,16})\.(\d{1,16}):([0-9a-f]{64})$/.exec(text);
  if (match === null) return undefined;
  const [reign, at, last] = [match[1]!, match[2]!, match[3]!].map(BigInt) as [bigint, bigint, bigint];
  return { reign, cut: { epoch: epoch(at), seq: seq(last) }, digest: match[4]! };
}

export type GrantDecision =
  /** It may be promoted, in this epoch. */
  | { readonly kind: "grant"; readonly epoch: Epoch }
  /** Another node's copy is newer. `mark`: it has all that this one has, so what was said of this one holds for it. */
  | { readonly kind: "give-way"; readonly to: string; readonly mark: Mark; readonly reason: string }
  | { readonly kind: "refuse"; readonly reason: string };

export interface GrantCase {
  readonly facts: CandidateFacts;
  readonly memory: EngineMemory;
  /** What the other nodes that are there have said before this promotion. */
  readonly votes: readonly { readonly node: string; readonly vote: string }[];
  /** What the primary before had last, where it ended in good order and is still a part of the cluster. */
  readonly seal: string;
  readonly turn: { readonly member: number; readonly members: number };
}

/** Whether the manager's promotion of this node goes on. */
export function grantOf({ facts, memory, votes, seal, turn }: GrantCase): GrantDecision {
  const why = unfit(facts, memory);
  if (why !== "") return { kind: "refuse", reason: why };
  const own = parseVote(voteOf(facts));
  if (own === undefined) return { kind: "refuse", reason: "there is no complete cut here" };
  const forced = parseMark(memory.mark).kind === "forced";
  const newer = forced ? undefined : newestAbove(own, votes);
  if (newer !== undefined) {
    const reason = `${newer.node} has newer data (${voteText(newer.cut)}, here ${voteText(own)})`;
    const superset = newer.cut.epoch === own.epoch && own.epoch === memory.epoch;
    const mark: Mark = superset ? { kind: "ok", epoch: memory.epoch } : { kind: "none" };
    return { kind: "give-way", to: newer.node, mark, reason };
  }
  const last = seal === "" || forced ? undefined : parseSeal(seal);
  if (last !== undefined && last.reign === memory.epoch && !hasSealed(facts, last)) {
    const reason = `the primary before ended with cut ${cutText(last.cut)}, and this node has ${cutText(facts.committed)}`;
    return { kind: "refuse", reason };
  }
  const highest = [memory.epoch, facts.epoch, facts.epochSeen].reduce((a, b) => (a > b ? a : b));
  return { kind: "grant", epoch: epoch(nextEpoch(highest, turn.member, turn.members)) };
}

function newestAbove(own: CutId, votes: GrantCase["votes"]): { node: string; cut: CutId } | undefined {
  let newest: { node: string; cut: CutId } | undefined;
  for (const { node, vote } of votes) {
    const cut = parseVote(vote);
    if (cut !== undefined && compareCuts(cut, newest?.cut ?? own) > 0) newest = { node, cut };
  }
  return newest;
}

/** The primary that is not sealed has whatever it ever had. */
function hasSealed(facts: CandidateFacts, { cut, digest }: Seal): boolean {
  if (facts.role === "primary" && !facts.sealed) return compareCuts(facts.committed, cut) >= 0;
  return compareCuts(facts.committed, cut) === 0 && facts.digest === digest;
}
