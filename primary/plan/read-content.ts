import type { Content, Entry } from "../../shared/ports/store-adapter.ts";
import type { PrimaryContext } from "../primary-context.ts";
import { framePayloadBytes } from "../ship/frame-memory.ts";

/** Where the content has to be looked at, within the entry's size. */
export function rangesOf(entry: Entry, content: Content): { offset: number; length: number }[] {
  const ranges = content.ranges === "all" ? [{ offset: 0, length: entry.size }] : content.ranges;
  return ranges.flatMap(({ offset, length }) => {
    const within = Math.min(length, entry.size - offset);
    return within > 0 ? [{ offset, length: within }] : [];
  });
}

/** One for each group: what lies in it was copied into a frame before the next is read. */
const readBuffers = new WeakMap<PrimaryContext, Buffer>();

export function readBuffer(context: PrimaryContext): Buffer {
  let buffer = readBuffers.get(context);
  if (buffer === undefined) {
    buffer = Buffer.allocUnsafeSlow(framePayloadBytes);
    readBuffers.set(context, buffer);
  }
  return buffer;
}

export function readFully(content: Content, buffer: Uint8Array, offset: number): number {
  let got = 0;
  while (got < buffer.length) {
    const read = content.read(got === 0 ? buffer : buffer.subarray(got), offset + got);
    if (read === 0) break;
    got += read;
  }
  return got;
}
