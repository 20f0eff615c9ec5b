import {
  closeSync,
  existsSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import { anyTouched } from "../../../shared/catalog/collapse.ts";
import { hex } from "../../../shared/manifest/digest.ts";
import { seededRandom } from "../../crash/seeded-random.ts";
import { describeTree } from "../../model/describe-tree.ts";
import { SwapNode } from "./swap-node.ts";

describe("an ex-primary that becomes a replica where it stands", function () {
  this.timeout(120_000);
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "understudy-demote-"));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  for (const [rounds, kinds] of [
    [10, ["files"]],
    [3, ["files", "sqlite"]],
  ] as const) {
    it(`knows every file as its own, and follows with nothing copied, there and back (${kinds.join(", ")})`, async () => {
      await thereAndBack(rounds, kinds);
    });
  }

  async function thereAndBack(rounds: number, kinds: readonly ("files" | "sqlite")[]): Promise<void> {
    await using alpha = new SwapNode(directory, "alpha", { kinds });
    await using bravo = new SwapNode(directory, "bravo", { kinds });
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
    for (let round = 1; round <= rounds; round++) {
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
      if (kinds.includes("sqlite")) expect(rows(replica.database)).to.equal(round + 1);
    }
    expect(anyTouched(alpha.catalog)).to.equal(false);
  }

  it("brings a fork to the primary's history by what is touched, whatever both sides did, again and again", async () => {
    const seed = Number(process.env.UNDERSTUDY_SEED ?? Math.floor(Math.random() * 2 ** 31));
    const chance = seededRandom(seed);
    const random = (below: number): number => Math.floor(chance() * below);
    await using alpha = new SwapNode(directory, "alpha");
    await using bravo = new SwapNode(directory, "bravo");
    mkdirSync(alpha.tree, { recursive: true });
    writeFileSync(join(alpha.tree, "big"), "b".repeat(900_000));
    write(alpha.database, 0);
    alpha.form();
    bravo.join();
    await alpha.reign();
    let common = await alpha.cut(bravo);
    let [primary, replica]: [SwapNode, SwapNode] = [alpha, bravo];
    for (let round = 1; round <= 5; round++) {
      const words = `seed ${seed}, round ${round}`;
      for (let cuts = random(3); cuts > 0; cuts--) {
        change(primary, random, `fork ${round}`);
        await primary.cut();
      }
      replica.promote();
      await replica.reign();
      if (random(2) === 0) change(replica, random, `reign ${round}`);
      const own = primary.catalog.standing.committed;
      const { touched } = await primary.demote(common);
      expect(touched.paths + touched.objects > 0, words).to.equal(own.seq > common.seq);
      [primary, replica] = [replica, primary];
      replica.openReplica();
      expect(replica.strangers(), words).to.deep.equal([]);
      replica.follow(primary);
      common = await primary.cut(replica);
      expect(replica.catalog.standing, words).to.include({ applied: common.seq, suspect: "" });
      expect(replica.catalog.standing.committed, words).to.deep.equal(common);
      expect(anyTouched(replica.catalog), words).to.equal(false);
      expect(hex(replica.catalog.standing.digest), words).to.equal(hex(primary.catalog.standing.digest));
      expect(replica.strangers(), words).to.deep.equal([]);
      expect((await replica.verify()).differences, words).to.deep.equal([]);
      expect(withoutTimes(describeTree(replica.tree)), words).to.deep.equal(withoutTimes(describeTree(primary.tree)));
      expect(rows(replica.database), words).to.equal(rows(primary.database, "live"));
    }
  });
});

function change({ tree, database }: SwapNode, random: (below: number) => number, text: string): void {
  for (let step = 1 + random(5); step > 0; step--) {
    const path = join(tree, `p${random(6)}`);
    const other = join(tree, `p${random(6)}`);
    const there = existsSync(path);
    switch (random(7)) {
      case 0:
        write(database, step);
        break;
      case 1:
        rmSync(path, { recursive: true, force: true });
        break;
      case 2:
        if (there && !existsSync(other)) renameSync(path, other);
        break;
      case 3:
        if (there && !existsSync(other) && statSync(path).isFile()) linkSync(path, other);
        break;
      case 4:
        if (!there) mkdirSync(path);
        else if (statSync(path).isDirectory()) writeFileSync(join(path, `in ${random(3)}`), `${text} ${step}`);
        break;
      case 5: {
        const big = openSync(join(tree, "big"), "r+");
        if (random(3) === 0) ftruncateSync(big, random(900_000));
        else writeSync(big, text, random(900_000));
        closeSync(big);
        break;
      }
      default:
        if (!there || statSync(path).isFile()) writeFileSync(path, `${text} ${step}`.repeat(1 + random(4000)));
    }
  }
}

function write(path: string, number: number): void {
  const db = new DatabaseSync(path);
  db.exec("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t (n INTEGER, filler BLOB)");
  db.prepare("INSERT INTO t VALUES (?, randomblob(3000))").run(number);
  db.close();
}

/** Of a copy: opened as if it were somebody else's, and closed without a trace. */
function rows(path: string, how: "copy" | "live" = "copy"): number {
  const url = new URL(`file://${path}`);
  if (how === "copy") url.search = "immutable=1";
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
