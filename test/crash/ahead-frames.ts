import type { Ahead } from "../../replica/receive/ahead.ts";
import type { ReplicaContext } from "../../replica/replica-context.ts";
import { blocksPerRun, equalBytes } from "../../shared/manifest/block-hash.ts";
import type { BulkMessage, Extent } from "../../shared/wire/messages.ts";

type Message = readonly [message: BulkMessage, payload: Uint8Array];

/** From here on a new file counts as large: it gets a staged file of its own. */
const largeBytesMin = 4 * 4096;
const nothing = new Uint8Array(0);

/** The bytes of a cut as a primary ships them ahead of it: one frame for each extent. */
export function aheadOfCut(messages: readonly Message[]): Message[] {
  const stores = messages.flatMap(([message]) => (message.kind === "cutBegin" ? message.stores : []));
  const sizes = new Map<number, number>();
  for (const extent of extentsOf(messages))
    sizes.set(extent.object, Math.max(sizes.get(extent.object) ?? 0, extent.offset + extent.length));
  const frames: Message[] = [];
  for (const [message, payload] of messages) {
    if (message.kind !== "extents") continue;
    let at = 0;
    for (const extent of message.extents) {
      if (extent.zero || extent.held) continue;
      const bytes = payload.slice(at, at + extent.length);
      at += extent.length;
      if ((extent.offset / extent.blockSize) % blocksPerRun !== 0 && extent.offset / extent.blockSize >= blocksPerRun)
        throw new Error("files of a scenario are of one run");
      const fresh = extent.fresh && sizes.get(extent.object)! >= largeBytesMin;
      const ahead = { kind: "ahead", encoding: "plain", decodedBytes: bytes.length, stores } as const;
      frames.push([{ ...ahead, extents: [{ ...extent, fresh }] }, bytes]);
    }
  }
  return frames;
}

/** The frames of a cut for a replica that has something staged: of that it gets no bytes, and no hashes either. */
export class StagedCut {
  readonly #context: ReplicaContext;
  readonly #ahead: Ahead;
  #stores: readonly string[] = [];
  #heldBytes = 0;
  heldExtents = 0;

  constructor(context: ReplicaContext, ahead: Ahead) {
    this.#context = context;
    this.#ahead = ahead;
  }

  frame([message, payload]: Message): Message {
    if (message.kind === "cutBegin") {
      this.#stores = message.stores;
      this.#heldBytes = 0;
    }
    if (message.kind === "cutEnd")
      return [{ ...message, payloadBytes: message.payloadBytes - this.#heldBytes }, payload];
    if (message.kind !== "extents") return [message, payload];
    const parts: Uint8Array[] = [];
    let at = 0;
    const extents = message.extents.map((extent) => {
      if (extent.zero || extent.held) return extent;
      const bytes = payload.subarray(at, at + extent.length);
      at += extent.length;
      if (!this.#holds(extent)) {
        parts.push(bytes);
        return extent;
      }
      this.#heldBytes += extent.length;
      this.heldExtents++;
      return { ...extent, held: true, hashes: nothing };
    });
    const left = Buffer.concat(parts);
    return [{ ...message, extents, decodedBytes: left.length }, left];
  }

  #holds(extent: Extent): boolean {
    const home = [...this.#context.homes.values()].find((item) => item.placement.name === this.#stores[extent.store]);
    if (home === undefined) return false;
    const found: Uint8Array[] = [];
    try {
      for (const { hashes } of this.#ahead.find(extent, home.number)) found.push(hashes.slice());
    } catch (error) {
      if (error instanceof Error && error.message.includes("is not staged")) return false;
      throw error;
    }
    return equalBytes(Buffer.concat(found), extent.hashes);
  }
}

function extentsOf(messages: readonly Message[]): Extent[] {
  return messages.flatMap(([message]) => (message.kind === "extents" ? message.extents : []));
}
