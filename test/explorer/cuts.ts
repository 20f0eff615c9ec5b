import { type Cluster, members } from "./cluster.ts";
import * as at from "./layout.ts";
import { askedBit, endSession, send } from "./messages.ts";

export function takeCut(c: Cluster, s: Uint8Array, i: number): void {
  const n = c.layout.node(i);
  const reign = s[n + at.Epoch]!;
  if (c.owner(s, reign) !== i) c.fail(`${members[i]} takes a cut of epoch ${reign}, another's reign`);
  s[n + at.Length]!++;
  s[n + at.Top] = reign;
  s[n + at.Flags]! &= ~at.DIRTY;
}

export function ship(c: Cluster, s: Uint8Array, i: number, j: number): void {
  const session = c.layout.session(i, j);
  const length = s[c.layout.node(i) + at.Length]!;
  send(c, s, i, j, at.CUT, length | (s[session + at.Asked] === 1 ? askedBit : 0), s[session + at.Sent]!);
  s[session + at.Sent] = length;
  s[session + at.Asked] = 0;
}

export function hearCut(
  c: Cluster,
  s: Uint8Array,
  i: number,
  j: number,
  length: number,
  asked: boolean,
  base: number,
): void {
  const n = c.layout.node(i);
  if (s[n + at.Role] !== at.REPLICA) return;
  if (base !== s[n + at.Length]) {
    endSession(c, s, i, j);
    return;
  }
  const reign = s[n + at.Epoch]!;
  if (c.owner(s, reign) !== j) c.fail(`${members[i]} takes a cut of ${members[j]} in epoch ${reign}, another's reign`);
  const top = c.reignAt(s, reign, length);
  if (!c.has(s, reign, length, s[n + at.Top]!, s[n + at.Length]!))
    c.fail(`${members[i]} goes on from what ${members[j]} never had: it diverges and nobody knows`);
  if (c.isTouched(s, i) && !asked) c.fail(`${members[i]} calls cut ${top}.${length} what is none`);
  s[n + at.Flags]! &= ~at.TOUCHED;
  s[n + at.Length] = length;
  s[n + at.Top] = top;
  acknowledge(c, s, i, j);
}

export function acknowledge(c: Cluster, s: Uint8Array, i: number, j: number): void {
  const n = c.layout.node(i);
  send(c, s, i, j, at.ACKNOWLEDGEMENT, s[n + at.Length]!, s[n + at.Top]!);
}

export function hearAcknowledgement(
  c: Cluster,
  s: Uint8Array,
  i: number,
  j: number,
  acknowledged: number,
  of: number,
): void {
  const session = c.layout.session(i, j);
  const n = c.layout.node(i);
  // What was never sent is not believed.
  if (of > s[n + at.Top]! || acknowledged > s[n + at.Length]! || acknowledged < s[session + at.Durable]!) {
    endSession(c, s, i, j);
    return;
  }
  s[session + at.Durable] = acknowledged;
  // Cuts are compared by reign, then by number.
  let length = acknowledged;
  while (length > 0 && c.reignAt(s, s[n + at.Top]!, length) > of) length--;
  if (s[n + at.Role] !== at.PRIMARY || s[n + at.Epoch] !== c.highestOfAll(s)) return;
  // Whoever waited for one replica is told so.
  const top = c.reignAt(s, s[n + at.Top]!, length);
  if (length > c.ghost(s, "ackLength") || top > c.ghost(s, "ackTop")) {
    c.setGhost(s, "ackTop", top);
    c.setGhost(s, "ackLength", length);
  }
}
