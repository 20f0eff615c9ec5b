import type { Decision } from "../../shared/session/connect.ts";
import type { CutHistory, EpochStart } from "../../shared/session/epochs.ts";
import type { ServiceState } from "../../shared/session/in-service.ts";
import type { SwitchoverRecord } from "../../shared/session/switchover.ts";
import { type CutId, epoch, type Role as RoleName, seq } from "../../shared/words.ts";
import * as at from "./layout.ts";
import type { Rules } from "./rules.ts";

export const members = ["alpha", "bravo", "charlie"] as const;

/** A successor that has no room in a state: what lies beyond is not walked. */
export const beyond = "beyond what a state has room for";

/**
 * The row of a state with names, for one number of nodes and one set of rules. `s` is the row everywhere, `i` the node
 * that it is about, `j` another, and `n` where the fields of `i` begin.
 */
export class Cluster {
  readonly layout: at.Layout;
  readonly rules: Rules;
  readonly nodes: number;
  readonly all: readonly number[];
  readonly pairs: readonly (readonly [number, number])[];
  readonly #otherNodes: readonly (readonly number[])[];
  /** Why the state that is being made must not be; "" when it may. */
  violation = "";
  /** What the rules have answered, by all that they were told: the same again for most states. */
  readonly decisions = new Map<string, Decision>();
  readonly services = new Map<number, ServiceState["kind"]>();
  readonly refused = new Map<number, boolean>();

  constructor(nodes: number, rules: Rules) {
    this.layout = new at.Layout(nodes);
    this.rules = rules;
    this.nodes = nodes;
    this.all = Array.from({ length: nodes }, (_, index) => index);
    this.#otherNodes = this.all.map((i) => this.all.filter((j) => j !== i));
    this.pairs = this.all.flatMap((i) => this.others(i).map((j) => [i, j] as const));
  }

  fail(violation: string): void {
    if (this.violation === "") this.violation = violation;
  }

  end(s: Uint8Array, i: number, j: number): number {
    return s[this.layout.session(i, j) + at.End]!;
  }

  others(i: number): readonly number[] {
    return this.#otherNodes[i] ?? this.all;
  }

  target(s: Uint8Array, i: number): number {
    return (s[this.layout.node(i) + at.Target]! & 15) - 1;
  }

  roleName(s: Uint8Array, i: number): RoleName {
    return at.roles[s[this.layout.node(i) + at.Role]!]!;
  }

  isTouched(s: Uint8Array, i: number): boolean {
    return (s[this.layout.node(i) + at.Flags]! & at.TOUCHED) !== 0;
  }

  /** What the other one has said of the highest epoch that it knows; undefined while it is not there to say so. */
  highest(s: Uint8Array, i: number, j: number): number | undefined {
    const session = this.layout.session(i, j);
    const said = s[session + at.Highest]!;
    if (s[session + at.End]! > at.GREETING) return said;
    return s[session + at.End] === at.DOWN && said > s[this.layout.node(i) + at.Epoch]! ? said : undefined;
  }

  /** The highest epoch that another node spoke of. */
  highestHeard(s: Uint8Array, i: number): number {
    return Math.max(...this.others(i).map((other) => this.highest(s, i, other) ?? 0));
  }

  highestOfAll(s: Uint8Array): number {
    let highest = 0;
    for (let i = 0; i < this.nodes; i++) highest = Math.max(highest, s[this.layout.node(i) + at.Epoch]!);
    return highest;
  }

  /** Who began this reign. */
  owner(s: Uint8Array, reign: number): number {
    return (s[this.layout.reign(reign)]! & ~at.OVER) - 1;
  }

  /** The reign of the cut with this number, in the history that leads to `top`. */
  reignAt(s: Uint8Array, top: number, length: number): number {
    let reign = top;
    while (reign > 0 && length <= s[this.layout.reign(reign) + 2]!) reign = s[this.layout.reign(reign) + 1]!;
    return reign;
  }

  /** Whether the history that ends with the first cut has the second one. */
  has(s: Uint8Array, top: number, length: number, cutTop: number, cutLength: number): boolean {
    return cutLength === 0 || (cutLength <= length && this.reignAt(s, top, cutLength) === cutTop);
  }

  history(s: Uint8Array, i: number): CutHistory {
    const n = this.layout.node(i);
    return { epochs: this.epochs(s, i), committed: cutOf(s[n + at.Top]!, s[n + at.Length]!) };
  }

  epochs(s: Uint8Array, i: number): EpochStart[] {
    const from = this.layout.node(i) + at.Epochs;
    const epochs: EpochStart[] = [];
    for (let index = 0; index < at.epochsMax && s[from + 2 * index] !== 0; index++)
      epochs.push({ epoch: BigInt(s[from + 2 * index]!), firstSeq: BigInt(s[from + 2 * index + 1]!) });
    return epochs;
  }

  setEpochs(s: Uint8Array, i: number, epochs: readonly EpochStart[]): void {
    if (epochs.length > at.epochsMax) {
      this.fail(beyond);
      return;
    }
    const from = this.layout.node(i) + at.Epochs;
    s.fill(0, from, from + 2 * at.epochsMax);
    for (const [index, start] of epochs.entries())
      s.set([Number(start.epoch), Number(start.firstSeq)], from + 2 * index);
  }

  /** A cut is known by its number and its reign, and so is its content; what a node that rejoins has is no cut's. */
  digest(s: Uint8Array, i: number, length: number): Uint8Array {
    const digest = new Uint8Array(32);
    digest.set([this.reignAt(s, s[this.layout.node(i) + at.Top]!, length), length, this.isTouched(s, i) ? i + 1 : 0]);
    return digest;
  }

  record(s: Uint8Array, i: number): SwitchoverRecord | undefined {
    const n = this.layout.node(i);
    if (s[n + at.Role] !== at.PRIMARY) return undefined;
    const base = {
      id: String(s[n + at.Target]! >> 4),
      to: members[this.target(s, i)] ?? "",
      reason: s[n + at.Flags]! & at.GOES_BACK ? "late" : "",
    };
    switch (s[n + at.Step]) {
      case at.STOPPING:
        return { ...base, step: "stopping" };
      case at.CUTTING:
        return { ...base, step: "cutting" };
      case at.HANDING:
        return { ...base, step: "handing", ...sealed(s[n + at.SealTop]!, s[n + at.SealLength]!) };
      case at.ROLLING_BACK:
        return { ...base, step: "rolling-back" };
      default:
        return undefined;
    }
  }

  setRecord(s: Uint8Array, i: number, record: SwitchoverRecord | undefined): void {
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

  ghost(s: Uint8Array, name: at.Ghost): number {
    return s[this.layout.ghosts + at.ghosts[name]]!;
  }

  setGhost(s: Uint8Array, name: at.Ghost, value: number): void {
    s[this.layout.ghosts + at.ghosts[name]] = value;
  }

  spend(s: Uint8Array, name: at.Ghost): void {
    this.setGhost(s, name, Math.max(0, this.ghost(s, name) - 1));
  }
}

export function cutOf(top: number, length: number): CutId {
  return { epoch: epoch(top), seq: seq(length) };
}

export function sealed(top: number, length: number): { readonly cut: CutId; readonly digest: Uint8Array } {
  const digest = new Uint8Array(32);
  digest.set([top, length]);
  return { cut: cutOf(top, length), digest };
}
