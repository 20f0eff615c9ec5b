import { ProtocolViolation } from "../errors.ts";
import { firstObjectOf } from "../session/epochs.ts";
import type { CutStore, TouchedPlace } from "../wire/messages.ts";
import type { TouchedEntry } from "../wire/touched-list.ts";
import { type Coherency, type CutId, epoch, type StorePath, seq } from "../words.ts";
import type { Catalog } from "./catalog.ts";
import { anyTouched } from "./collapse.ts";
import { joinPath, splitPath } from "./manifest.ts";
import { dropNote, forgottenUpTo, keepNote, noteOf } from "./notes.ts";

const rowsMax = 2000;
/** Of an entry beside its names, about. */
const entryBytes = 29;

/**
 * The highest object that a primary may take for known here. While this node rejoins it has objects of reigns that the
 * primary never had, and the primary those of reigns in between, or of more of the common one: none of them is here.
 */
export function lastObjectOf(catalog: Catalog): number {
  const { committed } = catalog.standing;
  const below = anyTouched(catalog) ? firstObjectOf(committed.epoch + 1n) : Number.MAX_SAFE_INTEGER;
  const sql = "SELECT max(object) AS last FROM object_versions WHERE object < ? AND birth <= ?";
  return Number(catalog.get(sql, below, committed.seq)?.last ?? 0);
}

/** Within the transaction that makes what is here a cut again. */
export function clearTouched(catalog: Catalog): void {
  catalog.run("DELETE FROM touched_paths");
  catalog.run("DELETE FROM touched_blocks");
  dropNote(catalog, "ownCut");
}

/** A node's last cut before it went back: what it has while it rejoins is what that one was. */
export interface OwnCut {
  readonly cut: CutId;
  readonly takenAtUs: number;
  readonly coherency: Coherency;
  readonly stores: readonly CutStore[];
}

/** Within the transaction in which it goes back, before anything of its cuts is forgotten. Who goes back once more has still what it had. */
export function noteOwnCut(catalog: Catalog): void {
  if (anyTouched(catalog)) return;
  const { committed, lastTakenAtUs } = catalog.standing;
  const record = catalog.cut(committed.seq);
  const own = {
    epoch: String(committed.epoch),
    seq: String(committed.seq),
    takenAtUs: record?.takenAtUs ?? lastTakenAtUs,
    coherency: record?.coherency ?? "independent",
    stores: record?.stores ?? [],
  };
  keepNote(catalog, "ownCut", JSON.stringify(own));
}

/** Undefined where this node does not rejoin, or began to when that was not written down yet. */
export function ownCutOf(catalog: Catalog): OwnCut | undefined {
  const note = noteOf(catalog, "ownCut");
  if (note === undefined) return undefined;
  const own = JSON.parse(String(note)) as Omit<OwnCut, "cut"> & { readonly epoch: string; readonly seq: string };
  const { takenAtUs, coherency, stores } = own;
  return { cut: { epoch: epoch(BigInt(own.epoch)), seq: seq(BigInt(own.seq)) }, takenAtUs, coherency, stores };
}

/**
 * Where a node stands that gives up what it has beyond `common`, a cut of its history: at that one, or where it jumped over
 * that with a later one that it got as one with it, where it jumped from. What came and went between those two it never had,
 * and would take for known. A copy that began with more than `common` knows of nothing that is older, and stays at
 * `common`; so does one that would be refused further back, since it knows no more what was removed up to there, or whom it
 * follows does not: up to the cut `reach`.
 */
export function lastHad(catalog: Catalog, common: CutId, reach: bigint): CutId {
  const row = catalog.get("SELECT base_seq FROM cuts WHERE base_seq < ? AND seq > ?", common.seq, common.seq);
  const base = seq(BigInt(Number(row?.base_seq ?? 0)));
  if (base === 0n || base < reach || base < forgottenUpTo(catalog)) return common;
  const reign = catalog.standing.epochs.findLast(({ firstSeq }) => firstSeq <= base);
  return reign === undefined ? common : { epoch: epoch(reign.epoch), seq: base };
}

/**
 * What is touched, from a place on, up to about so many bytes on the wire.
 * @throws {ProtocolViolation} where the place is in no store of this catalog
 */
export function touchedPage(
  catalog: Catalog,
  from: TouchedPlace,
  bytesMax: number,
): { readonly entries: readonly TouchedEntry[]; readonly last: boolean } {
  const names = catalog.storeNames();
  const entries: TouchedEntry[] = [];
  let bytes = 0;
  const full = (): boolean => bytes >= bytesMax || entries.length >= rowsMax;
  if (from.object === 0) {
    const { dir, name } = splitPath(from.path);
    const store = [...names].find(([, known]) => known === from.store)?.[0] ?? 0;
    if (from.store !== "" && store === 0) throw new ProtocolViolation(`a list goes on in store "${from.store}"`);
    for (const row of catalog.all(
      "SELECT store, dir, name FROM touched_paths WHERE (store, dir, name) > (?,?,?) ORDER BY store, dir, name LIMIT ?",
      ...(store === 0 ? [0, "", ""] : [store, dir, name]),
      rowsMax,
    )) {
      const path = joinPath(String(row.dir), String(row.name));
      const named = names.get(Number(row.store)) ?? "";
      entries.push({ kind: "path", store: named, path });
      bytes += entryBytes + named.length + path.length;
      if (full()) return { entries, last: false };
    }
  }
  const [object, run] = from.object === 0 ? [0, 0] : [from.object, from.run];
  for (const row of catalog.all(
    "SELECT object, run, blocks FROM touched_blocks WHERE (object, run) > (?,?) ORDER BY object, run LIMIT ?",
    object,
    run,
    rowsMax,
  )) {
    entries.push({
      kind: "object",
      object: Number(row.object),
      run: Number(row.run),
      blocks: Uint8Array.from(row.blocks as Uint8Array),
    });
    bytes += entryBytes;
    if (full()) return { entries, last: false };
  }
  return { entries, last: true };
}

/** Where a list goes on after an entry. */
export function placeAfter(entry: TouchedEntry | undefined): TouchedPlace {
  if (entry === undefined) return { store: "", path: "" as StorePath, object: 0, run: 0 };
  return entry.kind === "path"
    ? { store: entry.store, path: entry.path, object: 0, run: 0 }
    : { store: "", path: "" as StorePath, object: entry.object, run: entry.run };
}
