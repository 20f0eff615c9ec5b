import { Breath } from "../../shared/breath.ts";
import { joinPath, type ObjectVersion } from "../../shared/catalog/manifest.ts";
import { isSystemError } from "../../shared/errors.ts";
import { equalBytes } from "../../shared/manifest/block-hash.ts";
import { hex, pathTerm, Sum256 } from "../../shared/manifest/digest.ts";
import type { Stat } from "../../shared/ports/disk.ts";
import { privateName } from "../../shared/store-path.ts";
import type { ObjectId, Seq, StoreName, StorePath } from "../../shared/words.ts";
import { inodeOf } from "../apply/locate.ts";
import type { ReplicaContext } from "../replica-context.ts";
import type { StoreHome } from "../store-home.ts";
import { CopyView, FileGone } from "./view.ts";

/** How something in the copy is not what the manifest says. `stranger`, `derived` and `excluded` are not in it at all. */
export type DifferenceKind =
  | "missing"
  | "replaced"
  | "type"
  | "size"
  | "content"
  | "target"
  | "mode"
  | "owner"
  | "mtime"
  | "stranger"
  | "derived"
  | "excluded"
  | "digest";

export interface Difference {
  readonly store: StoreName;
  /** As this node's tree calls it. */
  readonly path: StorePath;
  readonly what: DifferenceKind;
  readonly detail: string;
}

export interface Verified {
  /** The cut that the copy was compared with. */
  readonly at: Seq;
  readonly files: number;
  readonly bytes: number;
  /** The first ones; `differenceCount` has all. Derived and excluded names are listed and not counted. */
  readonly differences: readonly Difference[];
  readonly differenceCount: number;
  /** The set's digest, added up anew from the manifest's rows, in hex. */
  readonly digest: string;
  /** It is what the cut was committed with. */
  readonly digestEqual: boolean;
  /** Objects with another owner than the manifest says, where this process may not set one. */
  readonly metadataPartial: number;
}

export interface VerifyOptions {
  /** The cut that the caller has pinned; the applied one where it is not given. */
  readonly at?: Seq;
  /** For a scrub beside other work. */
  readonly bytesPerSecond?: number;
  /** Names that the configuration leaves out of the store, and that may lie in the copy still. */
  readonly excluded?: (store: StoreName, path: StorePath, directory: boolean) => boolean;
}

const differencesMax = 1000;
const hashesDoNotAddUp = "the block hashes in the catalog do not add up to its content digest";

/**
 * Adds the digest of a cut up anew from the catalog's rows, down to the block hashes, and compares it: of the last
 * committed one unless `at` says which. Reads no file of the copy. The cut must be kept from thinning.
 */
export async function verifyManifest(context: ReplicaContext, signal: AbortSignal, at?: Seq): Promise<Verified> {
  const { committed, digest: newest } = context.catalog.standing;
  const seq = at ?? committed.seq;
  const digest = seq === committed.seq ? newest : context.catalog.cut(seq)?.digest;
  const sum = new Sum256();
  const breath = new Breath(undefined, signal);
  const found = new Differences();
  let files = 0;
  for (const home of context.homes.values()) {
    for (const { path, object } of context.manifest.entries(home.number, seq)) {
      if (object.type === "file") {
        files++;
        checkContentRow(context, home, path, object, seq, found);
      }
      sum.add(pathTerm(home.placement.name, path, object));
      if (breath.due(0)) await breath.take();
    }
  }
  return {
    at: seq,
    files,
    bytes: 0,
    ...found.result(),
    digest: hex(sum.bytes()),
    digestEqual: digest !== undefined && equalBytes(sum.bytes(), digest),
    metadataPartial: 0,
  };
}

/**
 * Reads the whole copy as of the applied cut, while apply goes on, and compares content, types, meta and names with the
 * manifest. Reports and changes nothing. The cut must be kept from thinning.
 */
export async function verify(
  context: ReplicaContext,
  options: VerifyOptions,
  progress: (so: { readonly files: number; readonly bytes: number }) => void,
  signal: AbortSignal,
): Promise<Verified> {
  signal.throwIfAborted();
  const at = options.at ?? context.catalog.standing.applied;
  if (at === 0n) return await verifyManifest(context, signal, at);
  const checker = new CopyChecker(context, at, options, progress, signal);
  return await checker.run();
}

function checkContentRow(
  { manifest }: ReplicaContext,
  home: StoreHome,
  path: StorePath,
  object: ObjectVersion,
  at: Seq,
  found: Differences,
): void {
  if (equalBytes(manifest.contentOf(object.object, at), object.content)) return;
  found.add(home.placement.name, path, "digest", hashesDoNotAddUp);
}

class Differences {
  readonly #listed: Difference[] = [];
  #count = 0;

  add(store: StoreName, path: StorePath, what: DifferenceKind, detail: string): void {
    if (what !== "derived" && what !== "excluded") this.#count++;
    if (this.#listed.length < differencesMax) this.#listed.push({ store, path, what, detail });
  }

  result(): { differences: readonly Difference[]; differenceCount: number } {
    return { differences: this.#listed, differenceCount: this.#count };
  }
}

type Looked = { readonly what: DifferenceKind; readonly detail: string } | undefined;

class CopyChecker {
  readonly #context: ReplicaContext;
  readonly #at: Seq;
  readonly #options: VerifyOptions;
  readonly #progress: (so: { readonly files: number; readonly bytes: number }) => void;
  readonly #breath: Breath;
  readonly #view: CopyView;
  readonly #differences = new Differences();
  readonly #digest = new Sum256();
  /** Who may not give files away is not told that they belong to somebody else. */
  readonly #ownersCount = process.getuid?.() === 0;
  #files = 0;
  #bytes = 0;
  #metadataPartial = 0;

  constructor(
    context: ReplicaContext,
    at: Seq,
    options: VerifyOptions,
    progress: (so: { readonly files: number; readonly bytes: number }) => void,
    signal: AbortSignal,
  ) {
    this.#context = context;
    this.#at = at;
    this.#options = options;
    this.#progress = progress;
    this.#breath = new Breath(options.bytesPerSecond, signal);
    this.#view = new CopyView(context, at);
  }

  async run(): Promise<Verified> {
    using _view = this.#view;
    const { committed, digest: newest } = this.#context.catalog.standing;
    // Of a node that rejoins, the cut is not what is here: it says itself what is.
    const expected = this.#at === committed.seq ? newest : this.#context.catalog.cut(this.#at)?.digest;
    for (const home of this.#context.homes.values()) await this.#store(home);
    const digest = this.#digest.bytes();
    return {
      at: this.#at,
      files: this.#files,
      bytes: this.#bytes,
      ...this.#differences.result(),
      digest: hex(digest),
      digestEqual: expected !== undefined && equalBytes(digest, expected),
      metadataPartial: this.#metadataPartial,
    };
  }

  async #store(home: StoreHome): Promise<void> {
    const { manifest } = this.#context;
    if (home.placement.shape === "file") {
      for (const { name, object } of manifest.children(home.number, "" as StorePath, this.#at)) {
        const version = manifest.object(object, this.#at);
        if (version !== undefined) await this.#entry(home, name as StorePath, version);
      }
      this.#sidecars(home);
      return;
    }
    const root = manifest.objectAtPath(home.number, "" as StorePath, this.#at);
    const version = root === undefined ? undefined : manifest.object(root, this.#at);
    if (version !== undefined) await this.#directory(home, "" as StorePath, version);
  }

  async #directory(home: StoreHome, directory: StorePath, version: ObjectVersion): Promise<void> {
    const { manifest } = this.#context;
    await this.#entry(home, directory, version);
    const known = new Set<string>();
    for (const { name, object } of manifest.children(home.number, directory, this.#at)) {
      known.add(name);
      const child = manifest.object(object, this.#at);
      if (child === undefined) continue;
      const path = joinPath(directory, name);
      if (child.type === "directory") await this.#directory(home, path, child);
      else await this.#entry(home, path, child);
    }
    this.#strangers(home, directory, known);
  }

  /** One path: what is there, and, at an object's first path, its content. */
  async #entry(home: StoreHome, path: StorePath, version: ObjectVersion): Promise<void> {
    this.#digest.add(pathTerm(home.placement.name, path, version));
    const local = home.local(path);
    const found = this.#lookSteadily(home, path, local, version);
    if (found !== undefined) {
      this.#differ(home, local, found.what, found.detail);
      if (found.what === "missing" || found.what === "type" || found.what === "replaced") return;
    }
    if (version.type === "file" && this.#isFirst(home.number, path, version.object))
      await this.#content(home, path, local, version);
    if (this.#breath.due(0)) await this.#breath.take();
  }

  #isFirst(store: number, path: StorePath, object: ObjectId): boolean {
    const first = this.#context.manifest.pathsOf(object, this.#at)[0];
    return first?.store === store && first.path === path;
  }

  /** What apply changes meanwhile is no difference: its content is compared by its images, the rest next time. */
  #lookSteadily(home: StoreHome, path: StorePath, local: StorePath, version: ObjectVersion): Looked {
    if (this.#look(home, local, version) === undefined || this.#moving(home.number, path, version.object))
      return undefined;
    // Once more, with directories opened anew, before anybody is accused.
    home.tree.forget();
    const found = this.#look(home, local, version);
    return found === undefined || this.#moving(home.number, path, version.object) ? undefined : found;
  }

  #look(home: StoreHome, local: StorePath, version: ObjectVersion): Looked {
    const stat = home.tree.stat(local);
    if (stat === undefined) return { what: "missing", detail: `a ${version.type} is not there` };
    if (stat.type !== version.type) return { what: "type", detail: `is a ${stat.type}, should be a ${version.type}` };
    if (version.type !== "directory" && stat.inode !== inodeOf(this.#context, version.object)) {
      return { what: "replaced", detail: "is another file than the one that was written here" };
    }
    if (version.type === "symlink") return this.#lookSymlink(home, local, version);
    if (version.type === "file" && stat.size !== version.size) {
      return { what: "size", detail: `has ${stat.size} bytes, should have ${version.size}` };
    }
    return this.#lookMeta(stat, version);
  }

  #lookSymlink(home: StoreHome, local: StorePath, version: ObjectVersion): Looked {
    const place = home.tree.place(local);
    if (place === undefined) return { what: "missing", detail: "a symlink is not there" };
    const target = orGone(() => this.#context.disk.readSymlink(place.directory, place.name), "");
    return target === version.target
      ? undefined
      : { what: "target", detail: `leads to ${target}, should lead to ${version.target}` };
  }

  #lookMeta(stat: Stat, version: ObjectVersion): Looked {
    if (stat.uid !== version.uid || stat.gid !== version.gid) {
      const detail = `belongs to ${stat.uid}:${stat.gid}, should belong to ${version.uid}:${version.gid}`;
      if (this.#ownersCount) return { what: "owner", detail };
      this.#metadataPartial++;
    } else if (stat.mode !== version.mode) {
      return { what: "mode", detail: `has mode ${stat.mode.toString(8)}, should have ${version.mode.toString(8)}` };
    }
    if (version.type === "file" && stat.mtimeUs !== version.mtimeUs) {
      return { what: "mtime", detail: `was modified at ${stat.mtimeUs} us, should be ${version.mtimeUs}` };
    }
    return undefined;
  }

  async #content(home: StoreHome, path: StorePath, local: StorePath, version: ObjectVersion): Promise<void> {
    let bad = 0;
    let firstBad: number | undefined;
    try {
      using file = this.#view.open(version, home.number);
      for (const { bytes, badBlock } of file.checked()) {
        this.#bytes += bytes.length;
        if (badBlock !== undefined) {
          firstBad ??= badBlock;
          bad++;
        }
        if (this.#breath.due(bytes.length)) {
          this.#progress({ files: this.#files, bytes: this.#bytes });
          await this.#breath.take();
        }
      }
      if (!file.hashesAddUp) this.#differ(home, local, "digest", hashesDoNotAddUp);
    } catch (error) {
      if (!(error instanceof FileGone)) throw error;
      this.#differ(home, local, "missing", error.message);
    }
    if (firstBad !== undefined && (this.#hasHistory() || !this.#moving(home.number, path, version.object))) {
      this.#differ(home, local, "content", `block ${firstBad} does not have its hash; ${bad} stretches differ`);
    }
    this.#files++;
    this.#progress({ files: this.#files, bytes: this.#bytes });
  }

  /** Without history nothing says what a byte was before a newer cut. */
  #hasHistory(): boolean {
    return this.#context.catalog.cut(this.#at)?.point === true;
  }

  /** True when a cut after ours touches this path or object, as far as apply can have come. */
  #moving(store: number, path: StorePath, object: ObjectId): boolean {
    const { catalog, manifest } = this.#context;
    const end = this.#end();
    if (end === this.#at) return false;
    if (manifest.objectAtPath(store, path, end) !== object) return true;
    const row = catalog.get(
      "SELECT 1 AS found FROM object_versions WHERE object=? AND birth>? AND birth<=? LIMIT 1",
      object,
      this.#at,
      end,
    );
    return row !== undefined;
  }

  #end(): Seq {
    const { applied, applying } = this.#context.catalog.standing;
    return applying === undefined || applying.to < applied ? applied : applying.to;
  }

  #strangers(home: StoreHome, directory: StorePath, known: ReadonlySet<string>): void {
    const { disk, manifest } = this.#context;
    const opened = directory === "" ? home.tree.root : home.tree.directory(directory);
    if (opened === undefined) return; // Said already, or moved on.
    for (const name of orGone(() => disk.list(opened), [])) {
      if (known.has(name)) continue;
      if (directory === "" && (name === privateName || name === "lost+found")) continue;
      const path = joinPath(directory, name);
      if (this.#cameOrWent(home.number, path)) continue;
      if (manifest.objectAtPath(home.number, path, this.#end()) !== undefined) continue;
      const type = home.tree.stat(path)?.type;
      if (type === "other") this.#differ(home, path, "derived", "is what no cut has: a fifo, a socket or a device");
      else if (this.#options.excluded?.(home.placement.name, path, type === "directory") === true)
        this.#differ(home, path, "excluded", "is left out by the configuration");
      else this.#differ(home, path, "stranger", "is not in the manifest");
    }
  }

  /** A name that newer cuts brought, and perhaps took away again. */
  #cameOrWent(store: number, path: StorePath): boolean {
    const end = this.#end();
    if (end === this.#at) return false;
    const slash = path.lastIndexOf("/");
    return (
      this.#context.catalog.get(
        "SELECT 1 AS found FROM path_versions WHERE store=? AND dir=? AND name=? AND birth>? AND birth<=? LIMIT 1",
        store,
        slash < 0 ? "" : path.slice(0, slash),
        path.slice(slash + 1),
        this.#at,
        end,
      ) !== undefined
    );
  }

  /** Beside a single file lies what its service makes of it: never ours, and never to be replayed into the copy. */
  #sidecars(home: StoreHome): void {
    const { disk } = this.#context;
    const name = home.local("" as StorePath);
    for (const suffix of home.placement.sidecars) {
      if (disk.stat(home.tree.root, name + suffix) === undefined) continue;
      this.#differ(home, (name + suffix) as StorePath, "derived", "belongs to the store's service");
    }
  }

  #differ(home: StoreHome, path: StorePath, what: DifferenceKind, detail: string): void {
    this.#differences.add(home.placement.name, path, what, detail);
  }
}

/** What apply takes away between two looks is not there. */
function orGone<T>(look: () => T, gone: T): T {
  try {
    return look();
  } catch (error) {
    if (isSystemError(error, "ENOENT", "EINVAL")) return gone;
    throw error;
  }
}
