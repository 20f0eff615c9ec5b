import { mkdirSync, mkdtempSync, renameSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { expect } from "chai";
import { DirectoryWatcher, type WatchLoss } from "../../../primary/watch/directory-watcher.ts";
import { EventBarrier } from "../../../primary/watch/event-barrier.ts";

class Watched implements AsyncDisposable {
  readonly root = mkdtempSync(join(tmpdir(), "understudy-watch-"));
  readonly events: string[] = [];
  readonly losses: WatchLoss[] = [];
  readonly watcher = new DirectoryWatcher(this.root, {
    changed: (directory, name, renamed) => this.events.push(`${directory}|${name}${renamed ? " renamed" : ""}`),
    lost: (loss) => this.losses.push(loss),
  });

  async until(condition: () => boolean): Promise<void> {
    for (const deadline = performance.now() + 30_000; !condition(); ) {
      if (performance.now() > deadline) throw new Error(`not within 30 s; events: ${this.events.join(", ")}`);
      await delay(1);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.watcher.close();
    rmSync(this.root, { recursive: true, force: true });
  }
}

describe("directory watcher", () => {
  it("tells names in any bytes, of watched directories only", async () => {
    await using watched = new Watched();
    const { watcher, root, events } = watched;
    mkdirSync(join(root, "a"));
    mkdirSync(join(root, "b"));
    expect(watcher.add("", 1)).to.equal(true);
    expect(watcher.add("a", 2)).to.equal(true);
    writeFileSync(Buffer.from(`${root}/a/\xff\xfe`, "latin1"), "");
    writeFileSync(join(root, "b", "unseen"), "");
    writeFileSync(join(root, "seen"), "x");
    await watched.until(() => events.includes("|seen"));
    expect(events).to.include("a|\xff\xfe renamed");
    expect(events.join()).to.not.include("unseen");
  });

  it("watches what has the path now when another identity is given", async () => {
    await using watched = new Watched();
    const { watcher, root, events } = watched;
    mkdirSync(join(root, "a"));
    watcher.add("a", 1);
    renameSync(join(root, "a"), join(root, "b"));
    mkdirSync(join(root, "a"));
    watcher.add("a", 1); // Taken for the same.
    writeFileSync(join(root, "b", "old"), "");
    await watched.until(() => events.includes("a|old renamed"));
    watcher.add("a", 2);
    writeFileSync(join(root, "a", "new"), "");
    await watched.until(() => events.includes("a|new renamed"));
    expect(watcher.size).to.equal(1);
  });

  it("tells when a watched directory itself went away, by the empty name", async () => {
    await using watched = new Watched();
    mkdirSync(join(watched.root, "a"));
    watched.watcher.add("a", 1);
    rmdirSync(join(watched.root, "a"));
    await watched.until(() => watched.events.includes("a| renamed"));
  });

  it("ends the watches of a whole tree, and says that a missing directory is not watched", async () => {
    await using watched = new Watched();
    const { watcher, root } = watched;
    for (const path of ["a", "a/b", "a-b"]) mkdirSync(join(root, path));
    for (const path of ["", "a", "a/b", "a-b"]) watcher.add(path, 1);
    watcher.removeTree("a");
    expect(["", "a", "a/b", "a-b"].map((path) => watcher.has(path))).to.deep.equal([true, false, false, true]);
    expect(watcher.add("missing", 1)).to.equal(false);
    watcher.removeTree("");
    expect(watcher.size).to.equal(0);
    expect(watched.losses).to.deep.equal([]);
  });

  it("is lost once, for all watchers of the thread, when a quarter of the kernel's queue comes in one turn", async () => {
    await using watched = new Watched();
    await using other = new Watched();
    watched.watcher.add("", 1);
    other.watcher.add("", 1);
    for (let n = 0; n < 4200; n++) writeFileSync(join(watched.root, `f${n % 2}`), `${n}`);
    await watched.until(() => watched.losses.length > 0 && other.losses.length > 0);
    writeFileSync(join(watched.root, "after"), "");
    await using barrier = new AsyncDisposableStack();
    const cookie = new EventBarrier();
    barrier.defer(() => cookie.close());
    expect(await cookie.pass()).to.equal(true);
    expect(watched.losses.map(({ kind }) => kind)).to.deep.equal(["overflow"]);
    expect(other.losses.map(({ kind }) => kind)).to.deep.equal(["overflow"]);
    expect(watched.events).to.not.include("|after renamed");
    expect(watched.watcher.add("", 1)).to.equal(false);
  });
});

describe("event barrier", () => {
  it("passes only after the events of everything before", async () => {
    await using watched = new Watched();
    watched.watcher.add("", 1);
    const cookie = new EventBarrier();
    try {
      for (let n = 0; n < 100; n++) {
        writeFileSync(join(watched.root, `f${n}`), "");
        expect(await cookie.pass()).to.equal(true);
        expect(watched.events).to.include(`|f${n} renamed`);
      }
    } finally {
      cookie.close();
    }
  });
});
