import { appendFileSync, lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay, setImmediate as nextTurn } from "node:timers/promises";
import { createFilesStore } from "../../primary/stores/files/files-store.ts";
import type { Entry, SeenEntry, SeenIndex, StoreAdapter, ViewRequest } from "../../shared/ports/store-adapter.ts";
import type { StorePath } from "../../shared/words.ts";
import { type Benchmark, milliseconds, noted, round, seconds } from "./benchmark.ts";
import { makeSmallFiles, median, Scratch, smallFilePath } from "./scratch.ts";

const request: ViewRequest = { depth: "changes", frozen: false };

/** What the files store costs, without hashing and catalog, beside a plain readdir and lstat of the same tree. */
export const scanFiles: Benchmark = async ({ directory, size = 100_000, repeat = 3, say }) => {
  using scratch = new Scratch(directory, "scan-files");
  makeSmallFiles(scratch.path, size);
  const index = new MemoryIndex();
  const adapter = createFilesStore({ path: scratch.path, exclude: ["*.tmp", "/cache/"] });
  let wokenAt = 0;
  await adapter.start(() => {
    wokenAt = performance.now();
  });
  async function time(what: string, act: () => unknown): Promise<number> {
    const begun = performance.now();
    await act();
    const ms = performance.now() - begun;
    say(`${what}: ${milliseconds(ms)}, ${Math.round(process.memoryUsage.rss() / 2 ** 20)} MiB`);
    return ms;
  }
  /** Of some rounds of each, one after the other. */
  async function medians(
    ...acts: readonly (readonly [what: string, act: (turn: number) => unknown])[]
  ): Promise<number[]> {
    const took = acts.map((): number[] => []);
    for (let turn = 0; turn < repeat; turn++)
      for (const [number, [what, act]] of acts.entries()) took[number]!.push(await time(what, () => act(turn)));
    return took.map(median);
  }
  try {
    const first = await time("first view, all read, directories watched", () => view(adapter, index, request));
    // Files younger than that are read again.
    await delay(2100);
    const young = await time("young files read again", () => view(adapter, index, { ...request, depth: "scan" }));
    const [plain = 0, scan = 0] = await medians(
      ["plain readdir and lstat", () => plainScan(scratch.path)],
      ["scan that finds nothing", () => view(adapter, index, { ...request, depth: "scan" })],
    );
    const path = (n: number): string => join(scratch.path, smallFilePath(n % size));
    const [changed = 0] = await medians([
      "10 changed files",
      async (turn) => {
        for (let n = 0; n < 10; n++) appendFileSync(path(n * 7919 + turn), "more");
        await view(adapter, index, request);
      },
    ]);
    await delay(2100);
    await view(adapter, index, request);
    const wakes: number[] = [];
    for (let turn = 0; turn < repeat; turn++) {
      wokenAt = 0;
      const begun = performance.now();
      appendFileSync(path(turn), "more");
      while (wokenAt === 0) await nextTurn();
      wakes.push(wokenAt - begun);
    }
    return [
      noted(`${size} files, first view`, seconds(first)),
      noted(`${size} files, those that were young read again`, seconds(young)),
      noted(
        `${size} files, scan that finds nothing`,
        seconds(scan),
        `readdir, lstat: ${seconds(plain)}`,
        round(scan / plain),
      ),
      noted(`${size} files, 10 of them changed`, milliseconds(changed)),
      noted("wake after a write", milliseconds(median(wakes))),
    ];
  } finally {
    await adapter.close();
  }
};

async function view(adapter: StoreAdapter, index: MemoryIndex, request: ViewRequest): Promise<void> {
  const buffer = Buffer.alloc(65_536);
  const opened = await adapter.enter(index, request, new AbortController().signal);
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
