import { beyond, type Cluster } from "./cluster.ts";
import * as at from "./layout.ts";

/** What the dialer decides, as the answer to its hello carries it. */
export const kindCodes = [
  "ship",
  "follow",
  "idle",
  "refuse",
  "fenced",
  "replica-newer",
  "ahead",
  "fork",
  "demote",
] as const;
/** In an answer to a hello or with a cut: the one that rejoins is asked what it has otherwise. */
export const askedBit = 0x40;

/** It waits until it is heard; what the other end of a session would not hear any more is not sent. */
export function send(c: Cluster, s: Uint8Array, i: number, j: number, kind: number, a: number, b: number): void {
  if (c.end(s, j, i) === at.DOWN) return;
  const session = c.layout.session(i, j);
  const under = s[session + at.Under]!;
  const last = session + at.Queue + 3 * (under - 1);
  // Of acknowledgements only the last counts.
  if (kind === at.ACKNOWLEDGEMENT && under > 0 && s[last] === at.ACKNOWLEDGEMENT) {
    s[last + 1] = a;
    s[last + 2] = b;
    return;
  }
  if (under === at.queueMax) {
    c.fail(beyond);
    return;
  }
  s.set([kind, a, b], last + 3);
  s[session + at.Under] = under + 1;
}

export function closeSessions(c: Cluster, s: Uint8Array, i: number): void {
  if (!c.rules.drivers.roleEndsSessions) return;
  for (const j of c.others(i)) endSession(c, s, i, j);
}

/** This side's end goes; the other one hears of it later, and may hear before it what was sent. */
export function endSession(c: Cluster, s: Uint8Array, i: number, j: number): void {
  const session = c.layout.session(i, j);
  // What was never heard is not known.
  const highest = s[session + at.End] === at.GREETING ? 0 : s[session + at.Highest]!;
  const under = s[session + at.Under]!;
  for (let field = 0; field < at.Queue; field++) s[session + field] = 0;
  s[session + at.Under] = under;
  if (highest > s[c.layout.node(i) + at.Epoch]!) s[session + at.Highest] = highest;

  // What was on its way to it is lost with it.
  const incoming = c.layout.session(j, i);
  s.fill(0, incoming + at.Queue, incoming + at.sessionBytes);
  s[incoming + at.Under] = 0;
}
