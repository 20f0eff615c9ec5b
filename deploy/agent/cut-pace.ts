/** How the last cuts followed each other. */
export interface CutPace {
  /** Cuts in a row during which the stores went on changing. */
  readonly busyCuts: number;
  /** Before the next cut is begun, unless somebody asks for one. */
  readonly restMs: number;
}

export interface CutEnded {
  readonly tookMs: number;
  /** There was something new again by its end. */
  readonly changedMeanwhile: boolean;
  /** The tightest promise towards a replica. */
  readonly rpoMs: number | undefined;
}

export const unpaced: CutPace = { busyCuts: 0, restMs: 0 };

/** After a single cut that was overtaken the writer may only have met it by chance: what it waits for should be short. */
const chanceCuts = 2;
const chanceShare = 3;
const chanceMsMax = 30;
const busyShare = 9;
const busyMsMin = 20;
const busyMsMax = 250;
const rpoShare = 10;

/**
 * Where writers pause, a cut costs them nothing, and the next is begun as soon as there is anything. Where they do not,
 * each cut takes part of the processors and of the disk from them: then they get nine times its length for themselves,
 * and what they write meanwhile shares the next one.
 */
export function paceAfter(before: CutPace, { tookMs, changedMeanwhile, rpoMs }: CutEnded): CutPace {
  if (!changedMeanwhile) return unpaced;
  const busyCuts = before.busyCuts + 1;
  const restMs =
    busyCuts <= chanceCuts
      ? Math.min(chanceShare * tookMs, chanceMsMax)
      : Math.min(Math.max(busyShare * tookMs, busyMsMin), busyMsMax);
  return { busyCuts, restMs: rpoMs === undefined ? restMs : Math.min(restMs, rpoMs / rpoShare) };
}
