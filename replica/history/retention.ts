import type { RetentionLadder } from "../../shared/config/config.ts";
import type { Seq } from "../../shared/words.ts";

export interface KeptPoint {
  readonly seq: Seq;
  /** Rises with the seq. */
  readonly takenAtUs: number;
}

export interface HistoryBudget {
  readonly usedBytes: number;
  readonly bytesMax: number;
  /** What goes with a point; an equal share of what is used where nobody knows. */
  readonly bytesOf?: (seq: Seq) => number;
}

/** From fine to coarse; the spans divide each other, so the last point of an hour is the last of its minute. */
const rungs = [
  { key: "allMs", spanUs: 0 },
  { key: "perMinuteMs", spanUs: 60e6 },
  { key: "perHourMs", spanUs: 3600e6 },
  { key: "perDayMs", spanUs: 86_400e6 },
] as const satisfies readonly { key: keyof RetentionLadder; spanUs: number }[];

/**
 * Which recovery points go. Kept are all within the first rung's time, the last of each minute within the next one's,
 * and so on; what none of them holds goes. Over budget the finest rung gives way first, its oldest point first; a point
 * that a coarser rung holds, too, belongs to that one. The newest point always stays.
 */
export function pointsToDrop(
  points: readonly KeptPoint[],
  ladder: RetentionLadder,
  nowUs: number,
  budget: HistoryBudget,
): Seq[] {
  const sorted = [...points].sort((a, b) => (a.seq < b.seq ? -1 : 1));
  const dropped: Seq[] = [];
  const held: Seq[][] = rungs.map(() => []);
  sorted.forEach((point, index) => {
    const next = sorted[index + 1];
    if (next === undefined) return; // The newest.
    const rung = coarsestRung(point, next, ladder, nowUs);
    if (rung < 0) dropped.push(point.seq);
    else held[rung]?.push(point.seq);
  });
  const bytesOf = budget.bytesOf ?? (() => budget.usedBytes / points.length);
  let used = budget.usedBytes;
  for (const seq of dropped) used -= bytesOf(seq);
  for (const seq of held.flat()) {
    if (used <= budget.bytesMax) break;
    dropped.push(seq);
    used -= bytesOf(seq);
  }
  return dropped.sort((a, b) => (a < b ? -1 : 1));
}

/** Index of the coarsest rung that holds the point; -1 when none does. */
function coarsestRung(point: KeptPoint, next: KeptPoint, ladder: RetentionLadder, nowUs: number): number {
  return rungs.findLastIndex(({ key, spanUs }) => {
    const keptMs = ladder[key];
    if (keptMs === undefined || nowUs - point.takenAtUs > keptMs * 1000) return false;
    return spanUs === 0 || Math.floor(point.takenAtUs / spanUs) !== Math.floor(next.takenAtUs / spanUs);
  });
}
