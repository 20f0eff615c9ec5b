import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import type {
  Entry,
  Found,
  SeenEntry,
  SeenIndex,
  StoreAdapter,
  StoreView,
  ViewRequest,
  ViewSummary,
} from "../../../../shared/ports/store-adapter.ts";
import type { StorePath } from "../../../../shared/words.ts";

interface ModelObject {
  readonly id: number;
  inode: number;
  content: Buffer;
}

/** The plainest consumer of a store: a manifest in memory that applies what is found. */
export class ModelConsumer implements SeenIndex {
  rows = new Map<StorePath, { entry: Entry; object: ModelObject }>();
  cut = false;
  /** The index follows what is found already while a view is open, as that of a cut in the making may. */
  live = false;
  /** Of the last view. */
  found: { kind: "gone" | "entry"; path: StorePath; content: boolean; outcome: string }[] = [];
  moved = 0;
  #objects = 0;

  byPath(path: StorePath): SeenEntry | undefined {
    const row = this.rows.get(path);
    return row && { ...row.entry, object: row.object.id };
  }

  *children(directory: StorePath): Iterable<{ name: string; entry: SeenEntry }> {
    const prefix = directory === "" ? "" : `${directory}/`;
    for (const path of this.rows.keys()) {
      if (path === "" || !path.startsWith(prefix) || path.includes("/", prefix.length)) continue;
      yield { name: path.slice(prefix.length), entry: this.byPath(path)! };
    }
  }

  pathsOf(object: number): StorePath[] {
    return [...this.rows].filter(([, row]) => row.object.id === object).map(([path]) => path);
  }

  pathsOfInode(inode: number): StorePath[] {
    return [...this.rows]
      .filter(([, row]) => row.entry.type !== "directory" && row.entry.seen.inode === inode)
      .map(([path]) => path);
  }

  everCut(): boolean {
    return this.cut;
  }

  count(): number {
    return this.rows.size;
  }

  /** One cut. The rows stay as they were during the view, as those of a catalog do until the cut is taken. */
  async take(
    adapter: StoreAdapter,
    request: Partial<ViewRequest> = {},
    during: (found: Found, view: StoreView) => void | Promise<void> = () => {},
    rounds = 1,
  ): Promise<ViewSummary> {
    const view = await adapter.enter(
      this,
      { depth: "changes", frozen: false, ...request },
      new AbortController().signal,
    );
    const next = new ModelConsumer();
    const before = this.rows;
    next.rows = new Map(this.rows);
    if (this.live) this.rows = next.rows;
    next.#objects = this.#objects;
    this.found = [];
    try {
      for (let round = 0; round < rounds; round++) {
        for await (const found of view.changes()) {
          await during(found, view);
          const outcome = next.apply(found);
          if (outcome === "moved") this.moved++;
          this.found.push({ kind: found.kind, path: found.path, content: "content" in found, outcome });
        }
      }
      const summary = view.summary();
      this.rows = next.rows;
      this.#objects = next.#objects;
      this.cut = true;
      await view.leave("taken");
      return summary;
    } catch (error) {
      this.rows = before;
      await view.leave("dropped");
      throw error;
    }
  }

  apply(found: Found): "stable" | "moved" {
    if (found.kind === "gone") {
      const below = found.path === "" ? "" : `${found.path}/`;
      for (const path of this.rows.keys()) if (path === found.path || path.startsWith(below)) this.rows.delete(path);
      return "stable";
    }
    const { path, entry, content } = found;
    const bytes = Buffer.alloc(content ? entry.size : 0);
    if (content) {
      for (let offset = 0; offset < bytes.length; ) {
        const count = content.read(bytes.subarray(offset, offset + content.blockSize), offset);
        if (count === 0) break;
        offset += count;
      }
      if (content.settle() === "moved") return "moved";
    }
    let object: ModelObject | undefined;
    if (entry.type === "file") {
      object = [...this.rows.values()].find(
        (row) => row.entry.type === "file" && row.object.inode === entry.seen.inode,
      )?.object;
      if (object === undefined && content === undefined) throw new Error(`no object for ${path}`);
    }
    object ??= { id: ++this.#objects, inode: entry.seen.inode, content: bytes };
    if (content) object = this.#rewritten(object, bytes);
    this.rows.set(path, { entry, object });
    return "stable";
  }

  /** Objects are shared by their paths, and with the rows of the cut before: never changed in place. */
  #rewritten(object: ModelObject, content: Buffer): ModelObject {
    const fresh = { ...object, content };
    for (const [path, row] of this.rows)
      if (row.object.id === object.id) this.rows.set(path, { ...row, object: fresh });
    return fresh;
  }

  /** As `describeTree` tells it. */
  describe(): Map<string, string> {
    const lines = new Map<string, string>();
    for (const [path, { entry, object }] of this.rows) {
      const shared = this.pathsOf(object.id).sort();
      lines.set(path, line(entry, object.content, shared));
    }
    return new Map([...lines].sort());
  }

  names(kind: "gone" | "entry" = "entry"): string[] {
    return this.found.filter((found) => found.kind === kind).map((found) => found.path);
  }
}

function line(entry: Entry, content: Buffer, shared: string[]): string {
  const { type, mode, uid, gid, mtimeUs, size, target } = entry;
  const own = type === "file" ? `${size} ${content.toString("latin1")} ${shared.join(",")}` : target;
  return `${type} ${mode.toString(8)} ${uid}:${gid} ${type === "file" || type === "symlink" ? mtimeUs : ""} ${own}`;
}

/** The real tree, read in the plainest way; without the names that `hidden` matches, and what is below them. */
export function describeTree(root: string, hidden = /^$/): Map<string, string> {
  const lines = new Map<string, string>();
  const inodes = new Map<number, string[]>();
  const visit = (path: string): void => {
    const native = Buffer.from(path === "" ? root : `${root}/${path}`, "latin1");
    const stat = lstatSync(native, { bigint: true });
    const type = stat.isDirectory() ? "directory" : stat.isSymbolicLink() ? "symlink" : "file";
    const entry = {
      type,
      mode: Number(stat.mode) & 0o7777,
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      mtimeUs: Number(stat.mtimeNs / 1000n),
      size: Number(stat.size),
      target: type === "symlink" ? readlinkSync(native, "latin1") : "",
    } as Entry;
    const inode = Number(stat.ino);
    const shared = inodes.get(inode) ?? [];
    inodes.set(inode, shared);
    shared.push(path);
    later.push(() =>
      lines.set(path, line(entry, type === "file" ? readFileSync(native) : Buffer.alloc(0), shared.sort())),
    );
    if (type !== "directory") return;
    for (const name of readdirSync(native, "latin1")) {
      if (!hidden.test(name)) visit(path === "" ? name : `${path}/${name}`);
    }
  };
  const later: (() => void)[] = [];
  visit("");
  for (const describe of later) describe();
  return new Map([...lines].sort());
}
