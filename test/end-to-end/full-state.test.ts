import { execFile } from "node:child_process";
import { mkdir, mkdtemp, open, readdir, readFile, rename, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import { isSystemError } from "../../shared/errors.ts";
import { type Cluster, type ClusterNode, startCluster, until } from "./harness.ts";

const run = promisify(execFile);
const deadlineMs = 40_000;

/** The catalogs lie on small filesystems of their own; sources and copies have all the room that they want. */
describe("a state directory", function () {
  this.timeout(300_000);
  let directory = "";
  let cluster: Cluster;
  const nodes = {} as Record<"alpha" | "bravo", ClusterNode>;
  const mounted: string[] = [];

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "us-full-"));
    for (const node of ["alpha", "bravo"]) {
      const state = join(directory, node, "state");
      await mkdir(state, { recursive: true });
      // Whoever may not mount must not take this for passed.
      await run("mount", ["-t", "tmpfs", "-o", "size=8m,mode=700", "understudy-test", state]);
      mounted.push(state);
    }
    cluster = await startCluster({
      directory,
      groupYaml: async ({ data }) => {
        await mkdir(join(data("alpha"), "files"));
        await writeFile(join(data("alpha"), "files", "text"), "first");
        return `  app:
    primary: alpha
    replicas: [bravo]
    stores:
      files: { kind: files, path: ${JSON.stringify(join(data("alpha"), "files"))}, at: { bravo: ${JSON.stringify(join(data("bravo"), "files"))} } }
    retention: { keep: {} }`;
      },
    });
    for (const name of ["alpha", "bravo"] as const) nodes[name] = cluster.node(name);
    await nodes.bravo.until(({ cut }) => cut !== null, deadlineMs);
  });
  after(async () => {
    await cluster?.[Symbol.asyncDispose]();
    for (const state of mounted) await run("umount", [state]);
    await rm(directory, { recursive: true, force: true });
  });

  /** Takes all the room that is left; gives it back when disposed of. */
  async function fill(node: ClusterNode): Promise<AsyncDisposable> {
    const path = join(node.stateDirectory, "filler");
    const file = await open(path, "w");
    for (let size = 1024 * 1024; size >= 1; size = size === 4096 ? 1 : Math.max(size / 2, 4096)) {
      try {
        for (;;) await file.write(Buffer.alloc(size, 1));
      } catch (error) {
        if (!isSystemError(error, "ENOSPC")) throw error;
        if (size === 1) break;
      }
    }
    await file.close();
    return { [Symbol.asyncDispose]: async () => await rm(path, { force: true }) };
  }

  /** More rows than what is left in the catalog's log takes, at one blow. */
  async function manyFiles(directory: string): Promise<void> {
    const path = join(nodes.alpha.dataDirectory, directory);
    await mkdir(path);
    for (let at = 0; at < 1200; at += 100) {
      await Promise.all(
        Array.from(
          { length: 100 },
          async (_, index) => await writeFile(join(path, `${at + index}`), `${directory} ${at}`),
        ),
      );
    }
    await rename(path, join(nodes.alpha.dataDirectory, "files", directory));
  }

  async function copied(directory: string): Promise<string[]> {
    return await readdir(join(nodes.bravo.dataDirectory, "files", directory)).catch(() => []);
  }

  async function said(node: ClusterNode, event: string): Promise<string> {
    const line = await until(
      async () =>
        (await node.log()).find((found) => found.event === event && JSON.stringify(found).includes("CATALOG_FULL")),
      deadlineMs,
      `${node.name} says that its catalog is full`,
    );
    return JSON.stringify(line);
  }

  async function durable(): Promise<void> {
    await until(
      async () => (await nodes.alpha.cli("wait", "app", "--timeout", "20s")).code === 0,
      deadlineMs,
      "everything is durable on bravo",
    );
  }

  it("that is full on the replica refuses cuts and keeps the old one, until there is room again", async () => {
    const before = await nodes.bravo.group();
    {
      await using _ = await fill(nodes.bravo);
      await manyFiles("of the replica");
      expect(await said(nodes.bravo, "cut.refused")).to.match(/no room for the catalog/);
      expect(nodes.bravo.running).to.equal(true);
      expect(await copied("of the replica")).to.deep.equal([]);
      expect((await nodes.bravo.group())?.cut).to.deep.equal(before?.cut);
      expect((await nodes.bravo.group())?.promotable.ok).to.equal(true);
      expect(await readFile(join(nodes.bravo.dataDirectory, "files", "text"), "utf8")).to.equal("first");
    }
    await durable();
    await until(async () => (await copied("of the replica")).length === 1200, deadlineMs, "the copy has it");
    expect(await nodes.bravo.control.verify("app", { quick: false })).to.include({ ok: true });
  });

  it("that is full on the primary stops its cuts and says so, until there is room again", async () => {
    // The log of its catalog has had as many rows before, and keeps the room of them for as long as it is open.
    expect(await nodes.alpha.stop()).to.equal("exited with 0");
    await nodes.alpha.start();
    await nodes.alpha.until(({ peers }) => peers.bravo?.state === "streaming", deadlineMs);
    {
      await using _ = await fill(nodes.alpha);
      await manyFiles("of the primary");
      expect(await said(nodes.alpha, "cut.failed")).to.match(/no room for the catalog/);
      expect(nodes.alpha.running).to.equal(true);
      const group = await nodes.alpha.until(({ halted }) => halted !== null, deadlineMs);
      expect(group.halted?.message).to.match(/no room for the catalog/);
      expect(group.halted?.hint).to.match(/state directory/);
      expect(await copied("of the primary")).to.deep.equal([]);
    }
    await durable();
    await until(async () => (await copied("of the primary")).length === 1200, deadlineMs, "the copy has it");
    await nodes.alpha.until(({ halted }) => halted === null, deadlineMs);
    expect(await nodes.bravo.control.verify("app", { quick: false })).to.include({ ok: true });
  });

  it("whose catalog cannot be read any more ends the agent with a word", async () => {
    const [group] = await readdir(join(nodes.bravo.stateDirectory, "groups"));
    const catalog = join(nodes.bravo.stateDirectory, "groups", group!, "catalog.db");
    await nodes.bravo.stop();
    await truncate(catalog, 3 * 4096);
    await nodes.bravo.start().catch(() => undefined);
    await until(() => !nodes.bravo.running, deadlineMs, "the agent has ended");
    expect(await nodes.bravo.lastWords()).to.match(/the catalog cannot be used: .*[\s\S]*move catalog\.db/);
    expect(await readFile(join(nodes.bravo.dataDirectory, "files", "text"), "utf8")).to.equal("first");
  });
});
