export type LogFields = Readonly<Record<string, string | number | boolean>>;

/** One structured line for each event, named `noun.verb`: what the link says; who logs it, and how, is the caller's. */
export type LinkLog = (level: "info" | "warn", event: string, fields: LogFields) => void;

/**
 * The same log, but no more than `linesMax` lines of an event each second, and a count of what was left out: what anybody can
 * cause without a key must not fill a disk.
 */
export function sparing(log: LinkLog, linesMax = 5, now: () => number = () => performance.now()): LinkLog {
  const windows = new Map<string, { begun: number; lines: number; suppressed: number }>();
  return (level, event, fields) => {
    const at = now();
    const window = windows.get(event);
    if (window !== undefined && at - window.begun < 1000) {
      if (++window.lines > linesMax) {
        window.suppressed++;
        return;
      }
      log(level, event, fields);
      return;
    }
    windows.set(event, { begun: at, lines: 1, suppressed: 0 });
    const suppressed = window?.suppressed ?? 0;
    log(level, event, suppressed === 0 ? fields : { ...fields, suppressed });
  };
}
