import {
  closeSync,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { applyNext } from "../../../replica/apply/apply.ts";
import {
  ContentDiffers,
  incompleteName,
  PointDamaged,
  RestoreRefused,
  restore,
} from "../../../replica/history/restore.ts";
import { restamp, sweep } from "../../../replica/history/sweep.ts";
import { dropPoints, historyBytes, thinning, thinningByRetention } from "../../../replica/history/thin.ts";
import { type Verified, verify, verifyManifest } from "../../../replica/history/verify.ts";
import { FileGone, NotReadable } from "../../../replica/history/view.ts";
import type { ReplicaContext } from "../../../replica/replica-context.ts";
import { type ObjectId, type Seq, type StoreName, type StorePath, seq } from "../../../shared/words.ts";
import { describeTree } from "../../model/describe-tree.ts";
import { HistoryGroup, InterleavedDisk, Stopped } from "./history-group.ts";

const never = new AbortController().signal;

describe("history", () => {
  let group: HistoryGroup;
  beforeEach(() => {
    group = new HistoryGroup();
  });
  afterEach(() => {
    group.close();
  });

  const bytes = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);
  const restored = async (at: Seq, reader: ReplicaContext): Promise<Record<string, string>> => {
    const to = group.newTarget();
    await restore(reader, { at, to }, () => {}, never);
    return describeTree(join(to, "tree"));
  };
  const expectPoints = async (of = group): Promise<void> => {
    using reader = of.reader();
    for (const at of of.points()) expect(await restored(at, reader), `cut ${at}`).to.deep.equal(of.described.get(at));
  };
  const failure = async (work: Promise<unknown>): Promise<unknown> =>
    await work.then(
      () => undefined,
      (error: unknown) => error,
    );
  const privateFiles = (part: string): string => join(group.directory, ".understudy", "app.tree", part);
  /** Flips one bit in place, with the times as they were, as a disk does. */
  const flipBit = (path: string, offset: number): void => {
    const content = readFileSync(path);
    const file = openSync(path, "r+");
    try {
      writeSync(file, Buffer.of(content[offset]! ^ 1), 0, 1, offset);
    } finally {
      closeSync(file);
    }
  };
  const kinds = (verified: Verified): string[] => verified.differences.map(({ path, what }) => `${path}: ${what}`);

  describe("restore", () => {
    it("gives each state of a file that is truncated and grown over several cuts of one batch", async () => {
      group.source.write("grows", bytes(30_000, 1));
      await group.cutAndApply();
      group.source.truncate("grows", 10_000);
      await group.cut();
      group.source.write("grows", bytes(5000, 2), 22_000);
      await group.cut();
      group.source.truncate("grows", 3);
      await group.cut();
      group.source.truncate("grows", 40_000);
      await group.cut();
      group.commit();
      expect(group.applyAll()).to.equal(1);
      expect(group.points()).to.have.length(5);
      await expectPoints();
    });

    it("gives an object that was born and gone within one batch, as of the cuts between", async () => {
      group.source.write("stays", "s");
      await group.cutAndApply();
      group.source.write("short", bytes(9000, 7));
      group.source.symlink("lead", "short");
      await group.cut();
      group.source.write("short", bytes(100, 8), 4000);
      await group.cut();
      group.source.remove("short");
      group.source.remove("lead");
      await group.cut();
      group.commit();
      expect(group.applyAll()).to.equal(1);
      expect(existsSync(join(group.copy, "short"))).to.equal(false);
      await expectPoints();
    });

    it("makes hard links again, with the names that they had then", async () => {
      group.source.makeDirectory("d");
      group.source.write("one", bytes(5000, 1));
      group.source.link("one", "d/two");
      const first = await group.cutAndApply();
      group.source.write("one", bytes(10, 2), 4000);
      group.source.link("one", "three");
      group.source.remove("d/two");
      await group.cutAndApply();
      await expectPoints();
      using reader = group.reader();
      const to = group.newTarget();
      await restore(reader, { at: first, to }, () => {}, never);
      expect(statSync(join(to, "tree/one")).ino).to.equal(statSync(join(to, "tree/d/two")).ino);
      expect(statSync(join(to, "tree/one")).nlink).to.equal(2);
    });

    it("gives only what is asked for, with the directories that lead to it", async () => {
      group.source.makeDirectory("d");
      group.source.makeDirectory("d/e");
      group.source.write("d/e/wanted", bytes(5000, 1));
      group.source.write("d/e/beside", bytes(10, 2));
      group.source.write("d/early", bytes(10, 3));
      group.source.write("d.e", bytes(10, 4));
      group.source.link("d/e/beside", "a second name");
      const at = await group.cutAndApply();
      group.source.write("d/e/wanted", bytes(5000, 9));
      await group.cutAndApply();
      using reader = group.reader();
      const before = group.described.get(at)!;
      for (const [only, names] of [
        ["tree/d/e/wanted", ["d", "d/e", "d/e/wanted"]],
        ["tree/d/e/", ["d", "d/e", "d/e/beside", "d/e/wanted"]],
        ["tree/a second name", ["a second name"]],
        ["tree", Object.keys(before).filter((name) => name !== "")],
      ] as const) {
        const to = group.newTarget();
        await restore(reader, { at, to, only }, () => {}, never);
        const found = describeTree(join(to, "tree"));
        expect(
          Object.keys(found).filter((name) => name !== ""),
          only,
        ).to.have.members([...names]);
        expect(readFileSync(join(to, "tree", names.at(-1)!)).length, only).to.be.above(0);
      }
      for (const only of ["tree/d/e/gone", "tree/d/e/wanted/below", "another/d", "tree/../tree/d"]) {
        const to = group.newTarget();
        expect(await failure(restore(reader, { at, to, only }, () => {}, never)), only).to.be.instanceOf(
          RestoreRefused,
        );
        expect(existsSync(to), "nothing is made").to.equal(false);
      }
    });

    it("leaves blocks of zeros as holes", async () => {
      group.source.write("sparse", bytes(4096, 5), 4 * 1024 * 1024);
      group.source.truncate("sparse", 8 * 1024 * 1024);
      const at = await group.cutAndApply();
      using reader = group.reader();
      const to = group.newTarget();
      await restore(reader, { at, to }, () => {}, never);
      expect(describeTree(join(to, "tree"))).to.deep.equal(group.source.describe());
      expect(statSync(join(to, "tree/sparse")).blocks * 512).to.be.lessThan(64 * 1024);
    });

    it("is right while apply goes on between a read and the look for old images", async () => {
      group.source.write("hot", bytes(3 * 1024 * 1024, 1));
      group.source.write("moves", bytes(9000, 1));
      group.source.write("goes", bytes(9000, 1));
      const at = await group.cutAndApply();
      for (let value = 2; value < 12; value++) {
        for (let offset = 0; offset < 3 * 1024 * 1024; offset += 512 * 1024)
          group.source.write("hot", bytes(70_000, value), offset + value * 4096);
        if (value === 3) group.source.rename("moves", "moved");
        if (value === 4) group.source.remove("goes");
        if (value === 6) group.source.truncate("hot", 1024 * 1024);
        if (value === 8) group.source.rename("moved", "moves");
        await group.cut();
      }
      group.commit();
      const replica = { ...group.replica, limits: { ...group.replica.limits, batchBytesMax: 1 } };
      let applied = 0;
      const disk = new InterleavedDisk(() => {
        if (applyNext(replica, true) !== undefined) applied++;
      });
      using reader = group.reader(disk);
      disk.armed = true;
      expect(await restored(at, reader)).to.deep.equal(group.described.get(at));
      expect(applied).to.be.greaterThan(3);
      disk.armed = false;
      group.applyAll();
      await expectPoints();
    });

    it("is right while thinning moves the images that it reads", async () => {
      group.source.write("file", bytes(400_000, 1));
      const wanted = await group.cutAndApply();
      for (let value = 2; value < 6; value++) {
        group.source.write("file", bytes(300_000, value));
        await group.cut();
      }
      group.commit();
      group.applyAll();
      let opened = 0;
      const disk = new InterleavedDisk(() => {
        // First the file in the copy; then, when the rows of its images were found, the history file.
        if (++opened !== 2) return;
        const drop = group.points().filter((at) => at !== wanted);
        expect(dropPoints(group.replica, drop, new Set([wanted]))).to.include({
          historyFiles: 1,
          rewrittenBytes: 303_104,
        });
      });
      using reader = group.reader(disk);
      // The first look has found the rows; before the history file is opened it is gone.
      disk.at = "before openFile";
      disk.armed = true;
      expect(await restored(wanted, reader)).to.deep.equal(group.described.get(wanted));
      expect(opened).to.be.greaterThan(2);
    });

    it("names path and block where a bit was flipped, and leaves a mark that the directory is not whole", async () => {
      group.source.makeDirectory("d");
      group.source.write("d/file", bytes(20_000, 1));
      const at = await group.cutAndApply();
      flipBit(join(group.copy, "d/file"), 9000);
      using reader = group.reader();
      const to = group.newTarget();
      const error = await failure(restore(reader, { at, to }, () => {}, never));
      expect(error).to.be.instanceOf(ContentDiffers);
      expect(error).to.include({ store: "tree", path: "d/file", block: 2 });
      expect(existsSync(join(to, incompleteName))).to.equal(true);
      expect(await failure(restore(reader, { at, to }, () => {}, never))).to.be.instanceOf(RestoreRefused);
    });

    it("finds a bit that was flipped in an old image", async () => {
      group.source.write("file", bytes(20_000, 1));
      const at = await group.cutAndApply();
      group.source.write("file", bytes(20_000, 2));
      const next = await group.cutAndApply();
      flipBit(join(privateFiles("history"), `h${next}`), 5000);
      using reader = group.reader();
      expect(await failure(restored(at, reader))).to.be.instanceOf(ContentDiffers);
      expect(await restored(next, reader)).to.deep.equal(group.described.get(next));
    });

    it("refuses what the catalog's rows make of a point, when they are not what was committed", async () => {
      group.source.write("file", bytes(9000, 1));
      group.source.write("other", bytes(9000, 1));
      const at = await group.cutAndApply();
      const { catalog } = group.replica;
      const spoil = async (sql: string): Promise<unknown> => {
        catalog.transaction("spoil", () => catalog.run(sql));
        using reader = group.reader();
        return await failure(restored(at, reader));
      };
      // No block hash tells of these.
      expect(await spoil("UPDATE object_versions SET mode = 420 + 1 WHERE type = 1")).to.be.instanceOf(PointDamaged);
      expect(await spoil("UPDATE object_versions SET mode = 420 WHERE type = 1")).to.equal(undefined);
      expect(await spoil("DELETE FROM path_versions WHERE name = 'other'")).to.be.instanceOf(PointDamaged);
    });

    it("says which file is gone from the copy", async () => {
      group.source.write("file", "x");
      const at = await group.cutAndApply();
      rmSync(join(group.copy, "file"));
      using reader = group.reader();
      const error = await failure(restored(at, reader));
      expect(error).to.be.instanceOf(FileGone);
      expect(String(error)).to.include("(file)");
    });

    it("refuses a target that is not empty, and takes one that is", async () => {
      group.source.write("file", "x");
      const at = await group.cutAndApply();
      using reader = group.reader();
      const to = group.newTarget();
      mkdirSync(to);
      writeFileSync(join(to, "something"), "");
      expect(await failure(restore(reader, { at, to }, () => {}, never))).to.be.instanceOf(RestoreRefused);
      rmSync(join(to, "something"));
      await restore(reader, { at, to }, () => {}, never);
      expect(describeTree(join(to, "tree"))).to.deep.equal(group.source.describe());
      const below = join(to, "no/such/parent");
      expect(await failure(restore(reader, { at, to: below }, () => {}, never))).to.be.instanceOf(RestoreRefused);
    });

    it("refuses a cut that is no point any more, and one that never was applied", async () => {
      const first = await group.cutAndApply();
      group.source.write("file", "x");
      await group.cutAndApply();
      dropPoints(group.replica, [first], new Set());
      group.source.write("file", "y");
      const third = await group.cut();
      group.commit();
      using reader = group.reader();
      for (const at of [first, third, seq(99)]) {
        const to = group.newTarget();
        expect(await failure(restore(reader, { at, to }, () => {}, never)), `cut ${at}`).to.be.instanceOf(NotReadable);
        expect(existsSync(to)).to.equal(false);
      }
    });

    it("ends when it is told to", async () => {
      for (let i = 0; i < 20; i++) group.source.write(`f${i}`, bytes(300_000, i));
      const at = await group.cutAndApply();
      using reader = group.reader();
      const stop = new AbortController();
      let bytesDone = 0;
      const to = group.newTarget();
      const error = await failure(
        verify(
          reader,
          { bytesPerSecond: 1000 },
          (so) => {
            bytesDone = so.bytes;
            stop.abort(new Error("told to"));
          },
          stop.signal,
        ),
      );
      expect(String(error)).to.match(/told to|aborted/);
      expect(bytesDone).to.be.lessThan(5_000_000);
      expect(await failure(restore(reader, { at, to }, () => {}, AbortSignal.abort()))).not.to.equal(undefined);
    });
  });

  describe("verify", () => {
    beforeEach(async () => {
      group.source.makeDirectory("d");
      group.source.write("d/file", bytes(20_000, 1));
      group.source.write("other", bytes(100, 2));
      group.source.symlink("lead", "other");
      await group.cutAndApply();
    });

    const verified = async (): Promise<Verified> => {
      using reader = group.reader();
      return await verify(
        reader,
        { excluded: (_store: StoreName, path: StorePath) => path.endsWith(".tmp") },
        () => {},
        never,
      );
    };

    it("counts what it read and finds nothing in a copy as it was left", async () => {
      const found = await verified();
      expect(found).to.deep.include({
        files: 2,
        bytes: 20_100,
        differences: [],
        differenceCount: 0,
        digestEqual: true,
      });
    });

    const changes: readonly { what: string; change: () => void; found: readonly string[] }[] = [
      {
        what: "a bit flipped",
        change: () => flipBit(join(group.copy, "d/file"), 9000),
        found: ["d/file: mtime", "d/file: content"],
      },
      { what: "a file that is gone", change: () => rmSync(join(group.copy, "other")), found: ["other: missing"] },
      {
        what: "a file replaced by an equal one",
        change: () => {
          writeFileSync(join(group.copy, "new"), readFileSync(join(group.copy, "other")));
          renameSync(join(group.copy, "new"), join(group.copy, "other"));
        },
        found: ["other: replaced"],
      },
      {
        what: "a directory in the place of a file",
        change: () => {
          rmSync(join(group.copy, "other"));
          mkdirSync(join(group.copy, "other"));
        },
        found: ["other: type"],
      },
      {
        what: "a file that was appended to",
        change: () => writeFileSync(join(group.copy, "other"), "+", { flag: "a" }),
        found: ["other: size"],
      },
      {
        what: "strangers at every depth",
        change: () => {
          writeFileSync(join(group.copy, "d/stranger"), "");
          mkdirSync(join(group.copy, "unknown"));
          writeFileSync(join(group.copy, "unknown/below"), "");
          linkSync(join(group.copy, "other"), join(group.copy, "another"));
        },
        found: ["d/stranger: stranger", "another: stranger", "unknown: stranger"],
      },
      {
        what: "a symlink that was turned",
        change: () => {
          // In this order the new link gets another inode.
          symlinkSync("elsewhere", join(group.copy, "new"));
          renameSync(join(group.copy, "new"), join(group.copy, "lead"));
        },
        found: ["lead: replaced"],
      },
    ];
    for (const { what, change, found } of changes) {
      it(`finds ${what}`, async () => {
        change();
        expect(kinds(await verified()).sort()).to.deep.equal([...found].sort());
      });
    }

    it("lists excluded names without counting them", async () => {
      writeFileSync(join(group.copy, "left.tmp"), "");
      const found = await verified();
      expect(kinds(found)).to.deep.equal(["left.tmp: excluded"]);
      expect(found.differenceCount).to.equal(0);
    });

    it("finds nothing while apply goes on between its looks", async () => {
      for (let value = 3; value < 9; value++) {
        group.source.write("d/file", bytes(5000, value), value * 1000);
        group.source.rename(value % 2 === 1 ? "other" : "d/other", value % 2 === 1 ? "d/other" : "other");
        group.source.write(`new${value}`, "n");
        if (value === 5) group.source.remove("lead");
        if (value === 6) group.source.chmod("d", 0o700);
        await group.cut();
      }
      group.commit();
      const replica = { ...group.replica, limits: { ...group.replica.limits, batchBytesMax: 1 } };
      let applied = 0;
      const disk = new InterleavedDisk(() => {
        if (applyNext(replica, true) !== undefined) applied++;
      });
      for (const at of ["before read", "before stat", "before list", "after read"] as const) {
        using reader = group.reader(disk);
        disk.at = at;
        disk.armed = true;
        const found = await verify(reader, {}, () => {}, never);
        disk.armed = false;
        expect(found).to.deep.include({ differences: [], digestEqual: true });
      }
      expect(applied).to.equal(6);
    });

    it("says so when the catalog's own rows do not add up", async () => {
      const { catalog } = group.replica;
      using reader = group.reader();
      expect((await verifyManifest(reader, never)).digestEqual).to.equal(true);
      const row = catalog.get("SELECT object, hashes FROM run_versions WHERE run = 0 LIMIT 1")!;
      const hashes = Buffer.from(row.hashes as Uint8Array);
      hashes[3]! ^= 1;
      catalog.transaction("spoil", () =>
        catalog.run("UPDATE run_versions SET hashes = ? WHERE object = ?", hashes, Number(row.object)),
      );
      const found = await verifyManifest(reader, never);
      expect(found.differences.map(({ what }) => what)).to.deep.equal(["digest"]);
      catalog.transaction("spoil", () => catalog.run("UPDATE object_versions SET mode = 511 WHERE type = 1"));
      expect((await verifyManifest(reader, never)).digestEqual).to.equal(false);
    });
  });

  describe("a store of a single file", () => {
    it("is restored under its own name, and what lies beside it is derived", async () => {
      const single = new HistoryGroup({ shape: "file" });
      try {
        single.source.write("database", bytes(9000, 1));
        const at = await single.cutAndApply();
        single.source.write("database", bytes(100, 2), 5000);
        await single.cutAndApply();
        using reader = single.reader(undefined, ["-wal", "-shm"]);
        const to = single.newTarget();
        await restore(reader, { at, to }, () => {}, never);
        expect(readFileSync(join(to, "tree/copy")).equals(bytes(9000, 1))).to.equal(true);
        writeFileSync(join(single.directory, "copy-wal"), "");
        const found = await verify(reader, {}, () => {}, never);
        expect(kinds(found)).to.deep.equal(["copy-wal: derived"]);
        expect(found).to.deep.include({ differenceCount: 0, files: 1, digestEqual: true });
      } finally {
        single.close();
      }
    });
  });

  describe("the sweep", () => {
    beforeEach(async () => {
      group.source.makeDirectory("d");
      group.source.write("d/file", bytes(5000, 1));
      group.source.write("other", "o");
      group.source.link("other", "d/link");
      await group.cutAndApply();
      group.source.write("new", "n");
      await group.cutAndApply();
    });

    const found = (): string[] => {
      using reader = group.reader();
      return sweep(reader, 0, 1000).changes.map(({ path, what }) => `${path} ${what}`);
    };

    it("finds nothing in a copy as it was left, in slices of any size", () => {
      using reader = group.reader();
      for (const size of [1, 2, 3, 100]) {
        let after: ObjectId | 0 = 0;
        let checked = 0;
        for (;;) {
          const slice = sweep(reader, after, size);
          expect(slice.changes).to.deep.equal([]);
          checked += slice.checked;
          if (slice.next === undefined) break;
          after = slice.next;
        }
        expect(checked).to.equal(5);
      }
    });

    it("finds a write that kept the size, a removal, a replacement, and a mode", () => {
      flipBit(join(group.copy, "d/file"), 0);
      rmSync(join(group.copy, "d/link"));
      writeFileSync(join(group.copy, "x"), "n");
      renameSync(join(group.copy, "x"), join(group.copy, "new"));
      const changes = found();
      expect(changes).to.include("d/file was written to");
      expect(changes).to.include("d/link is gone");
      expect(changes).to.include("new was replaced by another file");
    });

    it("does not accuse anybody for a ctime, and does not look twice", () => {
      const { catalog } = group.replica;
      catalog.transaction("power", () => catalog.run("UPDATE seen SET ctime_ns = ctime_ns - 5000000000"));
      using reader = group.reader();
      const slice = sweep(reader, 0, 1000);
      expect(slice.changes).to.deep.equal([]);
      expect(slice.restamps).to.have.length(3);
      restamp(group.replica, slice.restamps);
      expect(sweep(reader, 0, 1000).restamps).to.deep.equal([]);
    });

    it("accuses when the ctime moved and the content is another one", () => {
      const path = join(group.copy, "d/file");
      const times = statSync(path, { bigint: true });
      flipBit(path, 0);
      const { catalog } = group.replica;
      const mtime = statSync(path, { bigint: true }).mtimeNs;
      expect(mtime).not.to.equal(times.mtimeNs);
      catalog.transaction("times", () =>
        catalog.run("UPDATE seen SET mtime_ns = ? WHERE mtime_ns = ?", mtime, times.mtimeNs),
      );
      expect(found()).to.deep.equal(["d/file was changed: content, owner, mode or links"]);
    });

    it("leaves alone what a batch is writing", async () => {
      group.source.write("other", "p");
      group.source.remove("new");
      await group.cut();
      group.commit();
      for (let step = 1; group.replica.catalog.standing.applying === undefined || found().length === 0; step++) {
        group.disk.left = step;
        try {
          group.applyAll();
          group.disk.left = 0;
          break;
        } catch (error) {
          if (!(error instanceof Stopped)) throw error;
        }
      }
      expect(group.replica.catalog.standing.applying).to.equal(undefined);
      expect(found()).to.deep.equal([]);
    });
  });

  describe("thinning", () => {
    it("keeps an image that only one which died at the kept point itself would cover", async () => {
      group.source.write("file", bytes(40_960, 1));
      await group.cutAndApply();
      group.source.write("file", bytes(20_480, 2));
      const kept = await group.cutAndApply();
      group.source.write("other", "o");
      const dropped = await group.cutAndApply();
      group.source.write("file", bytes(4096, 3), 8192);
      await group.cutAndApply();
      dropPoints(group.replica, [dropped], new Set());
      expect(group.points()).to.include(kept);
      await expectPoints();
    });

    it("drops what is pinned only when it is free again, and never the applied cut", async () => {
      for (let value = 1; value < 5; value++) {
        group.source.write("file", bytes(9000, value));
        await group.cutAndApply();
      }
      const points = group.points();
      expect(dropPoints(group.replica, points, new Set([points[1]!])).points).to.equal(2);
      expect(group.points()).to.deep.equal([points[1], points[3]]);
      await expectPoints();
      expect(dropPoints(group.replica, points, new Set()).points).to.equal(1);
      expect(group.points()).to.deep.equal([points[3]]);
      expect(historyBytes(group.replica)).to.equal(0);
    });

    it("keeps to the ladder and the budget", async () => {
      for (let value = 1; value < 8; value++) {
        group.source.write("file", bytes(50_000, value));
        await group.cutAndApply();
      }
      const keep = { allMs: 3_600_000, perMinuteMs: undefined, perHourMs: undefined, perDayMs: undefined };
      const run = (bytesMax: number): void => {
        const steps = thinningByRetention(group.replica, { keep, bytesMax }, new Set());
        while (!steps.next().done);
      };
      run(1_000_000);
      expect(group.points()).to.have.length(7);
      run(170_000);
      expect(group.points()).to.have.length(4);
      expect(historyBytes(group.replica)).to.equal(150_000);
      await expectPoints();
    });

    it("spares a point that is pinned while other points go", async () => {
      for (let value = 1; value < 6; value++) {
        group.source.write("file", bytes(9000, value));
        await group.cutAndApply();
      }
      const points = group.points();
      const pinned = new Map<Seq, number>([[points[1]!, 1]]);
      const steps = thinning(group.replica, points, pinned);
      steps.next();
      pinned.set(points[3]!, 1);
      while (!steps.next().done);
      expect(group.points()).to.deep.equal([points[1], points[3], points[4]]);
      await expectPoints();
    });

    it("keeps one version of everything where no history is kept, and no point from when it was", async () => {
      const keep = { allMs: 0, perMinuteMs: undefined, perHourMs: undefined, perDayMs: undefined };
      const thin = (): void => {
        const steps = thinningByRetention(group.replica, { keep, bytesMax: 1_000_000_000 }, new Set(), 0);
        while (!steps.next().done);
      };
      group.source.write("file", bytes(9000, 1));
      await group.cutAndApply();
      for (let value = 2; value < 6; value++) {
        group.source.write("file", bytes(9000, value));
        group.source.replace("other", bytes(5000, value));
        group.source.write(`dies${value}`, "x");
        group.source.remove(`dies${value - 1}`);
        await group.cut();
        group.commit();
        while (applyNext(group.replica, false) !== undefined);
        thin();
      }
      expect(group.points()).to.deep.equal([]);
      const { catalog } = group.replica;
      for (const table of ["path_versions", "object_versions"]) {
        expect(Number(catalog.get(`SELECT count(*) AS n FROM ${table}`)?.n), table).to.equal(4);
      }
      expect(Number(catalog.get("SELECT count(*) AS n FROM run_versions")?.n)).to.equal(3);
      expect(historyBytes(group.replica)).to.equal(0);
      using reader = group.reader();
      const found = await verify(reader, {}, () => {}, never);
      expect(found).to.deep.include({ differences: [], digestEqual: true });
      expect((await verifyManifest(reader, never)).digestEqual).to.equal(true);
    });

    it("never lets an object's number come again", async () => {
      group.source.write("file", "x");
      await group.cutAndApply();
      group.source.write("last", "x");
      await group.cutAndApply();
      const last = Number(group.replica.catalog.get("SELECT max(object) AS last FROM object_versions")?.last);
      group.source.remove("last");
      await group.cutAndApply();
      dropPoints(group.replica, group.points(), new Set());
      expect(Number(group.replica.catalog.get("SELECT max(object) AS last FROM object_versions")?.last)).to.be.lessThan(
        last,
      );
      expect(group.replica.catalog.standing.nextObject).to.equal(last + 1);
    });
  });
});
