import type { TurnLimits } from "./holder-protocol.ts";

/** When to do something about the length of the log. */
export type TurnStep = "rest" | "anchor" | "advance" | "turn";

export interface LogState {
  /** Length of the present generation. */
  readonly logBytes: number;
  /** What was added to it since the reader was last moved up. */
  readonly grownBytes: number;
  /** The reader stands on a frame of the log; one that began when all was in the database file does not. */
  readonly anchored: boolean;
  readonly sinceAdvanceMs: number;
  /** Since the last turn, or the last that was prevented. */
  readonly sinceTurnMs: number;
  /** How long writers had to wait the last time. */
  readonly lockedMs: number;
  /** Advances in a row that found no pause of the writer to end the generation in. */
  readonly advancesInVain: number;
  /** Turns in a row that another reader, or a busy writer, has prevented. */
  readonly prevented: number;
}

const advanceMsMax = 10_000;
const vainDoublingsMax = 2;
const turnMsMin = 50;
/** Writers are shut out for at most one part in so many of the time. */
const lockedShare = 40;
const preventedMsMax = 10_000;

/**
 * `anchor`: let the reader stand on a frame. While it stands before all of them, nothing can be copied to the database
 * file, and SQLite finds that out anew after each commit of a log of more than 1,000 pages, once it has sorted all of
 * them: a writer that never pauses would spend half of its time on it. `advance`: move the reader up and let the frames below it go to the database file. Nobody waits for that, and where
 * writers pause for some milliseconds it ends the generation as well; where they do not, it only makes the
 * disk busy, and is tried more rarely. `turn`: end it with the writers shut out for a
 * moment, where they never pause. An application without a busy timeout would meet that as an error, so it is what is
 * left when the log has reached its bound; where something prevents it, it is tried less and less often.
 */
export function dueStep(state: LogState, walBytesMax: number): TurnStep {
  const fairMs = Math.max(turnMsMin, lockedShare * state.lockedMs);
  const patienceMs = Math.min(preventedMsMax, fairMs * 2 ** Math.min(state.prevented, 20));
  if (state.logBytes >= walBytesMax && state.grownBytes > 0 && state.sinceTurnMs >= patienceMs) return "turn";
  if (!state.anchored && state.grownBytes > 0) return "anchor";
  const doublings = Math.min(Math.max(0, state.advancesInVain - 1), vainDoublingsMax);
  if (state.grownBytes >= (walBytesMax / 8) * 2 ** doublings) return "advance";
  if (state.grownBytes > 0 && state.sinceAdvanceMs >= advanceMsMax) return "advance";
  return "rest";
}

/**
 * What a turn may ask of the writers: some milliseconds, where the disk is quick enough. Where it is not, more each time
 * that it was prevented, since a log without bound is worse for them; always less than what the watchdog bears.
 */
export function turnLimits(prevented: number): TurnLimits {
  const leniency = 2 ** Math.min(prevented, 3);
  return { tailBytesMax: 2 * 1024 * 1024 * leniency, lockWaitMs: 5 * leniency, roundMsMax: 4 * leniency };
}
