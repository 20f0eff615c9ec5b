import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { isSystemError } from "./errors.ts";

/** Whether a hook's program is a command that this user may run, by its path or by the search path. */
export async function executable(program: string): Promise<boolean> {
  const places = program.includes("/")
    ? [program]
    : (process.env.PATH ?? "").split(delimiter).map((directory) => join(directory, program));
  for (const place of places) if (await isExecutable(place)) return true;
  return false;
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile();
  } catch (error) {
    if (isSystemError(error, "EACCES", "EPERM", "EROFS", "ENOENT", "ENOTDIR")) return false;
    throw error;
  }
}
