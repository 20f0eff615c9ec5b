import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { thinning } from "../../../replica/history/thin.ts";
import { beginAdoption } from "../../../replica/receive/adopt.ts";
import { seq } from "../../../shared/words.ts";
import { type Node, TwoNodes } from "../../model/two-nodes.ts";

function write(node: Node, text: string): void {
  writeFileSync(join(node.root, "file"), text);
}

function points(node: Node): number[] {
  return node.replica.catalog.cuts("point").map(({ cut }) => Number(cut.seq));
}

describe("thinning that is under way when a node gets another history", () => {
  it("takes none of the points that have their numbers then", async () => {
    await using nodes = await TwoNodes.start();
    const [alpha, bravo] = nodes.nodes;
    const charlie = await nodes.another("charlie");
    write(alpha, "common");
    for (const to of [bravo, charlie]) await alpha.ship(to);
    for (let value = 0; value < 6; value++) {
      write(alpha, `alpha ${value}`.repeat(100 + value));
      await alpha.ship(charlie);
    }
    expect(points(charlie)).to.deep.equal([1, 2, 3, 4, 5, 6, 7]);
    // In two runs, since one between them stays.
    const steps = thinning(charlie.replica, [2, 3, 5, 6].map(seq), new Set([seq(4)]));
    steps.next();
    expect(points(charlie)).to.deep.equal([1, 4, 5, 6, 7]);

    await bravo.promote();
    charlie.goBack(bravo);
    charlie.follow(bravo);
    for (let value = 0; value < 6; value++) {
      write(bravo, `bravo ${value}`.repeat(100 + value));
      await bravo.ship(charlie);
    }
    expect(points(charlie)).to.deep.equal([2, 3, 4, 5, 6, 7]);
    while (steps.next().done !== true);
    expect(points(charlie), "nobody has given up any of these").to.deep.equal([2, 3, 4, 5, 6, 7]);
  });

  it("ends where the node is adopted anew, also after a crash", async () => {
    await using nodes = await TwoNodes.start();
    const [alpha, bravo] = nodes.nodes;
    for (let value = 0; value < 6; value++) {
      write(alpha, `alpha ${value}`.repeat(100 + value));
      await alpha.ship(bravo);
    }
    const steps = thinning(bravo.replica, [2, 4].map(seq), new Set([seq(3)]));
    steps.next();
    beginAdoption(bravo.replica);
    const { catalog } = bravo.replica;
    expect(catalog.get("SELECT value FROM standing WHERE key = 'thinning'")).to.equal(undefined);
    expect(steps.next().done).to.equal(true);
  });
});
