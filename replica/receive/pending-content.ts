import type { ContentChange } from "../../shared/catalog/content-change.ts";
import type { Extent, ObjectRow } from "../../shared/wire/messages.ts";
import { CutMalformed } from "./refusals.ts";

/** A block travels in one frame, so none is larger than what a frame's payload may be. */
const blockBytesMax = 4 * 1024 * 1024;
/** As large as a primary can ship a file, and less than every filesystem of a replica holds. */
export const fileBytesMax = 2 ** 20 * blockBytesMax;
/** An extent's blocks: more is a hostile frame. */
const extentBlocksMax = 1 << 16;
/** Blocks of all extents of one message: zeros cost the sender nothing, and us a look at each. */
const messageBlocksMax = 1 << 21;
/** Files whose row has not come yet: a primary sends it soon after the last extent. */
export const pendingContentsMax = 8192;

/** @throws {CutMalformed} */
export function checkBlocks(extents: readonly Extent[]): void {
  let blocks = 0;
  for (const { offset, length, blockSize } of extents) {
    checkBlockSize(blockSize);
    const bytesMax = Math.min(extentBlocksMax * blockSize, fileBytesMax - offset);
    if (length <= 0 || offset % blockSize !== 0 || length > bytesMax) {
      throw new CutMalformed(`extent at ${offset} of ${length} bytes with blocks of ${blockSize}`);
    }
    blocks += Math.ceil(length / blockSize);
    if (blocks > messageBlocksMax) throw new CutMalformed(`more than ${messageBlocksMax} blocks in one message`);
  }
}

/** @throws {CutMalformed} */
export function checkBlockSize(blockSize: number): void {
  if (!Number.isInteger(Math.log2(blockSize)) || blockSize < 512 || blockSize > blockBytesMax)
    throw new CutMalformed(`block size ${blockSize}`);
}

/**
 * What came of one file's content since its last row. The row has to agree with it: else the manifest would speak of
 * other bytes than the copy gets, and of no fault that anybody could see.
 */
export class PendingContent {
  readonly change: ContentChange;
  readonly #blockSize: number;
  readonly #store: number;
  #end = 0;
  #endsWithin: number | undefined;

  constructor(change: ContentChange, blockSize: number, store: number) {
    this.change = change;
    this.#blockSize = blockSize;
    this.#store = store;
  }

  /** @throws {CutMalformed} */
  take({ object, offset, length, blockSize }: Extent, store: number): void {
    this.#checkSame(object, blockSize, store);
    const end = offset + length;
    this.#end = Math.max(this.#end, end);
    if (end % blockSize !== 0) this.#endsWithin = Math.min(this.#endsWithin ?? end, end);
  }

  /** @throws {CutMalformed} */
  settle({ object, size, blockSize }: ObjectRow, store: number): void {
    this.#checkSame(object, blockSize, store);
    if (this.#end > size)
      throw new CutMalformed(`extents of object ${object} end at ${this.#end}, its row says ${size}`);
    if (this.#endsWithin !== undefined && this.#endsWithin !== size)
      throw new CutMalformed(`extents of object ${object} end within a block at ${this.#endsWithin} of ${size} bytes`);
  }

  #checkSame(object: number, blockSize: number, store: number): void {
    if (blockSize !== this.#blockSize)
      throw new CutMalformed(`object ${object} changes its block size from ${this.#blockSize} to ${blockSize}`);
    if (store !== this.#store)
      throw new CutMalformed(`object ${object} is in store ${this.#store}, and what came now in store ${store}`);
  }
}
