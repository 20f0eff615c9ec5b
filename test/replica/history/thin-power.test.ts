import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { applyNext, recoverApply } from "../../../replica/apply/apply.ts";
import { restore } from "../../../replica/history/restore.ts";
import { dropPoints, recoverThinning } from "../../../replica/history/thin.ts";
import type { ReplicaContext } from "../../../replica/replica-context.ts";
import type { CommitObserver } from "../../../shared/catalog/catalog.ts";
import type { Disk } from "../../../shared/ports/disk.ts";
import type { Seq } from "../../../shared/words.ts";
import type { Tree } from "../../crash/disk-tree.ts";
import { seededRandom } from "../../crash/seeded-random.ts";
import { PowerLoss, powerLossModes, SimulatedDisk } from "../../crash/simulated-disk.ts";
import { commit, cutInto, openPrimary, openReplica, receiverOf, sinkInto } from "../../model/in-process.ts";
import { ModelSource } from "../../model/model-store.ts";

const never = new AbortController().signal;
const bytes = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);

/** A replica with six points on a disk that forgets, the catalog at its contract: what was committed survives. */
class World {
  readonly directory = mkdtempSync(join(tmpdir(), "understudy-thin-"));
  readonly disk = new SimulatedDisk();
  points: Seq[] = [];
  #count = 0;

  get database(): string {
    return join(this.directory, "built.db");
  }

  open(disk: Disk, database: string, observer: CommitObserver = () => {}): ReplicaContext {
    return openReplica(database, disk, { tree: "/srv/copy" }, { observer });
  }

  async build(): Promise<void> {
    const source = new ModelSource();
    const primary = openPrimary(join(this.directory, "primary.db"), { tree: source.adapter() });
    this.disk.writeTree("/srv", {});
    this.disk.writeTree("/restored", {});
    this.disk.settle();
    const replica = this.open(this.disk, this.database);
    const receiver = receiverOf(replica);
    for (let value = 1; value < 7; value++) {
      source.write("file", bytes(30_000, value));
      if (value % 2 === 0) source.write("file", bytes(3000, value + 10), value * 3000);
      source.write(`dies${value}`, bytes(5000, value));
      if (value > 1) source.remove(`dies${value - 1}`);
      source.write("wide", bytes(4096, value), value * 8192);
      await cutInto(primary, [sinkInto(replica, receiver)]);
      commit(replica, receiver);
      if (value % 3 === 0) while (applyNext(replica, true) !== undefined);
    }
    this.points = replica.catalog.cuts("point").map((record) => record.cut.seq);
    close(replica);
    primary.catalog.close();
    this.disk.settle();
  }

  copyOf(database: string): string {
    const copy = join(this.directory, `copy${++this.#count}.db`);
    copyFileSync(database, copy);
    return copy;
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}

function close(replica: ReplicaContext): void {
  for (const home of replica.homes.values()) home.close();
  // Everything into the one file, so that it can be copied.
  replica.catalog.db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
  replica.catalog.close();
}

async function restoredTree(replica: ReplicaContext, disk: SimulatedDisk, at: Seq): Promise<Tree> {
  // On a copy of the disk, so that the next one finds an empty place.
  const aside = disk.clone();
  await restore({ ...replica, disk: aside }, { at, to: "/restored" }, () => {}, never);
  return withoutDirectoryTimes(aside.tree("/restored/tree"));
}

function withoutDirectoryTimes(tree: Tree): Tree {
  if (tree.type !== "directory") return tree;
  const entries = Object.entries(tree.entries).map(([name, inner]) => [name, withoutDirectoryTimes(inner)] as const);
  return { ...tree, mtimeUs: 0, entries: Object.fromEntries(entries) };
}

describe("thinning and the power", () => {
  it("loses no point and leaves no rubbish wherever the power fails, whatever the disk then forgets", async function () {
    this.timeout(120_000);
    const world = new World();
    try {
      await world.build();
      const before = new Map<Seq, Tree>();
      {
        const disk = world.disk.afterPowerLoss("keep-all", Math.random);
        const replica = world.open(disk, world.copyOf(world.database));
        for (const at of world.points) before.set(at, await restoredTree(replica, disk, at));
        close(replica);
      }
      const dropped = [world.points[0]!, world.points[2]!, world.points[3]!];
      const kept = world.points.filter((at) => !dropped.includes(at));
      const whole = world.open(world.disk.afterPowerLoss("keep-all", Math.random), world.copyOf(world.database));
      dropPoints(whole, dropped, new Set());
      const wanted = rowsOf(whole);
      close(whole);
      const met = new Set<string>();
      let powerFailed = true;
      for (let stop = 1; powerFailed; stop++) {
        const random = seededRandom(stop);
        const disk = world.disk.afterPowerLoss("keep-all", random);
        const database = world.copyOf(world.database);
        let left = 0;
        const step = (what: string): void => {
          if (left === 0 || --left > 0) return;
          met.add(what);
          throw new PowerLoss(what);
        };
        const replica = world.open(disk, database, (when, purpose) => step(`${when} ${purpose}`));
        disk.onOperation = ({ when, kind }) => step(`${when} ${kind}`);
        left = stop;
        powerFailed = false;
        try {
          dropPoints(replica, dropped, new Set());
        } catch (error) {
          if (!(error instanceof PowerLoss)) throw error;
          powerFailed = true;
        }
        left = 0;
        disk.onOperation = undefined;
        replica.catalog.rollback();
        replica.catalog.db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
        replica.catalog.close();
        for (const mode of ["lose-all", powerLossModes[1 + (stop % 4)]!] as const) {
          const after = disk.afterPowerLoss(mode, random);
          const again = world.open(after, world.copyOf(database));
          recoverApply(again);
          recoverThinning(again);
          for (const record of again.catalog.cuts("point")) {
            const { seq } = record.cut;
            expect(await restoredTree(again, after, seq), `${stop} ${mode}: point ${seq}`).to.deep.equal(
              before.get(seq),
            );
          }
          dropPoints(again, dropped, new Set());
          expect(again.catalog.cuts("point").map((record) => record.cut.seq)).to.deep.equal(kept);
          for (const seq of kept) expect(await restoredTree(again, after, seq)).to.deep.equal(before.get(seq));
          expect(rowsOf(again)).to.deep.equal(wanted);
          expectOnlyKnownFiles(again);
          close(again);
        }
      }
      for (const what of ["thin", "history", "unlink", "create", "write", "syncFile", "syncDirectory"]) {
        expect(met).to.include(`before ${what}`).and.to.include(`after ${what}`);
      }
    } finally {
      world.remove();
    }
  });
});

function rowsOf({ catalog }: ReplicaContext): string[] {
  const keys = {
    path_versions: "store, dir, name, birth",
    object_versions: "object, birth",
    run_versions: "object, run, birth",
    images: "object, offset, died",
    kept: "object",
    seen: "object",
    standing: "key",
  };
  return Object.entries(keys).flatMap(([table, key]) =>
    catalog
      .all(`SELECT ${key} FROM ${table} ORDER BY ${key}`)
      .map((row) => `${table} ${Object.values(row).join(" ")}`)
      // How often a history file was written anew depends on where the power failed.
      .filter((row) => row !== "standing historyRewritten"),
  );
}

function expectOnlyKnownFiles({ catalog, disk, homes }: ReplicaContext): void {
  for (const home of homes.values()) {
    const history = catalog.all("SELECT DISTINCT file FROM images").map((row) => `h${row.file}`);
    expect(disk.list(home.history).sort()).to.deep.equal(history.sort());
    for (const name of history) {
      const live = Number(catalog.get("SELECT sum(length) AS n FROM images WHERE file = ?", Number(name.slice(1)))?.n);
      expect(live * 2, name).to.be.at.least(disk.stat(home.history, name)!.size);
    }
    const kept = catalog.all("SELECT object FROM kept").map((row) => `o${row.object}`);
    expect(disk.list(home.kept).sort()).to.deep.equal(kept.sort());
  }
}
