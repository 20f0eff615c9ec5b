import { userInfo } from "node:os";
import { isSystemError } from "../../shared/errors.ts";

/**
 * Whom the record names beside what was overridden: the user of this process, and who became it by sudo. The agent cannot
 * ask the kernel who is at the other end of its socket, so this is what the caller says of himself.
 */
export function callerName(environment: Readonly<Record<string, string | undefined>>): string {
  const user = ownName();
  const { SUDO_USER: behind = "" } = environment;
  return behind === "" || behind === user ? user : `${behind} as ${user}`;
}

function ownName(): string {
  try {
    return userInfo().username;
  } catch (error) {
    // A user without an entry has a number still.
    if (isSystemError(error, "ERR_SYSTEM_ERROR")) return `uid ${process.getuid?.() ?? "unknown"}`;
    throw error;
  }
}
