import { ContentChange } from "../../shared/catalog/content-change.ts";
import type { ObjectVersion } from "../../shared/catalog/manifest.ts";
import { blockHash, equalBytes, hashBytes } from "../../shared/manifest/block-hash.ts";
import { blockHashes } from "../../shared/manifest/block-hashes.ts";
import type { Content, Entry, FoundEntry } from "../../shared/ports/store-adapter.ts";
import type { ObjectId } from "../../shared/words.ts";
import { framePayloadBytes } from "../ship/frame-memory.ts";
import type { CompareScope } from "./compare-entry.ts";
import { rangesOf, readBuffer, readFully } from "./read-content.ts";

/** Blocks that are looked at to tell a rewritten file from another one that took its name. */
const sampleBlocks = 8;

/**
 * Which object a found entry is: the one that its inode had, unless that is another's now, else the one at its path when
 * the content is a rewrite of it (same offsets compared, so a rewrite ships only what differs), else a new one (undefined).
 */
export async function chooseObject(
  scope: CompareScope,
  found: FoundEntry,
  atPath: ObjectId | undefined,
): Promise<ObjectId | undefined> {
  const { catalog, manifest } = scope.context;
  const { store, birth } = scope;
  const { entry, content, linkOf } = found;
  const before = atPath === undefined ? undefined : manifest.object(atPath, birth);
  if (entry.type === "directory") return before?.type === "directory" ? atPath : undefined;
  const inodeOf = (object: ObjectId): number | undefined => {
    const row = catalog.get("SELECT inode FROM seen WHERE object = ?", object);
    return row === undefined ? undefined : Number(row.inode);
  };
  const fits = (version: ObjectVersion | undefined): version is ObjectVersion =>
    version !== undefined &&
    version.type === entry.type &&
    (content === undefined || version.blockSize === content.blockSize || entry.type !== "file") &&
    (entry.type !== "symlink" || version.target === entry.target);

  if (linkOf !== undefined) {
    const linked = manifest.objectAtPath(store.number, linkOf, birth);
    if (linked !== undefined && fits(manifest.object(linked, birth)) && inodeOf(linked) === entry.seen.inode)
      return linked;
  }
  if (atPath !== undefined && fits(before)) {
    if (entry.type === "symlink" && manifest.pathsOf(atPath, birth).length === 1) return atPath;
    const known = inodeOf(atPath);
    if (known === undefined || known === entry.seen.inode) {
      // Of what was one file under two names, one may have been replaced and move at each reading.
      return (await mayBecome(scope, found, atPath, before)) ? atPath : undefined;
    }
  }
  const ofInode = catalog.all("SELECT object FROM seen WHERE inode = ? AND store = ?", entry.seen.inode, store.number);
  for (const row of ofInode) {
    const object = Number(row.object) as ObjectId;
    const version = manifest.object(object, birth);
    if (fits(version) && (await mayBecome(scope, found, object, version))) return object;
  }
  if (atPath !== undefined && before?.type === "file" && content !== undefined && fits(before)) {
    if (manifest.pathsOf(atPath, birth).length === 1 && looksRewritten(scope, atPath, before, entry, content))
      return atPath;
  }
  return undefined;
}

/**
 * Whether the object may take what was found. A file system gives the inode of a file that was replaced to the next one,
 * while the path that the object has in the manifest keeps its previous version until what it holds now is met, or holds
 * still. So an object with a path that is no link to this inode must not change by it. It may be the one that was moved
 * all the same: then nothing has changed but the name, which the content tells.
 */
async function mayBecome(
  scope: CompareScope,
  found: FoundEntry,
  object: ObjectId,
  version: ObjectVersion,
): Promise<boolean> {
  const { entry, content, isLink } = found;
  if (entry.type !== "file" || content === undefined) return true;
  const others = scope.context.manifest.pathsOf(object, scope.birth).filter(({ path }) => path !== found.path);
  const kept = entry.seen.links === 1 ? others : others.filter(({ path }) => isLink?.(path) === false);
  return (
    kept.length === 0 || (hasSameMeta(entry, version) && (await hasSameContent(scope, object, version, entry, content)))
  );
}

function hasSameMeta(entry: Entry, version: ObjectVersion): boolean {
  return (
    version.size === entry.size &&
    version.mtimeUs === entry.mtimeUs &&
    version.mode === entry.mode &&
    version.uid === entry.uid &&
    version.gid === entry.gid
  );
}

/** Reads all of it; false, too, where the content ends early, since it moved. */
async function hasSameContent(
  scope: CompareScope,
  object: ObjectId,
  version: ObjectVersion,
  entry: Entry,
  content: Content,
): Promise<boolean> {
  const { blockSize } = content;
  const buffer = blockSize <= framePayloadBytes ? readBuffer(scope.context) : Buffer.allocUnsafeSlow(blockSize);
  const known = new ContentChange(scope.context.manifest, object, scope.birth, version.content, { births: true });
  for (const { offset, length } of rangesOf(entry, content)) {
    for (let at = offset; at < offset + length; at += buffer.length) {
      const wanted = Math.min(buffer.length, offset + length - at);
      if (scope.breath?.due(wanted) === true) await scope.breath.take();
      const bytes = buffer.subarray(0, wanted);
      if (readFully(content, bytes, at) < wanted) return false;
      const hashes = blockHashes(bytes, blockSize);
      for (let block = 0; block * hashBytes < hashes.length; block++) {
        const hash = hashes.subarray(block * hashBytes, (block + 1) * hashBytes);
        if (!equalBytes(known.hash(at / blockSize + block), hash)) return false;
      }
    }
  }
  return true;
}

function looksRewritten(
  scope: CompareScope,
  object: ObjectId,
  before: ObjectVersion,
  entry: Entry,
  content: Content,
): boolean {
  const { manifest } = scope.context;
  const blocks = Math.ceil(Math.min(before.size, entry.size) / content.blockSize);
  if (blocks < sampleBlocks) return false;
  const change = new ContentChange(manifest, object, scope.birth, before.content, { births: true });
  const buffer = Buffer.allocUnsafe(content.blockSize);
  let same = 0;
  for (let i = 0; i < sampleBlocks; i++) {
    const block = Math.floor((i * blocks) / sampleBlocks);
    const length = content.read(buffer, block * content.blockSize);
    if (equalBytes(blockHash(buffer.subarray(0, length)), change.hash(block))) same++;
  }
  return same * 2 >= sampleBlocks;
}
