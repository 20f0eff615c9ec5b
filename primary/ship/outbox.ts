import { constants as zlib, zstdCompressSync } from "node:zlib";
import type { BulkMessage, Extent, ObjectRow, PathRow } from "../../shared/wire/messages.ts";
import type { ObjectId } from "../../shared/words.ts";
import { framePayloadBytes, giveFrameMemory, takeFrameMemory } from "./frame-memory.ts";

/** A message of a cut with its payload, on its way to one replica or several. */
export type Send = (message: BulkMessage, payload: Uint8Array, sharing?: "shared") => Promise<void>;

const bufferBytesMin = 16 * 1024;
const rowsMax = 512;
const extentsMax = 1024;
/** Of what the replica has staged already: it reads all of a frame's at once. */
const heldBytesMax = 64 * 1024 * 1024;
/** Below this a payload is not worth compressing. */
const compressBytesMin = 512;

/**
 * Packs rows and extents into frames, keeping the order that the replica relies on: the extents of an object before
 * its row, its row before the paths that lead to it.
 */
export class Outbox {
  readonly #send: Send;
  readonly #compress: boolean;
  #objects: ObjectRow[] = [];
  #paths: PathRow[] = [];
  readonly #waiting = new Set<ObjectId>();
  #extents: Extent[] = [];
  #buffer = Buffer.allocUnsafe(0);
  #used = 0;
  readonly #packed: [BulkMessage, Uint8Array][] = [];
  #heldBytes = 0;
  objects = 0;
  paths = 0;
  payloadBytes = 0;

  constructor(send: Send, options: { compress: boolean }) {
    this.#send = send;
    this.#compress = options.compress;
  }

  async extent(extent: Extent, bytes: Uint8Array | undefined): Promise<void> {
    this.putExtent(extent, bytes);
    await this.send();
  }

  /** The extent of a whole frame, in memory that the caller gives away: it leaves as it is. */
  async frame(extent: Extent, memory: Buffer<ArrayBuffer>): Promise<void> {
    if (this.#waiting.has(extent.object)) this.#packAll();
    this.#packExtents();
    const spare = this.#buffer;
    this.#buffer = memory;
    this.#used = memory.length;
    this.payloadBytes += memory.length;
    this.#extents.push(extent);
    this.#packExtents();
    if (this.#buffer.length > 0) giveFrameMemory(this.#buffer.buffer); // It left compressed.
    this.#buffer = spare;
    await this.send();
  }

  async object(row: ObjectRow): Promise<void> {
    this.putObject(row);
    await this.send();
  }

  async path(row: PathRow): Promise<void> {
    this.putPath(row);
    await this.send();
  }

  async drop(object: Extent["object"]): Promise<void> {
    await this.flush();
    await this.#send({ kind: "objectDropped", object }, new Uint8Array(0));
  }

  async flush(): Promise<void> {
    this.#packAll();
    await this.send();
  }

  // ---- Without waiting: whoever puts a little at a time sends when something `isPacked` ----

  get isPacked(): boolean {
    return this.#packed.length > 0;
  }

  async send(): Promise<void> {
    for (let frame = this.#packed.shift(); frame !== undefined; frame = this.#packed.shift()) {
      await this.#send(...frame);
    }
  }

  putExtent(extent: Extent, bytes: Uint8Array | undefined): void {
    const length = bytes?.length ?? 0;
    // An object whose row waits already has extents again (another round): its row must not overtake nor be overtaken.
    if (this.#waiting.has(extent.object)) this.#packAll();
    if (
      this.#used + length > framePayloadBytes ||
      this.#extents.length >= extentsMax ||
      this.#heldBytes >= heldBytesMax
    )
      this.#packExtents();
    if (extent.held) this.#heldBytes += extent.length;
    if (bytes !== undefined) {
      if (this.#used + length > this.#buffer.length) this.#grow(this.#used + length);
      this.#buffer.set(bytes, this.#used);
      this.#used += length;
      this.payloadBytes += length;
    }
    this.#extents.push(extent);
  }

  putObject(row: ObjectRow): void {
    this.#objects.push(row);
    this.#waiting.add(row.object);
    this.objects++;
    if (this.#rowsFull()) this.#packAll();
  }

  putPath(row: PathRow): void {
    this.#paths.push(row);
    this.paths++;
    if (this.#rowsFull()) this.#packAll();
  }

  /** A commit of a hot database is a page or two: a frame's worth of memory for each would keep the collector busy. */
  #grow(bytesMin: number): void {
    let size = bufferBytesMin;
    while (size < bytesMin) size *= 4;
    // What goes full is handed over as it is, so it must not be larger than the frame.
    const grownBytes = Math.max(bytesMin, Math.min(size, framePayloadBytes));
    const grown = grownBytes === framePayloadBytes ? takeFrameMemory() : Buffer.allocUnsafeSlow(grownBytes);
    grown.set(this.#buffer.subarray(0, this.#used));
    this.#buffer = grown;
  }

  #rowsFull(): boolean {
    return this.#objects.length + this.#paths.length >= rowsMax;
  }

  #packAll(): void {
    this.#packExtents();
    if (this.#objects.length + this.#paths.length === 0) return;
    const message = { kind: "rows", objects: this.#objects, paths: this.#paths } as const;
    this.#objects = [];
    this.#paths = [];
    this.#waiting.clear();
    this.#packed.push([message, new Uint8Array(0)]);
  }

  #packExtents(): void {
    if (this.#extents.length === 0) return;
    const extents = this.#extents;
    const decodedBytes = this.#used;
    const whole = decodedBytes === this.#buffer.length;
    let payload: Uint8Array = this.#buffer.subarray(0, decodedBytes);
    this.#extents = [];
    this.#used = 0;
    this.#heldBytes = 0;
    let encoding: "plain" | "zstd" = "plain";
    if (this.#compress && decodedBytes >= compressBytesMin) {
      const packed = zstdCompressSync(payload, { params: { [zlib.ZSTD_c_compressionLevel]: 1 } });
      if (packed.length < decodedBytes * 0.9) {
        payload = packed;
        encoding = "zstd";
      }
    }
    // Whoever gets it may give its memory away: a part is copied, so that the rest stays for the next frame.
    if (encoding === "plain" && !whole) payload = ownCopy(payload);
    else if (whole) this.#buffer = Buffer.allocUnsafe(0);
    this.#packed.push([{ kind: "extents", extents, encoding, decodedBytes }, payload]);
  }
}

function ownCopy(bytes: Uint8Array): Uint8Array {
  const copy = Buffer.allocUnsafeSlow(bytes.length);
  copy.set(bytes);
  return copy;
}
