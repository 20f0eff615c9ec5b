import type { ObjectVersion } from "../../shared/catalog/manifest.ts";
import { pathTerm, Sum256 } from "../../shared/manifest/digest.ts";
import type { ObjectRow } from "../../shared/wire/messages.ts";
import type { StorePath } from "../../shared/words.ts";

/**
 * What a group's first cut leads to, added up while it is taken: of a million files it took seconds at its end to read
 * all their rows once more.
 */
export class FirstCut {
  readonly #sum = new Sum256();
  readonly #totals = new Map<number, { bytes: number; files: number }>();
  #isExact = true;

  /** False once a row of this cut was replaced or taken back: then only the rows themselves tell what it leads to. */
  get isExact(): boolean {
    return this.#isExact;
  }

  /** Nothing leads to this object yet. */
  newObject(store: number, row: ObjectRow): void {
    if (row.type !== "file") return;
    const totals = this.totals(store);
    this.#totals.set(store, { bytes: totals.bytes + row.size, files: totals.files + 1 });
  }

  /** Nothing had this path yet; the object may have others. */
  newPath(storeName: string, path: StorePath, object: ObjectRow | ObjectVersion): void {
    this.#sum.add(pathTerm(storeName, path, object));
  }

  replaced(): void {
    this.#isExact = false;
  }

  totals(store: number): { bytes: number; files: number } {
    return this.#totals.get(store) ?? { bytes: 0, files: 0 };
  }

  digest(): Uint8Array {
    return this.#sum.bytes();
  }
}
