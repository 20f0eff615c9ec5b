import { expect } from "chai";
import { HeldBlocks } from "../../../primary/ship/held-blocks.ts";
import { type ReplicaSink, Shipment } from "../../../primary/ship/shipment.ts";
import type { CutEnd, ObjectRow } from "../../../shared/wire/messages.ts";
import { epoch, type ObjectId, seq } from "../../../shared/words.ts";

const cut = { epoch: epoch(1), seq: seq(2) };
const base = { epoch: epoch(1), seq: seq(1) };
const begin = { cut, base, incarnation: "0123456789abcdef", groupId: "", takenAtUs: 1, stores: ["tree"] };
const end: Omit<CutEnd, "objects" | "paths" | "payloadBytes"> = {
  cut,
  digest: new Uint8Array(32),
  stores: [],
  coherency: "instant",
  freezeMs: 0,
};

/** A line with room for so many frames, and none after them until it is cleared. */
class Line {
  readonly sent: string[] = [];
  readonly sink: ReplicaSink;
  readonly #cleared = Promise.withResolvers<void>();
  #room: number;

  constructor(name: string, room: number, takesAhead = true) {
    this.#room = room;
    const line = this;
    this.sink = {
      name,
      base,
      lastObject: 0,
      compress: false,
      resuming: false,
      damaged: [],
      gone: false,
      takesAhead,
      held: new HeldBlocks(),
      catchUpBytesMax: 0,
      late: false,
      get full() {
        return line.#room <= 0;
      },
      async listStaged() {},
      async send(message) {
        line.sent.push(message.kind);
        if (--line.#room <= 0) await line.#cleared.promise;
      },
      async stagedRuns() {
        return { blockSize: 0, digests: new Uint8Array(0) };
      },
    };
  }

  clear(): void {
    this.#room = Number.POSITIVE_INFINITY;
    this.#cleared.resolve();
  }
}

async function ship(lines: readonly Line[], patienceMs?: number): Promise<Shipment> {
  const shipment = new Shipment(
    lines.map(({ sink }) => sink),
    begin,
    0,
    new Set(),
    patienceMs,
  );
  for (let object = 1; object <= 5; object++) {
    const content = new Uint8Array(32);
    const meta = { mode: 0o644, uid: 0, gid: 0, mtimeUs: 0, size: 0, blockSize: 4096, target: "", content, store: 0 };
    await shipment.object({ object: object as ObjectId, type: "file", ...meta } satisfies ObjectRow);
    await shipment.flush();
  }
  await shipment.end(end, 5);
  return shipment;
}

describe("a cut on its way to several replicas", () => {
  const all = ["cutBegin", "rows", "rows", "rows", "rows", "rows", "cutEnd"];

  it("goes on without one whose line stays full while another's has room", async () => {
    const [quick, slow] = [new Line("quick", 100), new Line("slow", 3)];
    const begun = performance.now();
    const shipment = await ship([quick, slow]);
    expect(performance.now() - begun, "ms").to.be.at.least(200);
    expect(quick.sent).to.deep.equal(all);
    expect(slow.sent).to.deep.equal(["cutBegin", "rows", "rows", "cutAborted"]);
    expect(shipment.sinks.map(({ name }) => name)).to.deep.equal(["quick"]);
    expect([quick.sink.late, slow.sink.late]).to.deep.equal([false, true]);
    expect([quick.sink.base, slow.sink.base], "what the next cut is a delta from").to.deep.equal([cut, base]);
  });

  it("waits for all lines together no longer than its patience lasts", async () => {
    const lines = [new Line("one", 2), new Line("other", 2)];
    const shipment = await ship(lines, 100);
    expect(shipment.sinks).to.deep.equal([]);
    expect(lines.map(({ sent }) => sent.at(-1))).to.deep.equal(["cutAborted", "cutAborted"]);
  });

  it("waits for whoever takes nothing ahead of a cut, as long as it takes", async () => {
    const old = new Line("old", 3, false);
    const shipped = ship([new Line("quick", 100), old], 10);
    const slow = new Line("slow", 3);
    await ship([new Line("quick", 100), slow], 10);
    expect(slow.sink.late, "another one was left out meanwhile").to.equal(true);
    expect(old.sent).to.deep.equal(["cutBegin", "rows", "rows"]);
    old.clear();
    await shipped;
    expect(old.sent).to.deep.equal(all);
    expect(old.sink.late).to.equal(false);
  });
});
