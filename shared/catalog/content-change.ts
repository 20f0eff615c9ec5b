import { blocksPerRun, equalBytes, hashBytes, hashInRun, trimRun, withHash } from "../manifest/block-hash.ts";
import { runTerm, Sum256 } from "../manifest/digest.ts";
import type { ObjectId, Seq } from "../words.ts";
import type { Manifest } from "./manifest.ts";

/**
 * Rewrites block hashes of one object within one cut and keeps its content digest up. Blocks are best given in
 * ascending order: a run is written when the next one begins. With `births`, each block remembers the cut that wrote it.
 */
export class ContentChange {
  readonly object: ObjectId;
  readonly #manifest: Manifest;
  readonly #birth: Seq;
  readonly #content: Sum256;
  readonly #births: boolean;
  #run = -1;
  #hashes: Uint8Array | undefined;
  #oldTerm: Uint8Array | undefined;
  #blockBirths: DataView | undefined;
  #rowBirth = 0;
  #changed = false;
  #anyChange = false;

  /** `content`: the object's content digest so far; empty for a new object. */
  constructor(manifest: Manifest, object: ObjectId, birth: Seq, content: Uint8Array, options: { births: boolean }) {
    this.#manifest = manifest;
    this.object = object;
    this.#birth = birth;
    this.#content = Sum256.from(content);
    this.#births = options.births;
  }

  /** The hash that a block has now. */
  hash(block: number): Uint8Array {
    this.#enter(Math.floor(block / blocksPerRun));
    return hashInRun(this.#hashes, block % blocksPerRun);
  }

  set(block: number, value: Uint8Array): void {
    const index = block % blocksPerRun;
    this.#enter(Math.floor(block / blocksPerRun));
    if (equalBytes(hashInRun(this.#hashes, index), value)) return;
    this.#hashes = withHash(this.#hashes, index, value);
    if (this.#births) {
      this.#blockBirths ??= this.#filledBirths();
      this.#blockBirths.setBigUint64(index * 8, this.#birth, true);
    }
    this.#changed = true;
    this.#anyChange = true;
  }

  /** Forgets all blocks from `blocks` on: the object has become shorter. */
  truncate(blocks: number): void {
    this.#leave();
    this.#run = -1;
    const runs = this.#manifest.runCount(this.object, this.#birth);
    for (let run = Math.floor(blocks / blocksPerRun); run < runs; run++) {
      this.#enter(run);
      const keep = Math.max(0, blocks - run * blocksPerRun) * hashBytes;
      if (this.#hashes !== undefined && this.#hashes.length > keep) {
        this.#hashes = trimRun(this.#hashes.slice(0, keep));
        this.#changed = true;
        this.#anyChange = true;
      }
    }
  }

  /** True when any hash was changed. */
  get changed(): boolean {
    return this.#anyChange;
  }

  /** Writes what is left and gives the content digest. */
  finish(): Uint8Array {
    this.#leave();
    this.#run = -1;
    return this.#content.bytes();
  }

  #enter(run: number): void {
    if (run === this.#run) return;
    this.#leave();
    this.#run = run;
    this.#changed = false;
    this.#blockBirths = undefined;
    const row = this.#manifest.runWithBirths(this.object, run, this.#birth);
    // A copy: rows of earlier cuts are never changed in place.
    this.#hashes = row === undefined ? undefined : Uint8Array.from(row.hashes);
    this.#rowBirth = row?.birth ?? 0;
    this.#oldTerm = row === undefined ? undefined : runTerm(run, row.hashes);
    if (row?.births !== undefined) {
      const births = Uint8Array.from(row.births);
      this.#blockBirths = new DataView(births.buffer);
    }
  }

  #leave(): void {
    if (this.#run < 0 || !this.#changed) return;
    const hashes = this.#hashes ?? new Uint8Array(0);
    if (this.#oldTerm !== undefined) this.#content.subtract(this.#oldTerm);
    const term = runTerm(this.#run, hashes);
    if (term !== undefined) this.#content.add(term);
    const births = this.#births && this.#rowBirth !== 0 ? this.#blockBirths : undefined;
    this.#manifest.putRun(
      this.object,
      this.#run,
      this.#birth,
      hashes,
      births === undefined ? undefined : new Uint8Array(births.buffer),
    );
    this.#changed = false;
  }

  #filledBirths(): DataView {
    const view = new DataView(new ArrayBuffer(blocksPerRun * 8));
    for (let index = 0; index < blocksPerRun; index++) view.setBigUint64(index * 8, BigInt(this.#rowBirth), true);
    return view;
  }
}

/** Seq of the last change of block `index` of a run row. */
export function blockBirth(row: { birth: number; births: Uint8Array | undefined }, index: number): number {
  if (row.births === undefined) return row.birth;
  const view = new DataView(row.births.buffer, row.births.byteOffset, row.births.byteLength);
  return Number(view.getBigUint64(index * 8, true));
}
