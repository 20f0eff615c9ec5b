import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import { type Cluster, type ClusterNode, startCluster, until } from "./harness.ts";

const MiB = 1024 * 1024;
const deadlineMs = 60_000;

describe("a replica on a slow line", function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let alpha: ClusterNode;
  let bravo: ClusterNode;
  let charlie: ClusterNode;
  let writer: HotDatabase;

  before(async () => {
    cluster = await startCluster({
      nodes: ["alpha", "bravo", "charlie"],
      // Two megabytes a second: what is to be shipped takes much longer than a cut may wait.
      nodeYaml: (node) => (node === "charlie" ? "line: { rate: 12Mbit/s, compress: never }" : ""),
      groupYaml: async ({ data }) => {
        await mkdir(join(data("alpha"), "files"));
        for (let i = 0; i < 200; i++) await writeFile(join(data("alpha"), "files", `small-${i}`), randomBytes(8000));
        await writeFile(join(data("alpha"), "files", "large"), randomBytes(8 * MiB));
        writer = new HotDatabase(join(data("alpha"), "hot.db"), 6 * MiB);
        const at = (name: string): string =>
          ["bravo", "charlie"].map((node) => `${node}: ${JSON.stringify(join(data(node), name))}`).join(", ");
        return `  app:
    primary: alpha
    replicas: [bravo, charlie]
    stores:
      hot: { kind: sqlite, path: ${JSON.stringify(join(data("alpha"), "hot.db"))}, at: { ${at("hot.db")} } }
      files: { kind: files, path: ${JSON.stringify(join(data("alpha"), "files"))}, at: { ${at("files")} } }
    retention: { keep: {} }`;
      },
    });
    [alpha, bravo, charlie] = [cluster.node("alpha"), cluster.node("bravo"), cluster.node("charlie")];
  });
  after(async () => {
    await writer?.stop();
    await cluster?.[Symbol.asyncDispose]();
  });

  it("holds nobody up while its first copy goes over beside a hot database, and gets there", async () => {
    await bravo.until((group) => group.cut !== null, deadlineMs);
    writer.run();
    let cuts = 0;
    let arrived = false;
    const arrival = charlie
      .until((group) => group.cut !== null, deadlineMs)
      .finally(() => {
        arrived = true;
      });
    while (!arrived) {
      const seen = (await bravo.group())?.cut?.seq ?? 0;
      await bravo.until((group) => (group.cut?.seq ?? 0) > seen, deadlineMs);
      if (!arrived) cuts++;
    }
    await arrival;
    // The line is busy for ten seconds; the fast one never waits for it.
    expect(cuts, "cuts that the fast one was seen to get meanwhile").to.be.greaterThan(3);
    const shipped = (await alpha.log()).filter((line) => line.event === "ahead.shipped");
    const bytes = shipped.reduce((sum, line) => sum + Number(line.sentBytes), 0);
    expect(bytes, "bytes that went ahead").to.be.within(12 * MiB, 20 * MiB);
  });

  it("gets there over sessions that break, with what is staged", async () => {
    await charlie.until((group) => group.cut !== null, deadlineMs);
    await until(async () => (await stagedBytes(charlie)) === 0, deadlineMs, "the first copy is in its place");
    await writeFile(join(alpha.dataDirectory, "files", "later"), randomBytes(10 * MiB));
    for (const wanted of [2, 5]) {
      await until(async () => (await stagedBytes(charlie)) > wanted * MiB, deadlineMs, `${wanted} MiB are staged`);
      await charlie.restart();
    }
    await writer.stop();
    const { cut } = await alpha.control.cut("app", { accept: [] });
    await charlie.until((group) => (group.cut?.seq ?? 0) >= cut.seq, deadlineMs);
    await until(async () => (await stagedBytes(charlie)) === 0, deadlineMs, "all of it is in its place");
    for (const name of ["large", "later", "small-7"]) {
      const [source, copy] = await Promise.all(
        [alpha, charlie].map(async (node) => await readFile(join(node.dataDirectory, "files", name))),
      );
      expect(source!.equals(copy!), name).to.equal(true);
    }
    const shipped = (await alpha.log()).filter((line) => line.event === "ahead.shipped" && line.peer === "charlie");
    // What the third session found staged it did not send again.
    expect(Number(shipped.at(-1)?.lackingBytes)).to.be.lessThan(9 * MiB);
  });
});

/** What lies in the staging directories of a node's copies. */
async function stagedBytes(node: ClusterNode): Promise<number> {
  let bytes = 0;
  for (const home of await directoriesIn(join(node.dataDirectory, ".understudy"))) {
    // What has no dot in its name is the group's own, for scripts.
    if (!basename(home).includes(".")) continue;
    for (const name of await directoriesIn(join(home, "staging"))) {
      const found = await stat(name).catch(() => undefined);
      bytes += found?.size ?? 0;
    }
  }
  return bytes;
}

async function directoriesIn(path: string): Promise<string[]> {
  return (await readdir(path)).map((name) => join(path, name));
}

/** A database in WAL mode, some pages of which change all the time. */
class HotDatabase {
  readonly #database: DatabaseSync;
  #stopped = false;
  #ended: Promise<void> = Promise.resolve();
  transactions = 0;

  constructor(path: string, bytes: number) {
    this.#database = new DatabaseSync(path);
    this.#database.exec(
      "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)",
    );
    this.#database.exec("BEGIN");
    const insert = this.#database.prepare("INSERT INTO t (v) VALUES (?)");
    for (let i = 0; i * 2048 < bytes; i++) insert.run(randomBytes(2000));
    this.#database.exec("COMMIT");
  }

  run(): void {
    this.#ended = this.#loop();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#ended;
    if (this.#database.isOpen) this.#database.close();
  }

  async #loop(): Promise<void> {
    const update = this.#database.prepare("UPDATE t SET v = ? WHERE id = ?");
    while (!this.#stopped) {
      update.run(randomBytes(2000), 1 + (this.transactions++ % 40));
      await sleep(20);
    }
  }
}
