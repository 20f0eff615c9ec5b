import type { Catalog } from "../../shared/catalog/catalog.ts";
import { type Manifest, typeNames } from "../../shared/catalog/manifest.ts";
import { assert } from "../../shared/errors.ts";
import type { SeenEntry, SeenIndex } from "../../shared/ports/store-adapter.ts";
import type { ObjectId, Seq, StorePath } from "../../shared/words.ts";

/** All that a scan compares of a directory, at once: a look-up or two for each of its files cost twice as much. */
const childrenSeen = `SELECT p.name, o.object, o.type, o.mode, o.uid, o.gid, o.mtime_us, o.size, o.target,
    s.inode, s.size AS seen_size, s.mtime_ns, s.ctime_ns
  FROM path_versions p JOIN object_versions o ON o.object = p.object LEFT JOIN seen s ON s.object = p.object
  WHERE p.store=? AND p.dir=? AND p.birth<=? AND p.name<>'' AND o.birth<=? AND o.type<>0
    AND NOT EXISTS (SELECT 1 FROM path_versions n WHERE n.store=p.store AND n.dir=p.dir AND n.name=p.name AND n.birth>p.birth
      AND n.birth<=?)
    AND NOT EXISTS (SELECT 1 FROM object_versions n WHERE n.object=o.object AND n.birth>o.birth AND n.birth<=?)`;

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
      const statement = catalog.statement(childrenSeen);
      statement.setReadBigInts(true);
      for (const row of statement.all(store, directory, at, at, at, at) as Record<string, unknown>[]) {
        const type = typeNames[Number(row.type)];
        assert(type !== undefined, `object row of type ${String(row.type)}`);
        const entry: SeenEntry = {
          object: Number(row.object),
          type,
          mode: Number(row.mode),
          uid: Number(row.uid),
          gid: Number(row.gid),
          mtimeUs: Number(row.mtime_us),
          size: Number(row.size),
          target: String(row.target),
          seen: row.inode === null ? undefined : stamps(row),
        };
        yield { name: String(row.name), entry };
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
  const statement = catalog.statement("SELECT inode, size AS seen_size, mtime_ns, ctime_ns FROM seen WHERE object = ?");
  statement.setReadBigInts(true);
  const row = statement.get(object) as Record<string, unknown> | undefined;
  return row === undefined ? undefined : stamps(row);
}

function stamps(row: Record<string, unknown>): NonNullable<SeenEntry["seen"]> {
  const { inode, seen_size, mtime_ns, ctime_ns } = row;
  return {
    inode: Number(inode),
    size: Number(seen_size),
    mtimeNs: mtime_ns as bigint,
    ctimeNs: ctime_ns as bigint,
  };
}

/** The next scan reads these objects again, whatever their stamps say. */
export function forgetStamps(catalog: Catalog, objects: readonly ObjectId[]): void {
  catalog.transaction("reread", () => {
    for (const object of objects) catalog.run("UPDATE seen SET ctime_ns = 0 WHERE object = ?", object);
  });
}
