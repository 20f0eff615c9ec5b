import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import {
  applicationData,
  applicationYaml,
  type Cluster,
  type ClusterNode,
  type ClusterPaths,
  promote,
  startCluster,
  until,
} from "./harness.ts";

/** A database with one row and a directory with one file, before the agents start. */
async function prepared(paths: ClusterPaths): Promise<string> {
  await prepareSource(paths);
  return applicationYaml(paths);
}

async function prepareSource({ data }: ClusterPaths): Promise<void> {
  const files = join(data("alpha"), "files");
  await mkdir(files);
  using database = new DatabaseSync(join(data("alpha"), "ledger.db"));
  database.exec("PRAGMA journal_mode = WAL; CREATE TABLE notes(text TEXT)");
  await write(join(data("alpha"), "ledger.db"), files, "first");
}

async function write(databasePath: string, files: string, text: string): Promise<void> {
  using database = new DatabaseSync(databasePath);
  database.prepare("INSERT INTO notes VALUES (?)").run(text);
  await writeFile(join(files, `${text}.txt`), text);
}

async function writeAndWait(node: ClusterNode, text: string): Promise<void> {
  const { database, files } = applicationData(node);
  await write(database, files, text);
  await node.control.wait("app", { timeoutMs: 20_000, replicas: [] });
}

function notesIn(node: ClusterNode): unknown[] {
  using database = new DatabaseSync(applicationData(node).database);
  return database
    .prepare("SELECT text FROM notes ORDER BY rowid")
    .all()
    .map(({ text }) => text);
}

async function following(cluster: Cluster): Promise<{ alpha: ClusterNode; bravo: ClusterNode }> {
  const [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
  await alpha.until((group) => group.peers.bravo?.state === "streaming");
  await alpha.control.wait("app", { timeoutMs: 20_000, replicas: [] });
  return { alpha, bravo };
}

describe("what befalls nodes", function () {
  this.timeout(300_000);

  it("keeps a primary whose state was wiped from becoming primary again, and from taking over what lies there", async () => {
    await using cluster = await startCluster({ groupYaml: prepared });
    const { alpha, bravo } = await following(cluster);
    const cut = (await bravo.group())?.cut;
    await alpha.kill9();
    await rm(join(alpha.stateDirectory, "groups"), { recursive: true });
    await alpha.start();
    // They have met, and neither of them ships anything.
    await until(
      async () =>
        (await alpha.log()).some(({ event, theirRole }) => event === "session.opened" && theirRole === "replica"),
      20_000,
      "they met",
    );
    expect((await alpha.group())?.role).to.equal("unformed");
    expect((await bravo.group())?.cut).to.deep.equal(cut);

    await promote(bravo, "app");
    // Its files are in the way of a copy: nobody takes them over silently.
    await alpha.until(({ halted }) => halted !== null);
    expect((await alpha.group())?.role).to.not.equal("primary");
    expect(notesIn(alpha)).to.deep.equal(["first"]);
    const adopted = await alpha.cli("adopt", "--json");
    expect(adopted, adopted.stderr).to.include({ code: 0 });
    await bravo.until((group) => group.peers.alpha?.state === "streaming");
    await writeAndWait(bravo, "second");
    await alpha.until(
      ({ role, peers }) => role === "replica" && peers.bravo?.applied?.seq === peers.bravo?.durable?.seq,
    );
    expect(await readdir(applicationData(alpha).files)).to.include.members(["first.txt", "second.txt"]);
  });

  it("refuses a primary whose identity went with its state", async () => {
    await using cluster = await startCluster({ groupYaml: prepared, start: [] });
    const alpha = cluster.node("alpha");
    await rm(alpha.stateDirectory, { recursive: true });
    const { code, stderr } = await alpha.cli("run");
    expect(code).to.be.above(0);
    expect(stderr).to.include("is not one of node alpha");
  });

  for (const alone of [false, true]) {
    it(`halts a primary that was reverted to an older state and source${alone ? ", also when it took cuts of its own since" : ""}`, async () => {
      await using cluster = await startCluster({ groupYaml: prepared });
      const { alpha, bravo } = await following(cluster);
      await alpha.stop();
      const backup = join(cluster.directory, "backup");
      await cp(join(alpha.stateDirectory, ".."), backup, { recursive: true, preserveTimestamps: true });
      await alpha.start();
      await alpha.until((group) => group.peers.bravo?.state === "streaming");
      for (const text of ["second", "third"]) await writeAndWait(alpha, text);
      const before = (await bravo.group())?.cut;
      await alpha.kill9();
      for (const part of ["state/groups", "data"]) {
        await rm(join(alpha.stateDirectory, "..", part), { recursive: true });
        await cp(join(backup, part), join(alpha.stateDirectory, "..", part), {
          recursive: true,
          preserveTimestamps: true,
        });
      }
      if (alone) {
        await bravo.stop();
        await alpha.start();
        await alpha.until(({ role }) => role === "primary");
        for (const text of ["other", "reality", "here"]) {
          const { database, files } = applicationData(alpha);
          await write(database, files, text);
          await alpha.control.cut("app", { accept: [] });
        }
        await bravo.start();
      } else await alpha.start();
      const { halted } = await alpha.until((group) => group.halted !== null || group.peers.bravo?.state === "refused");
      if (!alone) expect(halted?.message).to.match(/newer/);
      const after = await bravo.until((group) => group.peers.alpha?.state === "refused");
      expect(after.cut).to.deep.equal(before);
      await alpha.kill9();
      await promote(bravo, "app");
      expect(notesIn(bravo)).to.deep.equal(["first", "second", "third"]);
    });
  }

  it("leaves alone what stands in a copy's place when its filesystem is not mounted, and goes on when it is", async () => {
    await using cluster = await startCluster({ groupYaml: prepared });
    const { alpha, bravo } = await following(cluster);
    await bravo.stop();
    const away = `${bravo.dataDirectory}.away`;
    await rename(bravo.dataDirectory, away);
    await mkdir(bravo.dataDirectory);
    await bravo.start();
    const { promotable } = await bravo.until(({ halted }) => halted !== null);
    expect(promotable.ok).to.equal(false);
    expect(await readdir(bravo.dataDirectory)).to.deep.equal([]);
    const { database, files } = applicationData(alpha);
    await write(database, files, "second");
    await rm(bravo.dataDirectory, { recursive: true });
    await rename(away, bravo.dataDirectory);
    await alpha.until((group) => group.peers.bravo?.state === "streaming", 30_000);
    await alpha.control.wait("app", { timeoutMs: 20_000, replicas: [] });
    await bravo.until(({ halted, promotable }) => halted === null && promotable.ok);
  });

  it("keeps copies of one group on several filesystems", async () => {
    await using other = await scratchOn(["/dev/shm", "/run/shm", "/var/tmp"]);
    await using cluster = await startCluster({
      groupYaml: async (paths) => {
        await prepareSource(paths);
        const copy = JSON.stringify(join(paths.data("bravo"), "files"));
        return applicationYaml(paths).replace(copy, JSON.stringify(join(other.directory, "files")));
      },
    });
    const { alpha, bravo } = await following(cluster);
    await writeAndWait(alpha, "second");
    await alpha.kill9();
    await bravo.restart();
    await bravo.until(({ role }) => role === "replica");
    await promote(bravo, "app");
    expect(notesIn(bravo)).to.deep.equal(["first", "second"]);
    expect(await readFile(join(other.directory, "files", "second.txt"), "utf8")).to.equal("second");
    expect(other.device).to.not.equal((await stat(bravo.dataDirectory)).dev);
  });

  it("goes on when the clocks of both are set forward and back, and never lets a cut be older than the one before", async () => {
    const preload = fileURLToPath(new URL("./shifted-clock.ts", import.meta.url));
    await using scratch = await scratchOn([tmpdir()], "any");
    const clock = join(scratch.directory, "shift");
    await writeFile(clock, "0");
    const environment = { NODE_OPTIONS: `--import ${preload}`, SHIFTED_CLOCK: clock };
    await using cluster = await startCluster({ groupYaml: prepared, environment });
    const { alpha, bravo } = await following(cluster);
    const taken: number[] = [];
    const at = async (node: ClusterNode): Promise<number> => Date.parse((await node.group())?.cut?.takenAt ?? "");
    const hourMs = 3600_000;
    for (const [index, shiftMs] of [0, hourMs, -hourMs, 24 * hourMs, 0].entries()) {
      await writeFile(clock, String(shiftMs));
      await writeAndWait(alpha, `cut-${index}`);
      taken.push(await at(alpha));
      const { peers } = await alpha.until((group) => group.peers.bravo?.state === "streaming");
      expect(peers.bravo?.lag.seconds, `lag at a shift of ${shiftMs} ms`).to.be.within(0, 60);
    }
    expect(taken[1]! - taken[0]!, "the clock was really set").to.be.above(hourMs / 2);
    expect(taken).to.deep.equal(taken.toSorted((a, b) => a - b));
    expect(new Set(taken).size).to.equal(taken.length);
    await writeFile(clock, String(-24 * hourMs));
    await alpha.kill9();
    await promote(bravo, "app");
    const { database, files } = applicationData(bravo);
    await write(database, files, "after");
    const { cut } = await bravo.control.cut("app", { accept: [] });
    expect(Date.parse(cut.takenAt), "over a promotion too").to.be.above(taken.at(-1)!);
  });
});

interface OtherFilesystem extends AsyncDisposable {
  readonly directory: string;
  readonly device: number;
}

/** A scratch directory on one of these, on another filesystem than the others' unless any will do. */
async function scratchOn(
  candidates: readonly string[],
  which: "another" | "any" = "another",
): Promise<OtherFilesystem> {
  const usual = (await stat(tmpdir())).dev;
  for (const candidate of candidates) {
    const device = await stat(candidate).then(
      ({ dev }) => dev,
      () => undefined,
    );
    if (device === undefined || (which === "another" && device === usual)) continue;
    const directory = await mkdtemp(join(candidate, "us-other-"));
    return { directory, device, [Symbol.asyncDispose]: async () => await rm(directory, { recursive: true }) };
  }
  throw new Error(`none of ${candidates.join(", ")} is on another filesystem than ${tmpdir()}`);
}
