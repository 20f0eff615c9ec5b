import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { FilesNotSynced, NoPlaceForCopy, StillWritten } from "../../../replica/rejoin/demote.ts";
import { askedOfPrimary, unexamined } from "../../../replica/repair/damage.ts";
import { SyncFailed } from "../../../replica/sync.ts";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import { explain } from "../../../shared/errors.ts";
import type { Directory } from "../../../shared/ports/disk.ts";
import { SwapNode, type SwapOptions } from "./swap-node.ts";

const old = new Date("2020-01-01T00:00:00Z");

describe("the files of an ex-primary", function () {
  this.timeout(60_000);
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-settle-"));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  async function primary(options: SwapOptions = {}): Promise<SwapNode> {
    const node = new SwapNode(directory, "alpha", { kinds: ["files"], ...options });
    mkdirSync(join(node.tree, "docs"), { recursive: true });
    for (const name of ["one", "two"]) writeFileSync(join(node.tree, "docs", name), name.repeat(5000));
    writeFileSync(join(node.tree, "scratch"), "as it was cut");
    linkSync(join(node.tree, "docs", "one"), join(node.tree, "linked"));
    symlinkSync("docs/one", join(node.tree, "symlink"));
    node.form();
    await node.reign();
    return node;
  }

  const changes: readonly (readonly [string, (tree: string) => void, RegExp | "settles"])[] = [
    [
      "was written to",
      (tree) => writeFileSync(join(tree, "docs", "one"), "X", { flag: "r+" }),
      /docs\/one is not what was cut/,
    ],
    [
      "was written to, with its time stamp set back",
      (tree) => {
        const { mtime, atime } = statSync(join(tree, "docs", "one"));
        writeFileSync(join(tree, "docs", "one"), "X", { flag: "r+" });
        utimesSync(join(tree, "docs", "one"), atime, mtime);
      },
      /docs\/one is not what was cut/,
    ],
    ["is gone", (tree) => unlinkSync(join(tree, "docs", "two")), /docs\/two is gone/],
    [
      "became something else",
      (tree) => {
        unlinkSync(join(tree, "docs", "two"));
        mkdirSync(join(tree, "docs", "two"));
      },
      /docs\/two is a directory/,
    ],
    [
      "leads elsewhere",
      (tree) => {
        unlinkSync(join(tree, "symlink"));
        symlinkSync("docs/two", join(tree, "symlink"));
      },
      /symlink is not what was cut/,
    ],
    [
      "is another file under one of its names",
      (tree) => {
        unlinkSync(join(tree, "linked"));
        writeFileSync(join(tree, "linked"), "another");
      },
      /linked is not what was cut/,
    ],
    ["was only touched", (tree) => utimesSync(join(tree, "docs", "one"), old, old), "settles"],
    ["got another mode", (tree) => chmodSync(join(tree, "docs", "one"), 0o600), "settles"],
    [
      "was copied over itself",
      (tree) => {
        writeFileSync(join(tree, "docs", "new"), readFileSync(join(tree, "docs", "two")));
        renameSync(join(tree, "docs", "new"), join(tree, "docs", "two"));
      },
      "settles",
    ],
  ];
  for (const [what, change, outcome] of changes) {
    it(`${outcome === "settles" ? "are as they were cut" : "are not given to a copy"} when one ${what} after the last cut`, async () => {
      await using node = await primary();
      const last = await node.cut();
      change(node.tree);
      const refusal = await failureOf(node.demote(last));
      if (outcome === "settles") {
        expect(refusal).to.equal(undefined);
        node.openReplica();
        expect(node.strangers()).to.deep.equal([]);
        expect((await node.verify()).differences).to.deep.equal([]);
        return;
      }
      expect(refusal).to.be.instanceOf(StillWritten);
      expect((refusal as StillWritten).message).to.match(outcome);
      // It is what it was: its next cut has it, and then it settles.
      await node.crash();
      expect(node.catalog.standing.role).to.equal("primary");
      await node.reign();
      const own = await node.cut();
      expect(own.seq > last.seq).to.equal(true);
      const { touched } = await node.demote(last);
      expect(touched.paths + touched.objects).to.be.above(0);
      expect(node.catalog.standing.committed).to.deep.equal(last);
      node.openReplica();
      expect(node.strangers()).to.deep.equal([]);
      expect((await node.verify()).differences).to.deep.equal([]);
    });
  }

  it("are not given to a copy once a sync has failed, also where there was no room to note that", async () => {
    let failing = true;
    let full = true;
    class FailingDisk extends RealDisk {
      override syncFilesystem(directory: Directory): void {
        if (failing) throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
        super.syncFilesystem(directory);
      }
    }
    await using node = await primary({
      disk: new FailingDisk(),
      observer: (_when, purpose) => {
        if (full && purpose === "unsynced") throw new Error("database or disk is full");
      },
    });
    const common = await node.cut();
    const refusal = async (unsynced = false) => await failureOf(node.demote(common, unsynced));
    expect(explain(await refusal())).to.match(/durable \(no space .*, nor could that be noted: .* full/);
    failing = false;
    await node.crash();
    await node.reign();
    expect(await refusal(true)).to.be.instanceof(FilesNotSynced);
    full = false;
    await node.crash();
    await node.reign();
    expect(await refusal(true)).to.be.instanceof(FilesNotSynced);
    await node.crash();
    await node.reign();
    expect(await refusal()).to.be.instanceof(FilesNotSynced);
  });

  it("become a copy after a sync that could not even be started, of which the kernel has told nobody anything", async () => {
    let program = "/nowhere/sync";
    class NoProgram extends RealDisk {
      override syncFilesystem(directory: Directory): void {
        if (program !== "") {
          const { error } = spawnSync(program);
          throw Object.assign(new Error("sync could not be run", { cause: error }), { code: "EIO" });
        }
        super.syncFilesystem(directory);
      }
    }
    await using node = await primary({ disk: new NoProgram() });
    const common = await node.cut();
    expect(await failureOf(node.demote(common))).to.be.instanceof(SyncFailed);
    program = "";
    await node.crash();
    await node.reign();
    expect(await failureOf(node.demote(common))).to.equal(undefined);
  });

  it("that were excluded and changed since are left to the primary, and nothing of them is lost", async () => {
    await using node = await primary();
    await node.cut();
    await node.crash({ exclude: ["scratch"] });
    writeFileSync(join(node.tree, "scratch"), "what nobody cuts any more");
    await node.reign();
    const last = await node.cut();
    const { settled } = await node.demote(last);
    expect(settled.damaged.map(({ path }) => path)).to.deep.equal(["scratch"]);
    node.openReplica();
    expect(node.catalog.standing.suspect).to.match(/scratch.*is not what was cut/);
    expect([...unexamined(node.replica)].map(({ path }) => path)).to.deep.equal(["scratch"]);
    expect(askedOfPrimary(node.replica)).to.deep.equal([]);
    expect(readFileSync(join(node.tree, "scratch"), "utf8")).to.equal("what nobody cuts any more");
  });

  it("may have a fifo among them, which stays where it is", async () => {
    await using node = await primary();
    execFileSync("mkfifo", [join(node.tree, "docs", "fifo")]);
    const last = await node.cut();
    await node.demote(last);
    node.openReplica();
    expect(node.strangers()).to.deep.equal([]);
    const { differences, differenceCount } = await node.verify();
    expect(differences.map(({ path, what }) => [path, what])).to.deep.equal([["docs/fifo", "derived"]]);
    expect(differenceCount).to.equal(0);
    expect(lstatSync(join(node.tree, "docs", "fifo")).isFIFO()).to.equal(true);
  });

  it("are counted where they have names outside of the store, and what they are as a fork adds up", async () => {
    await using node = await primary();
    linkSync(join(node.tree, "docs", "two"), join(directory, "backup"));
    const first = await node.cut();
    writeFileSync(join(node.tree, "docs", "one"), "a fork");
    await node.cut();
    const { settled, touched } = await node.demote(first);
    expect(settled.linkedOutside).to.equal(1);
    expect(touched).to.include({ paths: 0, objects: 1 });
    node.openReplica();
    const { differences, digestEqual } = await node.verify();
    expect(differences).to.deep.equal([]);
    expect(digestEqual, "of what is here").to.equal(true);
  });

  it("get another private directory where they were moved since this node was a replica", async () => {
    await using node = await primary();
    await node.demote(await node.cut());
    node.openReplica();
    node.promote();
    const moved = join(directory, "elsewhere", "tree");
    mkdirSync(join(directory, "elsewhere"));
    renameSync(node.tree, moved);
    node.tree = moved;
    await node.reign();
    await node.demote(await node.cut());
    node.openReplica();
    expect(node.strangers()).to.deep.equal([]);
    expect(existsSync(join(directory, "elsewhere", ".understudy", "app.tree"))).to.equal(true);
  });

  it("are not a copy where the path of a single file is a symlink to it", async () => {
    await using node = new SwapNode(directory, "alpha", { kinds: ["sqlite"] });
    const real = join(directory, "real.db");
    writeFileSync(real, "");
    symlinkSync(real, node.database);
    node.form();
    await node.reign();
    const refusal = await node.demote(await node.cut()).catch((error: unknown) => error);
    expect(refusal).to.be.instanceOf(NoPlaceForCopy);
    expect((refusal as NoPlaceForCopy).message).to.match(/is a symlink/);
  });

  it("are read only where their stamps do not vouch for them", async () => {
    await using node = await primary();
    // Older than what is read once more: their ctime is not, so that is what the catalog is told.
    await node.cut();
    node.catalog.transaction("seen", () => {
      for (const row of node.catalog.all("SELECT object FROM seen"))
        node.catalog.run("UPDATE seen SET ctime_ns = 1 WHERE object = ?", Number(row.object));
    });
    await node.cut();
    const known = Number(node.catalog.get("SELECT count(*) AS n FROM seen WHERE ctime_ns > 1")?.n);
    const last = node.catalog.standing.committed;
    const { settled } = await node.demote(last);
    expect(settled.filesRead).to.be.at.most(3);
    expect(settled.filesRead + known).to.be.at.least(3);
  });
});

/** Undefined where the work came to its end. */
async function failureOf(work: Promise<unknown>): Promise<unknown> {
  try {
    await work;
    return undefined;
  } catch (error) {
    return error;
  }
}
