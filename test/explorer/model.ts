import { unreachable } from "../../shared/words.ts";
import { kindOf, nodeOf, otherOf, possibleActions } from "./actions.ts";
import { Cluster, members, sealed } from "./cluster.ts";
import { ship, takeCut } from "./cuts.ts";
import { asItRejoins } from "./decisions.ts";
import { forget, next } from "./going-on.ts";
import { check, excuse } from "./invariants.ts";
import * as at from "./layout.ts";
import { closeSessions, endSession, send } from "./messages.ts";
import { finish, rejoin, unseal } from "./reigns.ts";
import type { Rules } from "./rules.ts";
import { deliver, open } from "./sessions.ts";
import { takeStep } from "./switchover.ts";
import { describe, picture } from "./words.ts";

export interface Bounds {
  /** Crashes, power failures, links that break, hooks that fail. */
  readonly faults: number;
  /** What a person asks for. */
  readonly operations: number;
  /** Messages that are heard twice. */
  readonly doubles: number;
  readonly writes: number;
}

/** The cluster as a machine: which actions there are in a state, and what each of them makes of it. */
export class Model {
  readonly layout: at.Layout;
  readonly #bounds: Bounds;
  readonly #cluster: Cluster;

  constructor(nodes: number, rules: Rules, bounds: Bounds) {
    this.#cluster = new Cluster(nodes, rules);
    this.layout = this.#cluster.layout;
    this.#bounds = bounds;
  }

  /** A group that was born on the first node, and whose replicas have its first cut; nobody is connected. */
  initial(): Uint8Array {
    const c = this.#cluster;
    const s = new Uint8Array(c.layout.bytes);
    for (let node = 0; node < c.nodes; node++) {
      const n = c.layout.node(node);
      s[n + at.Role] = node === 0 ? at.PRIMARY : at.REPLICA;
      s[n + at.Epoch] = 1;
      s[n + at.Seen] = 1;
      s[n + at.Epochs] = 1;
      s[n + at.Epochs + 1] = 1;
      s[n + at.Length] = 1;
      s[n + at.Top] = 1;
      s[n + at.Flags] = at.UP | (node === 0 ? at.SERVICE : 0);
      s[n + at.Confirmed] = node === 0 ? 1 : 0;
      s[n + at.Followed] = node === 0 ? 0 : 1;
    }
    s[c.layout.reign(1)] = 1;
    const { faults, operations, doubles, writes } = this.#bounds;
    c.setGhost(s, "faults", faults);
    c.setGhost(s, "operations", operations);
    c.setGhost(s, "doubles", doubles);
    c.setGhost(s, "writes", writes);
    return s;
  }

  /** The codes of all actions of a state, into `into`; gives how many. */
  actions(s: Uint8Array, into: Int32Array): number {
    return possibleActions(this.#cluster, s, into);
  }

  /** Does it, in place. Gives why the new state must not be, "" when it may. */
  apply(s: Uint8Array, action: number): string {
    const c = this.#cluster;
    c.violation = "";
    const i = nodeOf(action);
    const j = otherOf(action);
    const n = c.layout.node(i);
    const kind = kindOf(action);
    switch (kind) {
      case "crash":
        c.spend(s, "faults");
        crash(c, s, i);
        break;
      case "power":
        c.spend(s, "faults");
        crash(c, s, i);
        s[n + at.Flags]! &= ~at.SERVICE;
        s[n + at.Confirmed] = 0;
        break;
      case "start":
        s[n + at.Flags]! |= at.UP;
        if (s[n + at.Role] === at.PRIMARY) takeStep(c, s, i, { kind: "restarted" });
        if (s[n + at.Role] === at.PROMOTING) unseal(c, s, i);
        break;
      case "open":
        open(c, s, i, j);
        break;
      case "deliver":
        deliver(c, s, i, j, true);
        break;
      case "double":
        c.spend(s, "doubles");
        deliver(c, s, i, j, false);
        break;
      case "notice":
        endSession(c, s, i, j);
        break;
      case "break":
        c.spend(s, "faults");
        endSession(c, s, i, j);
        break;
      case "write":
        c.spend(s, "writes");
        s[n + at.Flags]! |= at.DIRTY;
        break;
      case "cut":
        takeCut(c, s, i);
        break;
      case "ship":
        ship(c, s, i, j);
        break;
      case "confirm":
        for (const other of c.others(i)) {
          const known = s[c.layout.node(other) + at.Epoch]! > s[n + at.Epoch]!;
          if (known && c.end(s, i, other) === at.DOWN)
            c.fail(`${members[i]} calls its reign confirmed, and ${members[other]}, which reigns, was not asked`);
        }
        s[n + at.Confirmed] = s[n + at.Epoch]!;
        break;
      case "confirm alone":
        c.spend(s, "operations");
        c.setGhost(s, "accepted", 1);
        s[n + at.Confirmed] = s[n + at.Epoch]!;
        break;
      case "start service":
        serve(c, s, i);
        break;
      case "ask":
        s[n + at.Flags]! |= at.ASPIRING;
        for (const other of c.others(i)) {
          s[c.layout.session(i, other) + at.Answered] = 0;
          if (c.end(s, i, other) >= at.IDLE) send(c, s, i, other, at.PING, 0, 0);
        }
        break;
      case "give up":
        s[n + at.Flags]! &= ~at.ASPIRING;
        for (const other of c.others(i)) s[c.layout.session(i, other) + at.Answered] = 0;
        break;
      case "promote":
        c.spend(s, "operations");
        if (j > 0) c.setGhost(s, "accepted", 1);
        excuse(c, s, i);
        s[n + at.Flags]! &= ~at.ASPIRING;
        if (j === asItRejoins) s[n + at.Flags]! |= at.ACCEPTED;
        if (c.rules.drivers.promotionHears) s[n + at.Seen] = Math.max(s[n + at.Seen]!, c.highestHeard(s, i));
        s[n + at.Role] = at.PROMOTING;
        closeSessions(c, s, i);
        break;
      case "finish":
        finish(c, s, i);
        break;
      case "fail to finish":
        c.spend(s, "faults");
        unseal(c, s, i);
        break;
      case "abort promotion":
        c.spend(s, "operations");
        unseal(c, s, i);
        break;
      case "switchover":
        c.spend(s, "operations");
        takeStep(c, s, i, { kind: "asked", id: String(c.ghost(s, "operations")), to: members[j]! });
        break;
      case "stopped":
        s[n + at.Flags]! &= ~at.SERVICE;
        takeStep(c, s, i, { kind: "stopped" });
        break;
      case "agreed":
        takeStep(c, s, i, { kind: "agreed", ...sealed(s[n + at.Top]!, s[n + at.Length]!) });
        break;
      case "fail":
        c.spend(s, s[n + at.Step] === at.HANDING ? "operations" : "faults");
        takeStep(c, s, i, { kind: "failed", reason: "late" });
        break;
      case "started":
        serve(c, s, i);
        takeStep(c, s, i, { kind: "started" });
        break;
      case "abandon":
        c.spend(s, "operations");
        c.setGhost(s, "accepted", 1);
        takeStep(c, s, i, { kind: "abandoned" });
        break;
      case "on fenced":
        s[n + at.Flags]! &= ~at.SERVICE;
        break;
      case "rejoin":
        rejoin(c, s, i, j);
        break;
      default:
        unreachable(kind);
    }
    return c.violation === "" ? check(c, s) : c.violation;
  }

  /** The action that follows where everything is well from now on, `settled` or `stuck`. */
  next(s: Uint8Array): number {
    return next(this.#cluster, s);
  }

  /** Whether somebody can go on does not depend on what may still be tried, nor on what was promised. */
  forget(s: Uint8Array): void {
    forget(this.#cluster, s);
  }

  /** One line for one action, in the state before it. */
  describe(s: Uint8Array, action: number): string {
    return describe(this.#cluster, s, action);
  }

  /** What each node is, in a few words. */
  picture(s: Uint8Array): string {
    return picture(this.#cluster, s);
  }
}

function serve(c: Cluster, s: Uint8Array, i: number): void {
  const n = c.layout.node(i);
  const reign = s[n + at.Epoch]!;
  s[n + at.Flags]! |= at.SERVICE;
  if (s[c.layout.reign(reign)]! & at.OVER) c.fail(`${members[i]} serves in epoch ${reign}, which it knew to be over`);
  if (s[n + at.Confirmed] !== reign && c.highestOfAll(s) > reign)
    c.fail(`${members[i]} serves after its machine was off, and another one reigns`);
}

function crash(c: Cluster, s: Uint8Array, i: number): void {
  const n = c.layout.node(i);
  const { drivers } = c.rules;
  for (const j of c.others(i)) {
    endSession(c, s, i, j);
    s[c.layout.session(i, j) + at.Highest] = 0;
  }
  s[n + at.Flags]! &= ~(at.UP | at.HANDED | at.ASPIRING);
  if (s[n + at.Role] !== at.PRIMARY) s[n + at.Target] = 0;
  if (!drivers.fencedIsDurable && s[n + at.Role] === at.FENCED) s[n + at.Role] = at.PRIMARY;
  if (!drivers.recordIsDurable) c.setRecord(s, i, undefined);
}
