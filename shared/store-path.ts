import { UnderstudyError } from "./errors.ts";
import type { StorePath } from "./words.ts";

/** A peer named a path that must not be: nothing outside the copy is ever touched because somebody says so. */
export class PathRefused extends UnderstudyError {
  readonly code = "PATH_REFUSED";
  readonly remedy = "stop";
  readonly state = "The cut is refused; the copy and the catalog are unchanged.";
  readonly hint = "A correct primary never sends such a path: find out what runs there.";
}

/** Bytes of one component and of a whole path; the kernel's own limits, less what the copy's place may need. */
export const nameBytesMax = 255;
export const pathBytesMax = 3072;
/** The name of the private directory beside a copy. */
export const privateName = ".understudy";
/** Of the file whose rename proves that a private directory is on the mount of its copy; a crash may leave it in the copy. */
export const trialName = ".understudy-trial";

/**
 * Checks a relative path as a peer sent it: components of 1 to 255 bytes, none of them `.` or `..`, no NUL, nothing
 * absolute, nothing in the private directory. "" is the root.
 * @throws {PathRefused}
 */
export function checkStorePath(path: string): StorePath {
  if (path === "") return path as StorePath;
  if (path.length > pathBytesMax)
    throw new PathRefused(`path of ${path.length} bytes, at most ${pathBytesMax} are taken`);
  if (path.includes("\0")) throw new PathRefused(`path with a NUL byte: ${JSON.stringify(path)}`);
  if (path.startsWith("/")) throw new PathRefused(`absolute path: ${JSON.stringify(path)}`);
  for (const name of path.split("/")) {
    if (name === "" || name === "." || name === "..") {
      throw new PathRefused(`path with a component "${name}": ${JSON.stringify(path)}`);
    }
    if (name.length > nameBytesMax)
      throw new PathRefused(`name of ${name.length} bytes, at most ${nameBytesMax} are possible`);
  }
  if (path === privateName || path.startsWith(`${privateName}/`)) {
    throw new PathRefused(`path in the private directory: ${JSON.stringify(path)}`);
  }
  for (let i = 0; i < path.length; i++) {
    if (path.charCodeAt(i) > 0xff) throw new PathRefused(`path is not bytes: ${JSON.stringify(path)}`);
  }
  return path as StorePath;
}

/** For people and JSON: the text where the bytes are UTF-8, else undefined. */
export function readablePath(path: StorePath): string | undefined {
  const bytes = Buffer.from(path, "latin1");
  const text = bytes.toString("utf8");
  return Buffer.from(text, "utf8").equals(bytes) ? text : undefined;
}

/** A path or name of the configuration, which is text, as the disk takes it: one character for each byte. */
export function inBytes(text: string): string {
  return Buffer.from(text, "utf8").toString("latin1");
}
