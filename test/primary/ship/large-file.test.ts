import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { framePayloadBytes, giveFrameMemory } from "../../../primary/ship/frame-memory.ts";
import type { ReplicaSink } from "../../../primary/ship/shipment.ts";
import { applyNext } from "../../../replica/apply/apply.ts";
import { commit } from "../../../replica/commit/commit.ts";
import type { Receiver } from "../../../replica/receive/receive.ts";
import type { ReplicaContext } from "../../../replica/replica-context.ts";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import { cutInto, openPrimary, openReplica, randomBytes, receiverOf, sinkInto } from "../../model/in-process.ts";
import { ModelSource } from "../../model/model-store.ts";

describe("a file of many frames", () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-large-file-"));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  const copyOf = (replica: number): string => join(directory, `node-${replica}`, "copy");

  /** As the agent does: what is sent is taken from the sender, and its memory comes back with other bytes in it. */
  function takingAway(sink: ReplicaSink, sizes: number[]): ReplicaSink {
    return {
      ...sink,
      send: async (message, payload, sharing) => {
        sizes.push(payload.length);
        await sink.send(message, payload, sharing);
        if (sharing === "shared" || payload.byteLength !== payload.buffer.byteLength) return;
        const [taken] = structuredClone([payload.buffer], { transfer: [payload.buffer as ArrayBuffer] });
        new Uint8Array(taken as ArrayBuffer).fill(0xee);
        giveFrameMemory(taken!);
      },
    };
  }

  const ways = [
    { name: "to one replica", replicas: 1, compress: false },
    { name: "to two at once", replicas: 2, compress: false },
    { name: "compressed", replicas: 1, compress: true },
  ];
  for (const { name, replicas, compress } of ways) {
    it(`arrives whole while its frames' memory goes round: ${name}`, async () => {
      const source = new ModelSource();
      const primary = openPrimary(join(directory, "primary.db"), { tree: source.adapter() });
      const ends = Array.from({ length: replicas }, (_, n) => {
        mkdirSync(copyOf(n), { recursive: true });
        const context = openReplica(join(directory, `replica-${n}.db`), new RealDisk(), { tree: copyOf(n) });
        return { context, receiver: receiverOf(context) };
      });
      const sizes: number[] = [];
      const follow = async (): Promise<void> => {
        const sinks = ends.map(({ context, receiver }) => takingAway(sinkInto(context, receiver, { compress }), sizes));
        await cutInto(primary, sinks);
        for (const end of ends) settle(end);
      };
      const expectEqual = (what: string): void => {
        for (let n = 0; n < replicas; n++) {
          const found = readFileSync(join(copyOf(n), "large"));
          expect(found.equals(source.nodes.get("large")!.bytes), `${what}, replica ${n}`).to.equal(true);
        }
      };
      // Beyond what is written past the page cache, with zeros at both sides of a frame's edge and an end within a block.
      source.write("small", randomBytes(3000));
      source.write("large", randomBytes(10 * framePayloadBytes));
      source.write("large", randomBytes(4 * framePayloadBytes + 12_345), 11 * framePayloadBytes + 8192);
      await follow();
      expectEqual("first copy");
      if (!compress) expect(sizes.filter((size) => size === framePayloadBytes).length).to.be.at.least(12);
      source.write("large", randomBytes(2 * framePayloadBytes), 3 * framePayloadBytes + 4096);
      source.write("large", randomBytes(2 * framePayloadBytes), 16 * framePayloadBytes);
      await follow();
      expectEqual("changed and grown");
      for (const { context } of ends) context.catalog.close();
      primary.catalog.close();
    });
  }
});

function settle({ context, receiver }: { context: ReplicaContext; receiver: Receiver }): void {
  commit(context, receiver);
  while (applyNext(context, false) !== undefined);
}
