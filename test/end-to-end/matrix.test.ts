import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import { applicationData, applicationYaml, type Cluster, type ClusterPaths, promote, startCluster } from "./harness.ts";
import { clusterOverOpenSsh } from "./openssh-nodes.ts";

/** What there is before the agents start. */
async function prepared(paths: ClusterPaths): Promise<string> {
  const data = { database: join(paths.data("alpha"), "ledger.db"), files: join(paths.data("alpha"), "files") };
  using database = new DatabaseSync(data.database);
  database.exec("PRAGMA journal_mode = WAL; CREATE TABLE notes(text TEXT); INSERT INTO notes VALUES ('first')");
  await mkdir(data.files);
  await writeFile(join(data.files, "a.txt"), "first");
  return applicationYaml(paths);
}

interface Way {
  readonly dials: "alpha" | "bravo";
  readonly via: "embedded" | "openssh";
}

async function clusterFor({ dials, via }: Way, directory: string, cleanup: AsyncDisposableStack): Promise<Cluster> {
  const listens = dials === "alpha" ? "bravo" : "alpha";
  if (via === "openssh") {
    const cluster = await clusterOverOpenSsh({ groupYaml: prepared, dials, listens, directory }, cleanup);
    for (const node of cluster.nodes.values()) await node.start();
    return cluster;
  }
  const address = (node: string, free: string): string | undefined => (node === listens ? free : undefined);
  return cleanup.use(await startCluster({ groupYaml: prepared, address, directory }));
}

describe("who dials, and by which SSH", function () {
  this.timeout(300_000);
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "us-matrix-"));
  });
  afterEach(() => rm(directory, { recursive: true }));

  for (const way of [
    { name: "push: the primary dials the replica's own server", dials: "alpha", via: "embedded" },
    { name: "pull: the replica dials the primary's own server", dials: "bravo", via: "embedded" },
    { name: "push: the primary dials the replica's OpenSSH", dials: "alpha", via: "openssh" },
    { name: "pull: the replica dials the primary's OpenSSH", dials: "bravo", via: "openssh" },
  ] as const) {
    it(`${way.name}: first copy, a change, promotion`, async () => {
      await using cleanup = new AsyncDisposableStack();
      const cluster = await clusterFor(way, directory, cleanup);
      const [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
      await bravo.until((group) => group.role === "replica" && group.cut !== null);
      const opened = (await cluster.node(way.dials).log()).find(({ event }) => event === "link.opened");
      expect(opened).to.include({ via: way.via, peer: way.dials === "alpha" ? "bravo" : "alpha" });

      const source = applicationData(alpha);
      using database = new DatabaseSync(source.database);
      database.exec("INSERT INTO notes VALUES ('second')");
      await writeFile(join(source.files, "b.txt"), "second");
      const waited = await alpha.cli("wait", "--timeout", "20s", "--json");
      expect(waited, waited.stderr).to.include({ code: 0 });

      await alpha.kill9();
      const { epoch } = await promote(bravo, "app");
      expect(epoch).to.equal(2);
      const copy = applicationData(bravo);
      using promoted = new DatabaseSync(copy.database);
      expect(promoted.prepare("PRAGMA integrity_check").get()).to.deep.include({ integrity_check: "ok" });
      expect(
        promoted
          .prepare("SELECT text FROM notes")
          .all()
          .map(({ text }) => text),
      ).to.deep.equal(["first", "second"]);
      expect(await readFile(join(copy.files, "a.txt"), "utf8")).to.equal("first");
      expect(await readFile(join(copy.files, "b.txt"), "utf8")).to.equal("second");
    });
  }
});
