import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { PrimaryContext } from "../../primary/primary-context.ts";
import { Catalog } from "../../shared/catalog/catalog.ts";
import { CatalogFull, catalogProblem } from "../../shared/catalog/catalog-errors.ts";
import { hex } from "../../shared/manifest/digest.ts";
import { cutInto, openPrimary, sinkInto } from "../model/in-process.ts";
import { ModelSource } from "../model/model-store.ts";
import { treeDifference } from "./disk-tree.ts";
import { modelTree } from "./recorded-cuts.ts";
import { ReplicaNode } from "./replica-node.ts";
import { realProgram } from "./replica-program.ts";
import { SimulatedDisk } from "./simulated-disk.ts";

/** Pages by which the catalog may grow before it is full, up to what the cuts of these tests need. */
const pagesMax = 16;
const pagesStep = 2;

/** A real SQLITE_FULL, at the first row that needs one page more. */
function leavePages(catalog: Catalog, pages: number): void {
  const { page_count: count } = catalog.db.prepare("PRAGMA page_count").get() as { page_count: number };
  catalog.db.exec(`PRAGMA max_page_count = ${count + pages}`);
}

function leaveAll(catalog: Catalog): void {
  catalog.db.exec("PRAGMA max_page_count = 1000000");
}

class Pair {
  readonly source = new ModelSource();
  readonly #directory = mkdtempSync(join(tmpdir(), "understudy-full-"));
  readonly primary: PrimaryContext = openPrimary(join(this.#directory, "primary.db"), { tree: this.source.adapter() });
  readonly disk = new SimulatedDisk({ mounts: [{ path: "/srv" }] });
  readonly node = new ReplicaNode(
    { program: realProgram, copies: { tree: "/srv/copy" }, limits: {}, keepHistory: true, adopts: false },
    this.disk,
    join(this.#directory, "replica.db"),
    undefined,
  );

  [Symbol.dispose](): void {
    this.node.close();
    this.primary.catalog.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  async follow(): Promise<void> {
    await cutInto(this.primary, [sinkInto(this.node.context, this.node.receiver)]);
    this.node.commit();
    this.node.apply();
  }

  change(round: number): void {
    for (let at = 0; at < 120; at++)
      this.source.write(`many ${at % 2 === 0 ? round : ""} ${at}`, Buffer.alloc(200, round));
    this.source.remove(`gone ${round - 1}`);
    this.source.write(`gone ${round}`, "there for one cut only");
  }

  expectEqual(what: string): void {
    expect(treeDifference(this.disk.tree("/srv/copy"), modelTree(this.source.nodes)), what).to.equal(undefined);
    expect(hex(this.node.catalog.standing.digest), what).to.equal(hex(this.primary.catalog.standing.digest));
  }
}

async function failure(of: () => Promise<void>): Promise<unknown> {
  try {
    await of();
    return undefined;
  } catch (error) {
    return error;
  }
}

describe("a catalog that is full", function () {
  this.timeout(60_000);

  it("on the primary drops the cut, wherever it is met, and the next one is right", async () => {
    let met = 0;
    for (let pages = 0; pages < pagesMax; pages += pagesStep) {
      using pair = new Pair();
      pair.change(1);
      await pair.follow();
      pair.change(2);
      leavePages(pair.primary.catalog, pages);
      const error = await failure(async () => await pair.follow());
      leaveAll(pair.primary.catalog);
      if (error !== undefined) {
        met++;
        expect(catalogProblem(error), `${pages} pages`).to.be.instanceof(CatalogFull);
        expect(pair.primary.catalog.standing.committed.seq, `${pages} pages`).to.equal(1n);
        pair.node.endSession();
      }
      // What the dropped cut had found is gone again before the next one looks.
      pair.change(3);
      await pair.follow();
      pair.expectEqual(`${pages} pages`);
    }
    expect(met).to.be.above(2);
  });

  it("on the replica refuses the cut, wherever it is met, keeps the old one, and takes the next", async () => {
    let met = 0;
    for (let pages = 0; pages < pagesMax; pages += pagesStep) {
      using pair = new Pair();
      pair.change(1);
      await pair.follow();
      const before = pair.disk.tree("/srv/copy");
      pair.change(2);
      leavePages(pair.node.catalog, pages);
      const sink = sinkInto(pair.node.context, pair.node.receiver);
      let error: unknown;
      await cutInto(pair.primary, [
        {
          ...sink,
          send: async (message, payload) => {
            try {
              await sink.send(message, payload);
            } catch (refused) {
              error ??= refused;
              throw refused;
            }
          },
        },
      ]);
      error ??= await failure(async () => {
        pair.node.commit();
        pair.node.apply();
      });
      if (error !== undefined) {
        met++;
        expect(catalogProblem(error), `${pages} pages`).to.be.instanceof(CatalogFull);
        const { committed, applied, applying } = pair.node.catalog.standing;
        if (applied === 1n && applying === undefined)
          expect(treeDifference(pair.disk.tree("/srv/copy"), before), `${pages} pages`).to.equal(undefined);
        pair.node.endSession();
        leaveAll(pair.node.catalog);
        pair.node.apply();
        expect(pair.node.catalog.standing.applied, `${pages} pages`).to.equal(committed.seq);
      }
      leaveAll(pair.node.catalog);
      pair.change(3);
      await pair.follow();
      pair.expectEqual(`${pages} pages`);
    }
    expect(met).to.be.above(2);
  });

  it("takes back what a transaction has written, and goes on when there is room", () => {
    const directory = mkdtempSync(join(tmpdir(), "understudy-full-"));
    try {
      using catalog = new Catalog(join(directory, "catalog.db"));
      leavePages(catalog, 1);
      const write = (): void =>
        catalog.transaction("stores", () => {
          for (let at = 0; at < 1000; at++) catalog.event("test.filled", { text: "x".repeat(100) }, at);
          catalog.stand({ halted: "full" });
        });
      let error: unknown;
      try {
        write();
      } catch (full) {
        error = full;
      }
      expect(catalogProblem(error)).to.be.instanceof(CatalogFull).with.property("remedy", "retry");
      expect(catalog.inTransaction).to.equal(false);
      expect(catalog.standing.halted).to.equal("");
      expect(catalog.get("SELECT count(*) AS n FROM events")?.n).to.equal(0);
      leaveAll(catalog);
      write();
      expect(catalog.standing.halted).to.equal("full");
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});
