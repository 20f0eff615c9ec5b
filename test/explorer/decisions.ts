import { type Decision, features } from "../../shared/session/connect.ts";
import { confirmation, type ServiceState } from "../../shared/session/in-service.ts";
import type { Hello } from "../../shared/wire/messages.ts";
import { type Cluster, cutOf, members } from "./cluster.ts";
import * as at from "./layout.ts";

/** What an operator says beside a promotion: nothing but that he accepts the loss, or more. */
export const promotions = [[], ["unreachable"], ["unreachable", "live"], ["unreachable", "rejoining"]] as const;
export const asItRejoins = 3;

const groupId = "0".repeat(32);
const bootId = "b";

/** What `ours` makes of both hellos. */
export function decisionOf(c: Cluster, s: Uint8Array, ours: number, theirs: number): Decision {
  const [n, m] = [c.layout.node(ours), c.layout.node(theirs)];
  const there = c.reignAt(s, s[n + at.Top]!, s[m + at.Length]!);
  const bytes = at.Confirmed;
  const key = `${String.fromCharCode(ours, theirs, there, s[n + at.Followed]!, s[n + at.Step] === at.HANDING ? 1 : 0, s[m + at.Step] === at.HANDING ? 1 : 0)}${String.fromCharCode(...s.subarray(n, n + at.Flags))}${String.fromCharCode(...s.subarray(m, m + bytes))}${s[n + at.Flags]! & at.TOUCHED}`;
  let decision = c.decisions.get(key);
  if (decision === undefined) {
    const followed = s[n + at.Followed]! - 1;
    decision = c.rules.decide(hello(c, s, ours), hello(c, s, theirs), {
      digestAt: (which) => c.digest(s, ours, Number(which)),
      forgottenUpTo: 0n,
      followed: followed < 0 ? undefined : members[followed],
    });
    c.decisions.set(key, decision);
  }
  return decision;
}

function hello(c: Cluster, s: Uint8Array, i: number): Hello {
  const n = c.layout.node(i);
  const role = c.roleName(s, i);
  return {
    major: 1,
    minor: 0,
    features: [
      features.fork,
      ...(c.isTouched(s, i) ? [features.rejoining] : []),
      ...(takesCuts(c, s, i) && c.rules.drivers.onlySealedSaySo ? [] : [features.sealed]),
    ],
    software: "model",
    node: members[i]!,
    group: "app",
    groupId,
    role,
    ...c.history(s, i),
    epoch: BigInt(s[n + at.Epoch]!),
    epochSeen: BigInt(s[n + at.Seen]!),
    incarnation: role === "primary" ? "0123456789abcdef" : "",
    digest: c.digest(s, i, s[n + at.Length]!),
    stores: [],
    generation: 1n,
    lastObject: 1,
  };
}

export function serviceOf(c: Cluster, s: Uint8Array, i: number): ServiceState["kind"] {
  const n = c.layout.node(i);
  let key = s[n + at.Epoch]! | (s[n + at.Confirmed]! << 5) | (s[n + at.Step]! << 10) | (i << 13);
  if (s[n + at.Flags]! & at.HALTED) key |= 1 << 15;
  let shift = 2 ** 16;
  for (let j = 0; j < c.nodes; j++) {
    if (j === i) continue;
    key += (c.highest(s, i, j) ?? 31) * shift;
    shift *= 32;
  }
  let kind = c.services.get(key);
  if (kind === undefined) {
    kind = c.rules.serviceState({
      group: "app",
      role: "primary",
      epoch: BigInt(s[n + at.Epoch]!),
      switchover: c.record(s, i),
      halted: s[n + at.Flags]! & at.HALTED ? "a replica is newer" : "",
      confirmed: s[n + at.Confirmed] === 0 ? "" : confirmation(bootId, BigInt(s[n + at.Confirmed]!)),
      bootId,
      others: c.others(i).map((j) => {
        const highest = c.highest(s, i, j);
        return { node: members[j]!, highestEpoch: highest === undefined ? undefined : BigInt(highest) };
      }),
      engine: "none",
    }).kind;
    c.services.set(key, kind);
  }
  return kind;
}

export function isRefused(c: Cluster, s: Uint8Array, i: number, how: number, asked: boolean): boolean {
  const n = c.layout.node(i);
  let key = how | (i << 2) | (s[n + at.Flags]! & at.TOUCHED ? 16 : 0);
  let shift = 32;
  for (let j = 0; j < c.nodes; j++) {
    if (j === i) continue;
    key += roleSaid(c, s, i, j, asked) * shift;
    shift *= 8;
  }
  let refused = c.refused.get(key);
  if (refused === undefined) {
    const accepted: readonly string[] = promotions[how]!;
    refused =
      c.rules.promotionRefusals({
        role: "replica",
        committed: cutOf(s[n + at.Top]!, s[n + at.Length]!),
        suspect: "",
        halted: "",
        stores: [],
        paused: "",
        rejoining: (s[n + at.Flags]! & at.TOUCHED) !== 0,
        others: c.others(i).map((j) => {
          const says = roleSaid(c, s, i, j, asked);
          return { node: members[j]!, says: says === 0 ? undefined : at.roles[says]! };
        }),
        lossKnownEmpty: false,
        lossText: "",
        accept: {
          loss: true,
          lossFrom: undefined,
          suspect: false,
          consistency: false,
          paused: false,
          rejoining: accepted.includes("rejoining"),
          livePrimary: accepted.includes("live"),
          unreachablePrimary: accepted.includes("unreachable"),
        },
      }).length > 0;
    c.refused.set(key, refused);
  }
  return refused;
}

/** What the other one says that it is; 0 while it is not there to say so, or has not yet when it was asked. */
function roleSaid(c: Cluster, s: Uint8Array, i: number, j: number, asked: boolean): number {
  const session = c.layout.session(i, j);
  const says = s[session + at.End]! > at.GREETING ? s[session + at.Said]! : 0;
  if (!asked || !c.rules.drivers.promotionAsks || says === at.PRIMARY) return says;
  return s[session + at.Answered] === 1 ? says : 0;
}

export function takesCuts(c: Cluster, s: Uint8Array, i: number): boolean {
  return s[c.layout.node(i) + at.Step] === at.NO_STEP || c.rules.takesCuts(c.record(s, i));
}
