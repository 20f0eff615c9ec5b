import type { ReplicaContext } from "../replica-context.ts";
import type { Stamps } from "./stamps.ts";

/** Remembers the file of an object as we left it. Within a transaction. */
export function putSeen(context: ReplicaContext, object: number, store: number, stat: Stamps): void {
  context.catalog.run(
    "INSERT OR REPLACE INTO seen (object, store, inode, size, mtime_ns, ctime_ns) VALUES (?,?,?,?,?,?)",
    object,
    store,
    stat.inode,
    stat.size,
    stat.mtimeNs,
    stat.ctimeNs,
  );
}
