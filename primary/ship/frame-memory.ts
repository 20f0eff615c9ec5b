/** Payload of a whole frame as they are made here; a read or an extent is never larger. */
export const framePayloadBytes = 1024 * 1024;
/** As many as are on their way at once; what comes back beyond that goes to the collector. */
const freeMax = 10;

/**
 * Memory of whole frames goes round in this thread: content is read into it, it is handed over to the thread that
 * sends, and comes back. Made anew for each MiB it would be the kernel's pages, and collections of the whole heap in
 * both threads, that a large file costs most.
 */
const free: ArrayBuffer[] = [];

export function takeFrameMemory(): Buffer<ArrayBuffer> {
  return Buffer.from(free.pop() ?? Buffer.allocUnsafeSlow(framePayloadBytes).buffer);
}

/** Memory that nobody uses any more; what is not a whole frame's is left to the collector. */
export function giveFrameMemory(memory: ArrayBufferLike): void {
  if (memory instanceof ArrayBuffer && memory.byteLength === framePayloadBytes && free.length < freeMax)
    free.push(memory);
}

/** Between cuts nothing is kept. */
export function dropFrameMemory(): void {
  free.length = 0;
}
