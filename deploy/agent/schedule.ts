import type { Interval } from "../../shared/config/config.ts";
import { unreachable } from "../../shared/words.ts";

/** How long after a cut was begun the next one is due, in ms; 0: as soon as something changes. */
export function configurationWait(interval: Interval, now: Date): number {
  switch (interval.kind) {
    case "on-change":
      return 0;
    case "every":
      return interval.ms;
    case "daily": {
      const next = new Date(now);
      next.setHours(interval.hour, interval.minute, 0, 0);
      // The day after by the calendar, not by 24 hours: a day of a change of clocks is longer or shorter.
      if (next <= now) next.setDate(next.getDate() + 1);
      return next.getTime() - now.getTime();
    }
    default:
      return unreachable(interval);
  }
}
