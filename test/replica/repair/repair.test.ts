import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { seal, takeOver } from "../../../replica/promote/promote.ts";
import type { BulkMessage, Extent } from "../../../shared/wire/messages.ts";
import type { ObjectId, Seq, StorePath } from "../../../shared/words.ts";
import { cutInto, deliver, randomBytes } from "../../model/in-process.ts";
import { RepairGroup } from "./repair-group.ts";

const block = 4096;

describe("repair of what somebody else changed in the copy", () => {
  let group: RepairGroup;
  let large: Uint8Array;
  const at = (path: string): string => join(group.copy, path);

  beforeEach(async () => {
    group = new RepairGroup();
    large = randomBytes(600 * block);
    const { source } = group;
    source.makeDirectory("docs");
    source.makeDirectory("docs/deep");
    source.write("docs/a", "first a");
    source.write("docs/deep/b", randomBytes(3 * block + 100));
    source.write("large", large);
    source.write("empty", "");
    source.write("zeros", new Uint8Array(5 * block));
    source.write("linked", "two names");
    source.link("linked", "docs/linked too");
    source.symlink("link", "docs/a");
    await group.cut();
  });

  afterEach(() => {
    group[Symbol.dispose]();
  });

  async function isWhole(): Promise<void> {
    expect(group.suspect).to.equal("");
    expect(group.copied()).to.deep.equal(group.source.describe());
    expect(await group.differences()).to.deep.equal([]);
  }

  const strangers: readonly { readonly name: string; readonly does: () => void; readonly aside: number }[] = [
    { name: "overwrites a part of a file", does: () => writeAt("large", 7 * block, "of a stranger"), aside: 1 },
    { name: "appends to a file", does: () => appendFileSync(at("docs/a"), " and more"), aside: 1 },
    { name: "truncates a file", does: () => truncateSync(at("docs/deep/b"), block + 1), aside: 1 },
    { name: "empties a file", does: () => truncateSync(at("docs/a"), 0), aside: 1 },
    { name: "removes a file", does: () => unlinkSync(at("docs/a")), aside: 0 },
    {
      name: "replaces a file",
      does: () => {
        writeFileSync(at("new"), "of a stranger");
        renameSync(at("new"), at("docs/a"));
      },
      aside: 1,
    },
    {
      name: "puts a directory in the place of a file",
      does: () => {
        unlinkSync(at("docs/a"));
        mkdirSync(at("docs/a"));
        writeFileSync(at("docs/a/inside"), "of a stranger");
      },
      aside: 1,
    },
    { name: "adds a file", does: () => writeFileSync(at("docs/extra"), "of a stranger"), aside: 1 },
    {
      name: "adds a directory",
      does: () => {
        mkdirSync(at("extra"));
        writeFileSync(at("extra/file"), "of a stranger");
      },
      aside: 1,
    },
    { name: "removes a directory with all in it", does: () => rmSync(at("docs"), { recursive: true }), aside: 0 },
    { name: "moves a directory", does: () => renameSync(at("docs"), at("moved")), aside: 1 },
    {
      name: "puts a file in the place of a directory",
      does: () => {
        rmSync(at("docs"), { recursive: true });
        writeFileSync(at("docs"), "of a stranger");
      },
      aside: 1,
    },
    { name: "removes a symlink", does: () => unlinkSync(at("link")), aside: 0 },
    {
      name: "leads a symlink elsewhere",
      does: () => {
        unlinkSync(at("link"));
        symlinkSync("/etc/passwd", at("link"));
      },
      aside: 1,
    },
    { name: "removes one of two names", does: () => unlinkSync(at("linked")), aside: 0 },
    {
      name: "writes to a file of two names",
      does: () => writeFileSync(at("linked"), "of a stranger"),
      aside: 2,
    },
    {
      name: "replaces one of two names",
      does: () => {
        unlinkSync(at("docs/linked too"));
        writeFileSync(at("docs/linked too"), "of a stranger");
      },
      aside: 1,
    },
    { name: "writes into an empty file", does: () => writeFileSync(at("empty"), "of a stranger"), aside: 1 },
    { name: "removes a file of zeros", does: () => unlinkSync(at("zeros")), aside: 0 },
    { name: "touches a file", does: () => utimesSync(at("large"), 1, 1), aside: 0 },
    { name: "changes a mode", does: () => chmodSync(at("docs/a"), 0o777), aside: 0 },
    {
      name: "shuts everybody out of a file",
      does: () => {
        chmodSync(at("docs/a"), 0);
        utimesSync(at("docs/a"), 1, 1);
      },
      aside: process.getuid?.() === 0 ? 0 : 1,
    },
    { name: "makes a further link to a file", does: () => linkSync(at("docs/a"), at("further")), aside: 1 },
  ];
  for (const { name, does, aside } of strangers) {
    it(`mends it when a stranger ${name}, and keeps what he wrote`, async () => {
      does();
      await group.repair();
      await isWhole();
      const kept = group.aside();
      expect(kept).to.have.length(aside);
      const second = await changeAll();
      await isWhole();
      expect(await group.restored(second)).to.deep.equal(group.described.get(second));
    });
  }

  function writeAt(path: string, offset: number, text: string): void {
    const bytes = readFileSync(at(path));
    bytes.write(text, offset);
    writeFileSync(at(path), bytes);
  }

  /** A cut that touches everything that a stranger may have touched. */
  async function changeAll(): Promise<Seq> {
    const { source } = group;
    source.write("docs/a", "second a");
    source.write("large", randomBytes(block), 9 * block);
    source.write("linked", "still two");
    source.rename("docs/deep", "docs/deeper");
    source.remove("link");
    return await group.cut();
  }

  it("keeps the stranger's bytes, as he wrote them", async () => {
    writeFileSync(at("docs/a"), "of a stranger");
    await group.repair();
    expect(group.aside().map((name) => readFileSync(group.asidePath(name), "utf8"))).to.deep.equal(["of a stranger"]);
  });

  it("ships nothing for a file that was only touched, and only what differs for one that was written to", async () => {
    group.shippedBytes = 0;
    utimesSync(at("large"), 1, 1);
    group.look();
    expect(group.suspect).to.equal("");
    writeAt("large", 7 * block, "of a stranger");
    await group.repair();
    expect(group.shippedBytes).to.be.within(1, 128 * block);
    await isWhole();
  });

  it("says who is concerned, and refuses a promotion until it is mended", async () => {
    unlinkSync(at("docs/a"));
    group.look();
    expect(group.suspect).to.equal("somebody changed tree/docs/a in the copy: is gone");
    seal(group.replica);
    expect(() => takeOver(group.replica, true, { member: 1, members: 2 })).to.throw("somebody changed tree/docs/a");
  });

  it("is promoted with what there is when that is accepted, and forgets what was damaged", async () => {
    unlinkSync(at("docs/a"));
    appendFileSync(at("large"), "of a stranger");
    group.look();
    group.source.write("docs/deep/b", "newest");
    group.source.write("large", "newest", 0);
    await group.ship({ ...group.sink(), damaged: [] });
    expect(group.apply()).to.equal(false);
    seal(group.replica);
    takeOver(group.replica, true, { member: 1, members: 2 }, { suspect: true });
    expect(readFileSync(at("large"), "latin1").slice(0, 6)).to.equal("newest");
    expect(readFileSync(at("docs/deep/b"), "latin1").slice(0, 6)).to.equal("newest");
    expect(existsSync(at("docs/a"))).to.equal(false);
    expect(group.suspect).to.equal("");
  });

  it("applies what does not touch it, waits with the rest, and goes on with the cut that brings it", async () => {
    appendFileSync(at("large"), "of a stranger");
    group.look();
    group.source.write("docs/a", "second a");
    await group.ship({ ...group.sink(), damaged: [] });
    group.source.write("large", "second", 5 * block);
    await group.ship({ ...group.sink(), damaged: [] });
    group.source.write("docs/a", "third a");
    const last = await group.ship({ ...group.sink(), damaged: [] });
    expect(group.apply()).to.equal(false);
    expect(readFileSync(at("docs/a"), "utf8")).to.equal("second a");
    expect(readFileSync(at("large")).subarray(-13).toString()).to.equal("of a stranger");
    await group.cut();
    await isWhole();
    for (const [seq, tree] of group.described)
      if (seq <= last) expect(await group.restored(seq), `point ${seq}`).to.deep.equal(tree);
  });

  it("finds what was changed by the cut that comes to it, before any sweep", async () => {
    appendFileSync(at("docs/a"), " of a stranger");
    group.source.write("docs/a", "second a");
    await group.cut();
    expect(group.suspect).to.match(/docs\/a/);
    expect(readFileSync(at("docs/a"), "utf8")).to.equal("first a of a stranger");
    await group.repair();
    await isWhole();
    expect(group.aside()).to.have.length(1);
  });

  it("takes a file that died meanwhile for settled", async () => {
    appendFileSync(at("docs/a"), " of a stranger");
    unlinkSync(at("docs/deep/b"));
    group.look();
    group.source.remove("docs/a");
    group.source.remove("docs/deep/b");
    await group.cut();
    group.look();
    await isWhole();
  });

  it("restores every point before and after, where the damaged file still had the bytes", async () => {
    group.source.write("large", "second", 3 * block);
    await group.cut();
    writeAt("large", 500 * block, "of a stranger");
    group.look();
    group.source.write("large", "third", 4 * block);
    await group.ship({ ...group.sink(), damaged: [] });
    group.source.truncate("large", 550 * block);
    await group.repair();
    await isWhole();
    for (const [seq, tree] of group.described) expect(await group.restored(seq), `point ${seq}`).to.deep.equal(tree);
  });

  it("never restores wrong bytes where they are lost", async () => {
    writeAt("large", 3 * block, "of a stranger");
    group.look();
    group.source.write("large", "second", 3 * block);
    await group.repair();
    await isWhole();
    await group.restored(1n as never).then(
      () => expect.fail("it was restored"),
      (error: Error) => expect(error.message).to.match(/block 3 of tree\/large/),
    );
    expect(await group.restored(2n as never)).to.deep.equal(group.described.get(2n as never));
    const lost = group.replica.catalog.all("SELECT detail FROM events WHERE name = 'history.lost'");
    expect(lost.map(({ detail }) => JSON.parse(String(detail)).blocks)).to.deep.equal([1]);
  });

  it("goes on without a file that only recovery points wanted", async () => {
    group.source.remove("docs/a");
    await group.cut();
    const { kept } = [...group.replica.homes.values()][0]!;
    const [name] = group.replica.disk.list(kept);
    group.replica.disk.unlink(kept, name!);
    group.look();
    await isWhole();
    expect(group.told.filter((line) => line.startsWith("lost"))).to.have.length(1);
    await group.restored(1n as never).then(
      () => expect.fail("it was restored"),
      (error: Error) => expect(error.message).to.match(/gone/),
    );
  });

  it("brings a file anew that the application has emptied, or filled with zeros, meanwhile", async () => {
    for (const path of ["docs/a", "docs/deep/b"]) appendFileSync(at(path), "of a stranger");
    group.look();
    group.source.truncate("docs/a", 0);
    group.source.replace("docs/deep/b", new Uint8Array(2 * block));
    await group.repair();
    await isWhole();
  });

  it("brings zeros where the damaged file has others", async () => {
    group.source.write("large", new Uint8Array(300 * block), 100 * block);
    appendFileSync(at("large"), "of a stranger");
    group.look();
    await group.repair();
    await isWhole();
  });

  it("goes on after a session that broke in the middle of it", async () => {
    unlinkSync(at("large"));
    group.look();
    const sink = group.sink();
    let left = 1;
    await group
      .ship({
        ...sink,
        send: async (message, payload) => {
          if (message.kind === "extents" && left-- === 0) throw new Error("the link broke");
          await sink.send(message, payload);
        },
      })
      .catch(() => {});
    group.reopen();
    expect(group.suspect).to.match(/large/);
    group.shippedBytes = 0;
    await group.cut();
    await isWhole();
    expect(group.shippedBytes).to.be.below(600 * block);
  });

  it("does not bring it twice while a cut with it waits for apply", async () => {
    let refused = false;
    unlinkSync(at("docs/a"));
    group.look();
    await group.ship();
    expect(group.sink().damaged).to.deep.equal([]);
    const object = group.replica.manifest.objectAtPath(1, "docs/a" as never, group.replica.catalog.standing.applied)!;
    const sink = { ...group.sink(), damaged: [object] };
    await cutInto(group.primary, [
      {
        ...sink,
        send: async (message, payload) => {
          if (message.kind !== "extents") return await sink.send(message, payload);
          expect(() => deliver(group.receiver, message, payload)).to.throw("says new: it is not");
          refused = true;
          throw new Error("refused");
        },
      },
    ]);
    expect(refused).to.equal(true);
  });

  describe("from a primary that is not what it should be", () => {
    const names = { damaged: "large", fine: "docs/deep/b" } as const;
    const hostile: readonly {
      readonly name: string;
      readonly changes: (object: { damaged: ObjectId; fine: ObjectId }, message: BulkMessage) => BulkMessage[];
      readonly refusal: string;
    }[] = [
      {
        name: "another file whole, which is not damaged",
        changes: ({ damaged, fine }, message) => [renamed(message, damaged, fine)],
        refusal: "says new: it is not",
      },
      {
        name: "a part of it, and then all",
        changes: (_, message) =>
          message.kind === "extents" ? [{ ...message, extents: message.extents.map(inPlace) }, message] : [message],
        refusal: "says new: it is not",
      },
      {
        name: "all of it, and then a part",
        changes: (_, message) =>
          message.kind === "extents" ? [message, { ...message, extents: message.extents.map(inPlace) }] : [message],
        refusal: "comes whole, and in part",
      },
      {
        name: "bytes that it says are there, and are not",
        changes: (_, message) => [
          message.kind === "extents"
            ? { ...message, extents: message.extents.map((extent) => ({ ...extent, held: true })), decodedBytes: 0 }
            : message,
        ],
        refusal: "is not staged as the primary thinks",
      },
      {
        name: "less than all of it",
        changes: (_, message) =>
          message.kind === "extents" && message.extents.every(({ offset }) => offset > 0) ? [] : [message],
        refusal: "the primary says",
      },
    ];

    function inPlace(extent: Extent): Extent {
      return { ...extent, fresh: false };
    }

    function renamed(message: BulkMessage, from: ObjectId, to: ObjectId): BulkMessage {
      if (message.kind !== "extents") return message;
      return {
        ...message,
        extents: message.extents.map((item) => (item.object === from ? { ...item, object: to } : item)),
      };
    }

    for (const { name, changes, refusal } of hostile) {
      it(`takes no cut with ${name}`, async () => {
        unlinkSync(at(names.damaged));
        group.look();
        const { applied } = group.replica.catalog.standing;
        const objectAt = (path: string): ObjectId =>
          group.replica.manifest.objectAtPath(1, path as StorePath, applied)!;
        const objects = { damaged: objectAt(names.damaged), fine: objectAt(names.fine) };
        const sink = group.sink();
        let said = "";
        await group.ship({
          ...sink,
          send: async (message, payload) => {
            for (const changed of changes(objects, message)) {
              const held = changed.kind === "extents" && changed.extents.some((extent) => extent.held);
              try {
                deliver(group.receiver, changed, held ? new Uint8Array(0) : payload);
              } catch (error) {
                said = (error as Error).message;
                throw error;
              }
            }
          },
        });
        expect(said).to.include(refusal);
        group.receiver.abort();
        expect(group.apply()).to.equal(true);
        await group.repair();
        await isWhole();
      });
    }
  });

  it("leaves what the configuration leaves out, and a filesystem's own directory", async () => {
    group.excluded = (path) => path.endsWith(".tmp");
    writeFileSync(at("docs/x.tmp"), "of the service");
    mkdirSync(at("lost+found"));
    group.look();
    expect(group.aside()).to.deep.equal([]);
    expect(existsSync(at("docs/x.tmp"))).to.equal(true);
  });

  it("mends a catalog that is older than the copy", async () => {
    const old = join(group.directory, "old.db");
    group.replica.catalog.checkpoint();
    cpSync(join(group.directory, "replica.db"), old);
    cpSync(join(group.directory, "replica.db-wal"), `${old}-wal`);
    await changeAll();
    group.source.write("new", "file");
    await group.cut();
    group.reopen(() => {
      for (const suffix of ["", "-wal"]) cpSync(old + suffix, join(group.directory, `replica.db${suffix}`));
      rmSync(join(group.directory, "replica.db-shm"), { force: true });
    });
    await group.repair();
    await group.cut();
    await group.repair();
    await isWhole();
  });

  it("begins anew after a longer and longer time with who damages it again and again", async () => {
    const tries: number[] = [];
    let now = 0;
    for (let second = 0; second < 600; second++) {
      now += 1000;
      appendFileSync(at("docs/a"), "x");
      for (const _step of group.repairing.sweep(() => now));
      const before = group.told.length;
      chmodSync(at("docs/a"), 0o600);
      for (const _step of group.repairing.mend(() => now));
      if (group.told.length > before || group.sink().damaged.length > 0) {
        tries.push(second);
        await group.cut();
      }
    }
    expect(tries.length).to.be.within(5, 12);
    expect(group.told.some((line) => line.startsWith("again"))).to.equal(true);
  });
});
