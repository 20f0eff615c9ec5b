import type { SourceAction, SourceEvent } from "../../shared/session/switchover.ts";
import { type Cluster, cutOf, members, sealed } from "./cluster.ts";
import { excuse } from "./invariants.ts";
import * as at from "./layout.ts";
import { closeSessions, send } from "./messages.ts";
import { becomeReplica, begin, fence } from "./reigns.ts";

/** Records what the source of a switchover decides at this event, then does it. */
export function takeStep(c: Cluster, s: Uint8Array, i: number, event: SourceEvent): void {
  const before = c.record(s, i);
  const { record, actions } = c.rules.sourceStep(before, event);
  if (actions.includes("new-epoch")) abandon(c, s, i);
  c.setRecord(s, i, record);
  for (const action of actions) perform(c, s, i, action);
}

function perform(c: Cluster, s: Uint8Array, i: number, action: SourceAction): void {
  const n = c.layout.node(i);
  const record = c.record(s, i);
  if (record === undefined) return;
  const to = c.target(s, i);
  if (c.end(s, i, to) !== at.SHIPS) return;
  if (action === "send-handover")
    send(c, s, i, to, at.HANDOVER, s[n + at.SealTop]!, s[n + at.SealLength]! | (Number(record.id) << 4));
  if (action === "send-revoke") send(c, s, i, to, at.REVOKE, Number(record.id), 0);
}

/** An epoch that is above the one that the target would have taken. */
function abandon(c: Cluster, s: Uint8Array, i: number): void {
  const n = c.layout.node(i);
  const highest = BigInt(Math.max(s[n + at.Epoch]!, s[n + at.Seen]!));
  s[n + at.Seen] = Number(c.rules.nextEpoch(highest, c.target(s, i), c.nodes));
  begin(c, s, i, 0);
  excuse(c, s, i);
  closeSessions(c, s, i);
}

export function hearHandover(
  c: Cluster,
  s: Uint8Array,
  i: number,
  j: number,
  top: number,
  length: number,
  id: number,
): void {
  const n = c.layout.node(i);
  const refusal = c.rules.handoverRefusal(
    {
      role: c.roleName(s, i),
      committed: cutOf(s[n + at.Top]!, s[n + at.Length]!),
      applied: BigInt(s[n + at.Length]!),
      digest: c.digest(s, i, s[n + at.Length]!),
      suspect: "",
      halted: "",
      barred: c.isTouched(s, i) ? "this node rejoins" : "",
    },
    { id: String(id), ...sealed(top, length) },
  );
  if (refusal !== "") {
    send(c, s, i, j, at.ANSWER, id, 0);
    return;
  }
  if (!c.has(s, s[n + at.Top]!, s[n + at.Length]!, top, length))
    c.fail(`${members[i]} takes over without cut ${top}.${length}, which it was handed`);
  s[n + at.Role] = at.PROMOTING;
  s[n + at.Flags]! |= at.HANDED;
  s[n + at.Target] = (j + 1) | (id << 4);
}

/** It said that it was sealed: since then it may have gone back. */
export function demote(c: Cluster, s: Uint8Array, i: number, by: number): void {
  const n = c.layout.node(i);
  const common = cutOf(s[n + at.Top]!, s[n + at.Length]!);
  const { actions } =
    s[n + at.Role] === at.FENCED || !c.rules.drivers.demotionLooksAgain
      ? { actions: ["demote"] }
      : c.rules.sourceStep(c.record(s, i), { kind: "superseded", common });
  if (!actions.includes("demote")) {
    fence(c, s, i, by);
    return;
  }
  if (s[n + at.Flags]! & at.DIRTY) c.fail("what was written after the seal is given up");
  becomeReplica(c, s, i);
}
