import { exitCodes, hintsOf, UnderstudyError } from "../../shared/errors.ts";
import type { Obstacle } from "../../shared/session/switchover-plan.ts";

/** Something stands in the way of the switchover. */
export class SwitchoverRefused extends UnderstudyError {
  readonly code = "SWITCHOVER_REFUSED";
  readonly remedy = "stop";
  readonly state = "Nothing was changed: the service runs on.";
  readonly hint: string;
  override readonly exitCode = exitCodes.refused;
  readonly obstacles: readonly Obstacle[];
  constructor(obstacles: readonly Obstacle[]) {
    super(obstacles.map(({ message }) => message).join("; "));
    this.obstacles = obstacles;
    this.hint = hintsOf(obstacles);
  }
}

/** There is none to follow, or to take back. */
export class NoSwitchover extends UnderstudyError {
  readonly code = "NO_SWITCHOVER";
  readonly remedy = "stop";
  readonly state = "Nothing was changed.";
  readonly hint = "See `understudy status`.";
  override readonly exitCode = exitCodes.refused;
}

/** Whether the target has taken over is not known, and it cannot be asked. */
export class InDoubt extends UnderstudyError {
  readonly code = "IN_DOUBT";
  readonly remedy = "retry";
  readonly state = "No service runs here: one of both nodes is primary, and which one the target alone knows.";
  readonly hint: string;
  override readonly exitCode = exitCodes.refused;
  constructor(to: string, group: string) {
    super(`whether ${to} has taken over is not known, and it is not connected`);
    this.hint = `Bring ${to} back: it ends by itself then. If ${to} is gone for ever, or is stopped and stays so: understudy switchover ${group} --abort --accept-unreachable-target goes on here, in an epoch that fences it.`;
  }
}

/** It was to be given up as unreachable, and is there. */
export class TargetAnswers extends UnderstudyError {
  readonly code = "TARGET_ANSWERS";
  readonly remedy = "retry";
  readonly state = "Nothing was given up.";
  readonly hint = "It ends by itself, here or there: see `understudy status`.";
  override readonly exitCode = exitCodes.refused;
  constructor(to: string, role: string) {
    super(`${to} is connected again, and is ${role}`);
  }
}
