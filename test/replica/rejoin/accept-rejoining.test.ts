import { closeSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { unseal } from "../../../replica/promote/promote.ts";
import { noteUnproven } from "../../../replica/receive/unproven.ts";
import { anyTouched } from "../../../shared/catalog/collapse.ts";
import { ownCutOf } from "../../../shared/catalog/touched.ts";
import { UnderstudyError } from "../../../shared/errors.ts";
import { hex } from "../../../shared/manifest/digest.ts";
import { wholeObject } from "../../../shared/wire/touched-list.ts";
import { cutText, type ObjectId, type StorePath } from "../../../shared/words.ts";
import { describeTree } from "../../model/describe-tree.ts";
import { type Node, TwoNodes } from "../../model/two-nodes.ts";

const page = 4096;

describe("a node that is promoted while it rejoins", () => {
  let pair: TwoNodes;
  let alpha: Node;
  let bravo: Node;
  let charlie: Node;
  /** Stands one cut further back than the common one. */
  let delta: Node;

  /**
   * All have cut 1; alpha, bravo and charlie have cut 2. Alpha goes on by itself, bravo is promoted without having heard of it, and
   * alpha has begun to rejoin.
   */
  beforeEach(async () => {
    pair = await TwoNodes.start();
    [alpha, bravo] = pair.nodes;
    charlie = await pair.another("charlie");
    delta = await pair.another("delta");
    write(alpha, "large", 300);
    for (const name of ["removed", "renamed", "shorter", "same"]) write(alpha, name, 3);
    for (const to of [bravo, charlie, delta]) await alpha.ship(to);
    writePage(alpha, "large", 7);
    for (const to of [bravo, charlie]) await alpha.ship(to);
    for (const at of [3, 200]) writePage(alpha, "large", at);
    write(alpha, "own", 1);
    rmSync(join(alpha.root, "removed"));
    await alpha.cut(0n);
    truncateSync(join(alpha.root, "shorter"), page);
    writeFileSync(join(alpha.root, "own"), "changed");
    await alpha.cut(0n);
    await bravo.promote();
    writePage(bravo, "large", 50);
    write(bravo, "bravo's own", 2);
    await bravo.cut(0n);
    await alpha.demote(bravo);
    alpha.follow(bravo);
  });
  afterEach(async () => {
    await pair[Symbol.asyncDispose]();
  });

  function write(node: Node, name: string, pages: number): void {
    writeFileSync(join(node.root, name), Buffer.alloc(pages * page, name));
  }

  function writePage(node: Node, name: string, at: number): void {
    const file = openSync(join(node.root, name), "r+");
    writeSync(file, Buffer.alloc(page, `${node.name} ${at}`), 0, page, at * page);
    closeSync(file);
  }

  function expectSame(node: Node): void {
    expect(describeTree(node.root)).to.deep.equal(describeTree(alpha.root));
    expect(hex(node.catalog.standing.digest)).to.equal(hex(alpha.catalog.standing.digest));
  }

  it("has a cut of its new reign, above all others and above the common one, that is what was here", async () => {
    const before = describeTree(alpha.root);
    const { digest, committed } = alpha.catalog.standing;
    const own = ownCutOf(alpha.catalog);
    expect(own === undefined ? undefined : cutText(own.cut)).to.equal("1.4");
    await alpha.promote("rejoining");
    const { standing } = alpha.catalog;
    expect(cutText(committed)).to.equal("1.2");
    // Bravo reigns in epoch 2, and of three members the next turn of the first one is 4.
    expect(cutText(standing.committed)).to.equal("4.3");
    expect(standing).to.include({ role: "primary", sealed: false, applied: 3n });
    expect(standing.epochs).to.deep.equal([
      { epoch: 1n, firstSeq: 1n },
      { epoch: 4n, firstSeq: 3n },
    ]);
    expect(hex(standing.digest)).to.equal(hex(digest));
    expect(alpha.catalog.cut(standing.committed.seq)).to.deep.include({
      state: "applied",
      takenAtUs: own?.takenAtUs,
      stores: own?.stores,
    });
    expect(describeTree(alpha.root)).to.deep.equal(before);
    expect(anyTouched(alpha.catalog)).to.equal(false);
    expect(ownCutOf(alpha.catalog)).to.equal(undefined);
    charlie.follow(alpha);
    const { taken } = await alpha.ship(charlie);
    expect(cutText(taken.cut), "its first view finds nothing that the cut had not").to.equal("4.3");
  });

  it("is followed from the common cut for just what it has otherwise, and from before it for that and what came before", async () => {
    await alpha.promote("rejoining");
    charlie.follow(alpha);
    const { bytes } = await alpha.ship(charlie);
    // Pages 3 and 200, and its own file; what was cut off is not sent.
    expect(bytes).to.equal(2 * page + "changed".length);
    expectSame(charlie);
    delta.follow(alpha);
    const more = await alpha.ship(delta);
    expect(more.bytes).to.equal(bytes + page);
    expectSame(delta);
    writePage(alpha, "large", 9);
    for (const to of [charlie, delta]) {
      expect((await alpha.ship(to)).bytes).to.equal(page);
      expectSame(to);
    }
  });

  it("is followed by the primary that it was to rejoin, whose cuts are a fork now", async () => {
    await alpha.promote("rejoining");
    expect(cutText(await bravo.demote(alpha))).to.equal("1.2");
    bravo.follow(alpha);
    await alpha.ship(bravo);
    expectSame(bravo);
    expect(anyTouched(bravo.catalog)).to.equal(false);
  });

  it("gives up what had come of the first cut, also what is staged", async () => {
    const died = await bravo
      .ship(alpha, { tamper: (message, payload) => (message.kind === "cutEnd" ? undefined : [message, payload]) })
      .then(
        () => "",
        (error: unknown) => String(error),
      );
    expect(died).to.include("no cut came whole");
    alpha.catalog.transaction("test", () =>
      alpha.catalog.run("INSERT INTO staged (object, store, seq, block_size) VALUES (99, 1, 3, 4096)"),
    );
    await alpha.promote("rejoining");
    expect(alpha.catalog.get("SELECT 1 AS found FROM staged")).to.equal(undefined);
    charlie.follow(alpha);
    await alpha.ship(charlie);
    expectSame(charlie);
  });

  it("is refused where nobody has accepted it, and rejoins on", async () => {
    const code = await alpha.promote().then(
      () => "none",
      (error: unknown) => (error instanceof UnderstudyError ? error.code : String(error)),
    );
    expect(code).to.equal("REJOINING");
    unseal(alpha.replica);
    await bravo.ship(alpha);
    expect(describeTree(alpha.root)).to.deep.equal(describeTree(bravo.root));
    expect(ownCutOf(alpha.catalog)).to.equal(undefined);
  });

  it("is followed by comparison only where what it knew to be otherwise was not all", async () => {
    noteUnproven(alpha.catalog, "test");
    // Noted for a reign that is over by now.
    alpha.follow(bravo);
    await alpha.promote("rejoining");
    const forgotten = alpha.catalog.get("SELECT value FROM standing WHERE key = 'forgotten'")?.value;
    expect(forgotten).to.equal(3);
  });

  it("knows what it has removed although it was forgotten meanwhile, and does not give a number twice", async () => {
    const dead = Number(alpha.catalog.get(`SELECT object FROM touched_blocks WHERE run = ${wholeObject}`)?.object);
    alpha.catalog.transaction("test", () => alpha.catalog.run("DELETE FROM path_versions WHERE object IS NULL"));
    await alpha.promote("rejoining");
    const { manifest } = alpha.primary;
    const { seq } = alpha.catalog.standing.committed;
    expect(manifest.objectAtPath(1, "removed" as StorePath, seq)).to.equal(undefined);
    expect(manifest.object(dead as ObjectId, seq)).to.equal(undefined);
    expect(alpha.catalog.get("SELECT type FROM object_versions WHERE object = ?", dead)?.type).to.equal(0);
    charlie.follow(alpha);
    await alpha.ship(charlie);
    expectSame(charlie);
  });

  it("has what it had of a cut before, where it went back further meanwhile", async () => {
    // Delta is promoted from cut 1, and alpha rejoins it instead.
    await delta.promote();
    expect(cutText(alpha.goBack(delta))).to.equal("1.1");
    alpha.follow(delta);
    expect(ownCutOf(alpha.catalog)?.cut.seq).to.equal(4n);
    await alpha.promote("rejoining");
    expect(alpha.catalog.standing.committed.seq).to.equal(2n);
    expect(charlie.goBack(alpha).seq).to.equal(1n);
    charlie.follow(alpha);
    await alpha.ship(charlie);
    expectSame(charlie);
  });
});
