/** Between two steps frames and calls have their turn. */
const stepPauseMs = 2;

export interface HousekeeperOptions {
  /** Nothing is begun any more. */
  readonly over: () => boolean;
  /** There is nothing to keep just now. */
  readonly waits: () => boolean;
  /** Before each step: what holds a transaction open ends it. */
  readonly makeWay: () => void;
  readonly failed: (error: unknown) => void;
}

/** Begins work again and again, after `everyMs` each time, that is done in small steps. */
export function housekeeper({ over, waits, makeWay, failed }: HousekeeperOptions) {
  return (everyMs: () => number, begin: () => Iterator<unknown> | undefined): void => {
    const later = (ms: number, then: () => void): void => {
      setTimeout(() => {
        try {
          then();
        } catch (error) {
          failed(error);
          if (!over()) later(everyMs(), start);
        }
      }, ms).unref();
    };
    const step = (work: Iterator<unknown>): void => {
      if (waits()) {
        later(everyMs(), start);
        return;
      }
      makeWay();
      if (work.next().done === true) later(everyMs(), start);
      else later(stepPauseMs, () => step(work));
    };
    const start = (): void => {
      const work = waits() ? undefined : begin();
      if (work === undefined) later(everyMs(), start);
      else step(work);
    };
    later(everyMs(), start);
  };
}
