import { beyond } from "./cluster.ts";
import { settled, stuck } from "./going-on.ts";
import { type Bounds, Model } from "./model.ts";
import type { Rules } from "./rules.ts";

export interface Walk {
  readonly nodes: number;
  readonly rules: Rules;
  readonly bounds: Bounds;
  /** What has happened before, within the same bounds. Default: nothing. */
  readonly after?: readonly number[];
  /** Distinct states after which it ends. */
  readonly statesMax: number;
  /** Also that from each state somebody can go on. */
  readonly goingOn: boolean;
}

export interface Walked {
  readonly states: number;
  readonly transitions: number;
  /** How many actions the longest interleaving has that was walked to its end with all others of its length. */
  readonly depth: number;
  /** Nothing is left within the bounds. */
  readonly whole: boolean;
  readonly seconds: number;
  readonly violation: Violation | undefined;
}

export interface Violation {
  readonly why: string;
  readonly actions: readonly number[];
  /** The shortest interleaving, one line each. */
  readonly script: readonly string[];
}

/** From a state where everything is well, at most so many steps until somebody serves and all others follow. */
const goodStepsMax = 400;

/**
 * Walks all interleavings breadth first. Of a state only 64 bits of its hash stay, and by which action it was first reached:
 * an interleaving is walked again to be told. Two different states of one hash would hide one of them: one in 10^7 such walks
 * of 10^6 states.
 */
export function walk({ nodes, rules, bounds, after = [], statesMax, goingOn }: Walk): Walked {
  const begun = performance.now();
  const model = new Model(nodes, rules, bounds);
  const { bytes } = model.layout;
  const known = new HashSet(statesMax);
  const good = new HashSet(goingOn ? statesMax : 1024);
  const parents = new Int32Array(statesMax + 1);
  const reachedBy = new Int32Array(statesMax + 1);
  const actions = new Int32Array(256);
  const scratch = new Uint8Array(bytes);
  let level = new Frontier(bytes);
  let nextLevel = new Frontier(bytes);
  const way = new Frontier(bytes);
  const initial = model.initial();
  for (const action of after) {
    if (!actions.subarray(0, model.actions(initial, actions)).includes(action))
      throw new Error(`after ${model.picture(initial)} there is no "${model.describe(initial, action)}"`);
    model.apply(initial, action);
  }
  let transitions = 0;
  let depth = 0;
  let first = 0;
  let states = 1;
  known.add(initial);
  level.push(initial);
  parents[0] = -1;

  const told = (why: string, from: number, last: readonly number[]): Walked => {
    const path = [...last];
    for (let at = from; at > 0; at = parents[at]!) path.unshift(reachedBy[at]!);
    path.unshift(...after);
    return result({ why, actions: path, script: tell(model, path) });
  };
  const result = (violation?: Violation): Walked => ({
    states,
    transitions,
    depth,
    whole: level.count === 0,
    seconds: (performance.now() - begun) / 1000,
    violation,
  });

  while (level.count > 0) {
    for (let index = 0; index < level.count; index++) {
      const state = level.at(index);
      if (goingOn) {
        const why = goesOn(model, state, good, way, scratch);
        if (why !== undefined) return told(why.why, first + index, why.actions);
      }
      const count = model.actions(state, actions);
      for (let which = 0; which < count; which++) {
        const action = actions[which]!;
        scratch.set(state);
        transitions++;
        const violation = model.apply(scratch, action);
        if (violation === beyond) continue;
        if (violation !== "") return told(violation, first + index, [action]);
        if (!known.add(scratch)) continue;
        parents[states] = first + index;
        reachedBy[states] = action;
        states++;
        nextLevel.push(scratch);
        if (states === statesMax) return result();
      }
    }
    first += level.count;
    depth++;
    [level, nextLevel] = [nextLevel, level];
    nextLevel.clear();
  }
  return result();
}

/** The first of the good steps that fails; undefined when somebody can go on. */
function goesOn(
  model: Model,
  state: Uint8Array,
  good: HashSet,
  way: Frontier,
  scratch: Uint8Array,
): { readonly why: string; readonly actions: readonly number[] } | undefined {
  scratch.set(state);
  model.forget(scratch);
  const taken: number[] = [];
  way.clear();
  // A state is good as soon as one is that follows; what led there is as good.
  while (!good.has(scratch)) {
    const action = model.next(scratch);
    way.push(scratch);
    if (action === settled) break;
    if (action === stuck) return { why: "nobody can go on, although all run and hear each other", actions: taken };
    if (taken.length === goodStepsMax) return { why: "it goes on for ever and comes to nothing", actions: taken };
    taken.push(action);
    const violation = model.apply(scratch, action);
    if (violation === beyond) break;
    if (violation !== "") return { why: violation, actions: taken };
  }
  for (let index = 0; index < way.count; index++) good.add(way.at(index));
  return undefined;
}

/** An interleaving in words, with what the nodes are after each action. */
export function tell(model: Model, actions: readonly number[]): string[] {
  const state = model.initial();
  const lines = [model.picture(state)];
  for (const action of actions) {
    const line = model.describe(state, action);
    const violation = model.apply(state, action);
    lines.push(`${line}\n    ${model.picture(state)}${violation === "" ? "" : `\n    ${violation}`}`);
  }
  return lines;
}

/** The states of one depth, one after the other. */
class Frontier {
  readonly #bytes: number;
  #rows = new Uint8Array(0);
  count = 0;

  constructor(bytes: number) {
    this.#bytes = bytes;
  }

  push(state: Uint8Array): void {
    const from = this.count * this.#bytes;
    if (from + this.#bytes > this.#rows.length) {
      const grown = new Uint8Array(Math.max(1024 * this.#bytes, this.#rows.length * 2));
      grown.set(this.#rows);
      this.#rows = grown;
    }
    this.#rows.set(state, from);
    this.count++;
  }

  at(index: number): Uint8Array {
    return this.#rows.subarray(index * this.#bytes, (index + 1) * this.#bytes);
  }

  clear(): void {
    this.count = 0;
  }
}

/** A set of rows by 64 bits of their hash. */
class HashSet {
  #high: Uint32Array;
  #low: Uint32Array;
  #mask: number;
  #count = 0;
  #a = 0;
  #b = 0;

  constructor(expected: number) {
    const size = 2 ** Math.ceil(Math.log2(Math.max(1024, expected * 2)));
    this.#high = new Uint32Array(size);
    this.#low = new Uint32Array(size);
    this.#mask = size - 1;
  }

  /** False when it was there. */
  add(row: Uint8Array): boolean {
    this.#hash(row);
    return this.#insert(this.#a, this.#b);
  }

  has(row: Uint8Array): boolean {
    this.#hash(row);
    const found = this.#find(this.#a, this.#b);
    return this.#high[found] !== 0;
  }

  #hash(row: Uint8Array): void {
    let a = 0x9e3779b9;
    let b = 0x85ebca6b;
    for (let index = 0; index < row.length; index += 4) {
      const word = row[index]! | (row[index + 1]! << 8) | (row[index + 2]! << 16) | (row[index + 3]! << 24);
      a = Math.imul(a ^ word, 0xcc9e2d51);
      a = (a << 15) | (a >>> 17);
      b = Math.imul(b + word, 0x1b873593) ^ (a >>> 7);
      b = (b << 13) | (b >>> 19);
    }
    a ^= b >>> 16;
    a = Math.imul(a, 0x7feb352d);
    a ^= a >>> 15;
    b = Math.imul(b ^ (a >>> 13), 0x846ca68b);
    b ^= b >>> 16;
    // Zeros mark an empty place.
    this.#a = (a | 1) >>> 0;
    this.#b = b >>> 0;
  }

  /** Where it is, or would be. */
  #find(high: number, low: number): number {
    let at = low & this.#mask;
    while (this.#high[at] !== 0 && (this.#high[at] !== high || this.#low[at] !== low)) at = (at + 1) & this.#mask;
    return at;
  }

  #insert(high: number, low: number): boolean {
    if (this.#count * 4 > this.#mask * 3) this.#grow();
    const at = this.#find(high, low);
    if (this.#high[at] !== 0) return false;
    this.#high[at] = high;
    this.#low[at] = low;
    this.#count++;
    return true;
  }

  #grow(): void {
    const [high, low] = [this.#high, this.#low];
    this.#high = new Uint32Array(high.length * 2);
    this.#low = new Uint32Array(high.length * 2);
    this.#mask = high.length * 2 - 1;
    this.#count = 0;
    for (let index = 0; index < high.length; index++) if (high[index] !== 0) this.#insert(high[index]!, low[index]!);
  }
}
