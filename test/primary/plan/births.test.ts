import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { applyNext } from "../../../replica/apply/apply.ts";
import { seal, takeOver } from "../../../replica/promote/promote.ts";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import { hex } from "../../../shared/manifest/digest.ts";
import { seq } from "../../../shared/words.ts";
import { describeTree } from "../../model/describe-tree.ts";
import { commit, cutInto, openPrimary, openReplica, receiverOf, sinkInto } from "../../model/in-process.ts";
import { ModelSource } from "../../model/model-store.ts";

describe("what a primary knows of when something changed", () => {
  let directory: string;
  let source: ModelSource;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-births-"));
    source = new ModelSource();
  });
  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  it("tells a replica that is behind of blocks that were cut off, though the file has its size again", async () => {
    source.write("log", Buffer.alloc(10 * 4096, 1));
    const primary = openPrimary(join(directory, "primary.db"), { tree: source.adapter() });
    const replica = openReplica(join(directory, "replica.db"), new RealDisk(), { tree: join(directory, "copy") });
    const receiver = receiverOf(replica);
    const sink = sinkInto(replica, receiver);
    const ship = async (): Promise<void> => {
      await cutInto(primary, [sink]);
      expect(sink.gone).to.equal(false);
      commit(replica, receiver);
      while (applyNext(replica, true) !== undefined);
    };
    await ship();
    // One block of the run is younger than the others.
    source.write("log", Buffer.alloc(4096, 2));
    await ship();
    source.truncate("log", 5 * 4096);
    await cutInto(primary, []);
    source.truncate("log", 10 * 4096);
    await cutInto(primary, []);
    await ship();
    expect(describeTree(join(directory, "copy"))).to.deep.equal(source.describe());
    expect(hex(replica.catalog.standing.digest)).to.equal(hex(primary.catalog.standing.digest));
  });

  it("forgets what was gone before its promotion with all that it was", async () => {
    source.write("kept", "");
    source.write("gone", "once");
    source.makeDirectory("directory");
    const former = openPrimary(join(directory, "former.db"), { tree: source.adapter() });
    const replica = openReplica(join(directory, "promoted.db"), new RealDisk(), { tree: join(directory, "copy") });
    const receiver = receiverOf(replica);
    const sink = sinkInto(replica, receiver);
    for (const change of [() => undefined, () => source.remove("gone"), () => source.remove("directory")]) {
      change();
      await cutInto(former, [sink]);
      commit(replica, receiver);
      while (applyNext(replica, true) !== undefined);
    }
    seal(replica);
    takeOver(replica, true, { member: 1, members: 2 });
    replica.catalog.close();
    const promoted = openPrimary(join(directory, "promoted.db"), { tree: source.adapter() });
    const { cut } = await cutInto(promoted, [], { forgottenUpTo: seq(3) });
    const paths = [...promoted.manifest.entries(1, cut.seq)].map(({ path }) => path);
    expect(paths).to.have.members(["", "kept"]);
    expect(promoted.catalog.all("SELECT object FROM object_versions WHERE type <> 0")).to.have.length(2);
  });
});
