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
  /** Commits since the cut before ended, as far as the stores' kinds can count them. */
  readonly commits: number;
  readonly sinceMs: number;
  /** The tightest promise towards a replica. */
  readonly rpoMs: number | undefined;
}

export const unpaced: CutPace = { floodedCuts: 0, restMs: 0 };

/** Where commits are not counted. */
const overtakenShare = 3;
const overtakenMsMax = 30;
/**
 * Commits that come faster than that, 500 a second, leave no pause. Over the whole time from cut to cut: while one is
 * taken the writer is slow, and a slow cut meets many.
 */
const floodCommits = 4;
const floodCommitsPerMs = 0.5;
/** Fewer may be a cut that was slow by chance, under a writer that has time. */
const floodedCutsMin = 3;
const floodedCutsMax = 4;
const floodedShare = 19;
const floodedMsMin = 40;
const floodedMsMax = 250;
const rpoShare = 10;

/**
 * Where writers pause, a cut costs them nothing, and the next is begun as soon as there is anything. Where some came
 * while it was taken, the rest is as many times its length, so that what is written next shares a cut. Where they never
 * pause, each cut takes its part of the processors and of the disk from them: they get nineteen times its length for
 * themselves.
 */
export function paceAfter(before: CutPace, ended: CutEnded): CutPace {
  const { tookMs, overtaken, commits, sinceMs, rpoMs } = ended;
  const floodedCuts =
    commits >= Math.max(floodCommits, floodCommitsPerMs * sinceMs)
      ? Math.min(before.floodedCuts + 1, floodedCutsMax)
      : Math.max(0, before.floodedCuts - 1);
  if (!overtaken) return { floodedCuts, restMs: 0 };
  const meanwhile = commits === 0 ? overtakenShare : Math.max(1, Math.round((commits * tookMs) / sinceMs));
  const restMs =
    floodedCuts >= floodedCutsMin
      ? Math.min(Math.max(floodedShare * tookMs, floodedMsMin), floodedMsMax)
      : Math.min(Math.min(meanwhile, overtakenShare) * tookMs, overtakenMsMax);
  return { floodedCuts, restMs: rpoMs === undefined ? restMs : Math.min(restMs, rpoMs / rpoShare) };
}
