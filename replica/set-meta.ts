import { isSystemError } from "../shared/errors.ts";
import type { FileMeta } from "../shared/ports/disk.ts";
import type { ObjectType } from "../shared/wire/messages.ts";

/**
 * Sets owner first (that clears setuid), then mode, then mtime, each as far as this process may. False when something was
 * not permitted: counted and shown as `metadata: partial`, never dropped silently. Directory times are not kept.
 */
export function setMetaAsPermitted(
  set: (meta: Partial<FileMeta>) => void,
  wanted: {
    readonly type: ObjectType;
    readonly mode: number;
    readonly uid: number;
    readonly gid: number;
    readonly mtimeUs: number;
  },
  owners: "numeric" | "ignore" = "numeric",
): boolean {
  let whole = true;
  const attempt = (part: Partial<FileMeta>): void => {
    try {
      set(part);
    } catch (error) {
      if (!isSystemError(error, "EPERM", "EACCES")) throw error;
      whole = false;
    }
  };
  if (owners === "numeric") attempt({ uid: wanted.uid, gid: wanted.gid });
  if (wanted.type !== "symlink") attempt({ mode: wanted.mode });
  if (wanted.type !== "directory") attempt({ mtimeUs: wanted.mtimeUs });
  return whole;
}
