import { exitCodes, UnderstudyError } from "../../shared/errors.ts";

class PlannedTimeInvalid extends UnderstudyError {
  readonly code = "PLANNED_TIME_INVALID";
  readonly remedy = "stop";
  readonly state = "Nothing was planned.";
  readonly hint =
    "Give a time to come: 02:30 (the next one), 2026-11-22 02:30 of this machine's clock, or 2026-11-22T02:30:00Z.";
  override readonly exitCode = exitCodes.usage;

  constructor(text: string, why: string) {
    super(`${JSON.stringify(text)} ${why}`);
  }
}

/** As ISO 8601: the next `HH:MM` by this machine's clock, or a whole time. @throws {PlannedTimeInvalid} */
export function parsePlannedTime(text: string, now: Date): string {
  const daily = /^([01]\d|2[0-3]):([0-5]\d)$/.exec(text);
  if (daily !== null) {
    const next = new Date(now);
    next.setHours(Number(daily[1]), Number(daily[2]), 0, 0);
    if (next <= now) next.setDate(next.getDate() + 1);
    return next.toISOString();
  }
  // Date.parse guesses much; only what cannot be mistaken goes there.
  if (!/^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?(?:Z|[+-]\d\d:\d\d)?$/.test(text))
    throw new PlannedTimeInvalid(text, "is no time");
  const time = new Date(text.replace(" ", "T"));
  if (Number.isNaN(time.getTime())) throw new PlannedTimeInvalid(text, "is no time");
  if (time <= now) throw new PlannedTimeInvalid(text, "has passed");
  return time.toISOString();
}
