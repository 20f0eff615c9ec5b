import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { PrimaryContext } from "../../primary/primary-context.ts";
import type { ReplicaSink } from "../../primary/ship/shipment.ts";
import { ForeignChange } from "../../replica/apply/locate.ts";
import { sweep } from "../../replica/history/sweep.ts";
import { BaseMismatch, SenderRefused } from "../../replica/receive/refusals.ts";
import { SyncFailed } from "../../replica/sync.ts";
import { hex } from "../../shared/manifest/digest.ts";
import type { BulkMessage } from "../../shared/wire/messages.ts";
import { cutText } from "../../shared/words.ts";
import { cutInto, deliver, openPrimary, randomBytes, receiverOf, sinkInto } from "../model/in-process.ts";
import { ModelSource } from "../model/model-store.ts";
import { treeDifference } from "./disk-tree.ts";
import { modelTree } from "./recorded-cuts.ts";
import { ReplicaNode } from "./replica-node.ts";
import { realProgram } from "./replica-program.ts";
import { seededRandom } from "./seeded-random.ts";
import { type Operation, type PowerLossMode, SimulatedDisk } from "./simulated-disk.ts";

const mebibyte = 1024 * 1024;

/** A real primary over a model and a real replica on a simulated disk, with the link between them in our hands. */
class Pair {
  readonly source = new ModelSource();
  readonly #directory = mkdtempSync(join(tmpdir(), "understudy-session-"));
  readonly primary: PrimaryContext = openPrimary(join(this.#directory, "primary.db"), { tree: this.source.adapter() });
  disk = new SimulatedDisk({ mounts: [{ path: "/srv" }] });
  node: ReplicaNode = this.#start();
  /** What was sent to the replica since it was looked at last. */
  sent: [BulkMessage, Uint8Array][] = [];

  [Symbol.dispose](): void {
    this.node.close();
    this.primary.catalog.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  #start(): ReplicaNode {
    const setting = {
      program: realProgram,
      copies: { tree: "/srv/copy" },
      limits: { transactionBytesMax: 8 * 1024 * 1024 },
      keepHistory: true,
      adopts: false,
    };
    return new ReplicaNode(setting, this.disk, join(this.#directory, "replica.db"), undefined);
  }

  /** A new session; the link breaks when this many messages went through. */
  sink(messagesMax = Number.POSITIVE_INFINITY): ReplicaSink {
    const inner = sinkInto(this.node.context, this.node.receiver);
    return {
      ...inner,
      send: async (message, payload) => {
        if (messagesMax-- <= 0) throw new Error("the link is cut");
        this.sent.push([message, payload.slice()]);
        await inner.send(message, payload);
      },
    };
  }

  takeSent(): { readonly messages: readonly [BulkMessage, Uint8Array][]; readonly payloadBytes: number } {
    const messages = this.sent;
    this.sent = [];
    return { messages, payloadBytes: messages.reduce((sum, [, payload]) => sum + payload.length, 0) };
  }

  /** Takes a cut, ships it, commits and applies it. */
  async follow(sink: ReplicaSink): Promise<void> {
    await cutInto(this.primary, [sink]);
    this.node.commit();
    this.node.apply();
  }

  /** The program dies, the catalog keeps what is committed. */
  restart(mode?: PowerLossMode, seed = 1): void {
    this.node.close();
    if (mode !== undefined) this.disk = this.disk.afterPowerLoss(mode, seededRandom(seed));
    this.node = this.#start();
  }

  expectEqual(what: string): void {
    expect(treeDifference(this.disk.tree("/srv/copy"), modelTree(this.source.nodes)), what).to.equal(undefined);
    expect(hex(this.node.catalog.standing.digest), what).to.equal(hex(this.primary.catalog.standing.digest));
  }

  /** What must not change when something is refused. */
  state(): string {
    const { committed, applied, digest } = this.node.catalog.standing;
    const count = (table: string): number => Number(this.node.catalog.get(`SELECT count(*) AS n FROM ${table}`)?.n);
    const tables = ["path_versions", "object_versions", "run_versions", "extents", "images", "kept", "cuts"].map(count);
    return JSON.stringify([cutText(committed), String(applied), hex(digest), tables, this.disk.tree("/srv/copy")]);
  }
}

describe("sessions that end badly", function () {
  this.timeout(120_000);

  it("takes no cut twice when its acknowledgement is lost", async () => {
    using pair = new Pair();
    pair.source.write("a", randomBytes(9000));
    await pair.follow(pair.sink());
    pair.takeSent();
    pair.source.write("a", randomBytes(100), 4096);
    await cutInto(pair.primary, [pair.sink()]);
    const { messages } = pair.takeSent();
    pair.node.commit(); // And the link breaks with the acknowledgement on it.
    pair.restart("lose-all");
    const before = pair.state();
    expect(() => deliver(pair.node.receiver, messages[0]![0], messages[0]![1]))
      .to.throw(BaseMismatch)
      .that.includes({ remedy: "replan" });
    pair.node.endSession();
    expect(pair.state()).to.equal(before);
    // The primary plans from what the replica holds: nothing is missing, and nothing is sent.
    const sink = pair.sink();
    await cutInto(pair.primary, [sink]);
    expect(pair.takeSent().messages).to.deep.equal([]);
    pair.node.apply();
    pair.expectEqual("after the second session");
    expect(pair.node.catalog.cuts("point").map(({ cut }) => Number(cut.seq))).to.deep.equal([1, 2]);
    pair.source.write("b", "more");
    await pair.follow(sink);
    pair.expectEqual("after the next cut");
  });

  it("brings a replica that missed several cuts to the last one, wherever the link breaks", async () => {
    for (let messagesMax = 0, finished = false; !finished; messagesMax++) {
      using pair = new Pair();
      pair.source.write("a", randomBytes(30_000));
      pair.source.write("b", randomBytes(300));
      await pair.follow(pair.sink());
      for (let cut = 0; cut < 3; cut++) {
        pair.source.write("a", randomBytes(100), 5000 * cut);
        pair.source.replace("b", randomBytes(200));
        pair.source.write(`new ${cut}`, randomBytes(100));
        await cutInto(pair.primary, []);
      }
      pair.takeSent();
      const breaking = pair.sink(messagesMax);
      await cutInto(pair.primary, [breaking]);
      finished = !breaking.gone;
      if (finished) {
        pair.node.commit();
        pair.node.apply();
      } else {
        pair.restart(messagesMax % 2 === 0 ? "reordered" : undefined);
        await pair.follow(pair.sink());
      }
      pair.expectEqual(`broken after ${messagesMax} messages`);
    }
  });

  for (const [name, after] of [
    ["the agents live on", undefined],
    ["the replica is killed", "kill"],
    ["the replica's power fails", "torn"],
  ] as const) {
    it(`resumes within a large file wherever the link breaks, and nothing old shines through, when ${name}`, async () => {
      const size = 11 * mebibyte;
      const whole = randomBytes(size);
      let resumed = 0;
      for (const messagesMax of [1, 2, 7, 10, 11, 12, 13]) {
        using pair = new Pair();
        pair.source.write("large", whole);
        await cutInto(pair.primary, []);
        const breaking = pair.sink(messagesMax);
        await cutInto(pair.primary, [breaking]);
        const first = pair.takeSent().payloadBytes;
        if (after === undefined) pair.node.endSession();
        else pair.restart(after === "kill" ? undefined : after, messagesMax);
        // Some blocks were sent, and are zeros or others now; some are cut off.
        pair.source.write("large", new Uint8Array(3 * 4096), 5 * mebibyte);
        pair.source.write("large", new Uint8Array(4096), 4096);
        pair.source.write("large", randomBytes(4096), 6 * mebibyte);
        pair.source.truncate("large", size - 6000);
        const sink = pair.sink();
        await pair.follow(sink);
        const second = pair.takeSent().payloadBytes;
        pair.expectEqual(`broken after ${messagesMax} messages`);
        if (second < size - 4 * mebibyte) resumed++;
        if (after === undefined && first > 7 * mebibyte) {
          expect(second, `${first} bytes were staged`).to.be.lessThan(size - first + 3 * mebibyte);
        }
      }
      // Of what was not synced a power failure may leave no whole run; what is left must still be right.
      if (after !== "torn") expect(resumed, "sessions that sent much less than the file").to.be.greaterThan(1);
    });
  }

  it("knows nothing any more of what a broken first copy has built", async () => {
    for (const messagesMax of [2, 3]) {
      using pair = new Pair();
      pair.source.makeDirectory("d");
      for (const name of ["a", "b", "d/c"]) pair.source.write(name, randomBytes(300));
      pair.source.link("a", "d/a");
      const breaking = pair.sink(messagesMax);
      await cutInto(pair.primary, [breaking]);
      expect(breaking.gone, "the session broke").to.equal(true);
      pair.node.endSession();
      pair.source.remove("a");
      pair.source.remove("b");
      pair.source.symlink("b", "d");
      await pair.follow(pair.sink());
      pair.expectEqual(`broken after ${messagesMax} messages`);
      expect(sweep(pair.node.context, 0, 100).changes).to.deep.equal([]);
    }
  });

  it("never resumes from what a failed sync may have lost", async () => {
    using pair = new Pair();
    pair.source.write("small", randomBytes(10));
    await pair.follow(pair.sink());
    pair.source.write("large", randomBytes(10 * mebibyte));
    await cutInto(pair.primary, []);
    pair.disk.failWhen(({ kind, detail }: Operation) =>
      kind === "syncFile" && detail.includes("/staging/") ? "EIO" : undefined,
    );
    const sink = pair.sink();
    const failed: unknown[] = [];
    const { send } = sink;
    await cutInto(pair.primary, [
      {
        ...sink,
        send: async (message, payload) => {
          await send(message, payload).catch((error: unknown) => {
            failed.push(error);
            throw error;
          });
        },
      },
    ]);
    expect(failed).to.have.length(1);
    expect(failed[0]).to.be.instanceof(SyncFailed);
    pair.disk.stopFailing();
    pair.restart();
    pair.takeSent();
    await pair.follow(pair.sink());
    pair.expectEqual("after the second session");
    pair.restart("lose-all");
    pair.expectEqual("after the power failure");
  });

  it("lets an older session neither stage nor commit once a newer one began", async () => {
    using pair = new Pair();
    pair.source.write("a", randomBytes(9000));
    await pair.follow(pair.sink());
    pair.takeSent();
    pair.source.write("a", randomBytes(9000));
    pair.source.write("b", randomBytes(700_000));
    await cutInto(pair.primary, [pair.sink()]);
    const { messages } = pair.takeSent();
    expect(messages.at(-1)![0].kind).to.equal("cutEnd");
    pair.node.endSession();
    // Half of the cut came in the older session, and then its link hangs.
    for (const half of [1, Math.floor(messages.length / 2), messages.length]) {
      const hanging = receiverOf(pair.node.context);
      for (const [message, payload] of messages.slice(0, half)) deliver(hanging, message, payload);
      const newer = receiverOf(pair.node.context);
      deliver(newer, messages[0]![0], messages[0]![1]);
      for (const [message, payload] of [...messages.slice(half), messages[0]!]) {
        expect(() => deliver(hanging, message, payload), message.kind).to.throw(SenderRefused);
      }
      expect(realProgram.commit(pair.node.context, hanging).seq).to.equal(1n);
      hanging.abort();
      for (const [message, payload] of messages.slice(1)) deliver(newer, message, payload);
      if (half < messages.length) {
        newer.abort();
        continue;
      }
      expect(realProgram.commit(pair.node.context, newer).seq).to.equal(2n);
    }
    pair.node.apply();
    pair.expectEqual("after the newer session");
  });
});

describe("a stranger who writes into the copy", () => {
  const strangers: readonly { readonly does: string; readonly act: (disk: SimulatedDisk) => void }[] = [
    { does: "overwrites a file", act: (disk) => disk.writeTree("/srv/copy", { a: "stranger" }) },
    {
      does: "overwrites a file with as many bytes",
      act: (disk) => disk.writeTree("/srv/copy", { a: "x".repeat(9000) }),
    },
    {
      does: "replaces a file",
      act: (disk) => {
        disk.removeTree("/srv/copy", "a");
        disk.writeTree("/srv/copy", { other: "stranger", a: "stranger" });
      },
    },
    { does: "removes a file", act: (disk) => disk.removeTree("/srv/copy", "a") },
  ];

  for (const { does, act } of strangers) {
    it(`who ${does} makes the copy suspect, and nothing is applied over it`, async () => {
      using pair = new Pair();
      pair.source.write("a", randomBytes(9000));
      pair.source.write("b", randomBytes(100));
      await pair.follow(pair.sink());
      act(pair.disk);
      const before = pair.disk.tree("/srv/copy");
      pair.source.write("a", randomBytes(50), 100);
      pair.source.write("b", randomBytes(50));
      await cutInto(pair.primary, [pair.sink()]);
      expect(pair.node.commit().seq, "the cut itself is taken").to.equal(2n);
      for (let attempt = 0; attempt < 2; attempt++) {
        expect(() => pair.node.apply(), "apply").to.throw(ForeignChange);
        expect(pair.disk.tree("/srv/copy")).to.deep.equal(before);
        expect(pair.node.catalog.standing)
          .to.include({ applied: 1n, applying: undefined })
          .and.property("suspect")
          .not.equal("");
        pair.restart();
      }
    });
  }

  it("who only changes a file's mode does no harm: the next cut sets it right", async () => {
    using pair = new Pair();
    pair.source.write("a", randomBytes(9000));
    await pair.follow(pair.sink());
    pair.disk.asStranger(() => {
      const root = pair.disk.openRoot("/srv/copy");
      pair.disk.setMeta(root, "a", { mode: 0o666 });
      pair.disk.closeDirectory(root);
    });
    pair.source.write("a", randomBytes(50), 100);
    await pair.follow(pair.sink());
    pair.expectEqual("after the cut");
  });

  it("who puts something where a cut puts its own finds it among the strangers, whole", async () => {
    using pair = new Pair();
    pair.source.makeDirectory("d");
    pair.source.write("d/a", randomBytes(100));
    await pair.follow(pair.sink());
    pair.disk.writeTree("/srv/copy", {
      new: "stranger's file",
      made: { type: "symlink", target: "/etc" },
      d: { type: "directory", entries: { more: "stranger's, too" } },
    });
    pair.source.write("new", randomBytes(100));
    pair.source.makeDirectory("made");
    pair.source.write("made/inside", randomBytes(100));
    pair.source.remove("d");
    await cutInto(pair.primary, [pair.sink()]);
    pair.node.commit();
    pair.node.apply();
    pair.expectEqual("after the cut");
    const aside = pair.disk.tree("/srv/.understudy/app.tree/strangers");
    expect(aside.type === "directory" && Object.values(aside.entries).map((entry) => entry.type)).to.have.members([
      "file",
      "symlink",
      "directory",
    ]);
    const events = pair.node.catalog.all("SELECT detail FROM events WHERE name = 'stranger.put_aside'");
    expect(events).to.have.length(3);
  });
});
