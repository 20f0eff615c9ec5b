import type { Decision } from "../../shared/session/connect.ts";
import { unreachable } from "../../shared/words.ts";
import type { Cluster } from "./cluster.ts";
import { acknowledge, hearAcknowledgement, hearCut } from "./cuts.ts";
import { decisionOf } from "./decisions.ts";
import * as at from "./layout.ts";
import { askedBit, endSession, kindCodes, send } from "./messages.ts";
import { fence } from "./reigns.ts";
import { demote, hearHandover, takeStep } from "./switchover.ts";

/** One dials; the other acts on both hellos and answers; the dialer acts when it hears the answer. */
export function open(c: Cluster, s: Uint8Array, i: number, j: number): void {
  if (c.end(s, j, i) !== at.DOWN) endSession(c, s, j, i);
  const dialer = c.layout.session(i, j);
  const listener = c.layout.session(j, i);
  const there = decisionOf(c, s, j, i);
  const here = decisionOf(c, s, i, j);
  s[dialer + at.End] = at.GREETING;
  introduce(c, s, i, j);
  introduce(c, s, j, i);
  const { primaryAsks } = c.rules.drivers;
  const asks = c.isTouched(s, j) && primaryAsks ? askedBit : 0;
  const [kind, value] = encoded(c, s, here, j);
  send(c, s, j, i, at.WELCOME, kind | asks, value);
  s[listener + at.End] = at.IDLE;
  s[listener + at.Asked] = c.isTouched(s, i) && primaryAsks ? 1 : 0;
  act(c, s, j, i, ...encoded(c, s, there, i));
}

function introduce(c: Cluster, s: Uint8Array, to: number, whom: number): void {
  const n = c.layout.node(whom);
  const session = c.layout.session(to, whom);
  s[session + at.Said] = s[n + at.Role]!;
  s[session + at.Sent] = s[c.layout.node(to) + at.Length]!;
  // What it once knew is known, also when it has forgotten it.
  s[session + at.Highest] = Math.max(s[session + at.Highest]!, s[n + at.Epoch]!, s[n + at.Seen]!);
}

function encoded(c: Cluster, s: Uint8Array, decision: Decision, other: number): readonly [number, number] {
  const kind = kindCodes.indexOf(decision.kind);
  switch (decision.kind) {
    case "ship":
      return [kind, Number(decision.base.seq)];
    case "follow":
      return [kind, s[c.layout.node(other) + at.Epoch]!];
    case "fenced":
      return [kind, Number(decision.by)];
    case "demote":
      return [kind, Math.max(s[c.layout.node(other) + at.Epoch]!, s[c.layout.node(other) + at.Seen]!)];
    default:
      return [kind, 0];
  }
}

function act(c: Cluster, s: Uint8Array, i: number, j: number, kind: number, value: number): void {
  const n = c.layout.node(i);
  const session = c.layout.session(i, j);
  const decided = kindCodes[kind]!;
  switch (decided) {
    case "ship":
      s[session + at.End] = at.SHIPS;
      s[session + at.Sent] = value;
      s[session + at.Durable] = value;
      if (s[n + at.Step] === at.HANDING && c.target(s, i) === j) takeStep(c, s, i, { kind: "connected", late: false });
      return;
    case "follow":
      follow(c, s, i, j, value);
      return;
    case "idle":
    case "ahead":
      s[session + at.End] = at.IDLE;
      return;
    case "refuse":
      endSession(c, s, i, j);
      return;
    case "fenced":
      fence(c, s, i, value);
      return;
    case "replica-newer":
      s[n + at.Flags]! |= at.HALTED;
      endSession(c, s, i, j);
      return;
    case "fork":
      s[session + at.End] = at.FORKED;
      return;
    case "demote":
      demote(c, s, i, value);
      return;
    default:
      unreachable(decided);
  }
}

function follow(c: Cluster, s: Uint8Array, i: number, j: number, reign: number): void {
  const n = c.layout.node(i);
  const session = c.layout.session(i, j);
  const there = c.epochs(s, j).filter((start) => start.epoch <= BigInt(reign));
  // It is no primary of that reign any more, and has given it up: what it would send never comes.
  if (there.at(-1)?.epoch !== BigInt(reign) || reign < s[n + at.Epoch]!) {
    endSession(c, s, i, j);
    return;
  }
  if (reign > s[n + at.Epoch]!) {
    // What it has must be what it said: else another primary sent it a cut meanwhile, no part of this reign's past.
    if (c.rules.drivers.hellosHold && s[session + at.Sent] !== s[n + at.Length]) {
      endSession(c, s, i, j);
      return;
    }
    s[n + at.Epoch] = reign;
    s[n + at.Seen] = Math.max(s[n + at.Seen]!, reign);
    c.setEpochs(s, i, there);
  }
  for (const other of c.others(i)) if (c.end(s, i, other) === at.FOLLOWS) endSession(c, s, i, other);
  s[n + at.Followed] = j + 1;
  s[session + at.End] = at.FOLLOWS;
  s[session + at.Sent] = 0;
  acknowledge(c, s, i, j);
}

export function deliver(c: Cluster, s: Uint8Array, i: number, j: number, once: boolean): void {
  const session = c.layout.session(i, j);
  const queue = session + at.Queue;
  const [kind, a, b] = [s[queue]!, s[queue + 1]!, s[queue + 2]!];
  if (once) {
    s.copyWithin(queue, queue + 3, session + at.sessionBytes);
    s.fill(0, session + at.sessionBytes - 3, session + at.sessionBytes);
    s[session + at.Under]!--;
  }
  const end = c.end(s, j, i);
  switch (kind) {
    case at.WELCOME:
      if (end !== at.GREETING) return;
      s[c.layout.session(j, i) + at.End] = at.IDLE;
      s[c.layout.session(j, i) + at.Asked] = a & askedBit ? 1 : 0;
      act(c, s, j, i, a & ~askedBit, b);
      return;
    case at.CUT:
      if (end === at.FOLLOWS) hearCut(c, s, j, i, a & ~askedBit, (a & askedBit) !== 0, b);
      return;
    case at.ACKNOWLEDGEMENT:
      if (end === at.SHIPS) hearAcknowledgement(c, s, j, i, a, b);
      return;
    case at.HANDOVER:
      if (end === at.FOLLOWS) hearHandover(c, s, j, i, a, b & 15, b >> 4);
      return;
    case at.REVOKE: {
      if (end !== at.FOLLOWS) return;
      const { accepted } = c.rules.revocationAnswer({ role: c.roleName(s, j) });
      send(c, s, j, i, at.ANSWER, a, accepted ? 1 : 0);
      return;
    }
    case at.PING:
      // Whoever wants to be promoted itself keeps silent; what changed its role has ended its sessions.
      if (end >= at.IDLE && !(s[c.layout.node(j) + at.Flags]! & at.ASPIRING)) send(c, s, j, i, at.PONG, 0, 0);
      return;
    case at.PONG:
      if (end >= at.IDLE && s[c.layout.node(j) + at.Flags]! & at.ASPIRING) s[c.layout.session(j, i) + at.Answered] = 1;
      return;
    case at.ANSWER:
      if (end === at.SHIPS)
        takeStep(c, s, j, { kind: "answered", id: String(a), accepted: b === 1, reason: "answered" });
      return;
  }
}
