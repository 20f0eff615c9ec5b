import { type Decision, features } from "../../shared/session/connect.ts";
import type { CutHistory, EpochStart } from "../../shared/session/epochs.ts";
import { confirmation, type ServiceState } from "../../shared/session/in-service.ts";
import type { SourceAction, SourceEvent, SwitchoverRecord } from "../../shared/session/switchover.ts";
import type { Hello } from "../../shared/wire/messages.ts";
import { type CutId, epoch, type Role as RoleName, seq, unreachable } from "../../shared/words.ts";
import * as at from "./layout.ts";
import type { Rules } from "./rules.ts";

/** What may happen to the cluster; who and whom follow from the code of an action. */
export const kinds = [
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

/** What an operator says beside a promotion: nothing but that he accepts the loss, or more. */
const promotions = [[], ["unreachable"], ["unreachable", "live"], ["unreachable", "rejoining"]] as const;
const asItRejoins = 3;

export interface Bounds {
  /** Crashes, power failures, links that break, hooks that fail. */
  readonly faults: number;
  /** What a person asks for. */
  readonly operations: number;
  /** Messages that are heard twice. */
  readonly doubles: number;
  readonly writes: number;
}

/** A successor that has no room in a state: what lies beyond is not walked. */
export const beyond = "beyond what a state has room for";
export const settled = -1;
export const stuck = -2;

export const members = ["alpha", "bravo", "charlie"] as const;
const groupId = "0".repeat(32);
const bootId = "b";
const kindCodes = ["ship", "follow", "idle", "refuse", "fenced", "replica-newer", "ahead", "fork", "demote"] as const;
const askedBit = 0x40;

/** The cluster as a machine: which actions there are in a state, and what each of them makes of it. */
export class Model {
  readonly layout: at.Layout;
  readonly #rules: Rules;
  readonly #bounds: Bounds;
  readonly #nodes: number;
  readonly #all: readonly number[];
  readonly #otherNodes: readonly (readonly number[])[];
  readonly #pairs: readonly (readonly [number, number])[];
  /** Why the state that `apply` just made must not be; "" when it may. */
  #violation = "";
  readonly #decisions = new Map<string, Decision>();
  readonly #services = new Map<number, ServiceState["kind"]>();
  readonly #refused = new Map<number, boolean>();

  constructor(nodes: number, rules: Rules, bounds: Bounds) {
    this.layout = new at.Layout(nodes);
    this.#nodes = nodes;
    this.#rules = rules;
    this.#bounds = bounds;
    this.#all = Array.from({ length: nodes }, (_, index) => index);
    this.#otherNodes = this.#all.map((i) => this.#all.filter((j) => j !== i));
    this.#pairs = this.#all.flatMap((i) => this.#otherNodes[i]!.map((j) => [i, j] as const));
  }

  /** A group that was born on the first node, and whose replicas have its first cut; nobody is connected. */
  initial(): Uint8Array {
    const s = new Uint8Array(this.layout.bytes);
    for (let node = 0; node < this.#nodes; node++) {
      const n = this.layout.node(node);
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
    s[this.layout.reign(1)] = 1;
    const { faults, operations, doubles, writes } = this.#bounds;
    this.#setGhost(s, "faults", faults);
    this.#setGhost(s, "operations", operations);
    this.#setGhost(s, "doubles", doubles);
    this.#setGhost(s, "writes", writes);
    return s;
  }

  // --- which actions there are -------------------------------------------------------------------------------------

  /** The codes of all actions of a state, into `into`; gives how many. */
  actions(s: Uint8Array, into: Int32Array): number {
    let count = 0;
    const add = (kind: Kind, node: number, other = 0): void => {
      into[count++] = code(kind, node, other);
    };
    const faults = this.#ghost(s, "faults") > 0;
    const asks = this.#ghost(s, "operations") > 0;
    const doubles = this.#ghost(s, "doubles") > 0;
    const writes = this.#ghost(s, "writes") > 0;
    for (let i = 0; i < this.#nodes; i++) {
      const n = this.layout.node(i);
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
        if (this.#mayCut(s, i)) add("cut", i);
        const state = this.#service(s, i);
        if (state === "confirmable") add("confirm", i);
        if (state === "in-service" && !(flags & at.SERVICE) && step !== at.ROLLING_BACK) add("start service", i);
        if (state === "out" && asks && (step === at.NO_STEP || step === at.ROLLING_BACK) && !(flags & at.SERVICE))
          add("confirm alone", i);
        if (step === at.STOPPING) add("stopped", i);
        if (step === at.CUTTING && this.#agreed(s, i)) add("agreed", i);
        if (step === at.ROLLING_BACK && state === "in-service") add("started", i);
        const goesOn = step === at.STOPPING || step === at.CUTTING;
        if ((goesOn && faults) || (step === at.HANDING && asks)) add("fail", i);
        if (step === at.HANDING && asks && this.#end(s, i, this.#target(s, i)) !== at.SHIPS) add("abandon", i);
      } else if (role === at.PROMOTING) {
        add("finish", i);
        if (faults) add("fail to finish", i);
        if (asks && !(flags & at.HANDED)) add("abort promotion", i);
      } else if (role === at.REPLICA && asks) {
        // Without a flag the others are asked first whether they still are what they said.
        if (flags & at.ASPIRING || !this.#rules.drivers.promotionAsks) {
          if (!this.#isRefused(s, i, 0, true)) add("promote", i, 0);
        } else if (!this.#isRefused(s, i, 0, false)) add("ask", i);
        for (let how = 1; how < promotions.length; how++)
          if ((how !== asItRejoins || flags & at.TOUCHED) && !this.#isRefused(s, i, how, false)) add("promote", i, how);
      } else if (role === at.FENCED && flags & at.SERVICE) add("on fenced", i);
      for (let j = 0; j < this.#nodes; j++) {
        if (j === i) continue;
        const end = this.#end(s, i, j);
        const there = this.#end(s, j, i);
        if (end === at.DOWN) {
          if (i < j && s[this.layout.node(j) + at.Flags]! & at.UP) add("open", i, j);
          continue;
        }
        if (faults) add("break", i, j);
        if (there === at.DOWN) add("notice", i, j);
        if (s[this.layout.session(j, i) + at.Under]! > 0 && this.#hears(s, i)) {
          add("deliver", j, i);
          if (doubles && s[this.layout.session(j, i) + at.Queue] !== at.WELCOME) add("double", j, i);
        }
        if (this.#mayShip(s, i, j)) add("ship", i, j);
        if (role === at.PRIMARY && end === at.SHIPS && asks && step === at.NO_STEP && flags & at.SERVICE)
          add("switchover", i, j);
        if (end === at.FORKED && s[this.layout.node(j) + at.Role] === at.PRIMARY) add("rejoin", i, j);
      }
    }
    return count;
  }

  #mayCut(s: Uint8Array, i: number): boolean {
    const n = this.layout.node(i);
    const flags = s[n + at.Flags]!;
    return (flags & at.DIRTY) !== 0 && !(flags & at.HALTED) && this.#takesCuts(s, i);
  }

  #takesCuts(s: Uint8Array, i: number): boolean {
    return s[this.layout.node(i) + at.Step] === at.NO_STEP || this.#rules.takesCuts(this.#record(s, i));
  }

  #mayShip(s: Uint8Array, i: number, j: number): boolean {
    const n = this.layout.node(i);
    const session = this.layout.session(i, j);
    return (
      s[n + at.Role] === at.PRIMARY &&
      s[session + at.End] === at.SHIPS &&
      s[session + at.Under] === 0 &&
      (s[session + at.Sent]! < s[n + at.Length]! || s[session + at.Asked] === 1) &&
      this.#takesCuts(s, i)
    );
  }

  /** The last cut is durable at the target, with the same digest. */
  #agreed(s: Uint8Array, i: number): boolean {
    const n = this.layout.node(i);
    const session = this.layout.session(i, this.#target(s, i));
    const { drivers } = this.#rules;
    return (
      s[session + at.End] === at.SHIPS &&
      (s[session + at.Durable] === s[n + at.Length] || !drivers.sealsWhatIsThere) &&
      (!(s[n + at.Flags]! & at.DIRTY) || !drivers.sealsWhatIsCut) &&
      s[session + at.Asked] === 0
    );
  }

  #hears(s: Uint8Array, i: number): boolean {
    return !(s[this.layout.node(i) + at.Flags]! & at.HANDED && this.#rules.drivers.handoverIsExclusive);
  }

  #service(s: Uint8Array, i: number): ServiceState["kind"] {
    const n = this.layout.node(i);
    let key = s[n + at.Epoch]! | (s[n + at.Confirmed]! << 5) | (s[n + at.Step]! << 10) | (i << 13);
    if (s[n + at.Flags]! & at.HALTED) key |= 1 << 15;
    let shift = 2 ** 16;
    for (let j = 0; j < this.#nodes; j++) {
      if (j === i) continue;
      key += (this.#highest(s, i, j) ?? 31) * shift;
      shift *= 32;
    }
    let kind = this.#services.get(key);
    if (kind === undefined) {
      kind = this.#rules.serviceState({
        group: "app",
        role: "primary",
        epoch: BigInt(s[n + at.Epoch]!),
        switchover: this.#record(s, i),
        halted: s[n + at.Flags]! & at.HALTED ? "a replica is newer" : "",
        confirmed: s[n + at.Confirmed] === 0 ? "" : confirmation(bootId, BigInt(s[n + at.Confirmed]!)),
        bootId,
        others: this.#others(i).map((j) => {
          const highest = this.#highest(s, i, j);
          return { node: members[j]!, highestEpoch: highest === undefined ? undefined : BigInt(highest) };
        }),
        engine: "none",
      }).kind;
      this.#services.set(key, kind);
    }
    return kind;
  }

  /** What the other one has said of the highest epoch that it knows; undefined while it is not there to say so. */
  #highest(s: Uint8Array, i: number, j: number): number | undefined {
    const session = this.layout.session(i, j);
    const said = s[session + at.Highest]!;
    if (s[session + at.End]! > at.GREETING) return said;
    return s[session + at.End] === at.DOWN && said > s[this.layout.node(i) + at.Epoch]! ? said : undefined;
  }

  #isRefused(s: Uint8Array, i: number, how: number, asked: boolean): boolean {
    const n = this.layout.node(i);
    let key = how | (i << 2) | (s[n + at.Flags]! & at.TOUCHED ? 16 : 0);
    let shift = 32;
    for (let j = 0; j < this.#nodes; j++) {
      if (j === i) continue;
      key += this.#says(s, i, j, asked) * shift;
      shift *= 8;
    }
    let refused = this.#refused.get(key);
    if (refused === undefined) {
      const accepted: readonly string[] = promotions[how]!;
      refused =
        this.#rules.promotionRefusals({
          role: "replica",
          committed: this.#cut(s[n + at.Top]!, s[n + at.Length]!),
          suspect: "",
          halted: "",
          stores: [],
          paused: "",
          rejoining: (s[n + at.Flags]! & at.TOUCHED) !== 0,
          others: this.#others(i).map((j) => {
            const says = this.#says(s, i, j, asked);
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
      this.#refused.set(key, refused);
    }
    return refused;
  }

  #says(s: Uint8Array, i: number, j: number, asked: boolean): number {
    const session = this.layout.session(i, j);
    const says = s[session + at.End]! > at.GREETING ? s[session + at.Said]! : 0;
    if (!asked || !this.#rules.drivers.promotionAsks || says === at.PRIMARY) return says;
    return s[session + at.Answered] === 1 ? says : 0;
  }

  // --- what they do ------------------------------------------------------------------------------------------------

  /** Does it, in place. Gives why the new state must not be, "" when it may. */
  apply(s: Uint8Array, action: number): string {
    this.#violation = "";
    const i = (action >> 3) & 7;
    const j = action & 7;
    const n = this.layout.node(i);
    const kind = kinds[action >> kindShift]!;
    switch (kind) {
      case "crash":
        this.#spend(s, "faults");
        this.#crash(s, i);
        break;
      case "power":
        this.#spend(s, "faults");
        this.#crash(s, i);
        s[n + at.Flags]! &= ~at.SERVICE;
        s[n + at.Confirmed] = 0;
        break;
      case "start":
        s[n + at.Flags]! |= at.UP;
        if (s[n + at.Role] === at.PRIMARY) this.#event(s, i, { kind: "restarted" });
        if (s[n + at.Role] === at.PROMOTING) this.#unseal(s, i);
        break;
      case "open":
        this.#open(s, i, j);
        break;
      case "deliver":
        this.#deliver(s, i, j, true);
        break;
      case "double":
        this.#spend(s, "doubles");
        this.#deliver(s, i, j, false);
        break;
      case "notice":
        this.#endSession(s, i, j);
        break;
      case "break":
        this.#spend(s, "faults");
        this.#endSession(s, i, j);
        break;
      case "write":
        this.#spend(s, "writes");
        s[n + at.Flags]! |= at.DIRTY;
        break;
      case "cut":
        this.#takeCut(s, i);
        break;
      case "ship":
        this.#ship(s, i, j);
        break;
      case "confirm":
        for (const other of this.#others(i)) {
          const known = s[this.layout.node(other) + at.Epoch]! > s[n + at.Epoch]!;
          if (known && this.#end(s, i, other) === at.DOWN)
            this.#fail(`${members[i]} calls its reign confirmed, and ${members[other]}, which reigns, was not asked`);
        }
        s[n + at.Confirmed] = s[n + at.Epoch]!;
        break;
      case "confirm alone":
        this.#spend(s, "operations");
        this.#setGhost(s, "accepted", 1);
        s[n + at.Confirmed] = s[n + at.Epoch]!;
        break;
      case "start service":
        this.#serve(s, i);
        break;
      case "ask":
        s[n + at.Flags]! |= at.ASPIRING;
        for (const other of this.#others(i)) {
          s[this.layout.session(i, other) + at.Answered] = 0;
          if (this.#end(s, i, other) >= at.IDLE) this.#send(s, i, other, at.PING, 0, 0);
        }
        break;
      case "give up":
        s[n + at.Flags]! &= ~at.ASPIRING;
        for (const other of this.#others(i)) s[this.layout.session(i, other) + at.Answered] = 0;
        break;
      case "promote":
        this.#spend(s, "operations");
        if ((action & 7) > 0) this.#setGhost(s, "accepted", 1);
        this.#excuse(s, i);
        s[n + at.Flags]! &= ~at.ASPIRING;
        if ((action & 7) === asItRejoins) s[n + at.Flags]! |= at.ACCEPTED;
        if (this.#rules.drivers.promotionHears) s[n + at.Seen] = Math.max(s[n + at.Seen]!, this.#heard(s, i));
        s[n + at.Role] = at.PROMOTING;
        this.#closeSessions(s, i);
        break;
      case "finish":
        this.#finish(s, i);
        break;
      case "fail to finish":
        this.#spend(s, "faults");
        this.#unseal(s, i);
        break;
      case "abort promotion":
        this.#spend(s, "operations");
        this.#unseal(s, i);
        break;
      case "switchover":
        this.#spend(s, "operations");
        this.#event(s, i, { kind: "asked", id: String(this.#ghost(s, "operations")), to: members[j]! });
        break;
      case "stopped":
        s[n + at.Flags]! &= ~at.SERVICE;
        this.#event(s, i, { kind: "stopped" });
        break;
      case "agreed":
        this.#event(s, i, { kind: "agreed", ...this.#sealed(s[n + at.Top]!, s[n + at.Length]!) });
        break;
      case "fail":
        this.#spend(s, s[n + at.Step] === at.HANDING ? "operations" : "faults");
        this.#event(s, i, { kind: "failed", reason: "late" });
        break;
      case "started":
        this.#serve(s, i);
        this.#event(s, i, { kind: "started" });
        break;
      case "abandon":
        this.#spend(s, "operations");
        this.#setGhost(s, "accepted", 1);
        this.#event(s, i, { kind: "abandoned" });
        break;
      case "on fenced":
        s[n + at.Flags]! &= ~at.SERVICE;
        break;
      case "rejoin":
        this.#rejoin(s, i, j);
        break;
      default:
        unreachable(kind);
    }
    return this.#violation === "" ? this.#check(s) : this.#violation;
  }

  #serve(s: Uint8Array, i: number): void {
    const n = this.layout.node(i);
    const reign = s[n + at.Epoch]!;
    s[n + at.Flags]! |= at.SERVICE;
    if (s[this.layout.reign(reign)]! & at.OVER)
      this.#fail(`${members[i]} serves in epoch ${reign}, which it knew to be over`);
    if (s[n + at.Confirmed] !== reign && this.#highestOfAll(s) > reign)
      this.#fail(`${members[i]} serves after its machine was off, and another one reigns`);
  }

  #fail(violation: string): void {
    if (this.#violation === "") this.#violation = violation;
  }

  #crash(s: Uint8Array, i: number): void {
    const n = this.layout.node(i);
    const { drivers } = this.#rules;
    for (const j of this.#others(i)) {
      this.#endSession(s, i, j);
      s[this.layout.session(i, j) + at.Highest] = 0;
    }
    s[n + at.Flags]! &= ~(at.UP | at.HANDED | at.ASPIRING);
    if (s[n + at.Role] !== at.PRIMARY) s[n + at.Target] = 0;
    if (!drivers.fencedIsDurable && s[n + at.Role] === at.FENCED) s[n + at.Role] = at.PRIMARY;
    if (!drivers.recordIsDurable) this.#setRecord(s, i, undefined);
  }

  // --- sessions ----------------------------------------------------------------------------------------------------

  /** One dials; the other acts on both hellos and answers; the dialer acts when it hears the answer. */
  #open(s: Uint8Array, i: number, j: number): void {
    if (this.#end(s, j, i) !== at.DOWN) this.#endSession(s, j, i);
    const dialer = this.layout.session(i, j);
    const listener = this.layout.session(j, i);
    const there = this.#decision(s, j, i);
    const here = this.#decision(s, i, j);
    s[dialer + at.End] = at.GREETING;
    this.#introduce(s, i, j);
    this.#introduce(s, j, i);
    const { primaryAsks } = this.#rules.drivers;
    const asks = this.#isTouched(s, j) && primaryAsks ? askedBit : 0;
    const [kind, value] = this.#encoded(s, here, j);
    this.#send(s, j, i, at.WELCOME, kind | asks, value);
    s[listener + at.End] = at.IDLE;
    s[listener + at.Asked] = this.#isTouched(s, i) && primaryAsks ? 1 : 0;
    this.#act(s, j, i, ...this.#encoded(s, there, i));
  }

  #introduce(s: Uint8Array, to: number, whom: number): void {
    const n = this.layout.node(whom);
    const session = this.layout.session(to, whom);
    s[session + at.Said] = s[n + at.Role]!;
    s[session + at.Sent] = s[this.layout.node(to) + at.Length]!;
    // What it once knew is known, also when it has forgotten it.
    s[session + at.Highest] = Math.max(s[session + at.Highest]!, s[n + at.Epoch]!, s[n + at.Seen]!);
  }

  #encoded(s: Uint8Array, decision: Decision, other: number): readonly [number, number] {
    const kind = kindCodes.indexOf(decision.kind);
    switch (decision.kind) {
      case "ship":
        return [kind, Number(decision.base.seq)];
      case "follow":
        return [kind, s[this.layout.node(other) + at.Epoch]!];
      case "fenced":
        return [kind, Number(decision.by)];
      case "demote":
        return [kind, Math.max(s[this.layout.node(other) + at.Epoch]!, s[this.layout.node(other) + at.Seen]!)];
      default:
        return [kind, 0];
    }
  }

  #act(s: Uint8Array, i: number, j: number, kind: number, value: number): void {
    const n = this.layout.node(i);
    const session = this.layout.session(i, j);
    const decided = kindCodes[kind]!;
    switch (decided) {
      case "ship":
        s[session + at.End] = at.SHIPS;
        s[session + at.Sent] = value;
        s[session + at.Durable] = value;
        if (s[n + at.Step] === at.HANDING && this.#target(s, i) === j)
          this.#event(s, i, { kind: "connected", late: false });
        return;
      case "follow":
        this.#follow(s, i, j, value);
        return;
      case "idle":
      case "ahead":
        s[session + at.End] = at.IDLE;
        return;
      case "refuse":
        this.#endSession(s, i, j);
        return;
      case "fenced":
        this.#fence(s, i, value);
        return;
      case "replica-newer":
        s[n + at.Flags]! |= at.HALTED;
        this.#endSession(s, i, j);
        return;
      case "fork":
        s[session + at.End] = at.FORKED;
        return;
      case "demote":
        this.#handedOver(s, i, value);
        return;
      default:
        unreachable(decided);
    }
  }

  #fence(s: Uint8Array, i: number, by: number): void {
    const n = this.layout.node(i);
    if (by <= s[n + at.Epoch]!) return;
    s[this.layout.reign(s[n + at.Epoch]!)]! |= at.OVER;
    s[n + at.Seen] = by;
    this.#setRecord(s, i, undefined);
    s[n + at.Role] = at.FENCED;
    this.#closeSessions(s, i);
  }

  /** It said that it was sealed: since then it may have gone back. */
  #handedOver(s: Uint8Array, i: number, by: number): void {
    const n = this.layout.node(i);
    const common = this.#cut(s[n + at.Top]!, s[n + at.Length]!);
    const { actions } =
      s[n + at.Role] === at.FENCED || !this.#rules.drivers.demotionLooksAgain
        ? { actions: ["demote"] }
        : this.#rules.sourceStep(this.#record(s, i), { kind: "superseded", common });
    if (!actions.includes("demote")) {
      this.#fence(s, i, by);
      return;
    }
    if (s[n + at.Flags]! & at.DIRTY) this.#fail("what was written after the seal is given up");
    this.#becomeReplica(s, i);
  }

  #follow(s: Uint8Array, i: number, j: number, reign: number): void {
    const n = this.layout.node(i);
    const session = this.layout.session(i, j);
    const there = this.#epochs(s, j).filter((start) => start.epoch <= BigInt(reign));
    // It is no primary of that reign any more, and has given it up: what it would send never comes.
    if (there.at(-1)?.epoch !== BigInt(reign) || reign < s[n + at.Epoch]!) {
      this.#endSession(s, i, j);
      return;
    }
    if (reign > s[n + at.Epoch]!) {
      // What it has must be what it said: else another primary sent it a cut meanwhile, no part of this reign's past.
      if (this.#rules.drivers.hellosHold && s[session + at.Sent] !== s[n + at.Length]) {
        this.#endSession(s, i, j);
        return;
      }
      s[n + at.Epoch] = reign;
      s[n + at.Seen] = Math.max(s[n + at.Seen]!, reign);
      this.#setEpochs(s, i, there);
    }
    for (const other of this.#others(i)) if (this.#end(s, i, other) === at.FOLLOWS) this.#endSession(s, i, other);
    s[n + at.Followed] = j + 1;
    s[session + at.End] = at.FOLLOWS;
    s[session + at.Sent] = 0;
    this.#acknowledge(s, i, j);
  }

  #acknowledge(s: Uint8Array, i: number, j: number): void {
    const n = this.layout.node(i);
    this.#send(s, i, j, at.ACKNOWLEDGEMENT, s[n + at.Length]!, s[n + at.Top]!);
  }

  #closeSessions(s: Uint8Array, i: number): void {
    if (!this.#rules.drivers.roleEndsSessions) return;
    for (const j of this.#others(i)) this.#endSession(s, i, j);
  }

  /** This side's end goes; the other one hears of it later, and may hear before it what was sent. */
  #endSession(s: Uint8Array, i: number, j: number): void {
    const session = this.layout.session(i, j);
    // What was never heard is not known.
    const highest = s[session + at.End] === at.GREETING ? 0 : s[session + at.Highest]!;
    const under = s[session + at.Under]!;
    for (let field = 0; field < at.Queue; field++) s[session + field] = 0;
    s[session + at.Under] = under;
    if (highest > s[this.layout.node(i) + at.Epoch]!) s[session + at.Highest] = highest;

    // What was on its way to it is lost with it.
    const incoming = this.layout.session(j, i);
    s.fill(0, incoming + at.Queue, incoming + at.sessionBytes);
    s[incoming + at.Under] = 0;
  }

  #send(s: Uint8Array, i: number, j: number, kind: number, a: number, b: number): void {
    if (this.#end(s, j, i) === at.DOWN) return;
    const session = this.layout.session(i, j);
    const under = s[session + at.Under]!;
    const last = session + at.Queue + 3 * (under - 1);
    // Of acknowledgements only the last counts.
    if (kind === at.ACKNOWLEDGEMENT && under > 0 && s[last] === at.ACKNOWLEDGEMENT) {
      s[last + 1] = a;
      s[last + 2] = b;
      return;
    }
    if (under === at.queueMax) {
      this.#fail(beyond);
      return;
    }
    s.set([kind, a, b], last + 3);
    s[session + at.Under] = under + 1;
  }

  #deliver(s: Uint8Array, i: number, j: number, once: boolean): void {
    const session = this.layout.session(i, j);
    const queue = session + at.Queue;
    const [kind, a, b] = [s[queue]!, s[queue + 1]!, s[queue + 2]!];
    if (once) {
      s.copyWithin(queue, queue + 3, session + at.sessionBytes);
      s.fill(0, session + at.sessionBytes - 3, session + at.sessionBytes);
      s[session + at.Under]!--;
    }
    const end = this.#end(s, j, i);
    switch (kind) {
      case at.WELCOME:
        if (end !== at.GREETING) return;
        s[this.layout.session(j, i) + at.End] = at.IDLE;
        s[this.layout.session(j, i) + at.Asked] = a & askedBit ? 1 : 0;
        this.#act(s, j, i, a & ~askedBit, b);
        return;
      case at.CUT:
        if (end === at.FOLLOWS) this.#commit(s, j, i, a & ~askedBit, (a & askedBit) !== 0, b);
        return;
      case at.ACKNOWLEDGEMENT:
        if (end === at.SHIPS) this.#acknowledged(s, j, i, a, b);
        return;
      case at.HANDOVER:
        if (end === at.FOLLOWS) this.#handed(s, j, i, a, b & 15, b >> 4);
        return;
      case at.REVOKE: {
        if (end !== at.FOLLOWS) return;
        const { accepted } = this.#rules.revocationAnswer({ role: this.#roleName(s, j) });
        this.#send(s, j, i, at.ANSWER, a, accepted ? 1 : 0);
        return;
      }
      case at.PING:
        // Whoever wants to be promoted itself keeps silent; what changed its role has ended its sessions.
        if (end >= at.IDLE && !(s[this.layout.node(j) + at.Flags]! & at.ASPIRING)) this.#send(s, j, i, at.PONG, 0, 0);
        return;
      case at.PONG:
        if (end >= at.IDLE && s[this.layout.node(j) + at.Flags]! & at.ASPIRING)
          s[this.layout.session(j, i) + at.Answered] = 1;
        return;
      case at.ANSWER:
        if (end === at.SHIPS)
          this.#event(s, j, { kind: "answered", id: String(a), accepted: b === 1, reason: "answered" });
        return;
    }
  }

  // --- cuts --------------------------------------------------------------------------------------------------------

  #takeCut(s: Uint8Array, i: number): void {
    const n = this.layout.node(i);
    const reign = s[n + at.Epoch]!;
    if (this.#owner(s, reign) !== i) this.#fail(`${members[i]} takes a cut of epoch ${reign}, another's reign`);
    s[n + at.Length]!++;
    s[n + at.Top] = reign;
    s[n + at.Flags]! &= ~at.DIRTY;
  }

  #ship(s: Uint8Array, i: number, j: number): void {
    const session = this.layout.session(i, j);
    const length = s[this.layout.node(i) + at.Length]!;
    this.#send(s, i, j, at.CUT, length | (s[session + at.Asked] === 1 ? askedBit : 0), s[session + at.Sent]!);
    s[session + at.Sent] = length;
    s[session + at.Asked] = 0;
  }

  #commit(s: Uint8Array, i: number, j: number, length: number, asked: boolean, base: number): void {
    const n = this.layout.node(i);
    if (s[n + at.Role] !== at.REPLICA) return;
    if (base !== s[n + at.Length]) {
      this.#endSession(s, i, j);
      return;
    }
    const reign = s[n + at.Epoch]!;
    if (this.#owner(s, reign) !== j)
      this.#fail(`${members[i]} takes a cut of ${members[j]} in epoch ${reign}, another's reign`);
    const top = this.#reignAt(s, reign, length);
    if (!this.#has(s, reign, length, s[n + at.Top]!, s[n + at.Length]!))
      this.#fail(`${members[i]} goes on from what ${members[j]} never had: it diverges and nobody knows`);
    if (this.#isTouched(s, i) && !asked) this.#fail(`${members[i]} calls cut ${top}.${length} what is none`);
    s[n + at.Flags]! &= ~at.TOUCHED;
    s[n + at.Length] = length;
    s[n + at.Top] = top;
    this.#acknowledge(s, i, j);
  }

  #acknowledged(s: Uint8Array, i: number, j: number, acknowledged: number, of: number): void {
    const session = this.layout.session(i, j);
    const n = this.layout.node(i);
    // What was never sent is not believed.
    if (of > s[n + at.Top]! || acknowledged > s[n + at.Length]! || acknowledged < s[session + at.Durable]!) {
      this.#endSession(s, i, j);
      return;
    }
    s[session + at.Durable] = acknowledged;
    // Cuts are compared by reign, then by number.
    let length = acknowledged;
    while (length > 0 && this.#reignAt(s, s[n + at.Top]!, length) > of) length--;
    if (s[n + at.Role] !== at.PRIMARY || s[n + at.Epoch] !== this.#highestOfAll(s)) return;
    // Whoever waited for one replica is told so.
    const top = this.#reignAt(s, s[n + at.Top]!, length);
    if (length > this.#ghost(s, "ackLength") || top > this.#ghost(s, "ackTop")) {
      this.#setGhost(s, "ackTop", top);
      this.#setGhost(s, "ackLength", length);
    }
  }

  // --- switchover --------------------------------------------------------------------------------------------------

  #event(s: Uint8Array, i: number, event: SourceEvent): void {
    const before = this.#record(s, i);
    const { record, actions } = this.#rules.sourceStep(before, event);
    if (actions.includes("new-epoch")) this.#abandon(s, i);
    this.#setRecord(s, i, record);
    for (const action of actions) this.#perform(s, i, action);
  }

  #perform(s: Uint8Array, i: number, action: SourceAction): void {
    const n = this.layout.node(i);
    const record = this.#record(s, i);
    if (record === undefined) return;
    const to = this.#target(s, i);
    if (this.#end(s, i, to) !== at.SHIPS) return;
    if (action === "send-handover")
      this.#send(s, i, to, at.HANDOVER, s[n + at.SealTop]!, s[n + at.SealLength]! | (Number(record.id) << 4));
    if (action === "send-revoke") this.#send(s, i, to, at.REVOKE, Number(record.id), 0);
  }

  /** An epoch that is above the one that the target would have taken. */
  #abandon(s: Uint8Array, i: number): void {
    const n = this.layout.node(i);
    const highest = BigInt(Math.max(s[n + at.Epoch]!, s[n + at.Seen]!));
    s[n + at.Seen] = Number(this.#rules.nextEpoch(highest, this.#target(s, i), this.#nodes));
    this.#begin(s, i, 0);
    this.#excuse(s, i);
    this.#closeSessions(s, i);
  }

  #handed(s: Uint8Array, i: number, j: number, top: number, length: number, id: number): void {
    const n = this.layout.node(i);
    const refusal = this.#rules.handoverRefusal(
      {
        role: this.#roleName(s, i),
        committed: this.#cut(s[n + at.Top]!, s[n + at.Length]!),
        applied: BigInt(s[n + at.Length]!),
        digest: this.#digest(s, i, s[n + at.Length]!),
        suspect: "",
        halted: "",
        barred: this.#isTouched(s, i) ? "this node rejoins" : "",
      },
      { id: String(id), ...this.#sealed(top, length) },
    );
    if (refusal !== "") {
      this.#send(s, i, j, at.ANSWER, id, 0);
      return;
    }
    if (!this.#has(s, s[n + at.Top]!, s[n + at.Length]!, top, length))
      this.#fail(`${members[i]} takes over without cut ${top}.${length}, which it was handed`);
    s[n + at.Role] = at.PROMOTING;
    s[n + at.Flags]! |= at.HANDED;
    s[n + at.Target] = (j + 1) | (id << 4);
  }

  // --- reigns ------------------------------------------------------------------------------------------------------

  #finish(s: Uint8Array, i: number): void {
    const n = this.layout.node(i);
    const handed = (s[n + at.Flags]! & at.HANDED) !== 0;
    const handedOver = s[n + at.Epoch]!;
    const touched = this.#isTouched(s, i);
    if (touched && !(s[n + at.Flags]! & at.ACCEPTED)) this.#fail(`${members[i]} is promoted with what is no cut`);
    const heard = this.#heard(s, i);
    this.#begin(s, i, handed || !this.#rules.drivers.promotionHears ? 0 : heard);
    if (touched && this.#rules.drivers.acceptedIsCut) this.#takeCut(s, i);
    if (touched && s[n + at.Top] !== s[n + at.Epoch])
      this.#fail(`${members[i]} calls cut ${s[n + at.Top]}.${s[n + at.Length]} what is none`);
    s[n + at.Flags]! &= ~(at.TOUCHED | at.ACCEPTED);
    if (!handed && heard > s[n + at.Epoch]!)
      this.#fail(`${members[i]} begins a reign that is over: another node spoke of epoch ${heard}`);
    // Whoever promoted beside a primary that he did not hear has accepted what that one may have handed over already.
    if (this.#ghost(s, "accepted") === 1 && (!handed || this.#ghost(s, "ackTop") > handedOver)) this.#excuse(s, i);
    if (handed) this.#answer(s, i, true);
    s[n + at.Role] = at.PRIMARY;
    s[n + at.Followed] = 0;
    this.#closeSessions(s, i);
  }

  #unseal(s: Uint8Array, i: number): void {
    const n = this.layout.node(i);
    s[n + at.Role] = at.REPLICA;
    s[n + at.Flags]! &= ~at.ACCEPTED;
    if (s[n + at.Flags]! & at.HANDED) this.#answer(s, i, false);
    this.#closeSessions(s, i);
  }

  #answer(s: Uint8Array, i: number, accepted: boolean): void {
    const n = this.layout.node(i);
    const from = this.#target(s, i);
    if (this.#end(s, i, from) !== at.DOWN) this.#send(s, i, from, at.ANSWER, s[n + at.Target]! >> 4, accepted ? 1 : 0);
    s[n + at.Target] = 0;
    s[n + at.Flags]! &= ~at.HANDED;
  }

  /** The highest epoch that another node spoke of. */
  #heard(s: Uint8Array, i: number): number {
    return Math.max(...this.#others(i).map((other) => this.#highest(s, i, other) ?? 0));
  }

  #begin(s: Uint8Array, i: number, heard: number): void {
    const n = this.layout.node(i);
    const reign = this.#rules.newReign(
      {
        ...this.#history(s, i),
        epoch: epoch(s[n + at.Epoch]!),
        epochSeen: epoch(s[n + at.Seen]!),
        nextObject: 1,
      },
      { member: i, members: this.#nodes, heard: BigInt(heard) },
    );
    const begun = Number(reign.epoch);
    if (begun >= at.reignsMax) {
      this.#fail(beyond);
      return;
    }
    const known = this.layout.reign(begun);
    if (s[known] !== 0)
      this.#fail(`epoch ${begun} is begun by ${members[i]}, and was by ${members[this.#owner(s, begun)]}`);
    s.set([i + 1, s[n + at.Top]!, s[n + at.Length]!], known);
    s[n + at.Epoch] = begun;
    s[n + at.Seen] = Number(reign.epochSeen);
    s[n + at.Confirmed] = begun;
    this.#setEpochs(s, i, reign.epochs);
  }

  #becomeReplica(s: Uint8Array, i: number): void {
    const n = this.layout.node(i);
    s[n + at.Role] = at.REPLICA;
    s[n + at.Flags]! &= ~at.HALTED;
    s[n + at.Confirmed] = 0;
    this.#setRecord(s, i, undefined);
    this.#closeSessions(s, i);
  }

  /** One durable step after the other: the service stands still, a last cut, the fork is kept, then it is given up. */
  #rejoin(s: Uint8Array, i: number, j: number): void {
    const n = this.layout.node(i);
    const { drivers } = this.#rules;
    if (s[n + at.Flags]! & at.SERVICE && drivers.rejoinStopsService) {
      s[n + at.Flags]! &= ~at.SERVICE;
      return;
    }
    if (s[n + at.Flags]! & at.DIRTY && s[n + at.Role] === at.FENCED && drivers.forkIsCut) {
      this.#takeCut(s, i);
      return;
    }
    const decision = this.#decision(s, i, j);
    if (decision.kind !== "fork" || decision.common === undefined) {
      this.#endSession(s, i, j);
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
    if (beyondCommon && !kept) this.#fail(`${members[i]} gives up what is in no fork`);
    if (s[n + at.Flags]! & at.DIRTY) this.#fail(`${members[i]} gives up what was written after its last cut`);
    for (const node of [i, j]) {
      const m = this.layout.node(node);
      if (!this.#has(s, s[m + at.Top]!, s[m + at.Length]!, top, common))
        this.#fail(`${members[i]} goes back to cut ${top}.${common}, which ${members[node]} has not`);
    }
    if (beyondCommon) s[n + at.Flags]! |= at.TOUCHED;
    if (beyondCommon) {
      this.#setEpochs(
        s,
        i,
        this.#epochs(s, i).filter(({ firstSeq }) => firstSeq <= BigInt(common)),
      );
    }
    s[n + at.Length] = common;
    s[n + at.Top] = top;
    this.#becomeReplica(s, i);
  }

  // --- what must hold ----------------------------------------------------------------------------------------------

  #check(s: Uint8Array): string {
    let services = 0;
    let first: number | undefined;
    for (let i = 0; i < this.#nodes; i++) {
      const n = this.layout.node(i);
      const role = s[n + at.Role]!;
      if (s[n + at.Flags]! & at.SERVICE) {
        services++;
        if (role === at.REPLICA || role === at.PROMOTING) return `the service runs on ${members[i]}, a replica`;
      }
      if (role !== at.PRIMARY) continue;
      for (let j = 0; j < i; j++) {
        const m = this.layout.node(j);
        if (s[m + at.Role] === at.PRIMARY && s[m + at.Epoch] === s[n + at.Epoch])
          return `${members[j]} and ${members[i]} are primary of epoch ${s[n + at.Epoch]}`;
      }
      if (first === undefined || s[this.layout.node(first) + at.Epoch]! < s[n + at.Epoch]!) first = i;
    }
    if (services > 1 && this.#ghost(s, "accepted") === 0) return "two services run, and nobody has accepted that";
    const acknowledged = this.#ghost(s, "ackLength");
    if (first === undefined || acknowledged === 0) return "";
    const n = this.layout.node(first);
    if (s[n + at.Epoch] !== this.#highestOfAll(s)) return "";
    const top = this.#ghost(s, "ackTop");
    return this.#has(s, s[n + at.Top]!, s[n + at.Length]!, top, acknowledged)
      ? ""
      : `${members[first]} is primary without cut ${top}.${acknowledged}, which was acknowledged, and nobody has accepted that`;
  }

  /** Whoever promotes by hand has accepted that it is lost. */
  #excuse(s: Uint8Array, i: number): void {
    const n = this.layout.node(i);
    const top = this.#ghost(s, "ackTop");
    if (this.#has(s, s[n + at.Top]!, s[n + at.Length]!, top, this.#ghost(s, "ackLength"))) return;
    this.#setGhost(s, "ackTop", 0);
    this.#setGhost(s, "ackLength", 0);
  }

  #highestOfAll(s: Uint8Array): number {
    let highest = 0;
    for (let i = 0; i < this.#nodes; i++) highest = Math.max(highest, s[this.layout.node(i) + at.Epoch]!);
    return highest;
  }

  #owner(s: Uint8Array, reign: number): number {
    return (s[this.layout.reign(reign)]! & ~at.OVER) - 1;
  }

  /** The reign of the cut with this number, in the history that leads to `top`. */
  #reignAt(s: Uint8Array, top: number, length: number): number {
    let reign = top;
    while (reign > 0 && length <= s[this.layout.reign(reign) + 2]!) reign = s[this.layout.reign(reign) + 1]!;
    return reign;
  }

  #has(s: Uint8Array, top: number, length: number, cutTop: number, cutLength: number): boolean {
    return cutLength === 0 || (cutLength <= length && this.#reignAt(s, top, cutLength) === cutTop);
  }

  // --- somebody can always go on -----------------------------------------------------------------------------------

  /**
   * What happens next where everything is well from now on: all run, every message arrives, and a person does what status
   * tells him. `settled`: one primary is in service and all others follow it, equal. `stuck`: nothing happens any more.
   */
  next(s: Uint8Array): number {
    const all = this.#all;
    const pairs = this.#pairs;
    const field = (i: number, which: number): number => s[this.layout.node(i) + which]!;
    const flag = (i: number, which: number): boolean => (field(i, at.Flags) & which) !== 0;
    for (const i of all) if (!flag(i, at.UP)) return code("start", i);
    for (const i of all) if (field(i, at.Role) === at.PROMOTING) return code("finish", i);
    for (const [i, j] of pairs) {
      if (this.#end(s, j, i) !== at.DOWN && s[this.layout.session(i, j) + at.Under]! > 0) return code("deliver", i, j);
    }
    for (const [i, j] of pairs)
      if (this.#end(s, i, j) !== at.DOWN && this.#end(s, j, i) === at.DOWN) return code("notice", i, j);
    for (const i of all) {
      if (field(i, at.Role) === at.FENCED && flag(i, at.SERVICE)) return code("on fenced", i);
      if (field(i, at.Role) !== at.PRIMARY) continue;
      const step = field(i, at.Step);
      if (step === at.STOPPING) return code("stopped", i);
      if (step === at.CUTTING && this.#agreed(s, i)) return code("agreed", i);
      const state = this.#service(s, i);
      if (state === "confirmable") return code("confirm", i);
      if (step === at.ROLLING_BACK && state === "in-service") return code("started", i);
      if (state === "in-service" && !flag(i, at.SERVICE) && step === at.NO_STEP) return code("start service", i);
    }
    for (const [i, j] of pairs) {
      if (i > j || this.#end(s, i, j) !== at.DOWN) continue;
      if (this.#decision(s, i, j).kind !== "refuse" && this.#decision(s, j, i).kind !== "refuse")
        return code("open", i, j);
    }
    for (const i of all) if (field(i, at.Role) === at.PRIMARY && this.#mayCut(s, i)) return code("cut", i);
    for (const [i, j] of pairs) if (this.#mayShip(s, i, j)) return code("ship", i, j);
    const primaries = all.filter((i) => field(i, at.Role) === at.PRIMARY);
    const [only] = primaries;
    if (primaries.length === 1 && only !== undefined && this.#isServed(s, only)) return settled;
    for (const [i, j] of pairs)
      if (this.#end(s, i, j) === at.FORKED && field(j, at.Role) === at.PRIMARY) return code("rejoin", i, j);
    for (const i of primaries) if (field(i, at.Step) !== at.NO_STEP) return code("fail", i);
    if (primaries.length > 0) return stuck;
    const aspiring = all.filter((i) => flag(i, at.ASPIRING));
    const ready = aspiring.find((i) => field(i, at.Role) === at.REPLICA && !this.#isRefused(s, i, 0, true));
    if (ready !== undefined) return code("promote", ready);
    if (aspiring[0] !== undefined) return code("give up", aspiring[0]);
    const candidates = all.filter((i) => field(i, at.Role) === at.REPLICA && !this.#isRefused(s, i, 0, false));
    const best = candidates.toSorted((a, b) => field(b, at.Length) - field(a, at.Length))[0];
    return best === undefined ? stuck : code("ask", best);
  }

  #isServed(s: Uint8Array, primary: number): boolean {
    const p = this.layout.node(primary);
    if (!(s[p + at.Flags]! & at.SERVICE) || s[p + at.Step] !== at.NO_STEP) return false;
    return this.#others(primary).every((i) => {
      const n = this.layout.node(i);
      return (
        s[n + at.Role] === at.REPLICA &&
        !(s[n + at.Flags]! & (at.TOUCHED | at.SERVICE)) &&
        this.#end(s, i, primary) === at.FOLLOWS &&
        s[n + at.Length] === s[p + at.Length] &&
        s[n + at.Top] === s[p + at.Top]
      );
    });
  }

  /** Whether somebody can go on does not depend on what may still be tried, nor on what was promised. */
  forget(s: Uint8Array): void {
    s.fill(0, this.layout.ghosts);
    this.#setGhost(s, "accepted", 1);
  }

  // --- values for the rules ----------------------------------------------------------------------------------------

  #decision(s: Uint8Array, ours: number, theirs: number): Decision {
    const [n, m] = [this.layout.node(ours), this.layout.node(theirs)];
    const there = this.#reignAt(s, s[n + at.Top]!, s[m + at.Length]!);
    const bytes = at.Confirmed;
    const key = `${String.fromCharCode(ours, theirs, there, s[n + at.Followed]!, s[n + at.Step] === at.HANDING ? 1 : 0, s[m + at.Step] === at.HANDING ? 1 : 0)}${String.fromCharCode(...s.subarray(n, n + at.Flags))}${String.fromCharCode(...s.subarray(m, m + bytes))}${s[n + at.Flags]! & at.TOUCHED}`;
    let decision = this.#decisions.get(key);
    if (decision === undefined) {
      const followed = s[n + at.Followed]! - 1;
      decision = this.#rules.decide(this.#hello(s, ours), this.#hello(s, theirs), {
        digestAt: (which) => this.#digest(s, ours, Number(which)),
        forgottenUpTo: 0n,
        followed: followed < 0 ? undefined : members[followed],
      });
      this.#decisions.set(key, decision);
    }
    return decision;
  }

  #hello(s: Uint8Array, i: number): Hello {
    const n = this.layout.node(i);
    const role = this.#roleName(s, i);
    return {
      major: 1,
      minor: 0,
      features: [
        features.fork,
        ...(this.#isTouched(s, i) ? [features.rejoining] : []),
        ...(this.#takesCuts(s, i) && this.#rules.drivers.onlySealedSaySo ? [] : [features.sealed]),
      ],
      software: "model",
      node: members[i]!,
      group: "app",
      groupId,
      role,
      ...this.#history(s, i),
      epoch: BigInt(s[n + at.Epoch]!),
      epochSeen: BigInt(s[n + at.Seen]!),
      incarnation: role === "primary" ? "0123456789abcdef" : "",
      digest: this.#digest(s, i, s[n + at.Length]!),
      stores: [],
      generation: 1n,
      lastObject: 1,
    };
  }

  #history(s: Uint8Array, i: number): CutHistory {
    const n = this.layout.node(i);
    return { epochs: this.#epochs(s, i), committed: this.#cut(s[n + at.Top]!, s[n + at.Length]!) };
  }

  #epochs(s: Uint8Array, i: number): EpochStart[] {
    const from = this.layout.node(i) + at.Epochs;
    const epochs: EpochStart[] = [];
    for (let index = 0; index < at.epochsMax && s[from + 2 * index] !== 0; index++)
      epochs.push({ epoch: BigInt(s[from + 2 * index]!), firstSeq: BigInt(s[from + 2 * index + 1]!) });
    return epochs;
  }

  #setEpochs(s: Uint8Array, i: number, epochs: readonly EpochStart[]): void {
    if (epochs.length > at.epochsMax) {
      this.#fail(beyond);
      return;
    }
    const from = this.layout.node(i) + at.Epochs;
    s.fill(0, from, from + 2 * at.epochsMax);
    for (const [index, start] of epochs.entries())
      s.set([Number(start.epoch), Number(start.firstSeq)], from + 2 * index);
  }

  #cut(top: number, length: number): CutId {
    return { epoch: epoch(top), seq: seq(length) };
  }

  /** A cut is known by its number and its reign, and so is its content; what a node that rejoins has is no cut's. */
  #digest(s: Uint8Array, i: number, length: number): Uint8Array {
    const digest = new Uint8Array(32);
    digest.set([this.#reignAt(s, s[this.layout.node(i) + at.Top]!, length), length, this.#isTouched(s, i) ? i + 1 : 0]);
    return digest;
  }

  #sealed(top: number, length: number): { readonly cut: CutId; readonly digest: Uint8Array } {
    const digest = new Uint8Array(32);
    digest.set([top, length]);
    return { cut: this.#cut(top, length), digest };
  }

  #record(s: Uint8Array, i: number): SwitchoverRecord | undefined {
    const n = this.layout.node(i);
    if (s[n + at.Role] !== at.PRIMARY) return undefined;
    const base = {
      id: String(s[n + at.Target]! >> 4),
      to: members[this.#target(s, i)] ?? "",
      reason: s[n + at.Flags]! & at.GOES_BACK ? "late" : "",
    };
    switch (s[n + at.Step]) {
      case at.STOPPING:
        return { ...base, step: "stopping" };
      case at.CUTTING:
        return { ...base, step: "cutting" };
      case at.HANDING:
        return { ...base, step: "handing", ...this.#sealed(s[n + at.SealTop]!, s[n + at.SealLength]!) };
      case at.ROLLING_BACK:
        return { ...base, step: "rolling-back" };
      default:
        return undefined;
    }
  }

  #setRecord(s: Uint8Array, i: number, record: SwitchoverRecord | undefined): void {
    const n = this.layout.node(i);
    if (s[n + at.Role] === at.PROMOTING) return;
    s.fill(0, n + at.Step, n + at.SealLength + 1);
    s[n + at.Flags]! &= ~at.GOES_BACK;
    if (record === undefined) return;
    s[n + at.Step] = at.steps.indexOf(record.step);
    s[n + at.Target] = (members.indexOf(record.to as never) + 1) | (Number(record.id) << 4);
    if (record.reason !== "") s[n + at.Flags]! |= at.GOES_BACK;
    if (record.step !== "handing") return;
    s[n + at.SealTop] = Number(record.cut.epoch);
    s[n + at.SealLength] = Number(record.cut.seq);
  }

  #target(s: Uint8Array, i: number): number {
    return (s[this.layout.node(i) + at.Target]! & 15) - 1;
  }

  #end(s: Uint8Array, i: number, j: number): number {
    return s[this.layout.session(i, j) + at.End]!;
  }

  #others(i: number): readonly number[] {
    return this.#otherNodes[i] ?? this.#all;
  }

  #roleName(s: Uint8Array, i: number): RoleName {
    return at.roles[s[this.layout.node(i) + at.Role]!]!;
  }

  #isTouched(s: Uint8Array, i: number): boolean {
    return (s[this.layout.node(i) + at.Flags]! & at.TOUCHED) !== 0;
  }

  #ghost(s: Uint8Array, name: at.Ghost): number {
    return s[this.layout.ghosts + at.ghosts[name]]!;
  }

  #setGhost(s: Uint8Array, name: at.Ghost, value: number): void {
    s[this.layout.ghosts + at.ghosts[name]] = value;
  }

  #spend(s: Uint8Array, name: at.Ghost): void {
    this.#setGhost(s, name, Math.max(0, this.#ghost(s, name) - 1));
  }

  // --- for people --------------------------------------------------------------------------------------------------

  /** One line for one action, in the state before it. */
  describe(s: Uint8Array, action: number): string {
    const kind = kinds[action >> kindShift]!;
    const [who, whom] = [members[(action >> 3) & 7]!, members[action & 7]!];
    switch (kind) {
      case "deliver":
      case "double": {
        const queue = this.layout.session((action >> 3) & 7, action & 7) + at.Queue;
        const what = at.messages[s[queue]!]!;
        const detail = s[queue] === at.WELCOME ? ` (${kindCodes[s[queue + 1]! & ~askedBit]})` : "";
        return `${whom} hears the ${what}${detail} of ${who}${kind === "double" ? ", and will once more" : ""}`;
      }
      case "open":
        return `${who} dials ${whom}`;
      case "ship":
        return `${who} ships to ${whom}`;
      case "notice":
        return `${who} notices that ${whom} has ended the session`;
      case "break":
        return `${who} loses the session with ${whom}, and what was on its way`;
      case "switchover":
        return `an operator asks ${who} for a switchover to ${whom}`;
      case "rejoin":
        return `${who} rejoins ${whom}, one step`;
      case "promote": {
        const flags = promotions[action & 7]!.map(
          (flag) => `--accept-${flag === "rejoining" ? flag : `${flag}-primary`}`,
        );
        return `an operator promotes ${who} ${["--accept-loss", ...flags].join(" ")}`;
      }
      default:
        return `${who}: ${kind}`;
    }
  }

  /** What a node is, in a few words. */
  picture(s: Uint8Array): string {
    const nodes = this.#all.map((i) => {
      const n = this.layout.node(i);
      const flags = s[n + at.Flags]!;
      const words = [
        flags & at.UP ? "" : "down",
        this.#roleName(s, i),
        `epoch ${s[n + at.Epoch]}${s[n + at.Seen] === s[n + at.Epoch] ? "" : ` (seen ${s[n + at.Seen]})`}`,
        `cut ${s[n + at.Top]}.${s[n + at.Length]}`,
        flags & at.DIRTY ? "written since" : "",
        flags & at.SERVICE ? "serves" : "",
        flags & at.TOUCHED ? "touched" : "",
        s[n + at.Step] === 0 ? "" : at.steps[s[n + at.Step]!]!,
      ];
      return `${members[i]} ${words.filter((word) => word !== "").join(", ")}`;
    });
    return nodes.join("; ");
  }
}
