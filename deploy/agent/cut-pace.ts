/** How the last cuts followed each other. */
export interface CutPace {
  /** Cuts in a row that were flooded, up to `floodedCutsMax`. */
  readonly floodedCuts: number;
  /** Before the next cut is begun, unless somebody asks for one. */
  readonly restMs: number;
}

export interface CutEnded {
  readonly tookMs: number;
  /** There was something new again by its end. */
  readonly overtaken: boolean;
  /** Commits that came meanwhile, as far as the stores' kinds can count them. */
  readonly commitsMeanwhile: number;
  /** The tightest promise towards a replica. */
  readonly rpoMs: number | undefined;
}

export const unpaced: CutPace = { floodedCuts: 0, restMs: 0 };

/** Where commits are not counted. */
const overtakenShare = 3;
const overtakenMsMax = 30;
/** A cut needs a few syncs itself: a writer that commits more often than it meanwhile hardly pauses. */
const floodCommits = 4;
/** Fewer may be a cut that was slow by chance, under a writer that has time. */
const floodedCutsMin = 3;
const floodedCutsMax = 4;
const floodedShare = 19;
const floodedMsMin = 40;
const floodedMsMax = 250;
const rpoShare = 10;

/**
 * Where writers pause, a cut costs them nothing, and the next is begun as soon as there is anything. Where
 * some came while it was taken, as many times its length, so that what is written next shares a cut. Where they never pause, each cut takes its part of the
 * processors and of the disk from them: they get nineteen times its length for themselves.
 */
export function paceAfter(before: CutPace, ended: CutEnded): CutPace {
  const { tookMs, overtaken, commitsMeanwhile, rpoMs } = ended;
  const floodedCuts =
    commitsMeanwhile >= floodCommits
      ? Math.min(before.floodedCuts + 1, floodedCutsMax)
      : Math.max(0, before.floodedCuts - 1);
  if (!overtaken) return { floodedCuts, restMs: 0 };
  const restMs =
    floodedCuts >= floodedCutsMin
      ? Math.min(Math.max(floodedShare * tookMs, floodedMsMin), floodedMsMax)
      : Math.min(Math.min(commitsMeanwhile || overtakenShare, overtakenShare) * tookMs, overtakenMsMax);
  return { floodedCuts, restMs: rpoMs === undefined ? restMs : Math.min(restMs, rpoMs / rpoShare) };
}
