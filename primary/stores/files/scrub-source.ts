import { realpathSync } from "node:fs";
import type { SeenEntry } from "../../../shared/ports/store-adapter.ts";
import type { StorePath } from "../../../shared/words.ts";
import { SourceUnusable } from "../source-unusable.ts";
import { identityOf, sameStamps, statSource, typeOf } from "./source-stat.ts";
import { SteadyFile } from "./steady-file.ts";

/** The files of a tree for its scrub. `copiedStamps`: cuts read a snapshot, whose inodes and ctimes are its own. */
export class FilesScrubSource {
  readonly #root: string;
  readonly #device: bigint;
  readonly #copiedStamps: boolean;

  constructor(path: string, options: { readonly copiedStamps: boolean }) {
    this.#root = realpathSync.native(path, { encoding: "latin1" });
    const stat = statSource(this.#root);
    if (stat === undefined) throw new SourceUnusable(path, "has vanished");
    this.#device = stat.dev;
    this.#copiedStamps = options.copiedStamps;
  }

  open(path: StorePath, seen: NonNullable<SeenEntry["seen"]>): SteadyFile | undefined {
    const native = `${this.#root}/${path}`;
    const stat = statSource(native);
    if (stat === undefined || typeOf(stat) !== "file") return undefined;
    if (stat.size !== BigInt(seen.size) || stat.mtimeNs !== seen.mtimeNs) return undefined;
    if (!this.#copiedStamps && (stat.ctimeNs !== seen.ctimeNs || identityOf(stat, this.#device) !== seen.inode))
      return undefined;
    // Synced, so that a store through mmap shows in the stamps: then it is a change as any other.
    const opened = SteadyFile.open(native, stat, () => false);
    switch (opened.kind) {
      case "unreadable":
        throw opened.cause;
      case "replaced":
        return undefined;
      case "busy":
        opened.file.settle();
        return undefined;
      case "opened":
        if (sameStamps(opened.file.stat, stat)) return opened.file;
        opened.file.settle();
        return undefined;
    }
  }
}
