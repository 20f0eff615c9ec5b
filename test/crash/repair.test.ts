import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { CopyView } from "../../replica/history/view.ts";
import type { Catalog, CommitObserver } from "../../shared/catalog/catalog.ts";
import { explain, UnderstudyError } from "../../shared/errors.ts";
import { contentsOf } from "./adopted-cut.ts";
import { type Tree, treeDifference } from "./disk-tree.ts";
import { type Change, newestTag, type RecordedCut, recordCuts } from "./recorded-cuts.ts";
import { ReplicaNode } from "./replica-node.ts";
import { realProgram } from "./replica-program.ts";
import { seededRandom } from "./seeded-random.ts";
import { type PowerLossMode, SimulatedDisk } from "./simulated-disk.ts";

const copy = "/srv/tree/copy";
const modes = ["lose-all", "killed", "reordered", "keep-all"] as const;
/** Every point with every mode; else they take turns. */
const soak = Number(process.env.UNDERSTUDY_CRASH_SEEDS ?? 1) > 1;

const changes: readonly Change[] = [
  ({ tree }, text) => {
    tree!.makeDirectory("dir");
    tree!.write("written", text(6 * 4096));
    tree!.write("removed", text(2 * 4096 + 50));
    tree!.write("replaced", text(300));
    tree!.write("touched", text(5000));
    tree!.write("empty", "");
    tree!.write("two names", text(100));
    tree!.link("two names", "dir/second name");
    tree!.write("dir/inside", text(3 * 4096));
    tree!.write("dying", text(200));
    tree!.symlink("link", "dir/inside");
  },
  ({ tree }, text) => {
    tree!.write("written", text(4096), 2 * 4096);
    tree!.write("removed", text(100));
  },
  // The primary does not know yet.
  ({ tree }, text) => {
    tree!.write("fine", text(700));
    tree!.write("written", text(4096), 3 * 4096);
    tree!.remove("dying");
  },
  ({ tree }, text) => {
    tree!.truncate("written", 5 * 4096);
    tree!.rename("replaced", "renamed");
    tree!.write("fine", text(50), 100);
  },
  ({ tree }, text) => {
    tree!.write("written", text(5000), 1000);
    tree!.write("removed", text(60), 4096);
    tree!.write("dir/inside", text(60));
  },
];
const asked = ["written", "removed", "replaced", "dir/inside"];
const repairCut = 4;

/** What somebody else wrote: it is somewhere for good. */
const foreign = {
  written: `${"by a stranger ".repeat(400)}`,
  replaced: "another file",
  extra: "nobody asked for this",
  dying: "written into what dies",
  "in the way": "where a directory was",
};

function spoil(disk: SimulatedDisk, first: Tree): void {
  if (first.type !== "directory") throw new Error("the copy is a directory");
  const written = first.entries.written;
  if (written?.type !== "file") throw new Error("it is a file");
  // The block that nobody changes.
  const bytes = Buffer.from(written.bytes);
  bytes.write(foreign.written.slice(0, 4096), 4096, "latin1");
  disk.writeTree(copy, { written: { type: "file", bytes } });
  for (const name of ["removed", "replaced", "dir", "link", "empty"]) disk.removeTree(copy, name);
  disk.writeTree(copy, { replaced: foreign.replaced, extra: foreign.extra, dir: foreign["in the way"] });
  disk.writeTree(copy, { dying: foreign.dying });
  const touched = first.entries.touched;
  if (touched?.type === "file") disk.writeTree(copy, { touched: { type: "file", bytes: touched.bytes, mode: 0o600 } });
}

interface Point {
  readonly where: string;
  readonly disk: SimulatedDisk;
  readonly catalog: Buffer;
  readonly acknowledged: bigint;
}

describe("a repair, with a crash at every operation", function () {
  this.timeout(600_000);
  const directory = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "understudy-repair-"));
  let cuts: readonly RecordedCut[];
  let nodes = 0;

  before(async () => {
    cuts = await recordCuts(["tree"], changes, new Map([[repairCut, asked]]));
  });
  after(() => rmSync(directory, { recursive: true, force: true }));

  function start(
    disk: SimulatedDisk,
    setting: { keepHistory: boolean; singleSyncsMax: number },
    image?: Buffer,
    observer?: (catalog: Catalog) => CommitObserver,
  ): ReplicaNode {
    const path = join(directory, `${nodes++}.db`);
    if (image !== undefined) writeFileSync(path, image);
    const limits = { inlineBytesMax: 8192, singleSyncsMax: setting.singleSyncsMax };
    const { keepHistory } = setting;
    return new ReplicaNode(
      { program: realProgram, copies: { tree: copy }, limits, keepHistory, adopts: false },
      disk,
      path,
      observer,
    );
  }

  function applyOrWait(node: ReplicaNode): void {
    try {
      node.apply();
    } catch (error) {
      if (!(error instanceof UnderstudyError) || error.code !== "FOREIGN_CHANGE") throw error;
    }
  }

  for (const setting of [
    { name: "syncing one by one", keepHistory: true, singleSyncsMax: 64, stride: soak ? 1 : 2 },
    { name: "syncing whole filesystems", keepHistory: true, singleSyncsMax: 0, stride: soak ? 1 : 4 },
    { name: "without history", keepHistory: false, singleSyncsMax: 64, stride: soak ? 1 : 4 },
  ]) {
    it(`ends with the primary's files and with everything of the stranger's, ${setting.name}`, () => {
      const points = record(setting);
      expect(points.length).to.be.above(100);
      let states = 0;
      for (const [index, point] of points.entries()) {
        for (const [turn, mode] of modes.entries()) {
          if (turn % setting.stride !== index % setting.stride) continue;
          states++;
          try {
            recover(point, mode, index, setting);
          } catch (error) {
            throw new Error(`point ${index}, ${point.where}, ${mode}: ${explain(error)}`, { cause: error });
          }
        }
      }
      console.log(`      ${points.length} points, ${states} crashes`);
    });
  }

  function record(setting: { keepHistory: boolean; singleSyncsMax: number }): Point[] {
    const points: Point[] = [];
    const disk = new SimulatedDisk({ mounts: [{ path: "/srv/tree" }] });
    let image = Buffer.alloc(0);
    let acknowledged = 0n;
    let recording = false;
    let stage = "";
    const now = (what: string): void => {
      if (recording) points.push({ where: `${stage}: ${what}`, disk: disk.clone(), catalog: image, acknowledged });
    };
    const node = start(disk, setting, undefined, (catalog) => (when, purpose) => {
      if (when === "before") now(`catalog commit ${purpose}`);
      else {
        catalog.db.prepare("PRAGMA wal_checkpoint(TRUNCATE)").get();
        image = readFileSync(catalog.db.location()!);
      }
    });
    disk.onOperation = ({ kind, detail, when }) => {
      if (when === "before") now(`${kind} ${detail}`);
    };
    try {
      const take = (number: number): void => {
        stage = `cut ${number}`;
        node.receive(cuts[number - 1]!);
        acknowledged = node.commit().seq;
        applyOrWait(node);
      };
      take(1);
      take(2);
      disk.asStranger(() => spoil(disk, cuts[1]!.trees.tree!));
      disk.settle();
      recording = true;
      // It is found half by the cut that comes to it, and then by the sweep.
      take(3);
      stage = "sweep";
      node.look();
      take(repairCut);
      stage = "second sweep";
      node.look();
      take(5);
      now("end");
      judge(node, setting);
    } finally {
      node.close();
    }
    return points;
  }

  function recover(
    point: Point,
    mode: PowerLossMode | "killed",
    seed: number,
    setting: { keepHistory: boolean; singleSyncsMax: number },
  ): void {
    const disk = mode === "killed" ? point.disk.clone() : point.disk.afterPowerLoss(mode, seededRandom(seed));
    const node = start(disk, setting, point.catalog);
    try {
      nothingNewer(disk.tree(copy), node.catalog.standing.applying?.to ?? node.applied);
      expect(node.catalog.standing.committed.seq >= point.acknowledged, "what was acknowledged is there").to.equal(
        true,
      );
      applyOrWait(node);
      node.look();
      for (const cut of cuts) {
        if (cut.cut.seq <= node.catalog.standing.committed.seq) continue;
        node.receive(cut);
        node.commit();
        applyOrWait(node);
        node.look();
      }
      applyOrWait(node);
      node.look();
      judge(node, setting);
    } finally {
      node.close();
    }
  }

  function judge(node: ReplicaNode, setting: { keepHistory: boolean }): void {
    const { catalog, context } = node;
    const { standing } = catalog;
    expect(standing.suspect).to.equal("");
    expect(standing.applied).to.equal(cuts.at(-1)!.cut.seq);
    const disk = context.disk as SimulatedDisk;
    expect(treeDifference(disk.tree(copy), cuts.at(-1)!.trees.tree!)).to.equal(undefined);
    const there = [...contentsOf(disk.tree("/srv/tree"))];
    for (const text of [
      foreign.replaced,
      foreign.extra,
      foreign.dying,
      foreign["in the way"],
      foreign.written.slice(0, 4096),
    ])
      expect(
        there.some((content) => content.includes(text)),
        `${text.slice(0, 30)} is kept`,
      ).to.equal(true);
    if (!setting.keepHistory) return;
    for (const { cut } of catalog.cuts("point")) {
      using view = new CopyView(context, cut.seq);
      for (const { path, object } of context.manifest.entries(1, cut.seq)) {
        if (object.type !== "file" || object.size === 0) continue;
        if (path === "dying") {
          // It died before its bytes could come back.
          expect(() => view.open(object, 1)).to.throw("gone");
          continue;
        }
        using file = view.open(object, 1);
        for (const { badBlock } of file.checked()) expect(badBlock, `${path} in point ${cut.seq}`).to.equal(undefined);
      }
    }
    expect(catalog.cuts("point")).to.have.length(cuts.length);
  }

  function nothingNewer(tree: Tree, to: bigint): void {
    if (tree.type === "file") expect(newestTag(tree.bytes) <= Number(to), "no byte of a newer cut").to.equal(true);
    if (tree.type === "directory") for (const inner of Object.values(tree.entries)) nothingNewer(inner, to);
  }
});
