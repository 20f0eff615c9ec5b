import type { Catalog } from "../../shared/catalog/catalog.ts";
import { anyTouched } from "../../shared/catalog/collapse.ts";
import { dropNote, keepNote, noteOf } from "../../shared/catalog/notes.ts";
import { UnderstudyError } from "../../shared/errors.ts";
import { type CutId, cutText } from "../../shared/words.ts";

/**
 * What this node says that it has otherwise, together with what changed on the primary since, does not come to what the
 * primary has. Said once more it would come to the same.
 */
export class RejoinUnproven extends UnderstudyError {
  readonly code = "REJOIN_UNPROVEN";
  readonly remedy = "stop";
  readonly state = "Nothing of the cut is kept; the copy is what this node had when it became a replica.";
  readonly hint = "Run `understudy adopt GROUP` here: what is here is compared, and only the difference is shipped.";
  constructor(cut: CutId, what: string, options?: ErrorOptions) {
    super(`rejoining with cut ${cutText(cut)} came to nothing: ${what}`, options);
  }
}

/** Durably, for the reign whose cut it was: this node rejoins by comparison only. */
export function noteUnproven(catalog: Catalog, reason: string): void {
  const value = JSON.stringify({ epoch: String(catalog.standing.epoch), reason });
  catalog.transaction("unproven", () => keepNote(catalog, "unproven", value));
}

/** Within a transaction: what is here is a cut again, or nothing of it counts any more. */
export function forgetUnproven(catalog: Catalog): void {
  dropNote(catalog, "unproven");
}

/** In some reign, what this node knows to be otherwise was not all of it. */
export function wasUnproven(catalog: Catalog): boolean {
  return noteOf(catalog, "unproven") !== undefined;
}

/** Why this node does not rejoin by what it knows to be otherwise; undefined while it may. */
export function unproven(catalog: Catalog): string | undefined {
  if (!anyTouched(catalog)) return undefined;
  const note = noteOf(catalog, "unproven");
  if (note === undefined) return undefined;
  const { epoch, reason } = JSON.parse(String(note)) as { readonly epoch: string; readonly reason: string };
  return epoch === String(catalog.standing.epoch) ? reason : undefined;
}
