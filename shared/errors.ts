/**
 * Every failure that a person or a peer may meet: what happened (`message`), how things stand now (`state`), what the
 * operator should do (`hint`), what the program may do (`remedy`).
 */
export abstract class UnderstudyError extends Error {
  abstract readonly code: string;
  /** `retry`: the same again later. `replan`: begin from what the peer holds. `stop`: a person must act. */
  abstract readonly remedy: "retry" | "replan" | "stop";
  abstract readonly state: string;
  abstract readonly hint: string;
  /** Exit code of the command line when this ends a command. */
  readonly exitCode: ExitCode = exitCodes.failed;

  override get name(): string {
    return this.code;
  }
}

export const exitCodes = {
  done: 0,
  failed: 1,
  usage: 2,
  refused: 3,
  unreachable: 4,
  timedOut: 5,
  promiseBroken: 6,
} as const;
export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

/** A broken invariant: the process must end, since a restart through recovery is safer than one more write. */
export class InvariantBroken extends Error {
  override readonly name = "INVARIANT_BROKEN";
}

export function assert(condition: unknown, invariant: string): asserts condition {
  if (!condition) throw new InvariantBroken(invariant);
}

/** A peer said something that the protocol does not allow. The session is closed; nothing of it is kept. */
export class ProtocolViolation extends UnderstudyError {
  readonly code = "PROTOCOL_VIOLATION";
  readonly remedy = "retry";
  readonly state = "The session is closed; the copy and the catalog are unchanged.";
  readonly hint = "Check that both sides run compatible versions, and who else can reach this port.";
}

/** True for a Node system error with this code, such as `ENOENT`. */
export function isSystemError(error: unknown, ...codes: string[]): error is NodeJS.ErrnoException {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}

/** The message with those of its causes, innermost last. */
export function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? error.message : `${error.message}: ${explain(error.cause)}`;
}

/** What stands in the way of something, each on a line: what a person may do about it, and the flag that passes it. */
export function hintsOf(obstacles: readonly { readonly hint: string; readonly flag?: string | undefined }[]): string {
  return obstacles
    .map(({ hint, flag }) => (flag === undefined ? hint : `${hint} To go on all the same: ${flag}`))
    .join("\n");
}

/** What a person may do about an error; never empty. */
export function hintOf(error: unknown): string {
  return error instanceof UnderstudyError && error.hint !== "" ? error.hint : "See the agent's log.";
}
