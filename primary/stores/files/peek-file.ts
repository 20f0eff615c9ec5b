import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { isSystemError } from "../../../shared/errors.ts";

const openFlags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** Bytes of a regular file as they are now; fewer at its end. Undefined when there is none that can be read. */
export function peekFile(path: string | Buffer, offset: number, length: number): Uint8Array | undefined {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(path, openFlags);
    if (!fstatSync(descriptor).isFile()) return undefined;
    const bytes = new Uint8Array(length);
    let done = 0;
    while (done < length) {
      const read = readSync(descriptor, bytes, done, length - done, offset + done);
      if (read === 0) break;
      done += read;
    }
    return bytes.subarray(0, done);
  } catch (error) {
    // Whatever it is, the next view meets it too, and there somebody is told.
    if (!isSystemError(error)) throw error;
    return undefined;
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}
