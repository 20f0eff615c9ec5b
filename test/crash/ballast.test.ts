import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { applyWithBallast, CopyFull, makeBallast, releaseBallast } from "../../replica/apply/ballast.ts";
import { SyncFailed } from "../../replica/sync.ts";
import { treeDifference } from "./disk-tree.ts";
import { type RecordedCut, recordCuts } from "./recorded-cuts.ts";
import { ReplicaNode } from "./replica-node.ts";
import { realProgram } from "./replica-program.ts";
import { seededRandom } from "./seeded-random.ts";
import { type PowerLossMode, SimulatedDisk } from "./simulated-disk.ts";

const chunk = 4096;
const ballastBytes = 24 * chunk;
const homePath = "/srv/.understudy/app.tree";

/** A replica on a small disk, with one cut applied and one committed. */
class Replica {
  readonly #directory = mkdtempSync(join(tmpdir(), "understudy-ballast-"));
  readonly #cuts: readonly RecordedCut[];
  #starts = 0;
  disk: SimulatedDisk;
  node: ReplicaNode;

  constructor(cuts: readonly RecordedCut[], capacityBytes = 500 * chunk) {
    this.#cuts = cuts;
    this.disk = new SimulatedDisk({ mounts: [{ path: "/srv", capacityBytes }] });
    this.node = this.#start(undefined);
    this.node.receive(cuts[0]!);
    this.node.commit();
    this.node.apply();
  }

  [Symbol.dispose](): void {
    this.node.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  #start(catalog: Buffer | undefined): ReplicaNode {
    const path = join(this.#directory, `${this.#starts++}.db`);
    if (catalog !== undefined) writeFileSync(path, catalog);
    return new ReplicaNode(
      {
        program: realProgram,
        copies: { tree: "/srv/copy" },
        limits: { ballastBytes, inlineBytesMax: 8192 },
        keepHistory: true,
        adopts: false,
      },
      this.disk,
      path,
      undefined,
    );
  }

  commitSecond(): void {
    this.node.receive(this.#cuts[1]!);
    this.node.commit();
  }

  makeBallast(): void {
    for (const _ of makeBallast(this.node.context));
  }

  get ballast(): number {
    const home = this.disk.tree(homePath);
    const file = home.type === "directory" ? home.entries.ballast : undefined;
    return file?.type === "file" ? file.bytes.length : 0;
  }

  /** Somebody else takes all the room that is left but for so many chunks. */
  fill(left: number): void {
    const free = this.node.context.disk.freeBytes([...this.node.context.homes.values()][0]!.home);
    this.disk.writeTree("/srv/filler", { file: new Uint8Array(free - (left + 1) * chunk) });
  }

  restart(mode: PowerLossMode, seed: number): void {
    this.node.catalog.db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    const catalog = readFileSync(this.node.catalog.db.location()!);
    this.node.close();
    this.disk = this.disk.afterPowerLoss(mode, seededRandom(seed));
    this.node = this.#start(catalog);
  }

  apply(): void {
    while (applyWithBallast(this.node.context, true) !== undefined);
  }

  expectCut(number: number): void {
    const { trees } = this.#cuts[number - 1]!;
    expect(treeDifference(this.disk.tree("/srv/copy"), trees.tree!)).to.equal(undefined);
    expect(Number(this.node.applied)).to.equal(number);
  }
}

describe("the ballast", () => {
  let cuts: readonly RecordedCut[];
  before(async () => {
    cuts = await recordCuts(
      ["tree"],
      [
        ({ tree }, text) => tree!.write("a", text(8 * chunk)),
        ({ tree }, text) => {
          tree!.write("a", text(8 * chunk));
          tree!.write("b", text(100));
          tree!.makeDirectory("c");
        },
      ],
    );
  });

  it("is there in full, and gives an apply the room that somebody else has taken", () => {
    for (let left = 0; left < 12; left++) {
      using replica = new Replica(cuts);
      replica.makeBallast();
      expect(replica.ballast).to.equal(ballastBytes);
      replica.commitSecond();
      replica.fill(left);
      replica.apply();
      replica.expectCut(2);
      if (left < 8) expect(replica.ballast, `${left} chunks were left`).to.equal(0);
      // There is no plenty of room before the other one is gone.
      replica.makeBallast();
      if (left < 8) expect(replica.ballast).to.equal(0);
      replica.disk.removeTree("/srv/filler", "file");
      replica.makeBallast();
      expect(replica.ballast).to.equal(ballastBytes);
    }
  });

  it("is not made where there is no plenty of room; an apply then waits for room, and ends when there is some", () => {
    for (let left = 0; left < 8; left++) {
      using replica = new Replica(cuts, 200 * chunk);
      replica.makeBallast();
      expect(replica.ballast).to.equal(0);
      replica.commitSecond();
      replica.fill(left);
      expect(() => replica.apply()).to.throw(CopyFull);
      expect(() => replica.apply(), "asked again").to.throw(CopyFull);
      replica.disk.removeTree("/srv/filler", "file");
      replica.apply();
      replica.expectCut(2);
    }
  });

  it("does harm nowhere that the power fails while it is made, given back, and used", () => {
    using replica = new Replica(cuts);
    replica.makeBallast();
    const operations = replica.disk.operations;
    replica.commitSecond();
    replica.fill(3);
    replica.apply();
    const last = replica.disk.operations;
    for (let stop = operations; stop < last; stop++) {
      for (const mode of ["lose-all", "keep-all", "reordered"] as const) {
        using other = new Replica(cuts);
        other.makeBallast();
        other.commitSecond();
        other.disk.settle();
        other.fill(3);
        other.disk.settle();
        let stopped = false;
        other.disk.failWhen(({ index }) => {
          if (index < stop) return undefined;
          stopped = true;
          return "EIO";
        });
        try {
          other.apply();
        } catch (error) {
          if (!stopped) throw error;
        }
        other.disk.stopFailing();
        other.restart(mode, stop);
        other.apply();
        other.expectCut(2);
      }
    }
  });

  it("is completed when the power failed while it was made", () => {
    for (const mode of ["lose-all", "keep-all", "torn", "reordered", "prefix"] as const) {
      using replica = new Replica(cuts);
      const making = makeBallast(replica.node.context);
      making.next();
      replica.restart(mode, 1);
      replica.makeBallast();
      expect(replica.ballast, mode).to.equal(ballastBytes);
      replica.commitSecond();
      replica.apply();
      replica.expectCut(2);
    }
  });

  it("is given back, but the sync that failed for lack of room is not asked again", () => {
    using replica = new Replica(cuts);
    replica.makeBallast();
    replica.commitSecond();
    replica.disk.failNext("syncFile", "ENOSPC");
    expect(() => replica.apply()).to.throw(SyncFailed);
    expect(replica.ballast).to.equal(0);
    replica.restart("lose-all", 1);
    replica.apply();
    replica.expectCut(2);
  });

  it("is not filled any further when it was needed while it was made", () => {
    using replica = new Replica(cuts);
    const making = makeBallast({
      ...replica.node.context,
      limits: { ...replica.node.context.limits, ballastBytes: 26 * 1024 * 1024 },
      disk: Object.assign(Object.create(replica.disk) as SimulatedDisk, { freeBytes: () => 2 ** 40 }),
    });
    making.next();
    expect(releaseBallast(replica.node.context)).to.be.above(0);
    expect(making.next().done).to.equal(true);
    expect(replica.ballast).to.equal(0);
  });
});
