import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { shipAhead } from "../../../primary/plan/ship-ahead.ts";
import type { PrimaryContext } from "../../../primary/primary-context.ts";
import type { ReplicaSink } from "../../../primary/ship/shipment.ts";
import { applyNext } from "../../../replica/apply/apply.ts";
import type { Receiver } from "../../../replica/receive/receive.ts";
import { recoverStaging } from "../../../replica/receive/resume.ts";
import type { ReplicaContext } from "../../../replica/replica-context.ts";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import { hex } from "../../../shared/manifest/digest.ts";
import { describeTree } from "../../model/describe-tree.ts";
import {
  commit,
  cutInto,
  openPrimary,
  openReplica,
  randomBytes,
  receiverOf,
  sinkInto,
} from "../../model/in-process.ts";
import { ModelSource } from "../../model/model-store.ts";

const KiB = 1024;
const bound = 64 * KiB;

/** A real primary over a model and a real replica on a real disk; what goes over the line is counted. */
class Line implements Disposable {
  readonly source = new ModelSource();
  readonly #directory = mkdtempSync(join(tmpdir(), "understudy-ahead-"));
  readonly primary: PrimaryContext;
  replica: ReplicaContext;
  receiver: Receiver;
  sink: ReplicaSink;
  bytes = 0;
  frames = 0;
  framesMax = Number.POSITIVE_INFINITY;

  constructor() {
    this.primary = openPrimary(join(this.#directory, "primary.db"), { tree: this.source.adapter() });
    mkdirSync(join(this.#directory, "copy"));
    this.replica = this.#open();
    this.receiver = receiverOf(this.replica);
    this.sink = this.connect();
  }

  get copy(): string {
    return join(this.#directory, "copy");
  }

  #open(): ReplicaContext {
    const replica = openReplica(join(this.#directory, "replica.db"), new RealDisk(), { tree: this.copy });
    recoverStaging(replica);
    return replica;
  }

  /** A new session, after which the link breaks when so many frames went through. */
  connect(framesMax = Number.POSITIVE_INFINITY): ReplicaSink {
    this.receiver.abort();
    this.receiver = receiverOf(this.replica);
    const inner = sinkInto(this.replica, this.receiver, { takesAhead: true, catchUpBytesMax: bound });
    this.framesMax = framesMax;
    this.sink = {
      ...inner,
      send: async (message, payload) => {
        if (this.framesMax-- <= 0) {
          this.sink.gone = true;
          throw new Error("the link is cut");
        }
        this.bytes += payload.length;
        this.frames++;
        await inner.send(message, payload);
      },
    };
    return this.sink;
  }

  restart(framesMax?: number): void {
    this.receiver.abort();
    this.replica.catalog.close();
    this.replica = this.#open();
    this.receiver = receiverOf(this.replica);
    this.connect(framesMax);
  }

  async pass(): Promise<number> {
    const { sentBytes } = await shipAhead(
      this.primary,
      this.sink,
      () => true,
      () => {},
    );
    return sentBytes;
  }

  /** True when the replica got it. */
  async cut(): Promise<boolean> {
    this.sink.late = false;
    const taken = await cutInto(this.primary, [this.sink]);
    commit(this.replica, this.receiver);
    while (applyNext(this.replica, true) !== undefined);
    return taken.shippedTo.length > 0;
  }

  expectEqual(what: string): void {
    expect(describeTree(this.copy), what).to.deep.equal(this.source.describe());
    expect(hex(this.replica.catalog.standing.digest), what).to.equal(hex(this.primary.catalog.standing.digest));
  }

  [Symbol.dispose](): void {
    this.replica.catalog.close();
    this.primary.catalog.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

describe("shipping ahead of a cut", () => {
  it("brings a first copy that is too much for one cut, each byte once", async () => {
    using line = new Line();
    for (let i = 0; i < 40; i++) line.source.write(`small-${i}`, randomBytes(5000 + i));
    line.source.write("large", randomBytes(1500 * KiB));
    line.source.write("sparse", randomBytes(100), 1200 * KiB);
    await cutInto(line.primary, []);
    expect(await line.cut(), "all of it is too much").to.equal(false);
    expect(line.sink.late).to.equal(true);
    await line.pass();
    expect(await line.cut()).to.equal(true);
    line.expectEqual("after a pass");
    const size = 40 * 5020 + 1500 * KiB + 4 * KiB;
    expect(line.bytes).to.be.within(size - 10 * KiB, size + 20 * KiB);
  });

  it("brings what was written in place during a long absence, and sends what moved on with the cut", async () => {
    using line = new Line();
    line.source.write("database", randomBytes(900 * KiB));
    expect(await line.cut()).to.equal(true);
    line.bytes = 0;
    for (let page = 0; page < 100; page += 2) line.source.write("database", randomBytes(4096), page * 4096);
    await cutInto(line.primary, []);
    expect(await line.cut()).to.equal(false);
    // Not what the manifest says any more: the pass leaves it alone.
    line.source.write("database", randomBytes(4096), 10 * 4096);
    expect(await line.pass()).to.equal(49 * 4096);
    expect(await line.cut()).to.equal(true);
    line.expectEqual("after a pass");
    expect(line.bytes).to.equal(50 * 4096);
  });

  for (const restarts of [false, true]) {
    it(`gets on over ${restarts ? "restarts of the replica" : "broken sessions"}, and sends hardly anything twice`, async () => {
      using line = new Line();
      line.source.write("database", randomBytes(400 * KiB));
      expect(await line.cut()).to.equal(true);
      line.source.write("database", randomBytes(300 * KiB), 0);
      for (let i = 0; i < 60; i++) line.source.write(`small-${i}`, randomBytes(9000));
      line.source.write("large", randomBytes(3000 * KiB));
      await cutInto(line.primary, []);
      const size = 300 * KiB + 60 * 9000 + 3000 * KiB;
      line.bytes = 0;
      let done = false;
      for (let session = 1; !done; session++) {
        expect(session, "sessions").to.be.lessThan(20);
        if (restarts) line.restart(2);
        else line.connect(2);
        await line.pass().catch((error: unknown) => expect(String(error)).to.match(/link is cut/));
        if (line.sink.gone) continue;
        line.framesMax = Number.POSITIVE_INFINITY;
        done = await line.cut();
      }
      line.expectEqual("at last");
      // A large file's staged part below 1 MiB is not kept; and the blocks of a run that was cut in two go again.
      expect(line.bytes).to.be.within(size, size + 1600 * KiB);
    });
  }

  it("takes what is staged by its content: what was sent for a cut that came otherwise does no harm", async () => {
    using line = new Line();
    line.source.write("database", randomBytes(400 * KiB));
    expect(await line.cut()).to.equal(true);
    line.source.write("database", randomBytes(300 * KiB), 0);
    await cutInto(line.primary, []);
    await line.pass();
    line.source.write("database", randomBytes(200 * KiB), 50 * KiB);
    line.source.truncate("database", 260 * KiB);
    expect(await line.cut(), "what is new is too much").to.equal(false);
    await line.pass();
    expect(await line.cut()).to.equal(true);
    line.expectEqual("after two passes");
    line.source.write("database", randomBytes(100), 7);
    expect(await line.cut()).to.equal(true);
    line.expectEqual("and as ever afterwards");
  });
});
