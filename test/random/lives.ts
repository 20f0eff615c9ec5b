import { type Histories, runHistories } from "./histories.ts";

/** As many as a machine of two cores has idle time for: most of a history is waiting. */
const besideMax = 5;

export interface LivesOptions {
  /** One life begins from each. */
  readonly seeds: readonly number[];
  readonly historiesEach: number;
  readonly launcher: string;
  readonly say: (line: string) => void;
}

/** Lives of three agents each, some beside each other, until all are over or one fails; then the others end, too, and it is thrown. */
export async function runLives({ seeds, historiesEach, launcher, say }: LivesOptions): Promise<Histories[]> {
  const waiting = [...seeds];
  const all: Histories[] = [];
  let failed = false;
  const lane = async (): Promise<void> => {
    for (let seed = waiting.shift(); seed !== undefined && !failed; seed = waiting.shift()) {
      const ofLife = seed;
      try {
        all.push(
          await runHistories({
            seed,
            histories: historiesEach,
            goesOn: () => !failed,
            say: (line) => say(`${ofLife} ${line}`),
            launcher,
          }),
        );
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  // All come to their end before the program that they run goes.
  const ends = await Promise.allSettled(Array.from({ length: besideMax }, lane));
  const failures = ends.flatMap((end) => (end.status === "rejected" ? [end.reason as unknown] : []));
  if (failures.length > 0) throw failures[0];
  return all;
}

/** For those who look on. */
export function livesText(all: readonly Histories[]): string {
  const sum = (of: (one: Histories) => number): number => all.reduce((total, one) => total + of(one), 0);
  return [
    `${sum((one) => one.histories)} histories, ${sum((one) => one.entries)} writes`,
    `${sum((one) => one.forks)} forks with ${sum((one) => one.lost)} of them`,
    `${sum((one) => one.exact)} times known from which cut on`,
    `stopped at most ${Math.max(...all.map((one) => one.stoppedAfterMs)).toFixed(0)} ms after the contact`,
  ].join(", ");
}
