import { linkSync, mkdirSync, mkdtempSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import { anyTouched } from "../../../shared/catalog/collapse.ts";
import { hex } from "../../../shared/manifest/digest.ts";
import { describeTree } from "../../model/describe-tree.ts";
import { SwapNode } from "./swap-node.ts";

describe("an ex-primary that becomes a replica where it stands", function () {
  this.timeout(60_000);
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-demote-"));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  it("knows every file as its own, and follows with nothing copied, there and back again", async () => {
    await using alpha = new SwapNode(directory, "alpha");
    await using bravo = new SwapNode(directory, "bravo");
    mkdirSync(join(alpha.tree, "docs"), { recursive: true });
    writeFileSync(join(alpha.tree, "docs", "first"), "x".repeat(20_000));
    linkSync(join(alpha.tree, "docs", "first"), join(alpha.tree, "linked"));
    symlinkSync("docs/first", join(alpha.tree, "symlink"));
    write(alpha.database, 0);
    alpha.form();
    bravo.join();
    await alpha.reign();
    await alpha.cut(bravo);
    let [primary, replica]: [SwapNode, SwapNode] = [alpha, bravo];
    for (let round = 1; round <= 10; round++) {
      const inode = statSync(join(primary.tree, "docs", "first")).ino;
      write(primary.database, round);
      writeFileSync(join(primary.tree, "docs", "first"), `${round}`, { flag: "r+" });
      writeFileSync(join(primary.tree, `new-${round}`), `of ${round}`);
      if (round > 2) renameSync(join(primary.tree, `new-${round - 1}`), join(primary.tree, "docs", `old-${round - 1}`));
      const last = await primary.cut(replica);
      replica.promote();
      const { touched, settled } = await primary.demote(last);
      expect(touched).to.deep.equal({ paths: 0, objects: 0, blocks: 0 });
      expect(settled.damaged).to.deep.equal([]);
      primary.openReplica();
      expect(primary.catalog.standing).to.include({ role: "replica", suspect: "", applied: last.seq });
      expect(primary.catalog.standing.committed).to.deep.equal(last);
      expect(primary.strangers()).to.deep.equal([]);
      const verified = await primary.verify();
      expect(verified.differences).to.deep.equal([]);
      expect(verified.digestEqual).to.equal(true);
      expect(statSync(join(primary.tree, "docs", "first")).ino, "the very file").to.equal(inode);

      [primary, replica] = [replica, primary];
      await primary.reign();
      replica.follow(primary);
      writeFileSync(join(primary.tree, "linked"), `after ${round}`, { flag: "r+" });
      const cut = await primary.cut(replica);
      expect(replica.catalog.standing.committed).to.deep.equal(cut);
      expect(hex(replica.catalog.standing.digest)).to.equal(hex(primary.catalog.standing.digest));
      expect(withoutTimes(describeTree(replica.tree))).to.deep.equal(withoutTimes(describeTree(primary.tree)));
      expect(statSync(join(replica.tree, "docs", "first")).ino, "written in place").to.equal(inode);
      expect((await replica.verify()).differences).to.deep.equal([]);
      expect(rows(replica.database, "copy")).to.equal(round + 1);
    }
    expect(anyTouched(alpha.catalog)).to.equal(false);
  });
});

function write(path: string, number: number): void {
  const db = new DatabaseSync(path);
  db.exec("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t (n INTEGER, filler BLOB)");
  db.prepare("INSERT INTO t VALUES (?, randomblob(3000))").run(number);
  db.close();
}

/** Of a copy: opened as if it were somebody else's, and closed without a trace. */
function rows(path: string, _: "copy"): number {
  const url = new URL(`file://${path}`);
  url.search = "immutable=1";
  const db = new DatabaseSync(url, { readOnly: true });
  try {
    return Number(db.prepare("SELECT count(*) AS n FROM t").get()?.n);
  } finally {
    db.close();
  }
}

function withoutTimes(tree: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(tree).filter(([path]) => path !== ""));
}
