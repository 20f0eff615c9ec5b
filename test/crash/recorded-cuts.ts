import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Freeze } from "../../primary/plan/take-cut.ts";
import type { PrimaryContext } from "../../primary/primary-context.ts";
import { HeldBlocks } from "../../primary/ship/held-blocks.ts";
import type { ReplicaSink } from "../../primary/ship/shipment.ts";
import { TouchedThere } from "../../primary/ship/touched-there.ts";
import { Catalog } from "../../shared/catalog/catalog.ts";
import { collapse } from "../../shared/catalog/collapse.ts";
import { placeAfter, touchedPage } from "../../shared/catalog/touched.ts";
import type { StoreAdapter } from "../../shared/ports/store-adapter.ts";
import { firstObjectOf } from "../../shared/session/epochs.ts";
import type { BulkMessage } from "../../shared/wire/messages.ts";
import { packTouchedList, type TouchedEntry } from "../../shared/wire/touched-list.ts";
import { type CutId, epoch, type Seq, type StorePath, seq } from "../../shared/words.ts";
import { cutInto, openPrimary } from "../model/in-process.ts";
import { type ModelNode, ModelSource } from "../model/model-store.ts";
import type { Tree } from "./disk-tree.ts";

/** One cut as the real primary planned and sent it, with what the sources were at that moment. */
export interface RecordedCut {
  readonly cut: CutId;
  readonly messages: readonly (readonly [message: BulkMessage, payload: Uint8Array])[];
  /** The same state for a replica that has nothing yet. */
  readonly first: readonly (readonly [message: BulkMessage, payload: Uint8Array])[];
  readonly digest: Uint8Array;
  /** What a copy of each store must be. */
  readonly trees: Readonly<Record<string, Tree>>;
  /** Of the primary that goes on from the cut before the fork. */
  readonly isFirstOfOther: boolean;
  /** Every path of each store. */
  readonly paths: Readonly<Record<string, ReadonlySet<string>>>;
}

/** Changes the sources; `text` gives bytes that say in each 16 of them from which cut they are. */
export type Change = (sources: Readonly<Record<string, ModelSource>>, text: (length: number) => Uint8Array) => void;

/** What happens before a cut is taken, and then before each further round of looking in which the same cut is taken. */
export type Changes = Change | readonly Change[];

/**
 * Runs the real plan over the changes, one cut each, and keeps what it sends. `damaged`: by the number of a cut, paths of
 * the first store whose files it brings whole. `fork`: the number of a cut that only the replica has; those after it are of
 * another primary, which goes on from the one before it, and the first of them is for a replica that rejoins.
 */
export async function recordCuts(
  storeNames: readonly string[],
  changes: readonly Changes[],
  damaged: ReadonlyMap<number, readonly string[]> = new Map(),
  fork?: number,
): Promise<RecordedCut[]> {
  const directory = mkdtempSync(join(tmpdir(), "understudy-record-"));
  let sources = Object.fromEntries(storeNames.map((name) => [name, new ModelSource()]));
  let betweenRounds: (() => void)[] = [];
  const [firstStore] = storeNames;
  const adapterOf = (name: string, source: ModelSource): StoreAdapter => {
    const adapter = source.adapter();
    const { enter } = adapter;
    adapter.enter = async (...words) => {
      if (name === firstStore) betweenRounds.shift()?.();
      return await enter.apply(adapter, words);
    };
    return adapter;
  };
  const openSources = (catalog: string): PrimaryContext =>
    openPrimary(
      join(directory, catalog),
      Object.fromEntries(Object.entries(sources).map(([name, source]) => [name, adapterOf(name, source)])),
    );
  let primary = openSources("primary.db");
  try {
    let other = sources;
    let messages: [BulkMessage, Uint8Array][] = [];
    const newSink = (): ReplicaSink => ({
      name: "recorder",
      base: { epoch: epoch(1), seq: seq(0) },
      lastObject: 0,
      compress: false,
      gone: false,
      resuming: false,
      damaged: [],
      takesAhead: false,
      held: new HeldBlocks(),
      catchUpBytesMax: Number.POSITIVE_INFINITY,
      late: false,
      full: false,
      async listStaged() {},
      async send(message, payload) {
        messages.push([message, payload.slice()]);
      },
      async stagedRuns() {
        return { blockSize: 0, digests: new Uint8Array(0) };
      },
    });
    const sink = newSink();
    const cuts: RecordedCut[] = [];
    for (const [index, change] of changes.entries()) {
      if (index + 1 === fork) {
        primary.catalog.db.exec(`VACUUM INTO '${join(directory, "other.db")}'`);
        other = Object.fromEntries(Object.entries(sources).map(([name, source]) => [name, source.copy()]));
      } else if (index === fork) {
        const touched = touchedSince(primary.catalog, seq(index - 1), join(directory, "fork.db"));
        sink.touched = new TouchedThere(async () => ({ payload: packTouchedList(touched), last: true }));
        primary.catalog.close();
        sources = other;
        primary = openSources("other.db");
        primary.catalog.transaction("fork", () =>
          primary.catalog.stand({
            committed: { epoch: epoch(1), seq: seq(index) },
            applied: seq(index),
            nextObject: firstObjectOf(2n),
          }),
        );
      }
      const rounds = typeof change === "function" ? [change] : change;
      const text = taggedBytes(index + 1);
      betweenRounds = rounds.map((round) => () => round(sources, text));
      messages = [];
      const freeze: Freeze | undefined =
        rounds.length === 1 ? undefined : { freeze: async () => {}, thaw: async () => 0 };
      const asked = (damaged.get(index + 1) ?? []).map((path) => {
        const { seq: at } = primary.catalog.standing.committed;
        return primary.manifest.objectAtPath(1, path as StorePath, at)!;
      });
      const repaired = { ...sink, damaged: asked };
      const taken = await cutInto(primary, [repaired], { freeze, preCopyRounds: rounds.length - 1 });
      ({ base: sink.base, lastObject: sink.lastObject, touched: sink.touched } = repaired);
      if (!taken.fresh || messages.length === 0) throw new Error(`change ${index + 1} changes nothing`);
      const delta = messages;
      messages = [];
      if (index > 0) await cutInto(primary, [newSink()]);
      const perStore = <T>(of: (source: ModelSource) => T): Record<string, T> =>
        Object.fromEntries(Object.entries(sources).map(([name, source]) => [name, of(source)]));
      cuts.push({
        cut: taken.cut,
        messages: delta,
        first: index > 0 ? messages : delta,
        digest: primary.catalog.standing.digest,
        isFirstOfOther: index === fork,
        trees: perStore((source) => modelTree(source.nodes)),
        paths: perStore((source) => new Set(source.nodes.keys())),
      });
    }
    return cuts;
  } finally {
    primary.catalog.close();
    rmSync(directory, { recursive: true, force: true });
  }
}

/** What a replica with this catalog says after it was made to stand at an earlier cut. */
function touchedSince(catalog: Catalog, common: Seq, path: string): readonly TouchedEntry[] {
  catalog.db.exec(`VACUUM INTO '${path}'`);
  using copy = new Catalog(path, { synchronous: "OFF" });
  copy.transaction("collapse", () => collapse(copy, common));
  return touchedPage(copy, placeAfter(undefined), Number.MAX_SAFE_INTEGER).entries;
}

/** Bytes such as `<07:000000000c>`: the cut, and a number that no other 16 bytes of the scenario have. */
function taggedBytes(cut: number): (length: number) => Uint8Array {
  let count = 0;
  return (length) => {
    const bytes = Buffer.alloc(Math.ceil(length / 16) * 16);
    for (let at = 0; at < bytes.length; at += 16) {
      bytes.write(`<${String(cut).padStart(2, "0")}:${(count++).toString(16).padStart(10, "0")}>\n`, at, "latin1");
    }
    return bytes.subarray(0, length);
  };
}

/** The highest cut that any bytes of a file are from; 0 when none of them is tagged. */
export function newestTag(bytes: Buffer): number {
  let newest = 0;
  for (let at = bytes.indexOf("<"); at >= 0 && at + 4 <= bytes.length; at = bytes.indexOf("<", at + 1)) {
    if (bytes[at + 3] === 0x3a) newest = Math.max(newest, Number(bytes.toString("latin1", at + 1, at + 3)));
  }
  return newest;
}

export function modelTree(nodes: ReadonlyMap<string, ModelNode>): Tree {
  const links = new Map<ModelNode, number>();
  for (const node of nodes.values()) links.set(node, (links.get(node) ?? 0) + 1);
  const directories = new Map<string, Record<string, Tree>>();
  let root: Tree | undefined;
  for (const path of [...nodes.keys()].sort()) {
    const node = nodes.get(path)!;
    const meta = {
      mode: node.type === "symlink" ? 0o777 : node.mode,
      uid: node.uid,
      gid: 0,
      mtimeUs: node.type === "file" ? node.mtimeUs : 0,
    };
    let tree: Tree;
    if (node.type === "directory") {
      const entries: Record<string, Tree> = {};
      directories.set(path, entries);
      tree = { type: "directory", ...meta, entries };
    } else if (node.type === "symlink") {
      tree = { type: "symlink", ...meta, links: links.get(node)!, target: node.target };
    } else {
      tree = { type: "file", ...meta, links: links.get(node)!, bytes: Buffer.from(node.bytes) };
    }
    if (path === "") {
      root = tree;
      continue;
    }
    const slash = path.lastIndexOf("/");
    const parent = directories.get(slash < 0 ? "" : path.slice(0, slash));
    if (parent === undefined) throw new Error(`${path} lies in no directory`);
    parent[path.slice(slash + 1)] = tree;
  }
  return root!;
}
