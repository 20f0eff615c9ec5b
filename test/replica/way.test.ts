import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { applyNext } from "../../replica/apply/apply.ts";
import { RealDisk } from "../../shared/durable/real-disk.ts";
import { equalBytes } from "../../shared/manifest/block-hash.ts";
import { describeTree } from "../model/describe-tree.ts";
import { commit, cutInto, openPrimary, openReplica, randomBytes, receiverOf, sinkInto } from "../model/in-process.ts";
import { ModelSource } from "../model/model-store.ts";

describe("the way of a cut, in one process", () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-way-"));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  it("brings a tree and its changes to the copy, with equal digests", async () => {
    const source = new ModelSource();
    source.makeDirectory("docs");
    source.write("docs/a.txt", "alpha");
    source.write("docs/b.txt", "beta");
    source.write("big", randomBytes(300_000));
    source.symlink("link", "docs/a.txt");
    source.link("docs/a.txt", "hard");
    const primary = openPrimary(join(directory, "primary.db"), { tree: source.adapter() });
    const replica = openReplica(join(directory, "replica.db"), new RealDisk(), { tree: join(directory, "copy") });
    const receiver = receiverOf(replica);
    const sink = sinkInto(replica, receiver);
    const round = async (): Promise<void> => {
      await cutInto(primary, [sink]);
      commit(replica, receiver);
      while (applyNext(replica, true) !== undefined);
      const copy = describeTree(join(directory, "copy"));
      for (const path of new Set([...Object.keys(copy), ...Object.keys(source.describe())])) {
        expect(copy[path]?.slice(0, 200), path).to.equal(source.describe()[path]?.slice(0, 200));
        expect(copy[path] === source.describe()[path], path).to.equal(true);
      }
      expect(equalBytes(primary.catalog.standing.digest, replica.catalog.standing.digest)).to.equal(true);
    };
    await round();
    // A swap of two names, a rename cycle with a directory, an append, a truncation, and a file that becomes a directory.
    source.rename("docs/a.txt", "docs/t");
    source.rename("docs/b.txt", "docs/a.txt");
    source.rename("docs/t", "docs/b.txt");
    source.write("big", randomBytes(5000), 299_000);
    await round();
    source.truncate("big", 100_000);
    source.rename("docs", "papers");
    source.remove("link");
    source.makeDirectory("link");
    source.write("link/inside", "x");
    source.chmod("papers", 0o700);
    await round();
    source.remove("link");
    source.write("link", "a file again");
    source.truncate("big", 0);
    source.write("big", randomBytes(9000), 50_000);
    await round();
  });

  it("tells a replica that is two cuts behind what was cut off meanwhile, and grew again as a hole", async () => {
    const source = new ModelSource();
    source.write("big", randomBytes(300_000));
    const primary = openPrimary(join(directory, "primary.db"), { tree: source.adapter() });
    const replica = openReplica(join(directory, "replica.db"), new RealDisk(), { tree: join(directory, "copy") });
    const receiver = receiverOf(replica);
    const sink = sinkInto(replica, receiver);
    const bring = async (): Promise<void> => {
      await cutInto(primary, [sink]);
      commit(replica, receiver);
      while (applyNext(replica, true) !== undefined);
    };
    await bring();
    // From here on the blocks of the run have births of their own.
    source.write("big", randomBytes(4096), 8192);
    await bring();
    source.truncate("big", 100_000);
    await cutInto(primary, []);
    source.truncate("big", 300_000);
    await cutInto(primary, []);
    await bring();
    expect(describeTree(join(directory, "copy"))).to.deep.equal(source.describe());
  });
});
