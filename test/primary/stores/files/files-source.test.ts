import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import type { FilesStoreOptions } from "../../../../primary/stores/files/files-store.ts";
import { SourceUnusable } from "../../../../primary/stores/source-unusable.ts";
import { PathRefused } from "../../../../shared/store-path.ts";
import type { StorePath } from "../../../../shared/words.ts";
import { describeTree } from "./model-consumer.ts";
import { Scratch } from "./scratch.ts";

async function refusal(act: Promise<unknown>): Promise<SourceUnusable> {
  const error = await act.then(
    () => expect.fail("it was not refused"),
    (error: unknown) => error,
  );
  expect(error).to.be.instanceOf(SourceUnusable);
  return error as SourceUnusable;
}

describe("the source of a files store", () => {
  it("must be a directory at the start", async () => {
    await using scratch = new Scratch();
    writeFileSync(scratch.at("file"), "");
    expect((await refusal(scratch.store({ path: scratch.at("missing") }))).message).to.match(
      /missing: cannot be reached/,
    );
    expect((await refusal(scratch.store({ path: scratch.at("file") }))).message).to.match(/file: is not a directory/);
  });

  for (const [how, act, message] of [
    ["vanished", (root: string) => rmSync(root, { recursive: true }), /has vanished/],
    [
      "was emptied, as by a mount that went away",
      (root: string) => emptied(root),
      /is empty, but the last cut has 3 entries/,
    ],
    ["became a file", (root: string) => replaced(root), /is not a directory any more/],
  ] as const) {
    it(`halts when it ${how}`, async () => {
      await using scratch = new Scratch();
      for (const name of ["a", "b"]) writeFileSync(scratch.at(name), "");
      const store = await scratch.store();
      await scratch.consumer.take(store);
      act(scratch.root);
      for (const depth of ["changes", "scan"] as const) {
        expect((await refusal(scratch.consumer.take(store, { depth }))).message).to.match(message);
      }
      expect(scratch.consumer.count()).to.equal(3);
    });
  }

  it("goes on when it is confirmed by a new entry that it was emptied on purpose", async () => {
    await using scratch = new Scratch();
    for (const name of ["a", "b"]) writeFileSync(scratch.at(name), "");
    const store = await scratch.store();
    await scratch.consumer.take(store);
    emptied(scratch.root);
    await refusal(scratch.consumer.take(store));
    writeFileSync(scratch.at("new"), "");
    await scratch.consumer.take(store);
    expect([...scratch.consumer.rows.keys()]).to.have.members(["", "new"]);
  });

  it("may be empty from the beginning", async () => {
    await using scratch = new Scratch();
    const store = await scratch.store();
    await scratch.consumer.take(store);
    await scratch.consumer.take(store, { depth: "scan" });
    expect(scratch.consumer.count()).to.equal(1);
  });

  it("takes nothing for deleted when it goes away while it is scanned", async () => {
    await using scratch = new Scratch();
    for (const name of ["d", "e"]) {
      mkdirSync(scratch.at(name));
      writeFileSync(scratch.at(name, "x"), "");
    }
    const store = await scratch.store();
    await scratch.consumer.take(store);
    for (const name of ["d", "e"]) writeFileSync(scratch.at(name, "x"), "changed");
    let moved = false;
    const view = scratch.consumer.take(store, { depth: "scan" }, () => {
      if (!moved) renameSync(scratch.root, join(scratch.directory, "elsewhere"));
      moved = true;
    });
    expect((await refusal(view)).message).to.match(/was moved or unmounted while it was read/);
    expect(scratch.consumer.names("gone")).to.deep.equal([]);
  });

  it("may be replaced by another directory, which is then compared and watched", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    for (const name of ["a", "b"]) writeFileSync(scratch.at(name), "");
    scratch.aheadMs = 10_000;
    const store = await scratch.store();
    await consumer.take(store);
    renameSync(scratch.root, join(scratch.directory, "old"));
    mkdirSync(scratch.root);
    writeFileSync(scratch.at("b"), "new");
    await consumer.take(store);
    expect([...consumer.describe()]).to.deep.equal([...describeTree(scratch.root)]);
    writeFileSync(scratch.at("b"), "newer");
    await consumer.take(store);
    expect(consumer.names()).to.deep.equal(["b"]);
  });

  it("may be configured as a symlink", async () => {
    await using scratch = new Scratch();
    writeFileSync(scratch.at("a"), "1");
    const link = join(scratch.directory, "link");
    symlinkSync(scratch.root, link);
    await scratch.consumer.take(await scratch.store({ path: link }));
    expect([...scratch.consumer.describe()]).to.deep.equal([...describeTree(scratch.root)]);
  });
});

describe("a list by the application", () => {
  it("says what to look at, with all below it, in place of watching", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    mkdirSync(scratch.at("d/e"), { recursive: true });
    for (const name of ["a", "b", "d/e/x"]) writeFileSync(scratch.at(name), "1");
    scratch.aheadMs = 10_000;
    let answer: StorePath[] | "everything" = [];
    const store = await scratch.store({ list: async () => answer });
    await consumer.take(store);
    expect(store.health).to.include({ mode: "listing", watchedDirectories: 0 });
    for (const name of ["a", "b", "d/e/x"]) writeFileSync(scratch.at(name), "2");
    await consumer.take(store);
    expect(consumer.found).to.deep.equal([]);
    answer = ["a", "d"] as StorePath[];
    await consumer.take(store);
    expect(consumer.names()).to.deep.equal(["a", "d/e/x"]);
    answer = "everything";
    await consumer.take(store);
    expect(consumer.names()).to.deep.equal(["b"]);
    answer = ["../../etc"] as StorePath[];
    const refused = await consumer.take(store).catch((error: unknown) => error);
    expect(refused).to.be.instanceOf(PathRefused);
  });
});

describe("a snapshot of the source", () => {
  const aged = 10_000;

  /** A copy with modes, times and links kept, as `cp --reflink` makes one. */
  function copying(scratch: Scratch, during: () => void = () => {}): NonNullable<FilesStoreOptions["snapshot"]> {
    const copy = join(scratch.directory, "snapshot");
    return {
      async create() {
        if (existsSync(copy)) throw new Error("there is one already");
        execFileSync("cp", ["-a", scratch.root, copy]);
        during();
        return copy;
      },
      async remove() {
        rmSync(copy, { recursive: true, force: true });
      },
    };
  }

  it("is what a cut shows, whatever happens meanwhile to the tree", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    mkdirSync(scratch.at("d"));
    for (const name of ["a", "b", "d/x"]) writeFileSync(scratch.at(name), "1");
    scratch.aheadMs = aged;
    let after = () => {};
    const store = await scratch.store({ snapshot: copying(scratch, () => after()) });
    after = () => {
      writeFileSync(scratch.at("a"), "2");
      mkdirSync(scratch.at("d", "new"));
      writeFileSync(scratch.at("d", "new", "y"), "2");
    };
    const before = describeTree(scratch.root);
    const summary = await consumer.take(store);
    expect(summary.consistency).to.equal("crash");
    expect([...consumer.describe()]).to.deep.equal([...before]);
    expect(existsSync(join(scratch.directory, "snapshot"))).to.equal(false);
    expect(store.dirty()).to.equal(true);

    after = () => {};
    await consumer.take(store);
    expect(consumer.names()).to.have.members(["a", "d/new", "d/new/y"]);
    writeFileSync(scratch.at("d", "new", "y"), "3");
    await consumer.take(store);
    expect(consumer.names()).to.deep.equal(["d/new/y"]);
    for (const depth of ["changes", "scan"] as const) {
      await consumer.take(store, { depth });
      expect(consumer.found).to.deep.equal([]);
    }
    expect([...consumer.describe()]).to.deep.equal([...describeTree(scratch.root)]);
  });

  it("never mixes up files because a copy has other inodes", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    for (let n = 0; n < 30; n++) writeFileSync(scratch.at(`f${n}`), `${n}`);
    scratch.aheadMs = aged;
    const store = await scratch.store({ snapshot: copying(scratch) });
    await consumer.take(store);
    for (let n = 0; n < 30; n += 3) renameSync(scratch.at(`f${n}`), scratch.at(`g${n}`));
    for (let n = 1; n < 30; n += 3) writeFileSync(scratch.at(`f${n}`), `new ${n}`);
    await consumer.take(store);
    expect([...consumer.describe()]).to.deep.equal([...describeTree(scratch.root)]);
  });

  it("keeps inodes and so renames where it has those of the tree", async () => {
    await using scratch = new Scratch();
    const { consumer } = scratch;
    for (const name of ["a", "b"]) writeFileSync(scratch.at(name), name);
    scratch.aheadMs = aged;
    const snapshot = { create: async () => scratch.root, remove: async () => {} };
    const store = await scratch.store({ snapshot });
    await consumer.take(store);
    const object = consumer.byPath("a" as StorePath)!.object;
    renameSync(scratch.at("a"), scratch.at("c"));
    mkdirSync(scratch.at("d"));
    await consumer.take(store);
    expect([...consumer.describe()]).to.deep.equal([...describeTree(scratch.root)]);
    expect(object).to.be.a("number");
    expect(consumer.names()).to.have.members(["c", "d"]);
  });

  it("is removed when a lost predecessor left it, and when the view cannot be entered", async () => {
    await using scratch = new Scratch();
    writeFileSync(scratch.at("a"), "1");
    const left = join(scratch.directory, "snapshot");
    mkdirSync(left);
    const store = await scratch.store({ snapshot: copying(scratch) });
    const stop = new AbortController();
    const stopping = copying(scratch, () => stop.abort(new Error("stopped")));
    await scratch.consumer.take(store);
    expect(existsSync(left)).to.equal(false);
    const other = await scratch.store({ snapshot: stopping });
    const error = await other
      .enter(scratch.consumer, { depth: "scan", frozen: false }, stop.signal)
      .catch((error: unknown) => error);
    expect(error).to.include({ message: "stopped" });
    expect(existsSync(left)).to.equal(false);
  });
});

function emptied(root: string): void {
  execFileSync("find", [root, "-mindepth", "1", "-delete"]);
}

function replaced(root: string): void {
  rmSync(root, { recursive: true });
  writeFileSync(root, "");
}
