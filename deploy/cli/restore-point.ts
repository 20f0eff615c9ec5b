import { exitCodes, UnderstudyError } from "../../shared/errors.ts";
import { parseDurationMs, UnitInvalid } from "../../shared/units.ts";
import type { RestorePoint } from "../control/api.ts";

export class RestorePointInvalid extends UnderstudyError {
  readonly code = "RESTORE_POINT_INVALID";
  readonly remedy = "stop";
  readonly state = "Nothing was restored.";
  readonly hint =
    "Give a cut as in `understudy points` (1.42), a time (2026-11-21T09:00:00Z, or 2026-11-21 09:00 of this machine's clock), or how long ago (5m ago).";
  override readonly exitCode = exitCodes.usage;

  constructor(text: string) {
    super(`${JSON.stringify(text)} is neither a cut nor a time`);
  }
}

/** A cut as `epoch.seq`, a time, or a time before `nowMs`. @throws {RestorePointInvalid} */
export function parseRestorePoint(text: string, nowMs: number): RestorePoint {
  const cut = /^(\d{1,15})\.(\d{1,15})$/.exec(text);
  if (cut) return { cut: { epoch: Number(cut[1]), seq: Number(cut[2]) } };
  const ago = /^(.+) ago$/.exec(text);
  if (ago?.[1] !== undefined) return { time: isoTime(nowMs - durationMs(ago[1], text), text) };
  // Date.parse guesses much; only what cannot be mistaken goes there.
  if (!/^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?(?:Z|[+-]\d\d:\d\d)?$/.test(text)) {
    throw new RestorePointInvalid(text);
  }
  return { time: isoTime(Date.parse(text.replace(" ", "T")), text) };
}

function durationMs(duration: string, text: string): number {
  try {
    return parseDurationMs(duration);
  } catch (cause) {
    if (cause instanceof UnitInvalid) throw new RestorePointInvalid(text);
    throw cause;
  }
}

function isoTime(ms: number, text: string): string {
  const time = new Date(ms);
  if (Number.isNaN(time.getTime())) throw new RestorePointInvalid(text);
  return time.toISOString();
}
