import type { StorePath } from "../../../shared/words.ts";

export const rootPath = "" as StorePath;

const beyondAscii = /[^\0-\x7f]/;

/**
 * A path in latin1 (one character for each byte) as the file calls take it. A pure ASCII path stays a string, which
 * costs half of what a buffer does: a scan makes one of these for every file.
 */
export function nativePath(latin1: string): string | Buffer {
  return beyondAscii.test(latin1) ? Buffer.from(latin1, "latin1") : latin1;
}

export function joinPath(directory: StorePath, name: string): StorePath {
  return (directory === "" ? name : `${directory}/${name}`) as StorePath;
}

/** "" for a path directly below the root. */
export function parentPath(path: StorePath): StorePath {
  const slash = path.lastIndexOf("/");
  return (slash < 0 ? "" : path.slice(0, slash)) as StorePath;
}

export function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** The directories above a path from the top, the root left out. */
export function* ancestorsOf(path: StorePath): Iterable<StorePath> {
  for (let slash = path.indexOf("/"); slash >= 0; slash = path.indexOf("/", slash + 1)) {
    yield path.slice(0, slash) as StorePath;
  }
}
