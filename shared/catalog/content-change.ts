import { blocksPerRun, equalBytes, hashBytes, hashInRun, isZero, trimRun } from "../manifest/block-hash.ts";
import { runTerm, Sum256 } from "../manifest/digest.ts";
import type { ObjectId, Seq } from "../words.ts";
import type { Manifest } from "./manifest.ts";

const nothing = new Uint8Array(0);

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
  /** From this run on the catalog has none: a look-up for each small file would cost as much as its rows. */
  #freshFrom: number;
  #run = -1;
  /** With room to grow: zeros from `#used` on. */
  #hashes: Uint8Array = nothing;
  #used = 0;
  /** As the catalog has it; of an earlier cut, perhaps, and never changed in place. */
  #before: { readonly hashes: Uint8Array; readonly birth: number } | undefined;
  #blockBirths: DataView | undefined;
  #changed = false;
  #anyChange = false;
  /** All of the content comes anew: runs that have begun to; a run that has not holds nothing until it does. */
  readonly #anew: Set<number> | undefined;

  /**
   * `content`: the object's content digest so far; empty for a new object. `fresh`: no cut has any run of it. `anew`:
   * what it had counts no more, a block that is not set is zero; runs that come to what they were get no new row.
   */
  constructor(
    manifest: Manifest,
    object: ObjectId,
    birth: Seq,
    content: Uint8Array,
    options: { births: boolean; fresh?: boolean; anew?: boolean },
  ) {
    this.#manifest = manifest;
    this.object = object;
    this.#birth = birth;
    this.#content = Sum256.from(content);
    this.#births = options.births;
    this.#freshFrom = options.fresh === true ? 0 : Number.POSITIVE_INFINITY;
    this.#anew = options.anew === true ? new Set() : undefined;
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
    const end = (index + 1) * hashBytes;
    if (end > this.#hashes.length) this.#grow(end);
    this.#hashes.set(value, end - hashBytes);
    this.#used = Math.max(this.#used, end);
    this.#bear(index, index + 1);
    this.#changed = true;
    this.#anyChange = true;
  }

  /** Blocks from `first` to before `end` of the run change: where it was there before, each has a birth of its own. */
  #bear(first: number, end: number): void {
    if (!this.#births || this.#before === undefined) return;
    this.#blockBirths ??= this.#filledBirths(this.#before.birth);
    for (let index = first; index < end; index++) this.#blockBirths.setBigUint64(index * 8, this.#birth, true);
  }

  /** True when no cut, this one included, has a hash of the block or of any after it. */
  appends(block: number): boolean {
    const run = Math.floor(block / blocksPerRun);
    return run >= this.#freshFrom && (run !== this.#run || (block % blocksPerRun) * hashBytes >= this.#used);
  }

  /** As `set` for the blocks from `first` on, whose hashes lie one after the other. */
  setAll(first: number, hashes: Uint8Array): void {
    for (let at = 0; at < hashes.length; ) {
      const block = first + at / hashBytes;
      const start = (block % blocksPerRun) * hashBytes;
      const length = Math.min(hashes.length - at, blocksPerRun * hashBytes - start);
      const part = hashes.subarray(at, at + length);
      this.#enter(Math.floor(block / blocksPerRun));
      // With nothing before there are no births to keep, and nothing that could be the same; a zero hash is no change.
      if (this.#before === undefined && start >= this.#used && !isZero(part.subarray(0, hashBytes))) {
        if (start + length > this.#hashes.length) this.#grow(start + length);
        this.#hashes.set(part, start);
        this.#used = start + length;
        this.#changed = true;
        this.#anyChange = true;
      } else {
        for (let i = 0; i < length; i += hashBytes) this.set(block + i / hashBytes, part.subarray(i, i + hashBytes));
      }
      at += length;
    }
  }

  /** Forgets all blocks from `blocks` on: the object has become shorter. */
  truncate(blocks: number): void {
    this.#leave();
    this.#run = -1;
    const runs = this.#manifest.runCount(this.object, this.#birth);
    for (let run = Math.floor(blocks / blocksPerRun); run < runs; run++) {
      this.#enter(run);
      const keep = Math.max(0, blocks - run * blocksPerRun) * hashBytes;
      if (trimRun(this.#hashes.subarray(0, this.#used)).length > keep) {
        this.#bear(keep / hashBytes, this.#used / hashBytes);
        this.#hashes.fill(0, keep);
        this.#used = keep;
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
    const runs = this.#anew === undefined ? 0 : this.#manifest.runCount(this.object, this.#birth);
    for (let run = 0; run < runs; run++) if (this.#anew?.has(run) === false) this.#enter(run);
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
    const row = run < this.#freshFrom ? this.#manifest.runWithBirths(this.object, run, this.#birth) : undefined;
    this.#before = row;
    this.#hashes = row === undefined ? nothing : Uint8Array.from(row.hashes);
    this.#used = this.#hashes.length;
    if (row?.births !== undefined) {
      const births = Uint8Array.from(row.births);
      this.#blockBirths = new DataView(births.buffer);
    }
    if (this.#anew === undefined || this.#anew.has(run)) return;
    this.#anew.add(run);
    this.#hashes = nothing;
    this.#used = 0;
    this.#changed = row !== undefined;
  }

  #leave(): void {
    if (this.#run < 0 || !this.#changed) return;
    if (this.#run >= this.#freshFrom) this.#freshFrom = this.#run + 1;
    const hashes = trimRun(this.#hashes.subarray(0, this.#used));
    if (this.#anew !== undefined && this.#before !== undefined && equalBytes(hashes, this.#before.hashes)) {
      this.#changed = false;
      return;
    }
    if (this.#before !== undefined) {
      const oldTerm = runTerm(this.#run, this.#before.hashes);
      if (oldTerm !== undefined) this.#content.subtract(oldTerm);
    }
    const term = runTerm(this.#run, hashes);
    if (term !== undefined) this.#content.add(term);
    const births = this.#births ? this.#blockBirths : undefined;
    this.#manifest.putRun(
      this.object,
      this.#run,
      this.#birth,
      hashes,
      births === undefined ? undefined : new Uint8Array(births.buffer),
    );
    this.#changed = false;
  }

  #grow(bytesMin: number): void {
    const grown = new Uint8Array(Math.min(Math.max(bytesMin, this.#hashes.length * 2), blocksPerRun * hashBytes));
    grown.set(this.#hashes.subarray(0, this.#used));
    this.#hashes = grown;
  }

  #filledBirths(birth: number): DataView {
    const view = new DataView(new ArrayBuffer(blocksPerRun * 8));
    for (let index = 0; index < blocksPerRun; index++) view.setBigUint64(index * 8, BigInt(birth), true);
    return view;
  }
}

/** Seq of the last change of block `index` of a run row. */
export function blockBirth(row: { birth: number; births: Uint8Array | undefined }, index: number): number {
  if (row.births === undefined) return row.birth;
  const view = new DataView(row.births.buffer, row.births.byteOffset, row.births.byteLength);
  return Number(view.getBigUint64(index * 8, true));
}
