import { UnderstudyError } from "../../shared/errors.ts";
import { type CutId, cutText } from "../../shared/words.ts";

abstract class CutRefused extends UnderstudyError {
  readonly state: string = "The copy is unchanged and still promotable; nothing of the cut is kept.";
}

/** The cut does not continue what this replica holds. */
export class BaseMismatch extends CutRefused {
  readonly code = "BASE_MISMATCH";
  readonly remedy = "replan";
  readonly hint = "Nothing to do: the primary plans again from the cut that the replica holds.";
  constructor(held: CutId, base: CutId) {
    super(`replica holds cut ${cutText(held)}, received a cut based on ${cutText(base)}`);
  }
}

/** Bytes, hashes or digests do not agree with each other. */
export class CutDamaged extends CutRefused {
  readonly code = "CUT_DAMAGED";
  readonly remedy = "replan";
  readonly hint =
    "The primary sends it again; if it comes back, check the memory and the program versions of both sides.";
}

/** What came is not a cut as this version knows it. */
export class CutMalformed extends CutRefused {
  readonly code = "CUT_MALFORMED";
  readonly remedy = "stop";
  readonly hint = "Find out what runs on the other side; a correct primary never sends this.";
}

/** A sender of another group, an older epoch or another incarnation. */
export class SenderRefused extends CutRefused {
  readonly code = "SENDER_REFUSED";
  readonly remedy = "stop";
  readonly hint = "Look at `understudy status` on both nodes: one of them is not what the other takes it for.";
}

/** No room for the cut. The copy keeps the cut that it has. */
export class NoRoom extends CutRefused {
  readonly code = "NO_ROOM";
  readonly remedy = "retry";
  readonly hint =
    "Free space on the copy's filesystem or lower retention.max_bytes; the primary tries again by itself.";
}

/** The group is sealed for a promotion, or stands still. */
export class Sealed extends CutRefused {
  readonly code = "SEALED";
  readonly remedy = "stop";
  readonly hint = "This replica is being promoted: the sender's reign is over.";
}

const refusals = new Set([
  "REJOIN_UNPROVEN",
  "BASE_MISMATCH",
  "CUT_DAMAGED",
  "CUT_MALFORMED",
  "SENDER_REFUSED",
  "NO_ROOM",
  "SEALED",
  "PATH_REFUSED",
  "PROTOCOL_VIOLATION",
]);

/** Whether an error with this code ends a session, and not the process. */
export function isRefusal(code: string): boolean {
  return refusals.has(code);
}
