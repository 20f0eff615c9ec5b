import { type Cluster, members } from "./cluster.ts";
import * as at from "./layout.ts";

/** What must hold in every state: gives why it does not, "" when it does. */
export function check(c: Cluster, s: Uint8Array): string {
  let services = 0;
  let first: number | undefined;
  for (let i = 0; i < c.nodes; i++) {
    const n = c.layout.node(i);
    const role = s[n + at.Role]!;
    if (s[n + at.Flags]! & at.SERVICE) {
      services++;
      if (role === at.REPLICA || role === at.PROMOTING) return `the service runs on ${members[i]}, a replica`;
    }
    if (role !== at.PRIMARY) continue;
    for (let j = 0; j < i; j++) {
      const m = c.layout.node(j);
      if (s[m + at.Role] === at.PRIMARY && s[m + at.Epoch] === s[n + at.Epoch])
        return `${members[j]} and ${members[i]} are primary of epoch ${s[n + at.Epoch]}`;
    }
    if (first === undefined || s[c.layout.node(first) + at.Epoch]! < s[n + at.Epoch]!) first = i;
  }
  if (services > 1 && c.ghost(s, "accepted") === 0) return "two services run, and nobody has accepted that";
  const acknowledged = c.ghost(s, "ackLength");
  if (first === undefined || acknowledged === 0) return "";
  const n = c.layout.node(first);
  if (s[n + at.Epoch] !== c.highestOfAll(s)) return "";
  const top = c.ghost(s, "ackTop");
  return c.has(s, s[n + at.Top]!, s[n + at.Length]!, top, acknowledged)
    ? ""
    : `${members[first]} is primary without cut ${top}.${acknowledged}, which was acknowledged, and nobody has accepted that`;
}

/** Whoever promotes by hand has accepted that it is lost. */
export function excuse(c: Cluster, s: Uint8Array, i: number): void {
  const n = c.layout.node(i);
  const top = c.ghost(s, "ackTop");
  if (c.has(s, s[n + at.Top]!, s[n + at.Length]!, top, c.ghost(s, "ackLength"))) return;
  c.setGhost(s, "ackTop", 0);
  c.setGhost(s, "ackLength", 0);
}
