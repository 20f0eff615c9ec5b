import { createHash } from "node:crypto";
import { join } from "node:path";
import { Breath } from "../../shared/breath.ts";
import { splitPath } from "../../shared/catalog/manifest.ts";
import { fromTheSystem } from "../../shared/durable/system-error.ts";
import { exitCodes, isSystemError, UnderstudyError } from "../../shared/errors.ts";
import { blocksPerRun, trimRun } from "../../shared/manifest/block-hash.ts";
import { blockHashes } from "../../shared/manifest/block-hashes.ts";
import { hex, runTerm, Sum256 } from "../../shared/manifest/digest.ts";
import type { Directory, Disk, OpenFile } from "../../shared/ports/disk.ts";
import { checkStorePath, inBytes } from "../../shared/store-path.ts";
import type { StorePath } from "../../shared/words.ts";
import { openEmptyTarget } from "../empty-target.ts";
import { SafeTree } from "../safe-tree.ts";
import { setMetaAsPermitted } from "../set-meta.ts";
import { failing } from "../sync.ts";
import { writeSparse } from "../write-sparse.ts";
import {
  blocksDirectory,
  decodeForkPath,
  decodeForkRecord,
  droppedPrefix,
  ForkDamaged,
  type ForkEntry,
  type ForkPath,
  type ForkRecord,
  filesDirectory,
  forkFile,
  groupOfFork,
  openKept,
  pathsFile,
  pieces,
  readWhole,
  removeTree,
} from "./fork-bundle.ts";

class ForkUnknown extends UnderstudyError {
  readonly code = "FORK_UNKNOWN";
  readonly remedy = "stop";
  readonly state = "Nothing was done.";
  readonly hint = "`understudy forks list` shows the forks that are kept on this node.";
  override readonly exitCode = exitCodes.usage;

  constructor(name: string) {
    super(`no fork is called ${JSON.stringify(name)} here`);
  }
}

/** Lies in the target from the first byte until all is durable, so that nobody takes half a bundle for a whole one. */
const incompleteName = "EXPORT-IS-NOT-COMPLETE";

/** The target of an export is not what it should be. */
class ExportRefused extends UnderstudyError {
  readonly code = "EXPORT_REFUSED";
  readonly remedy = "stop";
  readonly state = "Nothing was written.";
  readonly hint = "Name a directory that does not exist yet, or is empty; what is there is never written over.";
  override readonly exitCode = exitCodes.refused;
}

class ExportFailed extends UnderstudyError {
  readonly code = "EXPORT_FAILED";
  readonly remedy = "stop";
  readonly state = `The bundle is unchanged. The file "${incompleteName}" in the directory says that it is not whole.`;
  readonly hint = "Remove the directory and export to a filesystem that has room and no errors.";
}

export interface ForkExported {
  readonly fork: ForkRecord;
  readonly files: number;
  readonly bytes: number;
  /** Of how many paths the owner or mode could not be set. */
  readonly metadataPartial: number;
}

const lineBytesAtOnce = 256 * 1024;

/** All bundles below `root`, by group, the oldest first. One that cannot be read is given with its problem. */
export function listForks(
  disk: Disk,
  root: string,
): (ForkRecord | { readonly name: string; readonly problem: string })[] {
  const found: (ForkRecord | { readonly name: string; readonly problem: string })[] = [];
  for (const group of namesIn(disk, root)) {
    for (const name of namesIn(disk, join(root, group))) {
      if (groupOfFork(name) !== group) continue;
      try {
        found.push(withFork(disk, root, name, (directory) => recordIn(disk, directory, name)));
      } catch (error) {
        if (!(error instanceof ForkDamaged)) throw error;
        found.push({ name, problem: error.message });
      }
    }
  }
  return found;
}

function namesIn(disk: Disk, path: string): string[] {
  let directory: Directory;
  try {
    directory = disk.openRoot(inBytes(path));
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return [];
    throw error;
  }
  try {
    return disk.list(directory).toSorted();
  } finally {
    disk.closeDirectory(directory);
  }
}

/** Its description and the first paths of it. @throws {ForkUnknown} @throws {ForkDamaged} */
export function showFork(
  disk: Disk,
  root: string,
  name: string,
  pathsMax: number,
): { fork: ForkRecord; paths: ForkPath[] } {
  return withFork(disk, root, name, (directory) => {
    const fork = recordIn(disk, directory, name);
    const paths: ForkPath[] = [];
    for (const line of linesOf(disk, directory, fork)) {
      if (paths.length < pathsMax) paths.push(decodeForkPath(line));
    }
    return { fork, paths };
  });
}

/** Removes a bundle. A crash leaves it whole or gone: what is left of it then goes with the next one. @throws {ForkUnknown} */
export function dropFork(disk: Disk, root: string, name: string): void {
  withFork(disk, root, name, () => {});
  const shelf = disk.openRoot(inBytes(join(root, groupOfFork(name) ?? "")));
  try {
    const going = `${droppedPrefix}${name}`;
    if (disk.stat(shelf, going) !== undefined) removeTree(disk, shelf, going);
    disk.rename(shelf, name, shelf, going);
    failing(() => disk.syncDirectory(shelf));
    removeTree(disk, shelf, going);
  } finally {
    disk.closeDirectory(shelf);
  }
}

/**
 * Copies a bundle into a directory that is new or empty, every byte compared with the hashes of the bundle, with owners, modes
 * and times as far as they may be set.
 * @throws {ForkUnknown} @throws {ForkDamaged} @throws {ExportRefused} @throws {ExportFailed}
 */
export async function exportFork(
  disk: Disk,
  root: string,
  { name, to }: { readonly name: string; readonly to: string },
  signal: AbortSignal,
): Promise<ForkExported> {
  const source = openFork(disk, root, name);
  try {
    const fork = recordIn(disk, source, name);
    const target = openEmptyTarget(disk, to, {
      verb: "export",
      incompleteName,
      refused: (message, options) => new ExportRefused(message, options),
    });
    try {
      writing(() => disk.closeFile(disk.openFile(target, incompleteName, "create")));
      const exporter = new ForkExporter(disk, source, target, new Breath(undefined, signal));
      const done = await exporter.all(fork);
      writing(() => {
        disk.syncFilesystem(target);
        disk.unlink(target, incompleteName);
        disk.syncDirectory(target);
      });
      return { fork, ...done };
    } finally {
      disk.closeDirectory(target);
    }
  } finally {
    disk.closeDirectory(source);
  }
}

class ForkExporter {
  readonly #disk: Disk;
  readonly #source: Directory;
  readonly #target: Directory;
  readonly #breath: Breath;
  #files = 0;
  #bytes = 0;
  #metadataPartial = 0;
  readonly #stores = new Map<string, { from: SafeTree; to: SafeTree; directories: [StorePath, ForkEntry][] }>();
  readonly #linked = new Map<number, { readonly store: string; readonly path: StorePath }>();
  readonly #blocksDone = new Set<number>();

  constructor(disk: Disk, source: Directory, target: Directory, breath: Breath) {
    this.#disk = disk;
    this.#source = source;
    this.#target = target;
    this.#breath = breath;
  }

  async all(fork: ForkRecord): Promise<Omit<ForkExported, "fork">> {
    try {
      for (const line of linesOf(this.#disk, this.#source, fork)) {
        const { store, path, entry } = decodeForkPath(line);
        if (entry !== undefined) await this.#entry(store, path, entry);
        if (this.#breath.due(0)) await this.#breath.take();
      }
      // Last, the deepest first: a directory that its owner may not write to takes nothing more.
      for (const { to, directories } of this.#stores.values()) {
        for (const [path, entry] of directories.toSorted(([a], [b]) => b.length - a.length)) {
          const directory = to.directory(path);
          if (directory !== undefined) this.#meta((meta) => this.#disk.setDirectoryMeta(directory, meta), entry);
        }
      }
      for (const name of [forkFile, pathsFile]) this.#copyPlain(this.#source, this.#target, name);
    } finally {
      for (const { from, to } of this.#stores.values()) {
        for (const tree of [from, to]) {
          tree.forget();
          this.#disk.closeDirectory(tree.root);
        }
      }
    }
    return { files: this.#files, bytes: this.#bytes, metadataPartial: this.#metadataPartial };
  }

  async #entry(store: string, path: StorePath, entry: ForkEntry): Promise<void> {
    checkStorePath(path);
    const disk = this.#disk;
    switch (entry.type) {
      case "directory":
        this.#directory(this.#store(store).to, path);
        this.#store(store).directories.push([path, entry]);
        return;
      case "symlink": {
        const { directory, name } = this.#place(store, path);
        writing(() => disk.makeSymlink(directory, name, entry.target));
        this.#meta((meta) => disk.setMeta(directory, name, meta), entry);
        return;
      }
      case "file":
        if (entry.blocks !== undefined && !this.#blocksDone.has(entry.object)) {
          this.#blocksDone.add(entry.object);
          await this.#blocks(store, entry);
        }
        if (entry.content === "whole") await this.#file(store, path, entry);
        return;
    }
  }

  async #file(store: string, path: StorePath, entry: ForkEntry): Promise<void> {
    const disk = this.#disk;
    const to = this.#place(store, path);
    const first = this.#linked.get(entry.object);
    if (first !== undefined) {
      const from = this.#place(first.store, first.path);
      writing(() => disk.link(from.directory, from.name, to.directory, to.name));
      return;
    }
    this.#linked.set(entry.object, { store, path });
    const from = this.#store(store).from.place(path);
    if (from === undefined) throw new ForkDamaged(`${filesDirectory}/${store}/${path} is gone from the bundle`);
    const target = writing(() => disk.openFile(to.directory, to.name, "create"));
    try {
      await this.#checkedCopy(from.directory, from.name, target, entry);
      this.#meta((meta) => disk.setFileMeta(target, meta), entry);
    } finally {
      disk.closeFile(target);
    }
    this.#files++;
    this.#bytes += entry.size;
  }

  async #checkedCopy(directory: Directory, name: string, target: OpenFile, entry: ForkEntry): Promise<void> {
    const disk = this.#disk;
    const { size, blockSize } = entry;
    const source = openKept(disk, directory, name);
    try {
      const found = disk.statFile(source).size;
      if (found !== size) throw new ForkDamaged(`${name} has ${found} bytes, and had ${size}`);
      const sum = new Sum256();
      const buffer = new Uint8Array(Math.min(blocksPerRun * blockSize, size));
      for (let at = 0, run = 0; at < size; at += buffer.length, run++) {
        const bytes = buffer.subarray(0, Math.min(buffer.length, size - at));
        if (disk.read(source, bytes, 0, bytes.length, at) < bytes.length)
          throw new ForkDamaged(`${name} ends too early`);
        const term = runTerm(run, trimRun(blockHashes(bytes, blockSize)));
        if (term !== undefined) sum.add(term);
        writing(() => writeSparse(disk, target, bytes, at, blockSize));
        if (this.#breath.due(bytes.length)) await this.#breath.take();
      }
      writing(() => disk.truncate(target, size));
      if (hex(sum.bytes()) !== entry.digest) throw new ForkDamaged(`${name} does not have the content that was kept`);
    } finally {
      disk.closeFile(source);
    }
  }

  async #blocks(store: string, { object, blocks }: ForkEntry): Promise<void> {
    if (blocks === undefined) return;
    const disk = this.#disk;
    const names = [blocksDirectory, inBytes(store)];
    const from = descend(disk, this.#source, names, false);
    const to = descend(disk, this.#target, names, true);
    try {
      for (const [name, wanted] of [
        [`o${object}`, blocks.sha256],
        [`o${object}.extents`, blocks.extentsSha256],
      ] as const) {
        const digest = createHash("sha256");
        const target = writing(() => disk.openFile(to, name, "create"));
        const source = openKept(disk, from, name);
        try {
          for (const { at, bytes } of pieces(disk, source)) {
            digest.update(bytes);
            writing(() => disk.write(target, bytes, at));
            if (this.#breath.due(bytes.length)) await this.#breath.take();
          }
        } finally {
          disk.closeFile(source);
          disk.closeFile(target);
        }
        if (digest.digest("hex") !== wanted) throw new ForkDamaged(`${names.join("/")}/${name} is not what was kept`);
      }
    } finally {
      disk.closeDirectory(from);
      disk.closeDirectory(to);
    }
    this.#files++;
    this.#bytes += blocks.bytes;
  }

  /** Its hash was compared, or it is what holds the hashes. */
  #copyPlain(from: Directory, to: Directory, name: string): void {
    const disk = this.#disk;
    const source = openKept(disk, from, name);
    try {
      const target = writing(() => disk.openFile(to, name, "create"));
      try {
        for (const { at, bytes } of pieces(disk, source)) writing(() => disk.write(target, bytes, at));
      } finally {
        disk.closeFile(target);
      }
    } finally {
      disk.closeFile(source);
    }
  }

  #store(store: string): { from: SafeTree; to: SafeTree; directories: [StorePath, ForkEntry][] } {
    let found = this.#stores.get(store);
    if (found === undefined) {
      const names = [filesDirectory, inBytes(store)];
      const from = new SafeTree(this.#disk, descend(this.#disk, this.#source, names, false));
      const to = new SafeTree(this.#disk, descend(this.#disk, this.#target, names, true));
      found = { from, to, directories: [] };
      this.#stores.set(store, found);
    }
    return found;
  }

  #place(store: string, path: StorePath): { directory: Directory; name: string } {
    const { dir, name } = splitPath(path);
    return { directory: this.#directory(this.#store(store).to, dir as StorePath), name };
  }

  #directory(tree: SafeTree, path: StorePath): Directory {
    const found = tree.directory(path);
    if (found !== undefined) return found;
    const { dir, name } = splitPath(path);
    const parent = this.#directory(tree, dir as StorePath);
    writing(() => this.#disk.makeDirectory(parent, name, 0o700));
    const made = tree.directory(path);
    if (made === undefined) throw new ExportFailed(`directory ${path} was made and is gone again`);
    return made;
  }

  #meta(set: Parameters<typeof setMetaAsPermitted>[0], entry: ForkEntry): void {
    if (!writing(() => setMetaAsPermitted(set, entry))) this.#metadataPartial++;
  }
}

function descend(disk: Disk, from: Directory, names: readonly string[], make: boolean): Directory {
  let at = from;
  for (const name of names) {
    if (make && disk.stat(at, name) === undefined) writing(() => disk.makeDirectory(at, name, 0o700));
    let next: Directory;
    try {
      next = disk.openDirectory(at, name);
    } catch (cause) {
      if (!fromTheSystem(cause)) throw cause;
      throw make ? new ExportFailed(`cannot open ${name}`, { cause }) : new ForkDamaged(`${name} is gone`, { cause });
    } finally {
      if (at !== from) disk.closeDirectory(at);
    }
    at = next;
  }
  return at;
}

function withFork<T>(disk: Disk, root: string, name: string, use: (directory: Directory) => T): T {
  const directory = openFork(disk, root, name);
  try {
    return use(directory);
  } finally {
    disk.closeDirectory(directory);
  }
}

function openFork(disk: Disk, root: string, name: string): Directory {
  const group = groupOfFork(name);
  if (group === undefined) throw new ForkUnknown(name);
  try {
    return disk.openRoot(inBytes(join(root, group, name)));
  } catch (error) {
    if (isSystemError(error, "ENOENT", "ENOTDIR")) throw new ForkUnknown(name);
    throw error;
  }
}

function recordIn(disk: Disk, directory: Directory, name: string): ForkRecord {
  const fork = decodeForkRecord(readWhole(disk, directory, forkFile).toString("utf8"));
  if (fork.name !== name) throw new ForkDamaged(`the bundle ${name} says that it is ${fork.name}`);
  return fork;
}

/** All lines of paths.jsonl. @throws {ForkDamaged} at its end, when it is not the one that was written */
function* linesOf(disk: Disk, directory: Directory, { pathsSha256 }: ForkRecord): Generator<string> {
  const digest = createHash("sha256");
  let file: OpenFile | undefined;
  try {
    file = openKept(disk, directory, pathsFile);
    let rest = Buffer.alloc(0);
    for (const { bytes } of pieces(disk, file, lineBytesAtOnce)) {
      digest.update(bytes);
      const all = Buffer.concat([rest, bytes]);
      const end = all.lastIndexOf(0x0a) + 1;
      rest = Buffer.from(all.subarray(end));
      for (const line of all.toString("utf8", 0, end).split("\n")) if (line !== "") yield line;
    }
    if (rest.length > 0 || digest.digest("hex") !== pathsSha256)
      throw new ForkDamaged(`${pathsFile} is not what was kept`);
  } finally {
    if (file !== undefined) disk.closeFile(file);
  }
}

/** Turns a failure of the target into ExportFailed. */
function writing<T>(write: () => T): T {
  try {
    return write();
  } catch (error) {
    if (fromTheSystem(error)) throw new ExportFailed("cannot write what is exported", { cause: error });
    throw error;
  }
}
