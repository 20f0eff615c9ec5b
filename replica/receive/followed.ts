import type { Catalog } from "../../shared/catalog/catalog.ts";
import { keepNote, noteOf } from "../../shared/catalog/notes.ts";
import { SenderRefused } from "./refusals.ts";

/** @throws {SenderRefused} when its epoch is not the one that this replica follows: whom it follows is not disturbed */
export function checkSender(catalog: Catalog, primary: string, at: bigint): void {
  const { epoch } = catalog.standing;
  if (at !== epoch)
    throw new SenderRefused(`${primary} is primary of epoch ${at}, this replica follows epoch ${epoch}`);
}

/** Durably, before anything of its cuts: an epoch has one primary, and nobody else is followed in it. */
export function rememberPrimary(catalog: Catalog, primary: string, at: bigint): void {
  checkSender(catalog, primary, at);
  const { epoch } = catalog.standing;
  const value = JSON.stringify({ epoch: String(epoch), node: primary });
  if (noteOf(catalog, "followed") === value) return;
  catalog.transaction("followed", () => keepNote(catalog, "followed", value));
}

/** The node whose cuts were taken in the epoch that this one is in. */
export function followedNode(catalog: Catalog): string | undefined {
  const note = noteOf(catalog, "followed");
  if (note === undefined) return undefined;
  const followed = JSON.parse(String(note)) as { readonly epoch: string; readonly node: string };
  return followed.epoch === String(catalog.standing.epoch) ? followed.node : undefined;
}
