import { ProtocolViolation } from "../errors.ts";

/**
 * What travels on a channel: a header (one Envelope, see codec.ts) and a raw payload that no codec ever touches. Frames
 * of kind `control` are small and for the main thread, `bulk` ones go undecoded to the worker that stores them.
 *
 * On the wire, big-endian: u8 version, u8 kind, u16 zero, u32 header length, u32 payload length, header, payload.
 */
export interface Frame {
  readonly kind: FrameKind;
  readonly header: Uint8Array;
  readonly payload: Uint8Array;
}
export type FrameKind = "control" | "bulk";

const frameVersion = 1;
const prefixBytes = 12;
export const headerBytesMax = 1024 * 1024;
export const payloadBytesMax = 4 * 1024 * 1024;

const kindNumbers: Readonly<Record<FrameKind, number>> = { control: 1, bulk: 2 };
/** Payloads of a large file are all of this length, and their memory goes round; others are left to the collector. */
const reusedBytes = 1024 * 1024;
const freeMax = 10;
const nothing = new Uint8Array(0);

export function frameBytes(frame: Frame): number {
  return prefixBytes + frame.header.length + frame.payload.length;
}

/**
 * The chunks to write, in order. Prefix and header come as one chunk, because each chunk is at least one encrypted
 * packet; the payload is the caller's own memory and must not change until it was sent.
 * @throws {RangeError} when the frame is larger than a peer would take: whoever builds frames must split them.
 */
export function encodeFrame(frame: Frame): Uint8Array[] {
  const { header, payload } = frame;
  if (header.length > headerBytesMax) throw new RangeError(`header of ${header.length} bytes, max ${headerBytesMax}`);
  if (payload.length > payloadBytesMax) {
    throw new RangeError(`payload of ${payload.length} bytes, max ${payloadBytesMax}`);
  }
  const start = Buffer.allocUnsafe(prefixBytes + header.length);
  start[0] = frameVersion;
  start[1] = kindNumbers[frame.kind];
  start.writeUInt16BE(0, 2);
  start.writeUInt32BE(header.length, 4);
  start.writeUInt32BE(payload.length, 8);
  start.set(header, prefixBytes);
  return payload.length === 0 ? [start] : [start, payload];
}

/**
 * Frames out of a stream that was cut anywhere. Each byte of a header or payload is copied once, into memory of its own
 * (a whole ArrayBuffer, so that it can be transferred to a worker; who is done with it may give it back by `reuse`). A prefix is judged as soon as its bytes are there,
 * before anything is allocated for it; no more than one frame is held. After a violation the decoder stays broken.
 */
export class FrameDecoder {
  readonly #prefix = Buffer.alloc(prefixBytes);
  #prefixFilled = 0;
  #kind: FrameKind = "control";
  #header: Uint8Array = nothing;
  #headerFilled = 0;
  #payload: Uint8Array = nothing;
  #payloadFilled = 0;
  #violation: ProtocolViolation | undefined;
  readonly #free: ArrayBuffer[] = [];
  #freeTaken = false;

  /** @throws {ProtocolViolation} */
  push(chunk: Uint8Array): Frame[] {
    if (this.#violation !== undefined) throw this.#violation;
    const frames: Frame[] = [];
    let offset = 0;
    while (offset < chunk.length) {
      if (this.#prefixFilled < prefixBytes) {
        const taken = copy(chunk, offset, this.#prefix, this.#prefixFilled);
        offset += taken;
        this.#prefixFilled += taken;
        this.#judgePrefix();
        if (this.#prefixFilled < prefixBytes) break;
        this.#header = ownMemory(this.#prefix.readUInt32BE(4));
        this.#payload = this.#payloadMemory(this.#prefix.readUInt32BE(8));
      }
      const header = copy(chunk, offset, this.#header, this.#headerFilled);
      offset += header;
      this.#headerFilled += header;
      const payload = copy(chunk, offset, this.#payload, this.#payloadFilled);
      offset += payload;
      this.#payloadFilled += payload;
      if (this.#headerFilled === this.#header.length && this.#payloadFilled === this.#payload.length) {
        frames.push({ kind: this.#kind, header: this.#header, payload: this.#payload });
        this.#begin();
      }
    }
    return frames;
  }

  /** Bytes of an unfinished frame; not 0 at the end of a stream means that the peer went away within a frame. */
  pending(): number {
    return this.#prefixFilled + this.#headerFilled + this.#payloadFilled;
  }

  /** Memory of a payload that nobody uses any more, for one of the same length. */
  reuse(memory: ArrayBuffer): void {
    if (memory.byteLength === reusedBytes && this.#free.length < freeMax) this.#free.push(memory);
  }

  /** What was kept for payloads to come goes to the collector, unless some were taken since the last call. */
  forgetUnused(): void {
    if (!this.#freeTaken) this.#free.length = 0;
    this.#freeTaken = false;
  }

  #payloadMemory(length: number): Uint8Array {
    if (length !== reusedBytes) return ownMemory(length);
    const free = this.#free.pop();
    if (free !== undefined) this.#freeTaken = true;
    // What can be resized begins at a page: a disk can take the payload past its cache from where it lies.
    return new Uint8Array(free ?? new ArrayBuffer(length, { maxByteLength: length }), 0, length);
  }

  #begin(): void {
    this.#prefixFilled = 0;
    this.#header = nothing;
    this.#headerFilled = 0;
    this.#payload = nothing;
    this.#payloadFilled = 0;
  }

  /** Each field is judged when its last byte is there, so that rubbish is refused without waiting for more of it. */
  #judgePrefix(): void {
    const prefix = this.#prefix;
    const filled = this.#prefixFilled;
    if (filled >= 1 && prefix[0] !== frameVersion) {
      this.#refuse(`frame version ${prefix[0]}, this side speaks ${frameVersion}`);
    }
    if (filled >= 2) {
      if (prefix[1] === kindNumbers.control) this.#kind = "control";
      else if (prefix[1] === kindNumbers.bulk) this.#kind = "bulk";
      else this.#refuse(`frame of unknown kind ${prefix[1]}`);
    }
    if (filled >= 4 && prefix.readUInt16BE(2) !== 0) {
      this.#refuse(`reserved bytes of a frame are ${prefix.readUInt16BE(2)} instead of 0`);
    }
    if (filled >= 8 && prefix.readUInt32BE(4) > headerBytesMax) {
      this.#refuse(`frame header of ${prefix.readUInt32BE(4)} bytes, max ${headerBytesMax}`);
    }
    if (filled >= 12 && prefix.readUInt32BE(8) > payloadBytesMax) {
      this.#refuse(`frame payload of ${prefix.readUInt32BE(8)} bytes, max ${payloadBytesMax}`);
    }
  }

  #refuse(message: string): never {
    this.#begin();
    this.#violation = new ProtocolViolation(message);
    throw this.#violation;
  }
}

/** Copies as much as is there and fits; returns how much. */
function copy(from: Uint8Array, offset: number, to: Uint8Array, filled: number): number {
  const length = Math.min(from.length - offset, to.length - filled);
  if (length > 0) to.set(from.subarray(offset, offset + length), filled);
  return length;
}

/** Not zeroed, since every byte is filled before it is shown; never from Node's pool, whose memory cannot be given away. */
function ownMemory(length: number): Uint8Array {
  return length === 0 ? new Uint8Array(0) : new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);
}
