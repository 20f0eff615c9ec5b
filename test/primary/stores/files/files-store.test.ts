import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  chmodSync,
  closeSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect } from "chai";
import { singleSyncsMax } from "../../../../primary/stores/files/filesystem-sync.ts";
import type { StorePath } from "../../../../shared/words.ts";
import { until } from "../../../until.ts";
import { describeTree, ModelConsumer } from "./model-consumer.ts";
import { Scratch } from "./scratch.ts";

/** Everything is older than 2 s from now on. */
const aged = 10_000;

describe("files store", () => {
  it("finds a whole tree at first, and nothing in a second view", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    mkdirSync(scratch.at("a/b"), { recursive: true });
    writeFileSync(scratch.at("a/b/file"), "content");
    writeFileSync(Buffer.from(`${scratch.root}/\xff\n`, "latin1"), "any bytes");
    symlinkSync(Buffer.from("../\xfe", "latin1"), scratch.at("a/link"));
    scratch.aheadMs = aged;
    const store = await scratch.store();
    expect(store.dirty()).to.equal(true);

    const summary = await consumer.take(store);

    expect(summary).to.deep.equal({ consistency: "crash", position: "", behind: [], skipped: 0 });
    expect([...consumer.describe()]).to.deep.equal([...describeTree(scratch.root)]);
    expect(store.dirty()).to.equal(false);
    expect(store.health).to.include({ mode: "watching", reason: "", watchedDirectories: 3, losses: 0 });
    for (const depth of ["changes", "scan"] as const) {
      await consumer.take(store, { depth });
      expect(consumer.found, depth).to.deep.equal([]);
    }
  });

  it("looks at changed paths only, in a tree that it never lists again", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    for (let n = 0; n < 20; n++) {
      mkdirSync(scratch.at(`d${n}`));
      for (let file = 0; file < 20; file++) writeFileSync(scratch.at(`d${n}`, `f${file}`), `${file}`);
    }
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await consumer.take(store);
    for (let n = 0; n < 10; n++) appendFileSync(scratch.at(`d${n}`, "f3"), "more");
    let listed = 0;
    consumer.children = () => {
      listed++;
      return [];
    };
    await until(() => store.dirty(), "an event");
    expect(store.backlogBytes()).to.be.above(0);

    await consumer.take(store);

    expect(consumer.names()).to.have.members(Array.from({ length: 10 }, (_, n) => `d${n}/f3`));
    expect(listed).to.equal(0);
    expect(store.dirty()).to.equal(false);
  });

  it("sees a change that was made just before the view is entered", async () => {
    await using scratch = new Scratch();
    writeFileSync(scratch.at("a"), "1");
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await scratch.consumer.take(store);
    writeFileSync(scratch.at("a"), "2");
    await scratch.consumer.take(store);
    expect(scratch.consumer.names()).to.deep.equal(["a"]);
  });

  it("wakes at a change, and leaves it to the next view when one is open", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    writeFileSync(scratch.at("a"), "1");
    writeFileSync(scratch.at("b"), "1");
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await consumer.take(store);
    const before = scratch.wakes;
    writeFileSync(scratch.at("a"), "2");
    await until(() => scratch.wakes > before, "a wake");
    await consumer.take(store, {}, async () => {
      writeFileSync(scratch.at("b"), "2");
      await until(() => store.dirty(), "an event while the view is open");
    });
    expect(consumer.names()).to.deep.equal(["a"]);
    expect(store.dirty()).to.equal(true);
    await consumer.take(store);
    expect(consumer.names()).to.deep.equal(["b"]);
  });

  it("gives what changed since the round before when it is asked again", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    mkdirSync(scratch.at("d"));
    for (const name of ["a", "b", "d/x"]) writeFileSync(scratch.at(name), "1");
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await consumer.take(store);
    writeFileSync(scratch.at("a"), "2");
    renameSync(scratch.at("d"), scratch.at("e"));
    const paths: string[][] = [[], []];
    let round = 0;
    await consumer.take(
      store,
      {},
      (found) => {
        if (paths[1]!.length === 0 && found.path === "a") {
          renameSync(scratch.at("e"), scratch.at("d"));
          round = 0;
        }
        paths[round]!.push(found.path);
        if (found.path === "e/x") round = 1;
      },
      2,
    );
    expect([...consumer.describe()]).to.deep.equal([...describeTree(scratch.root)]);
  });

  it("gives again what a dropped view had found", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    writeFileSync(scratch.at("a"), "1");
    const store = await scratch.store();
    const dropped = consumer.take(store, {}, () => {
      throw new Error("the session broke");
    });
    await dropped.then(
      () => expect.fail("the consumer failed"),
      (error: Error) => expect(error.message).to.equal("the session broke"),
    );
    await consumer.take(store);
    expect(consumer.names()).to.deep.equal(["", "a"]);
    writeFileSync(scratch.at("b"), "1");
    const view = await store.enter(consumer, { depth: "changes", frozen: false }, new AbortController().signal);
    await view.leave("taken"); // But nothing was consumed.
    await consumer.take(store);
    expect(consumer.names()).to.include("b");
  });

  it("keeps the previous version of a file that changes each time it is read, and says so", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    writeFileSync(scratch.at("restless"), "old");
    writeFileSync(scratch.at("quiet"), "old");
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await consumer.take(store);
    for (const name of ["restless", "quiet"]) writeFileSync(scratch.at(name), "newer");

    const summary = await consumer.take(store, {}, ({ path }) => {
      if (path === "restless") appendFileSync(scratch.at("restless"), "!");
    });

    expect(consumer.moved).to.equal(3);
    expect(summary.behind).to.deep.equal(["restless"]);
    expect(summary.consistency).to.equal("whole");
    expect(consumer.describe().get("restless")).to.include(" old ");
    expect(consumer.describe().get("quiet")).to.include(" newer ");
    expect(store.dirty()).to.equal(true);
    expect((await consumer.take(store)).behind).to.deep.equal([]);
    expect(consumer.describe().get("restless")).to.include(" newer!!! ");
  });

  it("reads what was behind in one round in the next", async () => {
    await using scratch = new Scratch();
    writeFileSync(scratch.at("a"), "1");
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await scratch.consumer.take(store);
    writeFileSync(scratch.at("a"), "2");
    let tries = 0;
    // The events of these are known before the second round; what it finds must not depend on them.
    const disturb = () => tries++ < 3 && chmodSync(scratch.at("a"), 0o600 + tries);
    const summary = await scratch.consumer.take(store, {}, () => void disturb(), 2);
    expect(summary.behind).to.deep.equal([]);
    expect(scratch.consumer.describe().get("a")).to.match(/ 2 a$/);
  });

  it("ends the watches of a directory that went away", async () => {
    await using scratch = new Scratch();
    mkdirSync(scratch.at("d/e/f"), { recursive: true });
    writeFileSync(scratch.at("a"), "");
    const store = await scratch.store();
    await scratch.consumer.take(store);
    expect(store.health.watchedDirectories).to.equal(4);
    renameSync(scratch.at("d"), scratch.at("g"));
    await scratch.consumer.take(store);
    expect(store.health.watchedDirectories).to.equal(4);
    rmSync(scratch.at("g"), { recursive: true });
    await scratch.consumer.take(store);
    expect(store.health.watchedDirectories).to.equal(1);
  });

  it("reads a file once more in the same view when it moved only once", async () => {
    await using scratch = new Scratch();
    writeFileSync(scratch.at("a"), "1");
    const store = await scratch.store();
    let changes = 0;
    const summary = await scratch.consumer.take(store, {}, ({ path }) => {
      if (path === "a" && changes++ === 0) truncateSync(scratch.at("a"), 0);
    });
    expect(scratch.consumer.moved).to.equal(1);
    expect(summary.behind).to.deep.equal([]);
    expect(scratch.consumer.describe().get("a")).to.match(/ 0 /);
  });

  it("announces a large file when its writer is done with it, and at once what else changed", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    for (const name of ["large", "small"]) writeFileSync(scratch.at(name), "before");
    truncateSync(scratch.at("large"), 64 * 2 ** 20);
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await consumer.take(store);
    // The events of what was just made may still be on their way.
    await consumer.take(store);
    const file = openSync(scratch.at("large"), "r+");
    const writes: number[] = [];
    const before = scratch.wakes;
    for (let write = 0; write < 15; write++) {
      writeSync(file, "after", write * 4096);
      writes.push(performance.now());
      await delay(10);
    }
    const within = scratch.wakes - before;
    await until(() => scratch.wakes > before, "a wake");
    const quietMs = performance.now() - writes.at(-1)!;
    // A pause of the machine between two writes counts as quiet.
    if (writes.every((at, n) => n === 0 || at - writes[n - 1]! < 80)) {
      expect(within).to.equal(0);
      expect(quietMs).to.be.above(90);
    }
    expect(store.dirty()).to.equal(true);
    await consumer.take(store);
    expect(consumer.names()).to.include("large");

    writeSync(file, "again", 0);
    appendFileSync(scratch.at("small"), "after");
    const again = scratch.wakes;
    await until(() => scratch.wakes > again, "a wake for the small file");
    await consumer.take(store);
    expect(consumer.names(), "who looks for another reason finds it").to.include.members(["large", "small"]);
    closeSync(file);
  });

  it("announces a large file that is never quiet within a second", async () => {
    await using scratch = new Scratch();
    writeFileSync(scratch.at("large"), "before");
    truncateSync(scratch.at("large"), 64 * 2 ** 20);
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await scratch.consumer.take(store);
    await scratch.consumer.take(store);
    const file = openSync(scratch.at("large"), "r+");
    const before = scratch.wakes;
    const begun = performance.now();
    // It is only quiet when this process stands still.
    while (scratch.wakes === before && performance.now() - begun < 30_000) {
      writeSync(file, "more", 0);
      await delay(10);
    }
    closeSync(file);
    expect(scratch.wakes, "announced while it is written").to.be.above(before);
    expect(performance.now() - begun).to.be.at.least(80);
  });

  it("reads a file again, with a wake, that was younger than 2 s when it was read", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    writeFileSync(scratch.at("a"), "1");
    scratch.aheadMs = 1800; // So that the rest is soon over.
    const store = await scratch.store();
    await consumer.take(store);
    expect(consumer.byPath("a" as StorePath)?.seen?.ctimeNs).to.equal(0n);
    await consumer.take(store);
    expect(consumer.found).to.deep.equal([]);
    const before = scratch.wakes;
    await until(() => scratch.wakes > before && store.dirty(), "a wake for the young file");
    await consumer.take(store);
    expect(consumer.found).to.deep.equal([{ kind: "entry", path: "a", content: true, outcome: "stable" }]);
    expect(consumer.byPath("a" as StorePath)?.seen?.ctimeNs).to.equal(
      lstatSync(scratch.at("a"), { bigint: true }).ctimeNs,
    );
    expect(store.dirty()).to.equal(false);
  });

  it("reads a young file again after a restart, although stat says that it is the same", async () => {
    await using scratch = new Scratch();
    writeFileSync(scratch.at("a"), "1");
    await scratch.consumer.take(await scratch.store());
    scratch.aheadMs = aged;
    await scratch.consumer.take(await scratch.store());
    expect(scratch.consumer.names()).to.deep.equal(["a"]);
  });

  it("catches a store through mmap into a page that was dirty before", async () => {
    await using scratch = new Scratch({ onDisk: true });
    const { consumer } = scratch;
    const file = scratch.at("mapped");
    writeFileSync(file, "old".padEnd(8192, "."));
    const descriptor = openSync(file, "r");
    fsyncSync(descriptor);
    closeSync(descriptor);
    await using mapped = new MappedFile(file);
    await mapped.store("first");
    const stamps = () => lstatSync(file, { bigint: true }).ctimeNs;
    // Unless somebody's sync, or the kernel by itself, has written the page in between.
    await until(async () => {
      const dirtied = stamps();
      await mapped.store("again");
      return stamps() === dirtied;
    }, "a page once dirty takes stores without a trace");
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await consumer.take(store);
    expect(consumer.describe().get("mapped")).to.include("again");

    await mapped.store("other");

    await consumer.take(store, { depth: "scan" });
    expect(consumer.names()).to.deep.equal(["mapped"]);
    expect(consumer.describe().get("mapped")).to.include("other");
  });

  it("syncs the filesystem once for many files, and still catches a store through mmap", async () => {
    await using scratch = new Scratch({ onDisk: true });
    const { consumer } = scratch;
    mkdirSync(scratch.at("d")); // Read after the files beside it.
    const file = scratch.at("d", "mapped");
    writeFileSync(file, "old".padEnd(8192, "."));
    for (let n = 0; n < singleSyncsMax; n++) writeFileSync(scratch.at(`f${n}`), "x");
    await using mapped = new MappedFile(file);
    await mapped.store("first");
    // The sync counts for files that have not changed since it began: let the clock that stamps them pass on.
    const changed = lstatSync(file).ctimeMs;
    await until(() => Date.now() > changed + 50, "time to pass");
    const store = await scratch.store();
    await consumer.take(store);
    scratch.aheadMs = aged;
    await consumer.take(store, { depth: "scan" });
    await mapped.store("other");
    await consumer.take(store, { depth: "scan" });
    expect(consumer.names()).to.deep.equal(["d/mapped"]);
  });

  it("offers content for a rename and a chmod, since a ctime cannot tell", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    for (const name of ["a", "b"]) writeFileSync(scratch.at(name), name);
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await consumer.take(store);
    const inode = consumer.byPath("a" as StorePath)!.seen!.inode;
    renameSync(scratch.at("a"), scratch.at("c"));
    chmodSync(scratch.at("b"), 0o600);
    await consumer.take(store);
    expect(consumer.found).to.have.deep.members([
      { kind: "gone", path: "a", content: false, outcome: "stable" },
      { kind: "entry", path: "c", content: true, outcome: "stable" },
      { kind: "entry", path: "b", content: true, outcome: "stable" },
    ]);
    expect(consumer.byPath("c" as StorePath)!.seen!.inode).to.equal(inode);
  });

  it("gives the content of several links once, and all of them when one was used", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    mkdirSync(scratch.at("d"));
    writeFileSync(scratch.at("a"), "1");
    linkSync(scratch.at("a"), scratch.at("d", "b"));
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await consumer.take(store);
    for (const depth of ["changes", "scan"] as const) {
      appendFileSync(scratch.at("d", "b"), depth);
      await consumer.take(store, { depth });
      expect(consumer.names()).to.have.members(["a", "d/b"]);
      expect(consumer.found.filter(({ content }) => content)).to.have.length(1);
      expect([...consumer.describe()]).to.deep.equal([...describeTree(scratch.root)]);
    }
    appendFileSync(scratch.at("d", "b"), "last");
    rmSync(scratch.at("d"), { recursive: true });
    consumer.live = true;
    await consumer.take(store);
    expect([...consumer.describe()]).to.deep.equal([...describeTree(scratch.root)]);
  });

  it("looks at the old path of an inode that it meets elsewhere", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    mkdirSync(scratch.at("m"));
    writeFileSync(scratch.at("z"), "old");
    writeFileSync(scratch.at("other"), "");
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await consumer.take(store);
    mkdirSync(scratch.at("m", "n"));
    // Moved while the view is open: its removal will be told to the next one.
    await consumer.take(store, {}, ({ path }) => {
      if (path === "m/n") renameSync(scratch.at("z"), scratch.at("m", "n", "y"));
    });
    expect([...consumer.describe()]).to.deep.equal([...describeTree(scratch.root)]);
  });

  it("never reads through a symlink that took the place of a directory", async () => {
    for (const depth of ["changes", "scan"] as const) {
      await using scratch = new Scratch();
      const { consumer } = scratch;
      const outside = join(scratch.directory, "outside");
      for (const directory of [scratch.at("a"), scratch.at("d"), outside]) {
        mkdirSync(directory);
        for (const name of ["x", "y"]) writeFileSync(join(directory, name), directory);
      }
      scratch.aheadMs = aged;
      const store = await scratch.store();
      await consumer.take(store);
      for (const path of ["a/x", "d/x"]) appendFileSync(scratch.at(path), "more");
      let swapped = false;
      const summary = await consumer.take(store, { depth }, ({ path }) => {
        if (swapped) return;
        swapped = true;
        const other = path.startsWith("a") ? "d" : "a";
        renameSync(scratch.at(other), join(scratch.directory, "moved"));
        symlinkSync(outside, scratch.at(other));
      });
      expect([...consumer.describe().values()].join(), depth).to.not.include("outside ");
      if (depth === "scan") expect(summary.behind).to.have.length(1);
      await consumer.take(store);
      expect([...consumer.describe()], depth).to.deep.equal([...describeTree(scratch.root)]);
    }
  });

  it("finds what was put into a new directory before it was watched", async () => {
    await using scratch = new Scratch();
    writeFileSync(scratch.at("a"), "");
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await scratch.consumer.take(store);
    mkdirSync(scratch.at("new/deep/er"), { recursive: true });
    writeFileSync(scratch.at("new/deep/er/file"), "1");
    await scratch.consumer.take(store);
    expect(scratch.consumer.names()).to.deep.equal(["new", "new/deep", "new/deep/er", "new/deep/er/file"]);
    writeFileSync(scratch.at("new/deep/er/file"), "2"); // And it is watched by now.
    await scratch.consumer.take(store);
    expect(scratch.consumer.names()).to.deep.equal(["new/deep/er/file"]);
  });

  it("scans after the kernel's queue of events ran over, and says so", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    mkdirSync(scratch.at("d"));
    writeFileSync(scratch.at("a"), "");
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await consumer.take(store);
    writeFileSync(scratch.at("d", "b"), "");
    const paths = [scratch.at("a"), scratch.at("d", "b")]; // In turn, since the kernel drops an event that repeats the last.
    for (let n = 0; n < 17_000; n++) utimesSync(paths[n % 2]!, n, n);
    writeFileSync(scratch.at("a"), "after the overflow");
    await until(() => store.health.losses > 0, "the overflow to be noticed");
    expect(store.health.mode).to.equal("scanning");
    expect(store.health.reason).to.match(/events came at once/);
    expect(store.dirty()).to.equal(true);
    await consumer.take(store);
    expect([...consumer.describe()]).to.deep.equal([...describeTree(scratch.root)]);
    expect(store.health.mode).to.equal("watching");
    writeFileSync(scratch.at("a"), "told again");
    await consumer.take(store);
    expect(consumer.names()).to.deep.equal(["a"]);
  });

  it("leaves out what is excluded, without a wake, and deletes nothing that is excluded later", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    for (const name of ["cache", "sub", ".understudy"]) mkdirSync(scratch.at(name));
    for (const name of ["cache/x", "sub/a.tmp", "keep", ".understudy/x", "later"]) writeFileSync(scratch.at(name), "");
    scratch.aheadMs = aged;
    const store = await scratch.store({ exclude: ["*.tmp", "cache/"] });
    await consumer.take(store);
    expect(consumer.names()).to.have.members(["", "sub", "keep", "later"]);
    const before = scratch.wakes;
    for (const name of ["cache/x", "sub/a.tmp", ".understudy/x"]) writeFileSync(scratch.at(name), "more");
    writeFileSync(scratch.at("keep"), "more");
    await until(() => scratch.wakes > before, "a wake");
    await consumer.take(store);
    expect(consumer.names()).to.deep.equal(["keep"]);
    await store.close();
    rmSync(scratch.at("later"));
    const narrower = await scratch.store({ exclude: ["*.tmp", "cache/", "later", "sub"] });
    await consumer.take(narrower);
    expect(consumer.found).to.deep.equal([]);
    expect(consumer.rows.has("later" as StorePath)).to.equal(true);
    expect(narrower.health.excluded).to.have.members(["later", "sub"]);

    await consumer.take(narrower, { depth: "scan", prune: true });
    expect(consumer.names("gone")).to.have.members(["later", "sub"]);
    expect([...consumer.rows.keys()]).to.have.members(["", "keep"]);
    expect(narrower.health.excluded).to.deep.equal([]);
  });

  it("skips and counts fifos, and takes one that replaced a file for a removal", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    writeFileSync(scratch.at("a"), "");
    writeFileSync(scratch.at("b"), "");
    execFileSync("mkfifo", [scratch.at("fifo")]);
    const store = await scratch.store();
    expect((await consumer.take(store)).skipped).to.equal(1);
    expect(consumer.names()).to.have.members(["", "a", "b"]);
    unlinkSync(scratch.at("a"));
    execFileSync("mkfifo", [scratch.at("a")]);
    expect((await consumer.take(store)).skipped).to.equal(2);
    expect(consumer.names("gone")).to.deep.equal(["a"]);
    rmSync(scratch.at("fifo"));
    expect((await consumer.take(store)).skipped).to.equal(1);
  });

  it("lists what it cannot take as behind, and goes on with the rest", async () => {
    await using scratch = new Scratch();
    const deep = Array.from({ length: 13 }, () => "d".repeat(250)).join("/");
    mkdirSync(scratch.at(deep), { recursive: true });
    writeFileSync(scratch.at("a"), "");
    const store = await scratch.store();
    const summary = await scratch.consumer.take(store);
    expect(summary.behind).to.deep.equal([deep]);
    writeFileSync(scratch.at("another"), "");
    await scratch.consumer.take(store);
    expect([...store.health.unreadable.keys()], "also when it is not looked at again").to.deep.equal([deep]);
    expect([...store.health.unreadable.values()]).to.match(/3072/);
    expect(scratch.consumer.rows.has("a" as StorePath)).to.equal(true);
  });

  it("says `crash` of a scan only when nothing in the whole tree changed meanwhile", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    mkdirSync(scratch.at("d"));
    for (const name of ["a", "d/b"]) writeFileSync(scratch.at(name), "1");
    scratch.aheadMs = aged;
    const store = await scratch.store();
    const disturbed = await consumer.take(store, {}, ({ path }) => {
      if (path === "d/b") chmodSync(scratch.at("a"), 0o600);
    });
    expect(disturbed).to.include({ consistency: "whole" });
    expect((await consumer.take(store, { depth: "scan" })).consistency).to.equal("crash");
    expect((await consumer.take(store)).consistency).to.equal("whole");
    scratch.aheadMs = 0; // Too young to be sure.
    expect((await consumer.take(store, { depth: "scan" })).consistency).to.equal("whole");
  });

  it("scans in a freeze, unless it may trust the watcher", async () => {
    for (const trustWatcher of [false, true]) {
      await using scratch = new Scratch();
      const { consumer } = scratch;
      writeFileSync(scratch.at("a"), "1");
      scratch.aheadMs = aged;
      const store = await scratch.store({ trustWatcher });
      await consumer.take(store);
      let listed = 0;
      const children = consumer.children.bind(consumer);
      consumer.children = (directory) => {
        listed++;
        return children(directory);
      };
      writeFileSync(scratch.at("a"), "2");
      const summary = await consumer.take(store, { frozen: true });
      expect(summary.consistency).to.equal("quiesced");
      expect(consumer.names()).to.deep.equal(["a"]);
      expect(listed > 0).to.equal(!trustWatcher);
    }
  });

  it("reads bytes of a file whether it is old, young or has moved on, and none where there is no file", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    writeFileSync(scratch.at("a"), "0123456789");
    scratch.aheadMs = aged;
    const store = await scratch.store();
    await consumer.take(store);
    const view = await store.enter(consumer, { depth: "changes", frozen: false }, new AbortController().signal);
    const read = (offset: number, length: number) => {
      const bytes = view.read("a" as StorePath, offset, length);
      return bytes && Buffer.from(bytes).toString();
    };
    expect(read(2, 4)).to.equal("2345");
    expect(read(8, 4)).to.equal("89");
    expect(view.read("none" as StorePath, 0, 1)).to.equal(undefined);
    // A log that grew: what was seen is still there, and the caller's hashes say so.
    appendFileSync(scratch.at("a"), "abc");
    expect(read(8, 4)).to.equal("89ab");
    await view.leave("dropped");
    rmSync(scratch.at("a"));
    mkdirSync(scratch.at("a"));
    const later = await store.enter(consumer, { depth: "changes", frozen: false }, new AbortController().signal);
    expect(later.read("a" as StorePath, 0, 4)).to.equal(undefined);
    await later.leave("dropped");
  });

  it("stops at its signal", async () => {
    await using scratch = new Scratch();
    for (let n = 0; n < 10; n++) writeFileSync(scratch.at(`f${n}`), "");
    const store = await scratch.store();
    const stop = new AbortController();
    const view = await store.enter(scratch.consumer, { depth: "changes", frozen: false }, stop.signal);
    let found = 0;
    try {
      for await (const item of view.changes()) {
        if (item.kind === "entry") item.content?.settle();
        if (found++ === 3) stop.abort(new Error("enough"));
      }
      expect.fail("it went on");
    } catch (error) {
      expect((error as Error).message).to.equal("enough");
    }
    expect(found).to.equal(4);
    await view.leave("dropped");
    await scratch.consumer.take(store);
    expect(scratch.consumer.found).to.have.length(11);
  });

  it("keeps no list of the tree while it scans", async function () {
    this.timeout(30_000);
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    await using scratch = new Scratch();
    for (let d = 0; d < 40; d++) {
      mkdirSync(scratch.at(`d${d}`));
      for (let f = 0; f < 150; f++) writeFileSync(scratch.at(`d${d}`, `a-name-of-some-length-${f}`), "");
    }
    const store = await scratch.store();
    // Remembers nothing itself, so that every file is found; what is found counts as kept by nobody.
    const view = await store.enter(new ModelConsumer(), { depth: "scan", frozen: false }, new AbortController().signal);
    const heapBytes: number[] = [];
    let found = 0;
    for await (const item of view.changes()) {
      if (item.kind === "entry") item.content?.settle();
      if (found++ % 2000 === 1) {
        collect();
        heapBytes.push(process.memoryUsage().heapUsed);
      }
    }
    expect(found).to.equal(6041);
    // What is kept is bounded (`entriesKeptMax`, and paths that are young): below 1 KiB for each of these.
    expect(Math.max(...heapBytes) - heapBytes[0]!).to.be.below(6 * 2 ** 20);
    await view.leave("dropped");
  });
});

/** A process that has a file mapped and stores into its first page on request. */
class MappedFile implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  constructor(file: string) {
    const program = `
import mmap, sys
with open(sys.argv[1], "r+b") as f:
    m = mmap.mmap(f.fileno(), 0)
    for line in sys.stdin:
        text = line.rstrip("\\n").encode()
        m[0:len(text)] = text
        print("stored", flush=True)
`;
    this.#child = spawn("python3", ["-c", program, file], { stdio: ["pipe", "pipe", "inherit"] });
    this.#answers = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  async store(text: string): Promise<void> {
    this.#child.stdin!.write(`${text}\n`);
    expect((await this.#answers.next()).value).to.equal("stored");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const exit = once(this.#child, "exit");
    this.#child.stdin!.end();
    await exit;
  }
}
