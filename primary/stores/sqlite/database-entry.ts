import type { BigIntStats } from "node:fs";
import type { Entry, SeenEntry } from "../../../shared/ports/store-adapter.ts";

/** mtime says nothing of a database: a checkpoint moves it, a commit to the log does not. */
export function databaseEntry(stat: BigIntStats, size: number): Entry {
  return {
    type: "file",
    mode: Number(stat.mode) & 0o7777,
    uid: Number(stat.uid),
    gid: Number(stat.gid),
    mtimeUs: 0,
    size,
    target: "",
    seen: {
      inode: Number(stat.ino),
      size: Number(stat.size),
      mtimeNs: stat.mtimeNs,
      ctimeNs: stat.ctimeNs,
      links: Number(stat.nlink),
    },
  };
}

/** The last cut read this very file: what changed since may be told from the log alone. */
export function wasSeen(entry: SeenEntry | undefined, inode: number): entry is SeenEntry {
  return entry?.type === "file" && entry.seen !== undefined && entry.seen.inode === inode;
}

export function sameMeta(entry: SeenEntry | undefined, found: Entry): boolean {
  return entry !== undefined && entry.mode === found.mode && entry.uid === found.uid && entry.gid === found.gid;
}
