import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import { createAdapter, placementOf, singleFilePath } from "../../../deploy/workers/store-adapters.ts";
import type { PrimaryContext } from "../../../primary/primary-context.ts";
import type { ForkRecord } from "../../../replica/rejoin/fork-bundle.ts";
import { dropFork, exportFork, listForks, showFork } from "../../../replica/rejoin/fork-shelf.ts";
import { type ForkRequest, type ForkSource, makeFork } from "../../../replica/rejoin/make-fork.ts";
import { keepForgottenUpTo } from "../../../shared/catalog/notes.ts";
import type { StoreOnNode } from "../../../shared/config/config.ts";
import { RealDisk } from "../../../shared/durable/real-disk.ts";
import { type CutId, type StoreName, seq } from "../../../shared/words.ts";
import type { Planted } from "../../crash/disk-tree.ts";
import { modelTree } from "../../crash/recorded-cuts.ts";
import { seededRandom } from "../../crash/seeded-random.ts";
import { PowerLoss, powerLossModes, SimulatedDisk } from "../../crash/simulated-disk.ts";
import { cutInto, openPrimary } from "../../model/in-process.ts";
import { ModelSource } from "../../model/model-store.ts";

const never = new AbortController().signal;
const promotion = { node: "bravo", epoch: 2n };
const blockBytes = 4096;

/** A primary of a real tree and a real database, cut at one common cut, and then written on. */
class ForkedNode implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), "us-fork-"));
  readonly disk = new RealDisk();
  readonly #adapters: Record<string, ReturnType<typeof createAdapter>>;
  readonly primary: PrimaryContext;
  readonly #stores: readonly StoreOnNode[];
  common: CutId | undefined;

  constructor() {
    mkdirSync(join(this.directory, "tree", "dir"), { recursive: true });
    this.sql("PRAGMA journal_mode=WAL; CREATE TABLE rows (text); INSERT INTO rows VALUES ('shipped')");
    const keys = {
      snapshot: undefined,
      list: undefined,
      trustWatcher: false,
      reflink: true,
      owners: "numeric",
    } as const;
    this.#stores = [
      { name: "db" as StoreName, kind: "sqlite", path: join(this.directory, "app.db") },
      { name: "tree" as StoreName, kind: "files", path: this.path(), exclude: [], ...keys },
    ];
    this.#adapters = Object.fromEntries(
      this.#stores.map((store) => {
        const adapter = createAdapter(store, { holdSecondsMax: 30, environment: {} });
        return [store.name, singleFilePath(store, adapter)];
      }),
    );
    this.primary = openPrimary(join(this.directory, "catalog.db"), this.#adapters);
  }

  path(...names: string[]): string {
    return join(this.directory, "tree", ...names);
  }

  get shelf(): string {
    return join(this.directory, "forks");
  }

  sql(text: string): void {
    const database = new DatabaseSync(join(this.directory, "app.db"));
    database.exec(text);
    database.close();
  }

  async start(): Promise<void> {
    for (const adapter of Object.values(this.#adapters)) await adapter.start(() => {});
  }

  async cut(): Promise<CutId> {
    return (await cutInto(this.primary, [])).cut;
  }

  /** As an ex-primary is when its fork is kept: nobody follows the database, whose log is in its file. */
  async settle(): Promise<void> {
    for (const adapter of Object.values(this.#adapters)) await adapter.close();
    this.sql("PRAGMA wal_checkpoint(TRUNCATE)");
  }

  get source(): ForkSource {
    const { catalog, manifest, nowUs } = this.primary;
    return { catalog, manifest, disk: this.disk, placements: this.#stores.map(placementOf), nowUs };
  }

  async keep(more: Partial<ForkRequest> = {}): Promise<ForkRecord | undefined> {
    const request = {
      directory: join(this.shelf, "app"),
      group: "app",
      node: "alpha",
      promotion,
      common: this.common!,
    };
    return await makeFork(this.source, { ...request, ...more }, never);
  }

  async export(name: string): Promise<string> {
    const to = join(this.directory, "exported");
    await exportFork(this.disk, this.shelf, { name, to }, never);
    return to;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const adapter of Object.values(this.#adapters)) await adapter.close();
    this.primary.catalog.close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

async function failureOf(work: Promise<unknown>): Promise<Error & { code?: string }> {
  return await work.then(
    () => new Error("nothing failed"),
    (error: Error) => error,
  );
}

describe("a fork that is kept", function () {
  this.timeout(60_000);

  describe("of a real tree and a real database", () => {
    let node: ForkedNode;
    let fork: ForkRecord;
    const big = Buffer.alloc(3 * 2 ** 20, "big");

    before(async () => {
      node = new ForkedNode();
      await node.start();
      for (const name of ["plain", "gone", "old-name", "first", "dir/meta", "untouched"])
        writeFileSync(node.path(name), `${name} at the common cut`);
      linkSync(node.path("first"), node.path("second"));
      writeFileSync(node.path("big"), big);
      await node.cut();
      node.sql("INSERT INTO rows VALUES ('shipped too')");
      node.common = await node.cut();

      appendFileSync(node.path("plain"), ", lost");
      await node.cut();
      mkdirSync(node.path("new", "deep"), { recursive: true });
      writeFileSync(node.path("new", "deep", "file"), "only here");
      chmodSync(node.path("new", "deep"), 0o500);
      rmSync(node.path("gone"));
      renameSync(node.path("old-name"), node.path("new-name"));
      appendFileSync(node.path("first"), ", in both");
      chmodSync(node.path("dir", "meta"), 0o600);
      symlinkSync("plain", node.path("link"));
      writeFileSync(node.path(Buffer.from("caf\xe9", "latin1").toString("latin1")), "not plain");
      big.write("changed", 5 * blockBytes);
      big.write("changed", 6 * blockBytes + 10);
      big.write("changed", 700 * blockBytes);
      writeFileSync(node.path("big"), big, { flag: "r+" });
      node.sql("INSERT INTO rows VALUES ('lost')");
      await node.cut();
      await node.settle();
      const kept = await node.keep({ wholeBytesMax: 2 ** 20 });
      if (kept === undefined) throw new Error("there is a fork");
      fork = kept;
    });
    after(async () => await node?.[Symbol.asyncDispose]());

    it("says from which cut to which, by whose promotion, and what was created, changed and removed", () => {
      expect(fork).to.deep.include({
        group: "app",
        node: "alpha",
        common: { epoch: 1, seq: 2 },
        epochs: [{ epoch: 1, firstSeq: 1 }],
        promotion: { node: "bravo", epoch: 2 },
      });
      expect(fork.last).to.include({ epoch: 1, seq: 4 });
      expect(fork.name).to.match(/^app-1\.4-\d{8}T\d{6}$/);
      expect(listForks(node.disk, node.shelf)).to.deep.equal([fork]);
      const { paths } = showFork(node.disk, node.shelf, fork.name, 100);
      const said = paths.map(({ store, path, what, entry }) => `${what} ${store}/${path}: ${entry?.content ?? ""}`);
      expect(said.toSorted()).to.deep.equal([
        "changed db/app.db: whole",
        "changed tree/big: blocks",
        "changed tree/dir/meta: same",
        "changed tree/first: whole",
        "changed tree/plain: whole",
        "changed tree/second: whole",
        `created tree/${Buffer.from("caf\xe9", "utf8").toString("latin1")}: whole`,
        "created tree/link: none",
        "created tree/new-name: whole",
        "created tree/new/deep/file: whole",
        "created tree/new/deep: none",
        "created tree/new: none",
        "removed tree/gone: ",
        "removed tree/old-name: ",
      ]);
      expect(fork.counts).to.include({ created: 6, changed: 6, removed: 2, files: 7 });
    });

    it("gives whole files with their meta, larger ones by their changed blocks, and the database with the lost rows", async () => {
      const to = await node.export(fork.name);
      const read = (...names: string[]): string => readFileSync(join(to, "files", "tree", ...names), "utf8");
      expect(read("plain")).to.equal("plain at the common cut, lost");
      expect(read("new", "deep", "file")).to.equal("only here");
      expect(read("first")).to.equal("first at the common cut, in both");
      expect(lstatSync(join(to, "files/tree/first")).ino).to.equal(lstatSync(join(to, "files/tree/second")).ino);
      expect(lstatSync(join(to, "files/tree/new/deep")).mode & 0o777).to.equal(0o500);
      const microseconds = (path: string): bigint => lstatSync(path, { bigint: true }).mtimeNs / 1000n;
      expect(microseconds(join(to, "files/tree/plain"))).to.equal(microseconds(node.path("plain")));
      expect(readlinkSync(join(to, "files/tree/link"))).to.equal("plain");
      expect(existsSync(join(to, "files/tree/untouched")), "nothing but the fork").to.equal(false);
      expect(existsSync(join(to, "EXPORT-IS-NOT-COMPLETE"))).to.equal(false);
      const blocks = readdirSync(join(to, "blocks", "tree")).toSorted();
      expect(readFileSync(join(to, "blocks", "tree", blocks[1]!), "utf8")).to.equal(
        `${5 * blockBytes} ${2 * blockBytes}\n${700 * blockBytes} ${blockBytes}\n`,
      );
      const expected = [big.subarray(5 * blockBytes, 7 * blockBytes), big.subarray(700 * blockBytes, 701 * blockBytes)];
      expect(readFileSync(join(to, "blocks", "tree", blocks[0]!)).equals(Buffer.concat(expected))).to.equal(true);
      const database = join(to, "files", "db", "app.db");
      const text = execFileSync("sqlite3", [database, "PRAGMA integrity_check; SELECT text FROM rows ORDER BY rowid"]);
      expect(text.toString()).to.equal("ok\nshipped\nshipped too\nlost\n");
      const again = await failureOf(node.export(fork.name));
      expect(again.code, "what is there is never written over").to.equal("EXPORT_REFUSED");
    });

    it("is written once, however often it is asked for", async () => {
      expect(await node.keep()).to.deep.equal(fork);
      expect(readdirSync(join(node.shelf, "app"))).to.deep.equal([fork.name]);
    });

    it("is kept beside a bundle of its name that cannot be read, which can be dropped", async () => {
      const description = join(node.shelf, "app", fork.name, "fork.json");
      const before = readFileSync(description);
      writeFileSync(description, before.subarray(0, 100));
      const beside = await node.keep();
      expect(beside?.name).to.not.equal(fork.name);
      expect(listForks(node.disk, node.shelf)).to.deep.equal([
        { name: fork.name, problem: "fork.json is no JSON" },
        beside,
      ]);
      dropFork(node.disk, node.shelf, beside!.name);
      writeFileSync(description, before);
    });

    it("is not made where somebody still writes, where nothing is beyond the common cut, or where not all of it is known", async () => {
      const elsewhere = { directory: join(node.shelf, "other") };
      const common = node.primary.catalog.standing.committed;
      expect(await node.keep({ ...elsewhere, common })).to.equal(undefined);
      writeFileSync(node.path("plain"), "plain at the common cut, l0st");
      expect(await failureOf(node.keep(elsewhere))).to.include({ code: "FORK_MOVED" });
      rmSync(node.path("plain"));
      expect(await failureOf(node.keep(elsewhere))).to.include({ code: "FORK_MOVED" });
      const { catalog } = node.primary;
      catalog.transaction("test", () => keepForgottenUpTo(catalog, seq(3)));
      expect(await failureOf(node.keep(elsewhere))).to.include({ code: "FORK_UNTOLD" });
      expect(listForks(node.disk, node.shelf)).to.deep.equal([fork]);
    });

    it("is not given out where it is not what was kept, and is dropped by its name alone", async () => {
      const kept = join(node.shelf, "app", fork.name);
      const file = join(kept, "files", "tree", "plain");
      const before = readFileSync(file);
      rmSync(join(node.directory, "exported"), { recursive: true });
      writeFileSync(file, Buffer.from(before).fill("x", 3, 4));
      const failure = await failureOf(node.export(fork.name));
      expect(failure).to.include({ code: "FORK_DAMAGED" });
      expect(existsSync(join(node.directory, "exported", "EXPORT-IS-NOT-COMPLETE"))).to.equal(true);
      writeFileSync(file, before);
      appendFileSync(join(kept, "paths.jsonl"), '{"store":"tree","path":"more","what":"removed"}\n');
      expect(() => showFork(node.disk, node.shelf, fork.name, 1)).to.throw(/paths.jsonl is not what was kept/);
      for (const name of ["../app", "app-1.4-20260101T000000", "."])
        expect(() => dropFork(node.disk, node.shelf, name)).to.throw(/no fork is called/);
      dropFork(node.disk, node.shelf, fork.name);
      expect(listForks(node.disk, node.shelf)).to.deep.equal([]);
      expect(readdirSync(join(node.shelf, "app"))).to.deep.equal([]);
    });
  });

  it("is whole or not there wherever the power fails while it is made, and can be made then", async () => {
    const directory = mkdtempSync(join(tmpdir(), "us-fork-power-"));
    const source = new ModelSource();
    const primary = openPrimary(join(directory, "primary.db"), { tree: source.adapter() });
    try {
      source.makeDirectory("dir");
      source.write("dir/a", "a");
      source.write("dir/large", new Uint8Array(40_000).fill(1));
      source.write("b", "b");
      const common = (await cutInto(primary, [])).cut;
      source.write("dir/a", "lost");
      source.write("dir/large", "lost", 20_000);
      source.link("dir/a", "linked");
      source.symlink("link", "b");
      source.remove("b");
      await cutInto(primary, []);
      const settled = new SimulatedDisk();
      settled.writeTree("/srv", { tree: modelTree(source.nodes) as Planted });
      settled.writeTree("/state", {});
      settled.settle();
      const keep = async (disk: SimulatedDisk): Promise<ForkRecord | undefined> =>
        await makeFork(
          {
            ...primary,
            disk,
            nowUs: () => 1e15,
            placements: [{ name: "tree" as StoreName, kind: "files", shape: "tree", path: "/srv/tree", sidecars: [] }],
          },
          { directory: "/state/forks/app", group: "app", node: "alpha", common, promotion, wholeBytesMax: 30_000 },
          never,
        );
      const met = new Set<string>();
      const outcomes = new Set<number>();
      const everyCrash = async (clones: boolean): Promise<void> => {
        const reference = settled.afterPowerLoss("keep-all", Math.random);
        reference.clones = clones;
        const whole = await keep(reference);
        const wanted = JSON.stringify(reference.tree("/state/forks"), withoutTimes);
        for (let stop = 1, failed = true; failed; stop++) {
          failed = false;
          const random = seededRandom(stop);
          const disk = settled.afterPowerLoss("keep-all", random);
          disk.clones = clones;
          let left = stop;
          disk.onOperation = ({ when, kind }) => {
            if (--left > 0) return;
            met.add(`${when} ${kind}`);
            throw new PowerLoss(kind);
          };
          await keep(disk).catch((error: unknown) => {
            if (!(error instanceof PowerLoss)) throw error;
            failed = true;
          });
          for (const mode of ["lose-all", powerLossModes[1 + (stop % 4)]!] as const) {
            const after = disk.afterPowerLoss(mode, random);
            after.clones = clones;
            const found = listForks(after, "/state/forks");
            outcomes.add(found.length);
            if (found.length > 0 || !failed) {
              expect(found, `${stop} ${mode}`).to.deep.equal([whole]);
              after.writeTree("/", { to: { type: "directory", entries: {} } });
              await exportFork(after, "/state/forks", { name: whole!.name, to: "/to/out" }, never);
            }
            expect(await keep(after), `${stop} ${mode}`).to.deep.equal(whole);
            const settledAfter = after.afterPowerLoss("lose-all", random);
            expect(JSON.stringify(settledAfter.tree("/state/forks"), withoutTimes), `${stop} ${mode}`).to.equal(wanted);
          }
        }
      };
      await everyCrash(false);
      await everyCrash(true);
      expect([...outcomes].toSorted(), "it crashed on both sides of the rename").to.deep.equal([0, 1]);
      for (const what of [
        "before rename",
        "after rename",
        "after syncFilesystem",
        "after syncDirectory",
        "after write",
      ])
        expect(met).to.include(what);
    } finally {
      primary.catalog.close();
      rmSync(directory, { recursive: true, force: true });
    }
  });

  it("leaves nothing and changes nothing where there is no room for it, or a sync fails", async () => {
    const directory = mkdtempSync(join(tmpdir(), "us-fork-full-"));
    const source = new ModelSource();
    const primary = openPrimary(join(directory, "primary.db"), { tree: source.adapter() });
    try {
      const common = (await cutInto(primary, [])).cut;
      source.write("a", new Uint8Array(300_000).fill(7));
      await cutInto(primary, []);
      const keep = async (disk: SimulatedDisk): Promise<ForkRecord | undefined> =>
        await makeFork(
          {
            ...primary,
            disk,
            nowUs: () => 1e15,
            placements: [{ name: "tree" as StoreName, kind: "files", shape: "tree", path: "/srv/tree", sidecars: [] }],
          },
          { directory: "/state/forks/app", group: "app", node: "alpha", common, promotion },
          never,
        );
      const disk = new SimulatedDisk({ mounts: [{ path: "/state", capacityBytes: 64 * 2 ** 20 + 200_000 }] });
      disk.writeTree("/srv", { tree: modelTree(source.nodes) as Planted });
      expect(await failureOf(keep(disk))).to.include({ code: "FORK_NO_ROOM" });
      const shelf = disk.openRoot("/state/forks/app");
      expect(disk.list(shelf), "the room is given back").to.deep.equal([]);
      disk.closeDirectory(shelf);
      const roomy = new SimulatedDisk();
      roomy.writeTree("/srv", { tree: modelTree(source.nodes) as Planted });
      for (const [kind, code] of [
        ["syncFilesystem", "SYNC_FAILED"],
        ["syncDirectory", "SYNC_FAILED"],
        ["rename", "FORK_FAILED"],
      ] as const) {
        roomy.failNext(kind, "EIO");
        expect(await failureOf(keep(roomy)), kind).to.include({ code });
        expect(listForks(roomy, "/state/forks"), kind).to.deep.equal([]);
      }
      expect(await keep(roomy)).to.include({ name: listForks(roomy, "/state/forks")[0]!.name });
    } finally {
      primary.catalog.close();
      rmSync(directory, { recursive: true, force: true });
    }
  });
});

/** When a file of the bundle was written says nothing. */
function withoutTimes(key: string, value: unknown): unknown {
  return key === "mtimeUs" ? undefined : value;
}
