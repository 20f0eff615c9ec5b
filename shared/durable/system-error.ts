import { constants } from "node:os";

export type SystemErrorCode = keyof typeof constants.errno;

/** An error of the shape that node:fs throws, for failures that are found without a system call of Node's own. */
export function systemError(
  code: SystemErrorCode,
  syscall: string,
  detail: string,
  options?: ErrorOptions,
): NodeJS.ErrnoException {
  const error: NodeJS.ErrnoException = new Error(`${code}: ${syscall} ${detail}`, options);
  error.code = code;
  error.errno = -constants.errno[code];
  error.syscall = syscall;
  return error;
}

/** Whether a call of the system has failed, whatever for. */
export function fromTheSystem(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && "syscall" in error;
}
