import type { Lag, PeerStatus, Promotable, TakeoverStatus, Verified } from "../control/api.ts";

/** A replica as its primary knows it. */
export interface Candidate {
  readonly node: string;
  readonly peer: PeerStatus;
  /** Why it is not the one, beside what `peer` says: its copy, or the cut that it has; "" where nothing is wrong. */
  readonly fault: string;
  readonly unappliedBytes: number;
  readonly verified: Verified | null;
  readonly forks: number;
}

/** Time that a promotion takes beside applying what waits, and the rate of that. */
const promotionSeconds = 0.2;
const applyBytesPerSecond = 100e6;

export function rtoEstimateSeconds(unappliedBytes: number): number {
  return Math.round((promotionSeconds + unappliedBytes / applyBytesPerSecond) * 100) / 100;
}

/** What a replica says of itself. */
export function ownTakeover(
  node: string,
  promotable: Promotable,
  verified: Verified | null,
  forks: number,
): TakeoverStatus {
  const { ok, why, loss, rtoEstimateSeconds: seconds } = promotable;
  return {
    node,
    ok,
    why: why.map(({ message }) => message).join("; "),
    loss,
    rtoEstimateSeconds: seconds,
    verified,
    forks,
  };
}

/** What a primary says of who could take over from it: the one that would lose the least, of those that could. */
export function bestTakeover(candidates: readonly Candidate[]): TakeoverStatus {
  const judged = candidates.map((candidate) => ({ candidate, why: faultOf(candidate) }));
  const able = judged
    .filter(({ why }) => why === "")
    .toSorted((a, b) => byLoss(a.candidate.peer.lag, b.candidate.peer.lag));
  const best = able[0]?.candidate;
  if (best === undefined) {
    const why = judged.map(({ candidate, why: fault }) => `${candidate.node} ${fault}`).join("; ");
    const nothing: Lag = { bytes: null, cuts: null, seconds: null, basis: "silence" };
    return {
      node: null,
      ok: false,
      why: why === "" ? "there is no other node" : why,
      loss: nothing,
      rtoEstimateSeconds: null,
      verified: null,
      forks: 0,
    };
  }
  return {
    node: best.node,
    ok: true,
    why: "",
    loss: best.peer.lag,
    rtoEstimateSeconds: rtoEstimateSeconds(best.unappliedBytes),
    verified: best.verified,
    forks: best.forks,
  };
}

function faultOf({ peer, fault }: Candidate): string {
  switch (peer.state) {
    case "streaming":
    case "catching-up":
    case "paused":
      return peer.durable === null ? "has no complete cut" : fault;
    case "seeding":
      return "has no complete cut yet";
    case "connecting":
    case "refused":
    case "halted":
      return peer.reason === "" ? `is ${peer.state}` : `is ${peer.state} (${peer.reason})`;
  }
}

function byLoss(a: Lag, b: Lag): number {
  return (a.cuts ?? Infinity) - (b.cuts ?? Infinity) || (a.seconds ?? Infinity) - (b.seconds ?? Infinity) || 0;
}
