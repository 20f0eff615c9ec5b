import { hashBytes, trimRun } from "../../shared/manifest/block-hash.ts";
import { runTerm } from "../../shared/manifest/digest.ts";
import type { BulkMessage } from "../../shared/wire/messages.ts";
import type { ObjectId } from "../../shared/words.ts";
import type { Tree } from "./disk-tree.ts";
import type { RecordedCut } from "./recorded-cuts.ts";

type Message = readonly [message: BulkMessage, payload: Uint8Array];

/** What a replica that adopts is asked of one file of the first cut. */
export interface Question {
  readonly object: ObjectId;
  readonly store: string;
  readonly path: string;
  readonly blockSize: number;
}

/**
 * The frames of a first cut as a primary sends them to a replica that adopts: before the first frame that has something
 * of a file it asks what the replica has of it, and of what is there already it sends nothing but the hashes. (A primary
 * asks for files from 1 MiB on; here they are all asked for.)
 */
export class AdoptedCut {
  readonly #questions = new Map<ObjectId, { readonly question: Question; readonly term: Uint8Array | undefined }>();
  readonly #held = new Set<ObjectId>();
  #heldBytes = 0;

  constructor(cut: RecordedCut) {
    const hashes = new Map<ObjectId, Uint8Array>();
    const paths = new Map<ObjectId, { store: number; path: string }>();
    let stores: readonly string[] = [];
    for (const [message] of cut.first) {
      if (message.kind === "cutBegin") stores = message.stores;
      if (message.kind === "extents") {
        for (const { object, offset, blockSize, hashes: some, zero } of message.extents) {
          const run = hashes.get(object) ?? new Uint8Array(128 * hashBytes);
          hashes.set(object, run);
          if (!zero) run.set(some, (offset / blockSize) * hashBytes);
        }
      }
      if (message.kind !== "rows") continue;
      for (const { object, path, store } of message.paths) if (object !== undefined) paths.set(object, { store, path });
    }
    for (const [message] of cut.first) {
      if (message.kind !== "rows") continue;
      for (const { object, type, size, blockSize } of message.objects) {
        const place = paths.get(object);
        if (type !== "file" || size === 0 || place === undefined) continue;
        const run = hashes.get(object);
        this.#questions.set(object, {
          question: { object, store: stores[place.store]!, path: place.path, blockSize },
          term: run === undefined ? undefined : runTerm(0, trimRun(run)),
        });
      }
    }
  }

  /** `ask` brings what lies there into staging and gives the digest of its first run. */
  frame([message, payload]: Message, ask: (question: Question) => Uint8Array): Message {
    if (message.kind === "cutBegin") {
      this.#held.clear();
      this.#heldBytes = 0;
    }
    const concerned = message.kind === "extents" ? message.extents : message.kind === "rows" ? message.objects : [];
    for (const { object } of concerned) {
      const asked = this.#questions.get(object);
      if (asked === undefined) continue;
      this.#questions.delete(object);
      const there = ask(asked.question);
      if (asked.term !== undefined && Buffer.from(asked.term).equals(there)) this.#held.add(object);
    }
    if (message.kind === "cutEnd")
      return [{ ...message, payloadBytes: message.payloadBytes - this.#heldBytes }, payload];
    if (message.kind !== "extents") return [message, payload];
    const parts: Uint8Array[] = [];
    let at = 0;
    const extents = message.extents.map((extent) => {
      const length = extent.zero ? 0 : extent.length;
      const held = !extent.zero && this.#held.has(extent.object);
      if (held) this.#heldBytes += length;
      else parts.push(payload.subarray(at, at + length));
      at += length;
      return { ...extent, held };
    });
    const left = Buffer.concat(parts);
    return [{ ...message, extents, decodedBytes: left.length }, left];
  }
}

/** The content of every file and symlink: what belongs to the operator must be found among what is there later. */
export function contentsOf(tree: Tree): Set<string> {
  const contents = new Set<string>();
  const walk = (node: Tree): void => {
    if (node.type === "file") contents.add(node.bytes.toString("latin1"));
    else if (node.type === "symlink") contents.add(`leads to ${node.target}`);
    else if (node.type === "directory") for (const inner of Object.values(node.entries)) walk(inner);
  };
  walk(tree);
  return contents;
}

/** The tree with those files and symlinks only whose content is one of these. */
export function onlyContents(tree: Tree, contents: ReadonlySet<string>): Tree {
  if (tree.type !== "directory") return tree;
  const entries = Object.entries(tree.entries).flatMap(([name, inner]): [string, Tree][] =>
    inner.type === "directory" || [...contentsOf(inner)].every((content) => contents.has(content))
      ? [[name, onlyContents(inner, contents)]]
      : [],
  );
  return { ...tree, entries: Object.fromEntries(entries) };
}

/** The trial rename that tells a mount from another may leave its empty file. */
export const trialName = ".understudy-trial";

/** A tree without what it shares with `other` by path alone and `wanted` does not have. */
export function without(tree: Tree, other: Tree | undefined, wanted: Tree | undefined): Tree {
  if (tree.type !== "directory") return tree;
  const entries: Record<string, Tree> = {};
  const inOther = other?.type === "directory" ? other.entries : {};
  const inWanted = wanted?.type === "directory" ? wanted.entries : {};
  for (const [name, inner] of Object.entries(tree.entries)) {
    const allowed = inOther[name] !== undefined || name === trialName;
    if (inWanted[name] === undefined && allowed) continue;
    entries[name] = without(inner, inOther[name], inWanted[name]);
  }
  return { ...tree, entries };
}
