import type { Directory, Disk, FileMeta } from "../../shared/ports/disk.ts";

/** A nested description of what lies at a path: for equality, and for planting it. */
export type Tree = FileMeta &
  (
    | { type: "file"; links: number; bytes: Buffer }
    | { type: "symlink"; links: number; target: string }
    | { type: "directory"; entries: Record<string, Tree> }
    | { type: "other" }
  );

/** What a test wants to be there: bytes alone are a file of mode 0644, a string counts as latin1. */
export type Planted =
  | string
  | Uint8Array
  | (Partial<FileMeta> &
      (
        | { type: "file"; bytes: string | Uint8Array }
        | { type: "symlink"; target: string }
        | { type: "directory"; entries: Readonly<Record<string, Planted>> }
      ));

/** Works on any disk, so that a simulated one can be compared with a real one. Names are sorted. */
export function describeTree(disk: Disk, directory: Directory): Tree {
  const { mode, uid, gid, mtimeUs } = disk.statDirectory(directory);
  const entries: [string, Tree][] = [];
  for (const name of disk.list(directory).sort()) entries.push([name, describeEntry(disk, directory, name)]);
  // Own properties whatever the names are: "__proto__" is one that a file may have.
  return { type: "directory", mode, uid, gid, mtimeUs, entries: Object.fromEntries(entries) };
}

function describeEntry(disk: Disk, directory: Directory, name: string): Tree {
  const stat = disk.stat(directory, name);
  if (!stat) throw new Error(`${JSON.stringify(name)} is listed but not there`);
  const { type, mode, uid, gid, mtimeUs, links, size } = stat;
  const meta = { mode, uid, gid, mtimeUs };
  switch (type) {
    case "other":
      return { type, ...meta };
    case "symlink":
      return { type, ...meta, links, target: disk.readSymlink(directory, name) };
    case "file": {
      const file = disk.openFile(directory, name, "read");
      const bytes = Buffer.alloc(size);
      const read = disk.read(file, bytes, 0, size, 0);
      disk.closeFile(file);
      if (read !== size) throw new Error(`${JSON.stringify(name)} has ${read} bytes of ${size}`);
      return { type, ...meta, links, bytes };
    }
    case "directory": {
      const inner = disk.openDirectory(directory, name);
      try {
        return describeTree(disk, inner);
      } finally {
        disk.closeDirectory(inner);
      }
    }
  }
}

export interface Comparison {
  /** For files and symlinks; those of directories never count, as every change within touches them. */
  readonly times: boolean;
  readonly links: boolean;
}

/**
 * The first difference in words, or undefined for equal trees. Much quicker than a deep equality over every byte, for
 * the thousands of times that the crash matrix compares.
 */
export function treeDifference(
  actual: Tree,
  expected: Tree,
  compare: Comparison = { times: true, links: true },
  path = "",
): string | undefined {
  const here = path === "" ? "/" : path;
  if (actual.type !== expected.type) return `${here} is a ${actual.type}, expected a ${expected.type}`;
  for (const key of ["mode", "uid", "gid"] as const) {
    if (actual[key] !== expected[key]) return `${here} has ${key} ${actual[key]}, expected ${expected[key]}`;
  }
  if (compare.times && actual.type !== "directory" && actual.mtimeUs !== expected.mtimeUs) {
    return `${here} has mtime ${actual.mtimeUs} us, expected ${expected.mtimeUs} us`;
  }
  if (compare.links && "links" in actual && "links" in expected && actual.links !== expected.links) {
    return `${here} has ${actual.links} links, expected ${expected.links}`;
  }
  if (actual.type === "symlink" && expected.type === "symlink" && actual.target !== expected.target) {
    return `${here} leads to ${JSON.stringify(actual.target)}, expected ${JSON.stringify(expected.target)}`;
  }
  if (actual.type === "file" && expected.type === "file") return bytesDifference(actual.bytes, expected.bytes, here);
  if (actual.type === "directory" && expected.type === "directory") {
    for (const [name, inner] of Object.entries(expected.entries)) {
      const found = Object.hasOwn(actual.entries, name) ? actual.entries[name] : undefined;
      if (!found) return `${path}/${name} is missing`;
      const difference = treeDifference(found, inner, compare, `${path}/${name}`);
      if (difference !== undefined) return difference;
    }
    for (const name of Object.keys(actual.entries)) {
      if (!Object.hasOwn(expected.entries, name)) return `${path}/${name} is too many`;
    }
  }
  return undefined;
}

function bytesDifference(actual: Buffer, expected: Buffer, path: string): string | undefined {
  if (actual.length !== expected.length) return `${path} has ${actual.length} bytes, expected ${expected.length}`;
  if (actual.equals(expected)) return undefined;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  return `${path} has byte ${actual[at]} at ${at}, expected ${expected[at]}`;
}
