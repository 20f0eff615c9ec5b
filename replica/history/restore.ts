import { Breath } from "../../shared/breath.ts";
import { joinPath, type ObjectVersion, splitPath } from "../../shared/catalog/manifest.ts";
import { fromTheSystem } from "../../shared/durable/system-error.ts";
import { UnderstudyError } from "../../shared/errors.ts";
import { equalBytes } from "../../shared/manifest/block-hash.ts";
import { pathTerm, Sum256 } from "../../shared/manifest/digest.ts";
import type { Directory } from "../../shared/ports/disk.ts";
import { inBytes } from "../../shared/store-path.ts";
import type { ObjectId, Seq, StoreName, StorePath } from "../../shared/words.ts";
import { openEmptyTarget } from "../empty-target.ts";
import type { ReplicaContext } from "../replica-context.ts";
import { SafeTree } from "../safe-tree.ts";
import { setMetaAsPermitted } from "../set-meta.ts";
import type { StoreHome } from "../store-home.ts";
import { writeSparse } from "../write-sparse.ts";
import { CopyView } from "./view.ts";

/** The place to restore to cannot be used. */
export class RestoreRefused extends UnderstudyError {
  readonly code = "RESTORE_REFUSED";
  readonly remedy = "stop";
  readonly state = "Nothing was written.";
  readonly hint = "Name a directory that does not exist yet, or an empty one, on a filesystem with enough room.";
}

/** What the copy gives for a block is not what the primary had. */
export class ContentDiffers extends UnderstudyError {
  readonly code = "CONTENT_DIFFERS";
  readonly remedy = "stop";
  readonly state =
    `What was restored so far is in the directory; the file "${incompleteName}" in it says that it is not whole.`;
  readonly hint =
    "`understudy verify GROUP` shows what differs in the copy; restore another recovery point, and look at the disk.";
  readonly store: StoreName;
  readonly path: StorePath;
  readonly block: number;

  constructor(store: StoreName, path: StorePath, block: number, at: Seq) {
    super(`block ${block} of ${store}/${path} does not have the hash that it had in cut ${at}`);
    this.store = store;
    this.path = path;
    this.block = block;
  }
}

/** The catalog's rows of a point are not what the point was committed with. */
export class PointDamaged extends UnderstudyError {
  readonly code = "POINT_DAMAGED";
  readonly remedy = "stop";
  readonly state =
    `What was restored is in the directory; the file "${incompleteName}" in it says that it is not to be trusted.`;
  readonly hint =
    "Restore another recovery point; `understudy verify GROUP --quick` says whether the newest cut is whole.";
}

/** The target stopped taking what was written, or did not make it durable. */
class RestoreFailed extends UnderstudyError {
  readonly code = "RESTORE_FAILED";
  readonly remedy = "stop";
  readonly state = `The copy is unchanged. The file "${incompleteName}" in the directory says that it is not whole.`;
  readonly hint = "Remove the directory and restore to a filesystem that has room and no errors.";
}

/** Lies in the target from the first byte until all is durable, so that nobody takes half a restore for a whole one. */
export const incompleteName = "RESTORE-IS-NOT-COMPLETE";

export interface Restored {
  readonly files: number;
  readonly bytes: number;
  /** Objects whose owner or mode this process may not set. */
  readonly metadataPartial: number;
}

export interface RestoreRequest {
  readonly at: Seq;
  /** Absolute path of a directory that is new or empty. */
  readonly to: string;
  /** A store, or what is at or below a path in one: `uploads/reports`. Default: everything. */
  readonly only?: string;
}

/** What of the group is wanted; `path` "": the whole store. */
interface Part {
  readonly home: StoreHome;
  readonly path: string;
}

/**
 * Writes the group as of a recovery point to DIR/<store>/, or DIR/<store>/<file> for a store of a single file. Every
 * block is compared with the manifest on its way, and the whole group with the cut's digest. Apply may go on meanwhile; the point must be kept from thinning.
 * @throws {NotReadable} @throws {RestoreRefused} @throws {ContentDiffers} @throws {FileGone} @throws {PointDamaged}
 * @throws {RestoreFailed}
 */
export async function restore(
  context: ReplicaContext,
  { at, to, only }: RestoreRequest,
  progress: (so: { readonly files: number; readonly bytes: number }) => void,
  signal: AbortSignal,
): Promise<Restored> {
  const { disk, homes, manifest, catalog } = context;
  signal.throwIfAborted();
  using view = new CopyView(context, at);
  for (const [number, name] of catalog.storeNames()) {
    if (!homes.has(number) && manifest.objectAtPath(number, "" as StorePath, at) !== undefined) {
      throw new RestoreRefused(`store ${name} is in cut ${at} and not in this node's configuration`);
    }
  }
  const part = only === undefined ? undefined : partNamed(context, inBytes(only), at);
  const target = openEmptyTarget(disk, to, {
    verb: "restore",
    incompleteName,
    refused: (message, options) => new RestoreRefused(message, options),
  });
  try {
    const writer = new RestoreWriter(view, progress, new Breath(undefined, signal), part?.path ?? "");
    writing(() => disk.closeFile(disk.openFile(target, incompleteName, "create")));
    for (const home of part === undefined ? homes.values() : [part.home]) await writer.store(home, target);
    // Of a part each file is proven by its own hashes.
    const digest = catalog.cut(at)?.digest;
    if (part === undefined && (digest === undefined || !equalBytes(digest, writer.digest.bytes()))) {
      throw new PointDamaged(`what the catalog has of cut ${at} does not add up to the digest of that cut`);
    }
    writing(() => {
      disk.syncFilesystem(target);
      disk.unlink(target, incompleteName);
      disk.syncDirectory(target);
    });
    return { files: writer.files, bytes: writer.bytes, metadataPartial: writer.metadataPartial };
  } finally {
    disk.closeDirectory(target);
  }
}

function partNamed({ homes, manifest }: ReplicaContext, only: string, at: Seq): Part {
  const [name = "", ...rest] = only.replace(/\/+$/, "").split("/");
  const path = rest.join("/");
  const home = [...homes.values()].find(({ placement }) => placement.name === name);
  if (home === undefined) throw new RestoreRefused(`there is no store ${name} to restore ${only} from`);
  const there =
    home.placement.shape === "tree"
      ? manifest.objectAtPath(home.number, path as StorePath, at) !== undefined
      : manifest
          .children(home.number, "" as StorePath, at)
          .some((child) => path === "" || home.local(child.name as StorePath) === path);
  if (!there) throw new RestoreRefused(`${only} is not in cut ${at}`);
  return { home, path };
}

class RestoreWriter {
  files = 0;
  bytes = 0;
  metadataPartial = 0;
  /** Of all that was written: with it a restore is proven from the bytes up to what the primary took. */
  readonly digest = new Sum256();
  readonly #view: CopyView;
  readonly #progress: (so: { readonly files: number; readonly bytes: number }) => void;
  readonly #breath: Breath;
  readonly #only: string;

  constructor(
    view: CopyView,
    progress: (so: { readonly files: number; readonly bytes: number }) => void,
    breath: Breath,
    only: string,
  ) {
    this.#only = only;
    this.#view = view;
    this.#progress = progress;
    this.#breath = breath;
  }

  async store(home: StoreHome, target: Directory): Promise<void> {
    const { manifest, disk } = this.#view.context;
    const { at } = this.#view;
    const name = inBytes(home.placement.name);
    writing(() => disk.makeDirectory(target, name, 0o700));
    const tree = new SafeTree(disk, disk.openDirectory(target, name));
    try {
      if (home.placement.shape === "tree") {
        const root = manifest.objectAtPath(home.number, "" as StorePath, at);
        const version = root === undefined ? undefined : manifest.object(root, at);
        if (version !== undefined) await this.#directory(home, tree, "" as StorePath, version, new Map());
      } else {
        for (const { name: path, object } of manifest.children(home.number, "" as StorePath, at)) {
          const version = manifest.object(object, at);
          if (version?.type !== "file" || !this.#wanted(home.local(path as StorePath))) continue;
          this.#count(home, path as StorePath, version);
          await this.#file(home, tree, path as StorePath, home.local(path as StorePath), version);
        }
      }
    } finally {
      tree.forget();
      disk.closeDirectory(tree.root);
    }
  }

  /** Children first: a directory that its owner may not write to takes them no more. */
  async #directory(
    home: StoreHome,
    tree: SafeTree,
    directory: StorePath,
    version: ObjectVersion,
    linked: Map<ObjectId, StorePath>,
  ): Promise<void> {
    const { manifest, disk } = this.#view.context;
    const { at } = this.#view;
    this.#count(home, directory, version);
    for (const { name, object } of manifest.children(home.number, directory, at)) {
      const path = joinPath(directory, name);
      const child = this.#wanted(path) ? manifest.object(object, at) : undefined;
      if (child === undefined) continue;
      if (child.type !== "directory") this.#count(home, path, child);
      if (child.type === "directory") {
        writing(() => disk.makeDirectory(place(tree, path).directory, name, 0o700));
        await this.#directory(home, tree, path, child, linked);
        continue;
      }
      const first = linked.get(object);
      if (first !== undefined) {
        this.#link(tree, first, path);
        continue;
      }
      if (manifest.pathsOf(object, at).length > 1) linked.set(object, path);
      if (child.type === "symlink") this.#symlink(tree, path, child);
      else await this.#file(home, tree, path, path, child);
    }
    const opened = directory === "" ? tree.root : tree.directory(directory);
    if (opened === undefined) throw new RestoreFailed(`directory ${directory} was made and is gone again`);
    this.#meta((meta) => disk.setDirectoryMeta(opened, meta), version);
  }

  /** What was asked for, what lies below it, and the directories that lead to it. */
  #wanted(path: string): boolean {
    const only = this.#only;
    return only === "" || path === only || path.startsWith(`${only}/`) || only.startsWith(`${path}/`);
  }

  #count(home: StoreHome, path: StorePath, version: ObjectVersion): void {
    this.digest.add(pathTerm(home.placement.name, path, version));
  }

  #link(tree: SafeTree, first: StorePath, path: StorePath): void {
    const { disk } = this.#view.context;
    writing(() => {
      const to = place(tree, path);
      const from = place(tree, first);
      disk.link(from.directory, from.name, to.directory, to.name);
    });
  }

  #symlink(tree: SafeTree, path: StorePath, version: ObjectVersion): void {
    const { disk } = this.#view.context;
    const { directory, name } = place(tree, path);
    writing(() => disk.makeSymlink(directory, name, version.target));
    this.#meta((meta) => disk.setMeta(directory, name, meta), version);
  }

  /** `path` as the manifest has it, `local` as it is called in the target. */
  async #file(
    home: StoreHome,
    tree: SafeTree,
    path: StorePath,
    local: StorePath,
    version: ObjectVersion,
  ): Promise<void> {
    const { disk } = this.#view.context;
    const { directory, name } = place(tree, local);
    using source = this.#view.open(version, home.number);
    const file = writing(() => disk.openFile(directory, name, "create"));
    try {
      for (const { offset, bytes, badBlock } of source.checked()) {
        if (badBlock !== undefined) throw new ContentDiffers(home.placement.name, path, badBlock, this.#view.at);
        writing(() => writeSparse(disk, file, bytes, offset, version.blockSize));
        this.bytes += bytes.length;
        if (this.#breath.due(bytes.length)) {
          this.#progress({ files: this.files, bytes: this.bytes });
          await this.#breath.take();
        }
      }
      if (!source.hashesAddUp) {
        throw new PointDamaged(`the hashes of ${home.placement.name}/${path} as of cut ${this.#view.at} do not add up`);
      }
      writing(() => disk.truncate(file, version.size));
      this.#meta((meta) => disk.setFileMeta(file, meta), version);
    } finally {
      disk.closeFile(file);
    }
    this.files++;
    this.#progress({ files: this.files, bytes: this.bytes });
    if (this.#breath.due(0)) await this.#breath.take();
  }

  #meta(set: Parameters<typeof setMetaAsPermitted>[0], version: ObjectVersion): void {
    if (!writing(() => setMetaAsPermitted(set, version))) this.metadataPartial++;
  }
}

function place(tree: SafeTree, path: StorePath): { directory: Directory; name: string } {
  const found = tree.place(path);
  if (found === undefined) throw new RestoreFailed(`directory ${splitPath(path).dir} was made and is gone again`);
  return found;
}

/** Turns a failure of the target into RestoreFailed; what reads the copy is not within. */
function writing<T>(write: () => T): T {
  try {
    return write();
  } catch (error) {
    if (fromTheSystem(error)) throw new RestoreFailed("cannot write what is restored", { cause: error });
    throw error;
  }
}
