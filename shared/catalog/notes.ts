import type { SQLInputValue } from "node:sqlite";
import { type Seq, seq } from "../words.ts";
import type { Catalog } from "./catalog.ts";

/** What is kept in the table of the catalog's standing by others than the catalog itself, each under a name of its own. */
export type Note =
  | "adopting"
  | "firstTreePartial"
  | "followed"
  | "forgotten"
  | "historyRewritten"
  | "ownCut"
  | "removals"
  | "thinning"
  | "unproven"
  | "unsynced"
  | `home.${string}`;

export function noteOf(catalog: Catalog, note: Note): unknown {
  return catalog.get("SELECT value FROM standing WHERE key = ?", note)?.value;
}

/** Within a transaction. */
export function keepNote(catalog: Catalog, note: Note, value: SQLInputValue): void {
  catalog.run("INSERT OR REPLACE INTO standing (key, value) VALUES (?, ?)", note, value);
}

/** Within a transaction. */
export function dropNote(catalog: Catalog, note: Note): void {
  catalog.run("DELETE FROM standing WHERE key = ?", note);
}

/** Marks of what is gone are known for cuts after this one only. */
export function forgottenUpTo(catalog: Catalog): Seq {
  return seq(Number(noteOf(catalog, "forgotten") ?? 0));
}

/** Within a transaction. */
export function keepForgottenUpTo(catalog: Catalog, until: Seq): void {
  keepNote(catalog, "forgotten", Number(until));
}
