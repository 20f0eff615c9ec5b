import { assert } from "../errors.ts";

const onePathComponent = /^[\x01-\x2e\x30-\xff]+$/;
const asciiOnly = /^[\x01-\x7f]*$/;

/**
 * Insists that `name` is one path component in latin1. A character above 0xff would lose its high byte on the way to
 * the kernel, and U+012F would arrive there as "/": such a name must never get that far.
 */
export function assertName(name: string): void {
  assert(onePathComponent.test(name) && name !== "." && name !== "..", `not a file name: ${JSON.stringify(name)}`);
}

/** Insists that `target` can be the text of a symlink: latin1, no NUL. An empty one is left to the kernel (ENOENT). */
export function assertSymlinkTarget(target: string): void {
  assert(/^[\x01-\xff]*$/.test(target), `not a symlink target: ${JSON.stringify(target)}`);
}

/** What node:fs must be given so that the kernel sees one byte for each character; a string is quicker than a Buffer. */
export function kernelPath(latin1: string): string | Buffer {
  return asciiOnly.test(latin1) ? latin1 : Buffer.from(latin1, "latin1");
}
