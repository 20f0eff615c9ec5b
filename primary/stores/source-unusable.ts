import { exitCodes, UnderstudyError } from "../../shared/errors.ts";

/**
 * The source of a store is missing, or is not what its kind expects. Never read as "everything was deleted": a source
 * that vanished or was emptied halts its group, since the copy may be the last one that there is.
 */
export class SourceUnusable extends UnderstudyError {
  readonly code = "SOURCE_UNUSABLE";
  readonly remedy = "stop";
  readonly state = "Nothing was cut; the copies on the replicas are unchanged and still promotable.";
  readonly hint = "Bring the source back (mounted? moved? permissions?), or correct its path in the configuration.";
  readonly path: string;

  constructor(path: string, why: string, options?: ErrorOptions) {
    super(`${path}: ${why}`, options);
    this.path = path;
  }
}

/** Somebody else has the store open, and only who has it alone may make a copy of it. */
export class StoreInUse extends UnderstudyError {
  readonly code = "STORE_IN_USE";
  readonly remedy = "retry";
  readonly state = "The node is what it was; the store is as its application left it.";
  readonly hint = "Stop the service, and whoever else has the store open; then it is tried again.";
  override readonly exitCode = exitCodes.refused;
  readonly path: string;

  constructor(path: string, why: string, options?: ErrorOptions) {
    super(`${path} ${why}`, options);
    this.path = path;
  }
}
