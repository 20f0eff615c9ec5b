import type { Catalog } from "../../shared/catalog/catalog.ts";
import type { Manifest } from "../../shared/catalog/manifest.ts";
import type { SeenEntry, SeenIndex } from "../../shared/ports/store-adapter.ts";
import type { ObjectId, Seq, StorePath } from "../../shared/words.ts";

/** What the manifest as of `at` knows of one store, for its adapter. */
export function seenIndex(catalog: Catalog, manifest: Manifest, store: number, at: Seq): SeenIndex {
  const entryOf = (object: ObjectId): SeenEntry | undefined => {
    const version = manifest.object(object, at);
    if (version === undefined) return undefined;
    return {
      object,
      type: version.type,
      mode: version.mode,
      uid: version.uid,
      gid: version.gid,
      mtimeUs: version.mtimeUs,
      size: version.size,
      target: version.target,
      seen: seenStamps(catalog, object),
    };
  };
  return {
    byPath(path) {
      const object = manifest.objectAtPath(store, path, at);
      return object === undefined ? undefined : entryOf(object);
    },
    *children(directory) {
      for (const { name, object } of manifest.children(store, directory, at)) {
        const entry = entryOf(object);
        if (entry !== undefined) yield { name, entry };
      }
    },
    pathsOf(object) {
      return manifest.pathsOf(object as ObjectId, at).map((entry) => entry.path);
    },
    pathsOfInode(inode) {
      const paths: StorePath[] = [];
      for (const row of catalog.all("SELECT object FROM seen WHERE inode = ? AND store = ?", inode, store)) {
        for (const entry of manifest.pathsOf(Number(row.object) as ObjectId, at)) paths.push(entry.path);
      }
      return paths;
    },
    everCut() {
      return catalog.get("SELECT 1 AS found FROM path_versions WHERE store = ? LIMIT 1", store) !== undefined;
    },
    count() {
      return manifest.countPaths(store, at);
    },
  };
}

/** Stamps of an object's file as they were when it was read last, in ns. */
export function seenStamps(catalog: Catalog, object: ObjectId): SeenEntry["seen"] {
  const statement = catalog.statement("SELECT inode, size, mtime_ns, ctime_ns FROM seen WHERE object = ?");
  statement.setReadBigInts(true);
  const row = statement.get(object) as { inode: bigint; size: bigint; mtime_ns: bigint; ctime_ns: bigint } | undefined;
  if (row === undefined) return undefined;
  return { inode: Number(row.inode), size: Number(row.size), mtimeNs: row.mtime_ns, ctimeNs: row.ctime_ns };
}
