import type {
  Content,
  Found,
  SeenIndex,
  StoreAdapter,
  StoreView,
  ViewRequest,
} from "../../shared/ports/store-adapter.ts";
import type { StorePath } from "../../shared/words.ts";

export interface ModelNode {
  readonly inode: number;
  readonly type: "file" | "directory" | "symlink";
  mode: number;
  uid: number;
  mtimeUs: number;
  bytes: Uint8Array;
  target: string;
  version: number;
}

/**
 * A source in memory for tests of what comes after the adapters: every view finds everything, and says of each file that
 * all of it may differ. Paths are plain; hard links are two paths with one node.
 */
export class ModelSource {
  readonly nodes = new Map<string, ModelNode>();
  #inode = 100;

  constructor() {
    this.nodes.set("", this.#node("directory"));
  }

  #node(type: ModelNode["type"]): ModelNode {
    return {
      inode: this.#inode++,
      type,
      mode: type === "directory" ? 0o755 : 0o644,
      uid: 0,
      mtimeUs: 1_000_000 * this.#inode,
      bytes: new Uint8Array(0),
      target: "",
      version: 1,
    };
  }

  write(path: string, bytes: Uint8Array | string, offset = 0): void {
    let node = this.nodes.get(path);
    if (node === undefined || node.type !== "file") {
      node = this.#node("file");
      this.nodes.set(path, node);
    }
    const data = typeof bytes === "string" ? Buffer.from(bytes) : bytes;
    const grown = new Uint8Array(Math.max(node.bytes.length, offset + data.length));
    grown.set(node.bytes);
    grown.set(data, offset);
    node.bytes = grown;
    this.#touch(node);
  }

  /** A new file under this name, as by a rename over it. */
  replace(path: string, bytes: Uint8Array | string): void {
    this.nodes.delete(path);
    this.write(path, bytes);
  }

  truncate(path: string, size: number): void {
    const node = this.nodes.get(path)!;
    const bytes = new Uint8Array(size);
    bytes.set(node.bytes.subarray(0, size));
    node.bytes = bytes;
    this.#touch(node);
  }

  makeDirectory(path: string): void {
    this.nodes.set(path, this.#node("directory"));
  }

  symlink(path: string, target: string): void {
    const node = this.#node("symlink");
    node.target = target;
    this.nodes.set(path, node);
  }

  link(from: string, to: string): void {
    this.nodes.set(to, this.nodes.get(from)!);
  }

  rename(from: string, to: string): void {
    this.remove(to);
    for (const [path, node] of [...this.nodes]) {
      if (path !== from && !path.startsWith(`${from}/`)) continue;
      this.nodes.delete(path);
      this.nodes.set(to + path.slice(from.length), node);
    }
  }

  remove(path: string): void {
    for (const key of [...this.nodes.keys()]) if (key === path || key.startsWith(`${path}/`)) this.nodes.delete(key);
  }

  chmod(path: string, mode: number): void {
    this.nodes.get(path)!.mode = mode;
  }

  chown(path: string, uid: number): void {
    this.nodes.get(path)!.uid = uid;
  }

  #touch(node: ModelNode): void {
    node.mtimeUs += 1000;
    node.version++;
  }

  /** What a copy of this must look like, comparable with what `describe-tree.ts` makes of it. */
  describe(): Record<string, string> {
    const result: Record<string, string> = {};
    for (const [path, node] of [...this.nodes].sort(([a], [b]) => (a < b ? -1 : 1))) result[path] = describeNode(node);
    return result;
  }

  adapter(): StoreAdapter {
    return new ModelStore(this);
  }

  /** The same now, and from here on another one. */
  copy(): ModelSource {
    const copy = new ModelSource();
    const nodes = new Map<ModelNode, ModelNode>();
    copy.nodes.clear();
    for (const [path, node] of this.nodes) {
      const own = nodes.get(node) ?? { ...node };
      nodes.set(node, own);
      copy.nodes.set(path, own);
    }
    copy.#inode = this.#inode + 1_000_000;
    return copy;
  }
}

export function describeNode(node: {
  type: string;
  mode: number;
  mtimeUs: number;
  bytes: Uint8Array;
  target: string;
}): string {
  if (node.type === "directory") return `directory ${node.mode.toString(8)}`;
  if (node.type === "symlink") return `symlink ${node.target}`;
  return `file ${node.mode.toString(8)} ${node.mtimeUs} ${Buffer.from(node.bytes).toString("base64")}`;
}

class ModelStore implements StoreAdapter {
  readonly kind = "files";
  readonly defaultRequire = "whole";
  readonly #source: ModelSource;

  constructor(source: ModelSource) {
    this.#source = source;
  }

  async start(): Promise<void> {}
  dirty(): boolean {
    return true;
  }
  backlogBytes(): number {
    return 0;
  }
  peek(path: StorePath, offset: number, length: number): Uint8Array | undefined {
    return this.#source.nodes.get(path)?.bytes.slice(offset, offset + length);
  }
  async enter(seen: SeenIndex, _request: ViewRequest): Promise<StoreView> {
    const source = this.#source;
    return {
      async *changes(): AsyncIterable<Found> {
        yield* findings(source, seen);
      },
      read(path: StorePath, offset: number, length: number) {
        return source.nodes.get(path)?.bytes.slice(offset, offset + length);
      },
      summary: () => ({ consistency: "whole", position: "", behind: [], skipped: 0 }),
      async leave() {},
    };
  }
  async close(): Promise<void> {}
}

function* findings(source: ModelSource, seen: SeenIndex): Generator<Found> {
  yield* gone(source, seen, "" as StorePath);
  const links = new Map<ModelNode, number>();
  for (const node of source.nodes.values()) links.set(node, (links.get(node) ?? 0) + 1);
  for (const [path, node] of source.nodes) {
    const content: Content = {
      blockSize: 4096,
      ranges: "all",
      read(buffer, offset) {
        const part = node.bytes.subarray(offset, offset + buffer.length);
        buffer.set(part);
        return part.length;
      },
      settle: () => "stable",
    };
    yield {
      kind: "entry",
      path: path as StorePath,
      entry: {
        type: node.type,
        mode: node.mode,
        uid: node.uid,
        gid: 0,
        mtimeUs: node.type === "file" ? node.mtimeUs : 0,
        size: node.type === "file" ? node.bytes.length : 0,
        target: node.target,
        seen: {
          inode: node.inode,
          size: node.bytes.length,
          mtimeNs: BigInt(node.version),
          ctimeNs: BigInt(node.version),
          links: links.get(node) ?? 1,
        },
      },
      ...(node.type === "file" ? { content } : {}),
    };
  }
}

function* gone(source: ModelSource, seen: SeenIndex, directory: StorePath): Generator<Found> {
  for (const { name, entry } of [...seen.children(directory)]) {
    const path = (directory === "" ? name : `${directory}/${name}`) as StorePath;
    if (!source.nodes.has(path)) yield { kind: "gone", path };
    else if (entry.type === "directory") yield* gone(source, seen, path);
  }
}
