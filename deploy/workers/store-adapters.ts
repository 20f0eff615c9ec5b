import { basename } from "node:path";
import type { ScrubSource } from "../../primary/scrub/scrub-store.ts";
import { compileExclude } from "../../primary/stores/files/exclude.ts";
import { createFilesStore } from "../../primary/stores/files/files-store.ts";
import { FilesScrubSource } from "../../primary/stores/files/scrub-source.ts";
import { createSqliteStore } from "../../primary/stores/sqlite/sqlite-store.ts";
import type { Excluded } from "../../replica/repair/extra-names.ts";
import { type StorePlacement, singleFileName } from "../../replica/store-home.ts";
import type { StoreOnNode } from "../../shared/config/config.ts";
import { runHook } from "../../shared/hooks.ts";
import { adapterAround } from "../../shared/ports/adapter-around.ts";
import type { StoreAdapter } from "../../shared/ports/store-adapter.ts";
import { checkStorePath } from "../../shared/store-path.ts";
import type { Consistency, StoreKind, StorePath } from "../../shared/words.ts";

/** What differs by kind on the replica's side and in the defaults. */
export const kindTraits: Record<
  StoreKind,
  Pick<StorePlacement, "shape" | "sidecars"> & { readonly require: Consistency }
> = {
  files: { shape: "tree", sidecars: [], require: "whole" },
  sqlite: { shape: "file", sidecars: ["-wal", "-shm", "-journal"], require: "transactional" },
};

/** The one place that names the store kinds: a new kind is a line here and in `kindTraits`. */
export function createAdapter(
  store: StoreOnNode,
  options: { holdSecondsMax: number; environment: Record<string, string> },
): StoreAdapter {
  switch (store.kind) {
    case "files": {
      const { snapshot, list } = store;
      return createFilesStore({
        path: store.path,
        exclude: [...store.exclude],
        trustWatcher: store.trustWatcher,
        reflink: store.reflink,
        ...(snapshot === undefined
          ? {}
          : {
              snapshot: {
                create: async () => {
                  await runHook("snapshot.create", snapshot.create, options.environment);
                  return snapshot.path;
                },
                remove: async () => {
                  await runHook("snapshot.remove", snapshot.remove, options.environment);
                },
              },
            }),
        ...(list === undefined
          ? {}
          : { list: async () => parseList((await runHook("list", list, options.environment)).stdout) }),
      });
    }
    case "sqlite":
      return createSqliteStore({ path: store.path, holdSecondsMax: options.holdSecondsMax });
  }
}

/** Whether the content of the kind's files can be told from their stamps, so that a scrub has something to compare. */
export function isScrubbed(store: StoreOnNode): boolean {
  return store.kind === "files";
}

/** Cuts come from copies of the files, whose inode numbers and ctimes say nothing of the files themselves. */
export function hasCopiedStamps(store: StoreOnNode): boolean {
  return store.kind === "files" && store.snapshot !== undefined;
}

/** Whether the configuration leaves a path out, by itself or with what is above it. */
export function leavesOut(store: StoreOnNode): (path: StorePath, directory: boolean) => boolean {
  if (store.kind !== "files") return () => false;
  const exclude = compileExclude([...store.exclude]);
  return (path, directory) => exclude.matches(path, directory) || exclude.hides(path);
}

export function createScrubSource(store: StoreOnNode): ScrubSource | undefined {
  switch (store.kind) {
    case "files":
      return new FilesScrubSource(store.path, { copiedStamps: hasCopiedStamps(store) });
    case "sqlite":
      return undefined;
  }
}

/**
 * A store of a single file is called the same in the manifest on every node, whatever its file is called there: this
 * translates for an adapter that speaks of the file's own name.
 */
export function singleFilePath(store: StoreOnNode, adapter: StoreAdapter): StoreAdapter {
  if (kindTraits[store.kind].shape === "tree") return adapter;
  const local = Buffer.from(basename(store.path), "utf8").toString("latin1") as StorePath;
  const toManifest = (path: StorePath): StorePath => (path === local ? singleFileName : path);
  const toLocal = (path: StorePath): StorePath => (path === singleFileName ? local : path);
  const enter: StoreAdapter["enter"] = async (seen, request, signal) => {
    const view = await adapter.enter(
      {
        ...seen,
        byPath: (path) => seen.byPath(toManifest(path)),
        children: (directory) =>
          [...seen.children(directory)].map(({ name, entry }) => ({ name: toLocal(name as StorePath), entry })),
        pathsOf: (object) => seen.pathsOf(object).map(toLocal),
        ...(seen.pathsOfInode === undefined
          ? {}
          : { pathsOfInode: (inode: number) => seen.pathsOfInode!(inode).map(toLocal) }),
      },
      request,
      signal,
    );
    return {
      async *changes() {
        for await (const found of view.changes()) yield { ...found, path: toManifest(found.path) };
      },
      read: (path, offset, length) => view.read(toLocal(path), offset, length),
      summary: () => view.summary(),
      leave: async (outcome) => await view.leave(outcome),
    };
  };
  return adapterAround(adapter, { peek: (path, offset, length) => adapter.peek(toLocal(path), offset, length), enter });
}

/** Answer of a `list` command: paths relative to the store, one a line in its bytes, or the single line `everything`. */
function parseList(stdout: Buffer): StorePath[] | "everything" {
  const lines = stdout
    .toString("latin1")
    .split("\n")
    .filter((line) => line !== "");
  return lines.length === 1 && lines[0] === "everything" ? "everything" : lines.map(checkStorePath);
}

/** Which names each store's configuration leaves out, by the globs of `excludesOf`. */
export function excludedBy(exclude: ReadonlyMap<string, readonly string[]>): Excluded {
  const compiled = new Map([...exclude].map(([store, globs]) => [store, compileExclude(globs)]));
  return (store, path, directory) => compiled.get(store)?.matches(path, directory) === true;
}

export function excludesOf(stores: readonly StoreOnNode[]): Map<string, readonly string[]> {
  return new Map(stores.map((store) => [store.name, store.kind === "files" ? [...store.exclude] : []]));
}

export function placementOf(store: StoreOnNode): StorePlacement {
  const { shape, sidecars } = kindTraits[store.kind];
  const owners = store.kind === "files" ? store.owners : "numeric";
  return { name: store.name, kind: store.kind, shape, sidecars, path: store.path, owners };
}
