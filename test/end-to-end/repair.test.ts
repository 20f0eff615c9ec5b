import { appendFile, mkdir, readdir, readFile, rename, rm, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import { treeOf } from "./file-group.ts";
import { type Cluster, type ClusterNode, startCluster, until } from "./harness.ts";

const deadlineMs = 60_000;
const largeBytes = 3 * 1024 * 1024;

describe("a stranger in the copies of a live group", function () {
  this.timeout(240_000);
  let cluster: Cluster;
  let alpha: ClusterNode;
  let replicas: ClusterNode[];
  let source: string;

  before(async () => {
    cluster = await startCluster({
      nodes: ["alpha", "bravo", "charlie"],
      groupYaml: async ({ data }) => {
        const files = join(data("alpha"), "files");
        await mkdir(join(files, "folder"), { recursive: true });
        for (const name of ["written", "cut", "removed", "replaced", "folder/inner"])
          await writeFile(join(files, name), `${name} of alpha`);
        await writeFile(join(files, "large"), Buffer.alloc(largeBytes, "of alpha "));
        {
          using database = new DatabaseSync(join(data("alpha"), "app.db"));
          database.exec("CREATE TABLE notes(text TEXT); INSERT INTO notes VALUES ('of alpha')");
        }
        const store = (name: string): string => {
          const at = ["bravo", "charlie"].map((node) => `${node}: ${JSON.stringify(join(data(node), name))}`);
          return `path: ${JSON.stringify(join(data("alpha"), name))}, at: { ${at.join(", ")} }`;
        };
        return `  app:
    primary: alpha
    replicas: [bravo, charlie]
    limits: { sweep: 1s }
    stores:
      db: { kind: sqlite, ${store("app.db")} }
      files: { kind: files, exclude: ["*.tmp"], ${store("files")} }`;
      },
    });
    alpha = cluster.node("alpha");
    replicas = [cluster.node("bravo"), cluster.node("charlie")];
    source = join(alpha.dataDirectory, "files");
    for (const node of replicas) await whole(node);
  });
  after(async () => await cluster?.[Symbol.asyncDispose]());

  function copyOf(node: ClusterNode): string {
    return join(node.dataDirectory, "files");
  }

  async function whole(node: ClusterNode): Promise<void> {
    await node.until(
      ({ promotable, cut, peers }) => promotable.ok && cut !== null && peers.alpha?.applied?.seq === cut.seq,
      deadlineMs,
    );
  }

  async function keptAside(node: ClusterNode): Promise<string[]> {
    const home = join(node.dataDirectory, ".understudy");
    const entries = await readdir(home, { recursive: true, withFileTypes: true });
    const files = entries.filter((entry) => entry.isFile() && entry.parentPath.includes("/strangers"));
    return await Promise.all(
      files.map(async ({ parentPath, name }) => await readFile(join(parentPath, name), "latin1")),
    );
  }

  async function equal(node: ClusterNode): Promise<void> {
    const waited = await alpha.cli("wait", "app", "--timeout", "20s");
    expect(waited, waited.stderr).to.include({ code: 0 });
    await whole(node);
    const verified = await node.control.verify("app", { quick: false });
    expect(verified, JSON.stringify(verified.differences)).to.include({ ok: true });
    const { "x.tmp": _left, ...files } = await treeOf(copyOf(node));
    expect(files).to.deep.equal(await treeOf(source));
  }

  async function spoil(copy: string): Promise<void> {
    await appendFile(join(copy, "written"), " and foreign");
    await truncate(join(copy, "cut"), 3);
    await rm(join(copy, "removed"));
    await writeFile(join(copy, "..", "replacement"), "foreign replacement");
    await rename(join(copy, "..", "replacement"), join(copy, "replaced"));
    await writeFile(join(copy, "folder", "added"), "foreign addition");
    await writeFile(join(copy, "x.tmp"), "of the service");
    const bytes = await readFile(join(copy, "large"));
    bytes.write("foreign", largeBytes / 2);
    await writeFile(join(copy, "large"), bytes);
  }

  it("is refused a promotion while it lasts, and all copies are mended without anybody's command", async () => {
    const [bravo] = replicas as [ClusterNode];
    alpha.signal("SIGSTOP");
    try {
      // All of it within one sweep.
      for (const node of replicas) {
        node.signal("SIGSTOP");
        await spoil(copyOf(node));
        node.signal("SIGCONT");
      }
      for (const node of replicas) {
        await node.until(({ promotable }) => !promotable.ok, deadlineMs);
        const extra = async (): Promise<boolean> => (await keptAside(node)).includes("foreign addition");
        await until(extra, deadlineMs, `${node.name} puts aside what was added`);
      }
      const group = (await bravo.group())!;
      expect(group.promotable.why.map(({ code, flag }) => [code, flag])).to.deep.equal([
        ["SUSPECT", "--accept-suspect"],
      ]);
      expect(group.promotable.why[0]?.message).to.match(/somebody changed files\/\S+ in the copy/);
      const refused = await bravo.cli("promote", "app", "--yes", "--accept-loss", "--accept-live-primary");
      expect(refused.code).to.equal(3);
    } finally {
      alpha.signal("SIGCONT");
    }
    for (const node of replicas) {
      await whole(node);
      await equal(node);
      const aside = await keptAside(node);
      for (const text of ["written of alpha and foreign", "cut", "foreign replacement", "foreign addition"])
        expect(aside).to.include(text);
      expect(aside.some((text) => text.length === largeBytes && text.includes("foreign"))).to.equal(true);
      expect(await readFile(join(copyOf(node), "x.tmp"), "utf8")).to.equal("of the service");
      const events = new Set((await node.log()).map(({ event }) => event));
      for (const event of ["copy.damaged", "copy.suspect", "copy.repaired", "copy.trusted", "stranger.put_aside"])
        expect(events).to.include(event);
    }
  });

  it("is mended while the source goes on, in a database too", async () => {
    const [bravo, charlie] = replicas as [ClusterNode, ClusterNode];
    using database = new DatabaseSync(join(alpha.dataDirectory, "app.db"), { timeout: 10_000 });
    const untouched = (await charlie.log()).length;
    const copy = join(bravo.dataDirectory, "app.db");
    const bytes = await readFile(copy);
    bytes.fill(0x55, bytes.length - 100);
    await writeFile(copy, bytes);
    for (let round = 0; round < 20; round++) {
      database.exec(`INSERT INTO notes VALUES ('round ${round}')`);
      await writeFile(join(source, "written"), `round ${round}`);
    }
    await equal(bravo);
    using there = new DatabaseSync(copy, { readOnly: true });
    expect(there.prepare("SELECT count(*) AS n FROM notes").get()?.n).to.equal(21);
    await equal(charlie);
    const concerned = (await charlie.log()).slice(untouched).map(({ event }) => event);
    expect(concerned).not.to.include("copy.suspect");
  });

  it("is mended where only verify finds it", async () => {
    const [, charlie] = replicas as [ClusterNode, ClusterNode];
    const path = join(copyOf(charlie), "folder", "inner");
    // A disk that forgets leaves the stamps as they are; whoever sets them back comes near to it.
    await charlie.stop();
    const catalog = join(charlie.stateDirectory, "groups", "app", "catalog.db");
    await writeFile(path, "INNER of alpha");
    {
      const { mtimeNs, ctimeNs, size, ino } = await stat(path, { bigint: true });
      using database = new DatabaseSync(catalog);
      const sql = "UPDATE seen SET size = ?, mtime_ns = ?, ctime_ns = ? WHERE inode = ?";
      expect(database.prepare(sql).run(size, mtimeNs, ctimeNs, ino).changes).to.equal(1);
    }
    await charlie.start();
    await whole(charlie);
    const verified = await charlie.control.verify("app", { quick: false });
    expect(verified.differences.map((item) => ("path" in item ? item.path : ""))).to.include("folder/inner");
    await charlie.until(({ promotable }) => promotable.ok, deadlineMs);
    await equal(charlie);
    expect(await keptAside(charlie)).to.include("INNER of alpha");
  });
});
