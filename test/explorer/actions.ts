import type { Cluster } from "./cluster.ts";
import { asItRejoins, isRefused, promotions, serviceOf, takesCuts } from "./decisions.ts";
import * as at from "./layout.ts";

/** What may happen to the cluster; who and whom follow from the code of an action. */
const kinds = [
  "crash",
  "power",
  "start",
  "open",
  "deliver",
  "double",
  "notice",
  "break",
  "write",
  "cut",
  "ship",
  "confirm",
  "confirm alone",
  "start service",
  "ask",
  "give up",
  "promote",
  "finish",
  "fail to finish",
  "abort promotion",
  "switchover",
  "stopped",
  "agreed",
  "fail",
  "started",
  "abandon",
  "on fenced",
  "rejoin",
] as const;
export type Kind = (typeof kinds)[number];
const number = Object.fromEntries(kinds.map((kind, index) => [kind, index])) as Record<Kind, number>;
const kindShift = 6;

/** What an action is called in a state, a number. `other`: whom it concerns too, or what an operator says beside it. */
export function code(kind: Kind, node: number, other = 0): number {
  return (number[kind] << kindShift) | (node << 3) | other;
}

export function kindOf(action: number): Kind {
  return kinds[action >> kindShift]!;
}

export function nodeOf(action: number): number {
  return (action >> 3) & 7;
}

export function otherOf(action: number): number {
  return action & 7;
}

/** The codes of all actions of a state, into `into`; gives how many. */
export function possibleActions(c: Cluster, s: Uint8Array, into: Int32Array): number {
  let count = 0;
  const add = (kind: Kind, node: number, other = 0): void => {
    into[count++] = code(kind, node, other);
  };
  const faults = c.ghost(s, "faults") > 0;
  const asks = c.ghost(s, "operations") > 0;
  const doubles = c.ghost(s, "doubles") > 0;
  const writes = c.ghost(s, "writes") > 0;
  for (let i = 0; i < c.nodes; i++) {
    const n = c.layout.node(i);
    const flags = s[n + at.Flags]!;
    if (faults) add("power", i);
    if (flags & at.SERVICE && !(flags & at.DIRTY) && writes) add("write", i);
    if (!(flags & at.UP)) {
      add("start", i);
      continue;
    }
    if (faults) add("crash", i);
    if (flags & at.ASPIRING) add("give up", i);
    const role = s[n + at.Role]!;
    const step = s[n + at.Step]!;
    if (role === at.PRIMARY) {
      if (mayCut(c, s, i)) add("cut", i);
      const state = serviceOf(c, s, i);
      if (state === "confirmable") add("confirm", i);
      if (state === "in-service" && !(flags & at.SERVICE) && step !== at.ROLLING_BACK) add("start service", i);
      if (state === "out" && asks && (step === at.NO_STEP || step === at.ROLLING_BACK) && !(flags & at.SERVICE))
        add("confirm alone", i);
      if (step === at.STOPPING) add("stopped", i);
      if (step === at.CUTTING && hasAgreed(c, s, i)) add("agreed", i);
      if (step === at.ROLLING_BACK && state === "in-service") add("started", i);
      const goesOn = step === at.STOPPING || step === at.CUTTING;
      if ((goesOn && faults) || (step === at.HANDING && asks)) add("fail", i);
      if (step === at.HANDING && asks && c.end(s, i, c.target(s, i)) !== at.SHIPS) add("abandon", i);
    } else if (role === at.PROMOTING) {
      add("finish", i);
      if (faults) add("fail to finish", i);
      if (asks && !(flags & at.HANDED)) add("abort promotion", i);
    } else if (role === at.REPLICA && asks) {
      // Without a flag the others are asked first whether they still are what they said.
      if (flags & at.ASPIRING || !c.rules.drivers.promotionAsks) {
        if (!isRefused(c, s, i, 0, true)) add("promote", i, 0);
      } else if (!isRefused(c, s, i, 0, false)) add("ask", i);
      for (let how = 1; how < promotions.length; how++)
        if ((how !== asItRejoins || flags & at.TOUCHED) && !isRefused(c, s, i, how, false)) add("promote", i, how);
    } else if (role === at.FENCED && flags & at.SERVICE) add("on fenced", i);
    for (let j = 0; j < c.nodes; j++) {
      if (j === i) continue;
      const end = c.end(s, i, j);
      const there = c.end(s, j, i);
      if (end === at.DOWN) {
        if (i < j && s[c.layout.node(j) + at.Flags]! & at.UP) add("open", i, j);
        continue;
      }
      if (faults) add("break", i, j);
      if (there === at.DOWN) add("notice", i, j);
      if (s[c.layout.session(j, i) + at.Under]! > 0 && hears(c, s, i)) {
        add("deliver", j, i);
        if (doubles && s[c.layout.session(j, i) + at.Queue] !== at.WELCOME) add("double", j, i);
      }
      if (mayShip(c, s, i, j)) add("ship", i, j);
      if (role === at.PRIMARY && end === at.SHIPS && asks && step === at.NO_STEP && flags & at.SERVICE)
        add("switchover", i, j);
      if (end === at.FORKED && s[c.layout.node(j) + at.Role] === at.PRIMARY) add("rejoin", i, j);
    }
  }
  return count;
}

export function mayCut(c: Cluster, s: Uint8Array, i: number): boolean {
  const n = c.layout.node(i);
  const flags = s[n + at.Flags]!;
  return (flags & at.DIRTY) !== 0 && !(flags & at.HALTED) && takesCuts(c, s, i);
}

export function mayShip(c: Cluster, s: Uint8Array, i: number, j: number): boolean {
  const n = c.layout.node(i);
  const session = c.layout.session(i, j);
  return (
    s[n + at.Role] === at.PRIMARY &&
    s[session + at.End] === at.SHIPS &&
    s[session + at.Under] === 0 &&
    (s[session + at.Sent]! < s[n + at.Length]! || s[session + at.Asked] === 1) &&
    takesCuts(c, s, i)
  );
}

/** The last cut is durable at the target, with the same digest. */
export function hasAgreed(c: Cluster, s: Uint8Array, i: number): boolean {
  const n = c.layout.node(i);
  const session = c.layout.session(i, c.target(s, i));
  const { drivers } = c.rules;
  return (
    s[session + at.End] === at.SHIPS &&
    (s[session + at.Durable] === s[n + at.Length] || !drivers.sealsWhatIsThere) &&
    (!(s[n + at.Flags]! & at.DIRTY) || !drivers.sealsWhatIsCut) &&
    s[session + at.Asked] === 0
  );
}

function hears(c: Cluster, s: Uint8Array, i: number): boolean {
  return !(s[c.layout.node(i) + at.Flags]! & at.HANDED && c.rules.drivers.handoverIsExclusive);
}
