import { epoch } from "../../shared/words.ts";
import { beyond, type Cluster, members } from "./cluster.ts";
import { takeCut } from "./cuts.ts";
import { decisionOf } from "./decisions.ts";
import { excuse } from "./invariants.ts";
import * as at from "./layout.ts";
import { closeSessions, endSession, send } from "./messages.ts";

export function finish(c: Cluster, s: Uint8Array, i: number): void {
  const n = c.layout.node(i);
  const handed = (s[n + at.Flags]! & at.HANDED) !== 0;
  const handedOver = s[n + at.Epoch]!;
  const touched = c.isTouched(s, i);
  if (touched && !(s[n + at.Flags]! & at.ACCEPTED)) c.fail(`${members[i]} is promoted with what is no cut`);
  const heard = c.highestHeard(s, i);
  begin(c, s, i, handed || !c.rules.drivers.promotionHears ? 0 : heard);
  if (touched && c.rules.drivers.acceptedIsCut) takeCut(c, s, i);
  if (touched && s[n + at.Top] !== s[n + at.Epoch])
    c.fail(`${members[i]} calls cut ${s[n + at.Top]}.${s[n + at.Length]} what is none`);
  s[n + at.Flags]! &= ~(at.TOUCHED | at.ACCEPTED);
  if (!handed && heard > s[n + at.Epoch]!)
    c.fail(`${members[i]} begins a reign that is over: another node spoke of epoch ${heard}`);
  // Whoever promoted beside a primary that he did not hear has accepted what that one may have handed over already.
  if (c.ghost(s, "accepted") === 1 && (!handed || c.ghost(s, "ackTop") > handedOver)) excuse(c, s, i);
  if (handed) answerHandover(c, s, i, true);
  s[n + at.Role] = at.PRIMARY;
  s[n + at.Followed] = 0;
  closeSessions(c, s, i);
}

export function unseal(c: Cluster, s: Uint8Array, i: number): void {
  const n = c.layout.node(i);
  s[n + at.Role] = at.REPLICA;
  s[n + at.Flags]! &= ~at.ACCEPTED;
  if (s[n + at.Flags]! & at.HANDED) answerHandover(c, s, i, false);
  closeSessions(c, s, i);
}

function answerHandover(c: Cluster, s: Uint8Array, i: number, accepted: boolean): void {
  const n = c.layout.node(i);
  const from = c.target(s, i);
  if (c.end(s, i, from) !== at.DOWN) send(c, s, i, from, at.ANSWER, s[n + at.Target]! >> 4, accepted ? 1 : 0);
  s[n + at.Target] = 0;
  s[n + at.Flags]! &= ~at.HANDED;
}

export function begin(c: Cluster, s: Uint8Array, i: number, heard: number): void {
  const n = c.layout.node(i);
  const reign = c.rules.newReign(
    {
      ...c.history(s, i),
      epoch: epoch(s[n + at.Epoch]!),
      epochSeen: epoch(s[n + at.Seen]!),
      nextObject: 1,
    },
    { member: i, members: c.nodes, heard: BigInt(heard) },
  );
  const begun = Number(reign.epoch);
  if (begun >= at.reignsMax) {
    c.fail(beyond);
    return;
  }
  const known = c.layout.reign(begun);
  if (s[known] !== 0) c.fail(`epoch ${begun} is begun by ${members[i]}, and was by ${members[c.owner(s, begun)]}`);
  s.set([i + 1, s[n + at.Top]!, s[n + at.Length]!], known);
  s[n + at.Epoch] = begun;
  s[n + at.Seen] = Number(reign.epochSeen);
  s[n + at.Confirmed] = begun;
  c.setEpochs(s, i, reign.epochs);
}

export function fence(c: Cluster, s: Uint8Array, i: number, by: number): void {
  const n = c.layout.node(i);
  if (by <= s[n + at.Epoch]!) return;
  s[c.layout.reign(s[n + at.Epoch]!)]! |= at.OVER;
  s[n + at.Seen] = by;
  c.setRecord(s, i, undefined);
  s[n + at.Role] = at.FENCED;
  closeSessions(c, s, i);
}

export function becomeReplica(c: Cluster, s: Uint8Array, i: number): void {
  const n = c.layout.node(i);
  s[n + at.Role] = at.REPLICA;
  s[n + at.Flags]! &= ~at.HALTED;
  s[n + at.Confirmed] = 0;
  c.setRecord(s, i, undefined);
  closeSessions(c, s, i);
}

/** One durable step after the other: the service stands still, a last cut, the fork is kept, then it is given up. */
export function rejoin(c: Cluster, s: Uint8Array, i: number, j: number): void {
  const n = c.layout.node(i);
  const { drivers } = c.rules;
  if (s[n + at.Flags]! & at.SERVICE && drivers.rejoinStopsService) {
    s[n + at.Flags]! &= ~at.SERVICE;
    return;
  }
  if (s[n + at.Flags]! & at.DIRTY && s[n + at.Role] === at.FENCED && drivers.forkIsCut) {
    takeCut(c, s, i);
    return;
  }
  const decision = decisionOf(c, s, i, j);
  if (decision.kind !== "fork" || decision.common === undefined) {
    endSession(c, s, i, j);
    return;
  }
  const [top, common] = [Number(decision.common.epoch), Number(decision.common.seq)];
  const beyondCommon = s[n + at.Length]! > common;
  const kept = s[n + at.BundleTop] === s[n + at.Top] && s[n + at.BundleLength] === s[n + at.Length];
  if (beyondCommon && !kept && drivers.forkIsKept) {
    s[n + at.BundleTop] = s[n + at.Top]!;
    s[n + at.BundleLength] = s[n + at.Length]!;
    return;
  }
  if (beyondCommon && !kept) c.fail(`${members[i]} gives up what is in no fork`);
  if (s[n + at.Flags]! & at.DIRTY) c.fail(`${members[i]} gives up what was written after its last cut`);
  for (const node of [i, j]) {
    const m = c.layout.node(node);
    if (!c.has(s, s[m + at.Top]!, s[m + at.Length]!, top, common))
      c.fail(`${members[i]} goes back to cut ${top}.${common}, which ${members[node]} has not`);
  }
  if (beyondCommon) s[n + at.Flags]! |= at.TOUCHED;
  if (beyondCommon) {
    c.setEpochs(
      s,
      i,
      c.epochs(s, i).filter(({ firstSeq }) => firstSeq <= BigInt(common)),
    );
  }
  s[n + at.Length] = common;
  s[n + at.Top] = top;
  becomeReplica(c, s, i);
}
