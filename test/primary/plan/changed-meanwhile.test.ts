import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { PrimaryContext } from "../../../primary/primary-context.ts";
import { applyNext } from "../../../replica/apply/apply.ts";
import type { ReplicaContext } from "../../../replica/replica-context.ts";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import type { Content } from "../../../shared/ports/store-adapter.ts";
import { describeTree } from "../../model/describe-tree.ts";
import { commit, cutInto, openPrimary, openReplica, receiverOf, sinkInto } from "../../model/in-process.ts";
import { ModelSource } from "../../model/model-store.ts";

const largeBytes = 8 * 1024 * 1024;

describe("a cut that reads a large file while what its node is changes", () => {
  let directory: string;
  let source: ModelSource;
  let primary: PrimaryContext;
  let replica: ReplicaContext;

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), "understudy-meanwhile-"));
    source = new ModelSource();
    source.write("large", Buffer.alloc(largeBytes, 1));
    primary = openPrimary(join(directory, "primary.db"), { tree: source.adapter() });
    replica = openReplica(join(directory, "replica.db"), new RealDisk(), { tree: join(directory, "copy") });
    await ship();
  });
  afterEach(() => {
    primary.catalog.close();
    replica.catalog.close();
    for (const home of replica.homes.values()) home.close();
    rmSync(directory, { recursive: true, force: true });
  });

  async function ship(): Promise<void> {
    const receiver = receiverOf(replica);
    try {
      await cutInto(primary, [sinkInto(replica, receiver)]);
      commit(replica, receiver);
    } finally {
      receiver.abort();
    }
    while (applyNext(replica, true) !== undefined);
  }

  /** Lets `change` see the content of the next view, before it is read. */
  function withContent(change: (content: Content) => void): void {
    const { adapter } = primary.stores[0]!;
    const enter = adapter.enter.bind(adapter);
    adapter.enter = async (...given) => {
      adapter.enter = enter;
      const view = await enter(...given);
      const changes = view.changes.bind(view);
      view.changes = async function* () {
        for await (const found of changes()) {
          if (found.kind === "entry" && found.content !== undefined) change(found.content);
          yield found;
        }
      };
      return view;
    };
  }

  /** In the middle of the file, as whoever pauses the group. */
  function pauseWithin(content: Content): void {
    const read = content.read.bind(content);
    let reads = 0;
    content.read = (buffer, at) => {
      if (++reads === 4) {
        primary.catalog.transactionBetween("pause", () => primary.catalog.event("test.changed", {}, primary.nowUs()));
      }
      return read(buffer, at);
    };
  }

  const changed = (): unknown =>
    primary.catalog.get("SELECT 1 AS found FROM events WHERE name = 'test.changed'")?.found;

  it("is taken, and has all of it", async () => {
    source.write("large", Buffer.alloc(largeBytes, 2));
    withContent(pauseWithin);
    await ship();
    expect(changed()).to.equal(1);
    expect(describeTree(join(directory, "copy"))).to.deep.equal(source.describe());
  });

  it("is dropped where the file moves as well, and the next one has all of it", async () => {
    source.write("large", Buffer.alloc(largeBytes, 2));
    withContent((content) => {
      pauseWithin(content);
      content.settle = () => "moved";
    });
    const before = describeTree(join(directory, "copy"));
    const outcome = await ship().then(
      () => "taken",
      (error: unknown) => (error as { code?: string }).code,
    );
    expect(outcome).to.equal("LEFT_TORN");
    expect(changed(), "what was changed meanwhile stands").to.equal(1);
    expect(describeTree(join(directory, "copy"))).to.deep.equal(before);
    await ship();
    expect(describeTree(join(directory, "copy"))).to.deep.equal(source.describe());
  });
});
