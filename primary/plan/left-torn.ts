import { UnderstudyError } from "../../shared/errors.ts";

/** A file moved whenever it was read, or when it could not be taken back, and no earlier state of it can stand in the cut. */
export class LeftTorn extends UnderstudyError {
  readonly code = "LEFT_TORN";
  readonly remedy = "retry";
  readonly state = "The cut was dropped; the replicas keep the one before.";
  readonly hint = "It is tried again. With freeze hooks: do they really stop everybody who writes there?";
  constructor(path: string) {
    super(`${path} could not be read whole`);
  }
}
