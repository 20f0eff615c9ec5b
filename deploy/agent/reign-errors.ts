import { exitCodes, UnderstudyError } from "../../shared/errors.ts";
import type { SwitchoverRecord } from "../../shared/session/switchover.ts";
import { type CutId, cutText } from "../../shared/words.ts";

export const revertedHint =
  "Promote the replica, or, if what this node has is what you want: `understudy cut GROUP --accept-source`, then `understudy adopt GROUP` on the replica.";

/** The service did not stand still: what was to be handed over is not all that there is. */
export class WrittenMeanwhile extends UnderstudyError {
  readonly code = "WRITTEN_MEANWHILE";
  readonly remedy = "stop";
  readonly state = "Nothing was handed over.";
  readonly hint = "Find out who still writes after stop_service.";
  constructor(found: CutId) {
    super(`somebody wrote after the last cut: there is cut ${cutText(found)} by now`);
  }
}

/** A replica is needed and not there, or not fit. */
export class ReplicaLeft extends UnderstudyError {
  readonly code = "REPLICA_LEFT";
  readonly remedy = "retry";
  readonly state = "Nothing was handed over.";
  readonly hint = "See `understudy status` for what the replicas do.";
}

/** What was asked of this primary is another node's to do by now. */
export class ReignOver extends UnderstudyError {
  readonly code = "REIGN_OVER";
  readonly remedy = "stop";
  readonly state = "What was written here until then is kept, here or in a fork.";
  readonly hint = "Ask the node that is primary: see `understudy status`.";
  override readonly exitCode = exitCodes.refused;
  constructor() {
    super("this node's reign is over");
  }
}

/** What stood still was cut no further, since its service runs again. */
export class ServiceMoves extends UnderstudyError {
  readonly code = "SERVICE_MOVES";
  readonly remedy = "retry";
  readonly state = "The cut was given up; what is written goes into the next one.";
  readonly hint = "Nothing to do.";
  constructor() {
    super("the service runs again: a cut that counts on it standing still was given up");
  }
}

/** What this node had is handed over, and may be somebody else's by now. */
export class HandedOver extends UnderstudyError {
  readonly code = "HANDED_OVER";
  readonly remedy = "retry";
  readonly state = "No cut is taken and no service runs here until the target has answered.";
  readonly hint =
    "See `understudy status`; `understudy switchover GROUP --abort` takes it back where that is still possible.";
  override readonly exitCode = exitCodes.refused;
  constructor({ to }: SwitchoverRecord) {
    super(`this group is being handed over to ${to}`);
  }
}

/** Nothing leaves this primary until a person lets it. */
export class ShippingPaused extends UnderstudyError {
  readonly code = "SHIPPING_PAUSED";
  readonly remedy = "stop";
  readonly state = "Nothing is shipped; what is written waits on this node.";
  readonly hint: string;
  override readonly exitCode = exitCodes.refused;
  constructor(group: string) {
    super("shipping is paused on this node");
    this.hint = `understudy resume ${group} --shipping`;
  }
}

/** This primary is older than one of its replicas. */
export class SourceReverted extends UnderstudyError {
  readonly code = "SOURCE_REVERTED";
  readonly remedy = "stop";
  readonly state = "Nothing is cut and nothing is shipped; the replica keeps what it has and can be promoted.";
  readonly hint = revertedHint;
  override readonly exitCode = exitCodes.refused;
}
