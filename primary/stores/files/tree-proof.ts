import { createHash } from "node:crypto";
import type { BigIntStats } from "node:fs";
import type { StorePath } from "../../../shared/words.ts";
import type { Exclude } from "./exclude.ts";
import { joinPath, rootPath } from "./source-path.ts";
import { listSource, statSource, typeOf } from "./source-stat.ts";

/** Beyond this a second look at the whole tree costs more than the word `crash` in place of `whole` is worth. */
const provenEntriesMax = 10_000;
/** What changed less than this before the first look may change again without a new time stamp. */
const youngNs = 2_000_000_000n;

/**
 * Shows that a whole tree stood still: takes in every entry as a scan meets it, and afterwards looks at all of them
 * once more. Each entry was the same from its first look to its second, so at any instant between the two looks the
 * tree was exactly what was found.
 */
export class TreeProof {
  readonly #begunNs: bigint;
  readonly #hash = createHash("sha256");
  #entries = 0;
  #possible = true;

  constructor(nowMs: number) {
    this.#begunNs = BigInt(Math.floor(nowMs)) * 1_000_000n;
  }

  add(path: StorePath, stat: BigIntStats): void {
    if (!this.#possible) return;
    this.#possible = ++this.#entries <= provenEntriesMax && stat.ctimeNs < this.#begunNs - youngNs;
    this.#hash.update(line(path, stat), "latin1");
  }

  /** Looks again, in the order of the scan: the directories of a directory last to first, each listed as it comes. */
  holds(source: { readonly root: string; readonly rootStat: BigIntStats; readonly exclude: Exclude }): boolean {
    if (!this.#possible || source.rootStat.ctimeNs >= this.#begunNs - youngNs) return false;
    const again = createHash("sha256");
    const directories: StorePath[] = [rootPath];
    for (let directory = directories.pop(); directory !== undefined; directory = directories.pop()) {
      const at = directory === "" ? source.root : `${source.root}/${directory}`;
      for (const name of listSource(at) ?? []) {
        const path = joinPath(directory, name);
        const stat = statSource(`${at}/${name}`);
        if (stat === undefined) return false;
        const isDirectory = typeOf(stat) === "directory";
        if (source.exclude.matches(path, isDirectory)) continue;
        again.update(line(path, stat), "latin1");
        if (isDirectory) directories.push(path);
      }
    }
    const root = statSource(source.root);
    return root?.ctimeNs === source.rootStat.ctimeNs && again.digest().equals(this.#hash.digest());
  }
}

function line(path: StorePath, stat: BigIntStats): string {
  return `${path}\0${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}:${stat.ctimeNs}\n`;
}
