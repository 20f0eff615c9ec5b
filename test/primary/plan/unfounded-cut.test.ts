import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { hex } from "../../../shared/manifest/digest.ts";
import { cutInto, openPrimary } from "../../model/in-process.ts";
import { ModelSource } from "../../model/model-store.ts";

describe("a cut of what stands still", () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-unfounded-"));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  it("is given up when that moves before it is committed, and the next one has all", async () => {
    const source = new ModelSource();
    source.write("ledger", "one");
    const primary = openPrimary(join(directory, "catalog.db"), { tree: source.adapter() });
    await cutInto(primary, []);
    const { committed } = primary.catalog.standing;
    source.write("ledger", "two");
    const moves = new AbortController();
    const thaw = async (): Promise<number> => {
      moves.abort(new Error("it moves"));
      return 0;
    };
    const given = await cutInto(primary, [], {
      freeze: { freeze: async () => {}, thaw },
      unfounded: moves.signal,
    }).then(
      () => "taken",
      (error: unknown) => (error instanceof Error ? error.message : "?"),
    );
    expect(given).to.equal("it moves");
    expect(primary.catalog.standing.committed).to.deep.equal(committed);
    const before = hex(primary.catalog.standing.digest);
    expect((await cutInto(primary, [])).fresh).to.equal(true);
    expect(hex(primary.catalog.standing.digest)).not.to.equal(before);
    primary.catalog.close();
  });

  it("is given up within a large file", async () => {
    const source = new ModelSource();
    source.write("large", Buffer.alloc(8 * 1024 * 1024, 1));
    const primary = openPrimary(join(directory, "catalog.db"), { tree: source.adapter() });
    await cutInto(primary, []);
    const { committed } = primary.catalog.standing;
    source.write("large", Buffer.alloc(8 * 1024 * 1024, 2));
    const adapter = primary.stores[0]!.adapter;
    const enter = adapter.enter.bind(adapter);
    const moves = new AbortController();
    let reads = 0;
    adapter.enter = async (...given) => {
      const view = await enter(...given);
      const changes = view.changes.bind(view);
      view.changes = async function* () {
        for await (const found of changes()) {
          if (found.kind === "entry" && found.content !== undefined) {
            const { content } = found;
            const read = content.read.bind(content);
            content.read = (buffer, at) => {
              // Longer than a turn of the loop: whoever waits to be heard is heard between two of these.
              if (++reads === 2) setImmediate(() => moves.abort(new Error("it moves")));
              const until = performance.now() + 60;
              while (performance.now() < until);
              return read(buffer, at);
            };
          }
          yield found;
        }
      };
      return view;
    };
    const freeze = { freeze: async () => {}, thaw: async () => 0 };
    const given = await cutInto(primary, [], { freeze, unfounded: moves.signal }).then(
      () => "taken",
      (error: unknown) => (error instanceof Error ? error.message : "?"),
    );
    expect(given).to.include("aborted");
    expect(reads).to.be.lessThan(6);
    expect(primary.catalog.standing.committed).to.deep.equal(committed);
    primary.catalog.close();
  });
});
