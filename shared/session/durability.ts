import { type CutId, compareCuts } from "../words.ts";

/** How many replicas, whichever, must have a cut before `wait` calls it durable, and how long they have for it. */
export interface SemiSync {
  readonly replicas: number;
  readonly timeoutMs: number;
}

/** What was begun at an instant: a cut, or what somebody waits for that no cut has yet. Monotonic ms. */
export interface Begun {
  readonly cut: CutId | undefined;
  readonly atMs: number;
}

export interface DurabilityView {
  /** The last durable cut of each replica of which it is known. */
  readonly durable: readonly CutId[];
  /** The oldest first. What is protected already may be left out. */
  readonly begun: readonly Begun[];
  /** It was degraded until now. */
  readonly degraded: boolean;
}

export type Durability =
  /** Enough replicas have all that was begun. */
  | { readonly kind: "protected" }
  /** They may still answer in time. */
  | { readonly kind: "waiting"; readonly untilMs: number }
  /** They did not: what is written since then has fewer copies than was asked for, and nobody waits for more. */
  | { readonly kind: "degraded"; readonly sinceMs: number };

/** The last cut that enough replicas have; undefined: none. */
export function protectedCut(durable: readonly CutId[], replicas: number): CutId | undefined {
  return durable.toSorted((a, b) => compareCuts(b, a))[replicas - 1];
}

/**
 * Whether the replicas keep up with what was promised. Once degraded they must be twice as quick for it to end: a line that
 * is just too slow would have it begin and end with each cut.
 */
export function decideDurability(view: DurabilityView, settings: SemiSync, nowMs: number): Durability {
  const upTo = protectedCut(view.durable, settings.replicas);
  const oldest = view.begun.find(({ cut }) => !isProtected(cut, upTo));
  if (oldest === undefined) return { kind: "protected" };
  const limitMs = view.degraded ? settings.timeoutMs / 2 : settings.timeoutMs;
  if (nowMs - oldest.atMs >= limitMs) return { kind: "degraded", sinceMs: oldest.atMs };
  return { kind: "waiting", untilMs: oldest.atMs + limitMs };
}

function isProtected(cut: CutId | undefined, upTo: CutId | undefined): boolean {
  return cut !== undefined && upTo !== undefined && compareCuts(upTo, cut) >= 0;
}

/**
 * What of it is not protected yet, in a bounded number of entries: where there are more, two neighbours become one that is as
 * old as the older and needs the newer, so nothing counts for younger than it is.
 */
export function stillBegun(begun: readonly Begun[], upTo: CutId | undefined, entriesMax = 256): Begun[] {
  const left = begun.filter(({ cut }) => !isProtected(cut, upTo));
  if (left.length <= entriesMax) return left;
  const merged: Begun[] = [];
  for (let index = 0; index < left.length; index += 2) {
    const [older, newer] = [left[index]!, left[index + 1]];
    merged.push(newer === undefined ? older : { cut: newer.cut, atMs: older.atMs });
  }
  return merged;
}
