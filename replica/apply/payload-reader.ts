import { assert } from "../../shared/errors.ts";
import type { OpenFile } from "../../shared/ports/disk.ts";
import type { Seq } from "../../shared/words.ts";
import { segmentName } from "../receive/staging.ts";
import { homeOf, type ReplicaContext } from "../replica-context.ts";
import type { PendingExtent } from "./plan-batch.ts";

/** Reads the payloads of committed extents that are not zeros, from the catalog's row or from the cut's segment file. */
export class PayloadReader {
  readonly #context: ReplicaContext;
  readonly #files = new Map<string, OpenFile>();

  constructor(context: ReplicaContext) {
    this.#context = context;
  }

  read(store: number, extent: PendingExtent): Uint8Array {
    if (extent.payload !== undefined) return extent.payload;
    const bytes = new Uint8Array(extent.length);
    const length = this.#context.disk.read(this.#file(store, extent.seq), bytes, 0, bytes.length, extent.position);
    assert(length === bytes.length, `segment of cut ${extent.seq} ends before its extent at ${extent.position}`);
    return bytes;
  }

  #file(store: number, seq: Seq): OpenFile {
    const key = `${store}/${seq}`;
    let file = this.#files.get(key);
    if (file === undefined) {
      file = this.#context.disk.openFile(homeOf(this.#context, store).staging, segmentName(seq), "read");
      this.#files.set(key, file);
    }
    return file;
  }

  [Symbol.dispose](): void {
    for (const file of this.#files.values()) this.#context.disk.closeFile(file);
    this.#files.clear();
  }
}
