import { imageFileName } from "../../replica/apply/save-images.ts";
import type { ReplicaContext } from "../../replica/replica-context.ts";
import { homeOf, objectFileName } from "../../replica/replica-context.ts";
import { splitPath } from "../../shared/catalog/manifest.ts";
import type { Directory } from "../../shared/ports/disk.ts";
import type { ObjectId, Seq } from "../../shared/words.ts";
import type { Tree } from "./disk-tree.ts";

/**
 * A store as it was at an earlier cut, put together by the rule alone and not by the program's own restore: an object's
 * file as it stands, its images that died later laid over from the youngest to the oldest, rows and sizes of that cut.
 */
export function restoredPoint(context: ReplicaContext, store: number, at: Seq): Tree {
  const { manifest } = context;
  const entries = [...manifest.entries(store, at)];
  const links = new Map<ObjectId, number>();
  for (const { object } of entries) links.set(object.object, (links.get(object.object) ?? 0) + 1);
  const directories = new Map<string, Record<string, Tree>>();
  let root: Tree | undefined;
  for (const { path, object } of entries) {
    const { mode, uid, gid, mtimeUs } = object;
    let tree: Tree;
    if (object.type === "directory") {
      const inner: Record<string, Tree> = {};
      directories.set(path, inner);
      tree = { type: "directory", mode, uid, gid, mtimeUs, entries: inner };
    } else if (object.type === "symlink") {
      tree = {
        type: "symlink",
        mode: 0o777,
        uid,
        gid,
        mtimeUs,
        links: links.get(object.object)!,
        target: object.target,
      };
    } else {
      const bytes = contentAt(context, store, object.object, object.size, at);
      tree = { type: "file", mode, uid, gid, mtimeUs, links: links.get(object.object)!, bytes };
    }
    if (path === "") {
      root = tree;
      continue;
    }
    const { dir, name } = splitPath(path);
    directories.get(dir)![name] = tree;
  }
  return root!;
}

function contentAt(context: ReplicaContext, store: number, object: ObjectId, size: number, at: Seq): Buffer {
  const { catalog } = context;
  const home = homeOf(context, store);
  const images = catalog.all("SELECT * FROM images WHERE object = ? AND died > ? ORDER BY died DESC", object, at);
  const end = Math.max(size, ...images.map((image) => Number(image.offset) + Number(image.length)));
  const bytes = Buffer.alloc(end);
  const path = context.manifest.pathsOf(object, catalog.standing.applied)[0]?.path;
  if (path === undefined) {
    readInto(context, home.kept, objectFileName(object), bytes, 0, 0);
  } else {
    const place = home.tree.place(home.local(path));
    if (place === undefined) throw new Error(`no directory for ${path}`);
    readInto(context, place.directory, place.name, bytes, 0, 0);
  }
  for (const image of images) {
    const part = bytes.subarray(Number(image.offset), Number(image.offset) + Number(image.length));
    const read = readInto(
      context,
      home.history,
      imageFileName(Number(image.file)),
      part,
      Number(image.position),
      part.length,
    );
    if (read !== part.length) throw new Error(`history file ${image.file} ends before position ${image.position}`);
  }
  return bytes.subarray(0, size);
}

function readInto(
  { disk }: ReplicaContext,
  directory: Directory,
  name: string,
  bytes: Buffer,
  position: number,
  least: number,
): number {
  const file = disk.openFile(directory, name, "read");
  try {
    const read = disk.read(file, bytes, 0, bytes.length, position);
    if (read < least) throw new Error(`${name} has ${read} bytes at ${position}, ${least} are needed`);
    return read;
  } finally {
    disk.closeFile(file);
  }
}
