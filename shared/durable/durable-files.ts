import { open, readFile, rename } from "node:fs/promises";
import { dirname } from "node:path";
import { isSystemError, UnderstudyError } from "../errors.ts";

/** What an agent keeps for itself is for nobody else to read: keys are among it. */
const privateMode = 0o600;

/**
 * Replaces `path` whole: after a crash it holds the old bytes or the new, never a mix. One writer for each path: the
 * staged name is fixed, so that what a crash leaves is used up by the next try.
 */
export async function replaceFile(path: string, bytes: Uint8Array | string, mode = privateMode): Promise<void> {
  const staged = `${path}.staged`;
  {
    await using file = await open(staged, "w", mode);
    await file.chmod(mode); // A staged file that a crash left has the mode of its time; the umask has a say, too.
    await file.writeFile(bytes);
    await file.sync(); // Before the rename, or the new name may point at missing bytes.
  }
  await rename(staged, path);
  await syncDirectory(dirname(path)); // The rename itself lives in the directory.
}

/** Makes the names in a directory durable: what was created, renamed or removed there. */
export async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path, "r");
  await directory.sync();
}

/**
 * What `decode` makes of the JSON in `path`; undefined if there is no such file.
 * @throws {StateFileDamaged} when it is not JSON or `decode` refuses it: never taken for a missing one, since a node
 * that forgets its state in silence may take a role that is not its own.
 */
export async function readJsonFile<T>(path: string, decode: (value: unknown) => T): Promise<T | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return undefined;
    throw error;
  }
  try {
    return decode(JSON.parse(text));
  } catch (cause) {
    throw new StateFileDamaged(path, { cause });
  }
}

/** Replaces `path` by `value` as JSON that a person can read. */
export async function replaceJsonFile(path: string, value: unknown): Promise<void> {
  await replaceFile(path, `${JSON.stringify(value, undefined, 2)}\n`);
}

export class StateFileDamaged extends UnderstudyError {
  readonly code = "STATE_FILE_DAMAGED";
  readonly remedy = "stop";
  readonly state = "The file is unchanged; nothing was decided from it.";
  readonly hint = "Bring the file back from a backup of the state directory, or see what damaged it before going on.";

  constructor(path: string, options?: ErrorOptions) {
    super(`${path} cannot be understood`, options);
  }
}
