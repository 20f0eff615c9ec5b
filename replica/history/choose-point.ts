import { UnderstudyError } from "../../shared/errors.ts";
import { type CutId, compareCuts, cutText } from "../../shared/words.ts";

/** What can be restored: a cut that is still a recovery point, and when the primary took it. */
export interface RecoveryPoint {
  readonly cut: CutId;
  readonly takenAtUs: number;
}

export type PointWanted = { readonly cut: CutId } | { readonly timeUs: number };

/** There is no recovery point as it was asked for. */
export class NoSuchPoint extends UnderstudyError {
  readonly code = "NO_SUCH_POINT";
  readonly remedy = "stop";
  readonly state = "Nothing was written.";
  readonly hint: string;
  readonly nearest: readonly RecoveryPoint[];

  constructor(message: string, nearest: readonly RecoveryPoint[]) {
    super(message);
    this.nearest = nearest;
    this.hint =
      nearest.length === 0
        ? "There is no recovery point yet: `understudy status GROUP` says how far the first copy is."
        : `The nearest are ${nearest.map((point) => `${cutText(point.cut)} (${timeText(point.takenAtUs)})`).join(", ")}.`;
  }
}

/** Named on either side of what was asked for. */
const nearestOnEachSide = 2;

/** The point of exactly this cut, or the newest one taken at or before a time. @throws {NoSuchPoint} */
export function choosePoint(points: readonly RecoveryPoint[], at: PointWanted): RecoveryPoint {
  const sorted = [...points].sort((a, b) => compareCuts(a.cut, b.cut));
  if ("cut" in at) {
    const index = sorted.findIndex((point) => compareCuts(point.cut, at.cut) >= 0);
    const found = sorted[index];
    if (found !== undefined && compareCuts(found.cut, at.cut) === 0) return found;
    throw new NoSuchPoint(`cut ${cutText(at.cut)} is no recovery point`, around(sorted, index));
  }
  const index = sorted.findIndex((point) => point.takenAtUs > at.timeUs);
  const found = sorted.at(index < 0 ? -1 : index - 1);
  if (found !== undefined && index !== 0) return found;
  throw new NoSuchPoint(`no recovery point is as old as ${timeText(at.timeUs)}`, around(sorted, index));
}

function around(sorted: readonly RecoveryPoint[], index: number): RecoveryPoint[] {
  const middle = index < 0 ? sorted.length : index;
  return sorted.slice(Math.max(0, middle - nearestOnEachSide), middle + nearestOnEachSide);
}

function timeText(us: number): string {
  return new Date(us / 1000).toISOString();
}
