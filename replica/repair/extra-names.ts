import { joinPath } from "../../shared/catalog/manifest.ts";
import { isSystemError } from "../../shared/errors.ts";
import { privateName } from "../../shared/store-path.ts";
import type { ObjectId, StoreName, StorePath } from "../../shared/words.ts";
import type { ReplicaContext } from "../replica-context.ts";
import type { StoreHome } from "../store-home.ts";
import { failing } from "../sync.ts";
import { moveToStrangers } from "./put-aside.ts";

/** What lies in the copy, is in no cut, and went out of the way. */
export interface PutAside {
  readonly store: StoreName;
  readonly path: StorePath;
}

/** Names that the configuration leaves out of a store: they belong to the service, and may lie in a copy that it once had. */
export type Excluded = (store: StoreName, path: StorePath, directory: boolean) => boolean;

const namesPerStepMax = 500;
/** A name that came within the same tick of the clock as our look may not show in the directory's ctime. */
const settledMs = 2000;

/**
 * Looks through the directories of the copies for names that are in no cut, and puts them aside: a service that starts
 * here would take them for its own. Directories that have not changed since the last look are not read again.
 */
export class ExtraNames {
  readonly #context: ReplicaContext;
  readonly #excluded: Excluded;
  /** Directories in which nothing foreign was found: their ctime then, and the names of the directories in them. */
  readonly #clean = new Map<ObjectId, { readonly ctimeNs: bigint; readonly directories: readonly string[] }>();
  #skipped = 0;

  constructor(context: ReplicaContext, excluded: Excluded) {
    this.#context = context;
    this.#excluded = excluded;
  }

  /** Between two steps others may work; nothing is accused while a batch is half written. */
  *putAside(): Generator<readonly PutAside[]> {
    for (const home of this.#context.homes.values()) {
      if (home.placement.shape === "file") continue; // Beside a single file everything is somebody else's.
      const pending: StorePath[] = ["" as StorePath];
      for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
        yield* this.#directory(home, path, pending);
      }
    }
  }

  *#directory(home: StoreHome, path: StorePath, pending: StorePath[]): Generator<readonly PutAside[]> {
    const { disk, manifest, catalog, nowUs } = this.#context;
    const { applied, applying } = catalog.standing;
    if (applying !== undefined || applied === 0n) return;
    const object = manifest.objectAtPath(home.number, path, applied);
    const directory = path === "" ? home.tree.root : home.tree.directory(path);
    if (object === undefined || directory === undefined) return; // It is gone: the look at its own object says so.
    const { ctimeNs } = disk.statDirectory(directory);
    const known = this.#clean.get(object);
    if (known?.ctimeNs === ctimeNs) {
      pending.push(...known.directories.map((name) => joinPath(path, name)));
      if (++this.#skipped % namesPerStepMax === 0) yield [];
      return;
    }
    const directories: string[] = [];
    const names = disk.list(directory);
    let clean = BigInt(nowUs()) * 1000n - ctimeNs > BigInt(settledMs) * 1_000_000n;
    for (let at = 0; at < names.length || at === 0; at += namesPerStepMax) {
      const found: PutAside[] = [];
      for (const name of names.slice(at, at + namesPerStepMax)) {
        const inner = joinPath(path, name);
        const ours = manifest.objectAtPath(home.number, inner, applied);
        if (ours !== undefined) {
          if (manifest.object(ours, applied)?.type === "directory") directories.push(name);
          continue;
        }
        if (this.#belongs(home, inner, name)) continue;
        clean = false;
        if (this.#move(home, inner)) found.push({ store: home.placement.name, path: inner });
      }
      if (found.length > 0) this.#settle(home, path, found);
      yield found;
      if (catalog.standing.applied !== applied || catalog.standing.applying !== undefined) return;
    }
    pending.push(...directories.map((name) => joinPath(path, name)));
    if (clean) this.#clean.set(object, { ctimeNs, directories });
    else this.#clean.delete(object);
  }

  #belongs(home: StoreHome, path: StorePath, name: string): boolean {
    if (name === privateName || (path === "lost+found" && name === path)) return true;
    const type = home.tree.stat(path)?.type;
    // What no cut ever has: a fifo, a socket, a device of the service that ran here.
    return type === "other" || this.#excluded(home.placement.name, path, type === "directory");
  }

  /** False where it cannot be moved, as a filesystem that is mounted there cannot: `verify` tells of it. */
  #move(home: StoreHome, path: StorePath): boolean {
    const place = home.tree.place(path);
    if (place === undefined || this.#context.disk.stat(place.directory, place.name) === undefined) return false;
    try {
      moveToStrangers(this.#context, home, place.directory, place.name);
      return true;
    } catch (error) {
      if (isSystemError(error, "ENOENT", "EXDEV", "EBUSY", "EPERM", "EACCES")) return false;
      throw error;
    }
  }

  #settle(home: StoreHome, path: StorePath, found: readonly PutAside[]): void {
    const { disk, catalog, nowUs } = this.#context;
    home.tree.forget();
    failing(() => {
      const directory = home.tree.directory(path);
      if (directory !== undefined) disk.syncDirectory(directory);
      disk.syncDirectory(home.strangers);
    });
    catalog.transaction("aside", () => {
      for (const { store, path: inner } of found) catalog.event("stranger.put_aside", { store, path: inner }, nowUs());
    });
  }
}
