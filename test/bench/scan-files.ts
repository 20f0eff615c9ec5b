import { appendFileSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { createFilesStore } from "../../primary/stores/files/files-store.ts";
import type { Entry, SeenEntry, SeenIndex, StoreAdapter, ViewRequest } from "../../shared/ports/store-adapter.ts";
import type { StorePath } from "../../shared/words.ts";

/**
 * What the files store costs, without hashing and catalog: `node test/bench/scan-files.ts [files]`. A plain readdir and
 * lstat of the same tree stands beside it, since only ratios of one run count.
 */

class MemoryIndex implements SeenIndex {
  readonly directories = new Map<string, Map<string, SeenEntry>>();
  root: SeenEntry | undefined;
  entries = 0;

  set(path: StorePath, entry: Entry): void {
    const { type, mode, uid, gid, mtimeUs, size, target, seen } = entry;
    const row = { object: 0, type, mode, uid, gid, mtimeUs, size, target, seen };
    if (path === "") this.root = row;
    const slash = path.lastIndexOf("/");
    const directory = slash < 0 ? "" : path.slice(0, slash);
    if (!this.directories.has(directory)) this.directories.set(directory, new Map());
    if (path !== "") this.directories.get(directory)?.set(path.slice(slash + 1), row);
    this.entries++;
  }
  byPath(path: StorePath): SeenEntry | undefined {
    const slash = path.lastIndexOf("/");
    return path === ""
      ? this.root
      : this.directories.get(slash < 0 ? "" : path.slice(0, slash))?.get(path.slice(slash + 1));
  }
  *children(directory: StorePath): Iterable<{ name: string; entry: SeenEntry }> {
    for (const [name, entry] of this.directories.get(directory) ?? []) yield { name, entry };
  }
  pathsOf(): StorePath[] {
    return [];
  }
  pathsOfInode(): StorePath[] {
    return [];
  }
  everCut(): boolean {
    return this.entries > 0;
  }
  count(): number {
    return this.entries;
  }
}

const files = Number(process.argv[2] ?? 100_000);
const root = mkdtempSync(join(tmpdir(), "understudy-bench-"));
const buffer = Buffer.alloc(65_536);
const index = new MemoryIndex();

async function view(adapter: StoreAdapter, request: Partial<ViewRequest> = {}): Promise<number> {
  const opened = await adapter.enter(
    index,
    { depth: "changes", frozen: false, ...request },
    new AbortController().signal,
  );
  const entries: [StorePath, Entry][] = [];
  for await (const found of opened.changes()) {
    if (found.kind !== "entry") continue;
    if (found.content !== undefined) {
      for (let offset = 0; offset < found.entry.size; ) {
        const count = found.content.read(buffer, offset);
        if (count === 0) break;
        offset += count;
      }
      found.content.settle();
    }
    entries.push([found.path, found.entry]);
  }
  for (const [path, entry] of entries) index.set(path, entry);
  await opened.leave("taken");
  return entries.length;
}

async function time(what: string, act: () => unknown): Promise<void> {
  const begun = performance.now();
  const result = await act();
  const memory = Math.round(process.memoryUsage.rss() / 2 ** 20);
  console.log(
    `${what.padEnd(48)} ${(performance.now() - begun).toFixed(1).padStart(9)} ms  ${memory} MiB  ${result ?? ""}`,
  );
}

function plainScan(directory: string): number {
  let entries = 0;
  for (const name of readdirSync(directory, "latin1")) {
    const path = `${directory}/${name}`;
    entries++;
    if (lstatSync(path, { bigint: true }).isDirectory()) entries += plainScan(path);
  }
  return entries;
}

try {
  const paths: string[] = [];
  for (let n = 0; n < files; n++) {
    const group = Math.floor(n / 100);
    const directory = join(root, `d${group % 31}`, `e${group}`);
    if (n % 100 === 0) mkdirSync(directory, { recursive: true });
    paths.push(join(directory, `file-${n}.txt`));
    writeFileSync(paths.at(-1)!, "x".repeat(500 + (n % 1500)));
  }
  const adapter = createFilesStore({ path: root, exclude: ["*.tmp", "/cache/"] });
  let wokenAt = 0;
  await adapter.start(() => {
    wokenAt = performance.now();
  });
  await time("first view, all read, directories watched", () => view(adapter));
  await delay(2100);
  await time("young files read again", () => view(adapter, { depth: "scan" }));
  for (let i = 0; i < 3; i++) {
    await time("plain readdir and lstat", () => plainScan(root));
    await time("scan that finds nothing", () => view(adapter, { depth: "scan" }));
  }
  for (let i = 0; i < 3; i++) {
    for (let n = 0; n < 10; n++) appendFileSync(paths[(n * 7919 + i) % paths.length]!, "more");
    await time("10 changed files", () => view(adapter));
  }
  await delay(2100);
  await time("10 files read again when no longer young", () => view(adapter));
  for (let i = 0; i < 3; i++) {
    await time("wake after a write", async () => {
      const begun = performance.now();
      wokenAt = 0;
      appendFileSync(paths[i]!, "more");
      while (wokenAt === 0) await new Promise(setImmediate);
      return `${(wokenAt - begun).toFixed(2)} ms`;
    });
  }
  await adapter.close();
} finally {
  rmSync(root, { recursive: true, force: true });
}
