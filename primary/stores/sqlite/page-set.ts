import type { Range } from "../../../shared/ports/store-adapter.ts";

const pagesInChunk = 1024;
const wordsInChunk = pagesInChunk / 32;

/**
 * Numbers of pages, as a sparse bitmap: 128 bytes for each 1,024 pages that hold any, so that a backlog over a large
 * database stays small whatever its length.
 */
export class PageSet {
  readonly #chunks = new Map<number, Uint32Array>();

  get empty(): boolean {
    return this.#chunks.size === 0;
  }

  add(page: number): void {
    const key = Math.floor(page / pagesInChunk);
    let chunk = this.#chunks.get(key);
    if (chunk === undefined) {
      chunk = new Uint32Array(wordsInChunk);
      this.#chunks.set(key, chunk);
    }
    chunk[(page % pagesInChunk) >>> 5]! |= 1 << (page & 31);
  }

  has(page: number): boolean {
    const chunk = this.#chunks.get(Math.floor(page / pagesInChunk));
    return chunk !== undefined && (chunk[(page % pagesInChunk) >>> 5]! & (1 << (page & 31))) !== 0;
  }

  addAll(other: PageSet): void {
    for (const [key, theirs] of other.#chunks) {
      const ours = this.#chunks.get(key);
      if (ours === undefined) this.#chunks.set(key, theirs.slice());
      else for (let index = 0; index < wordsInChunk; index++) ours[index]! |= theirs[index]!;
    }
  }

  /** Ascending. */
  *pages(): Generator<number> {
    for (const key of [...this.#chunks.keys()].sort((a, b) => a - b)) {
      const chunk = this.#chunks.get(key)!;
      for (let word = 0; word < wordsInChunk; word++) {
        for (let bits = chunk[word]!; bits !== 0; bits &= bits - 1) {
          yield key * pagesInChunk + word * 32 + (31 - Math.clz32(bits & -bits));
        }
      }
    }
  }

  /** As ranges of bytes of a database of `databasePages` pages; pages beyond its end (a VACUUM) are left out. */
  ranges(pageSize: number, databasePages: number): Range[] {
    const ranges: { offset: number; length: number }[] = [];
    let last: { offset: number; length: number } | undefined;
    for (const page of this.pages()) {
      if (page > databasePages) break;
      const offset = (page - 1) * pageSize;
      if (last !== undefined && last.offset + last.length === offset) last.length += pageSize;
      else {
        last = { offset, length: pageSize };
        ranges.push(last);
      }
    }
    return ranges;
  }
}
