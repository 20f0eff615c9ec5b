import { appendFile, mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import { treeOf } from "./file-group.ts";
import { type Cluster, type ClusterNode, promote, startCluster, until } from "./harness.ts";

const deadlineMs = 120_000;
const largeBytes = 24 * 1024 * 1024;

/** Compresses to nothing and repeats nowhere. */
function large(): Buffer {
  const bytes = Buffer.alloc(largeBytes);
  let state = 1;
  for (let at = 0; at < largeBytes; at += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes.writeUInt32LE(state, at);
  }
  return bytes;
}

async function filesBelow(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

describe("a copy that is not as Understudy left it", function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let alpha: ClusterNode;
  let bravo: ClusterNode;
  let source: string;
  let copy: string;

  before(async () => {
    cluster = await startCluster({
      groupYaml: async ({ data }) => {
        for (const node of ["alpha", "bravo"]) {
          await mkdir(join(data(node), "files", "folder"), { recursive: true });
          await writeFile(join(data(node), "files", "folder", "large"), large());
        }
        await writeFile(join(data("alpha"), "files", "small"), "small");
        // Nearly the same lies on bravo already, and something that is nobody's business.
        {
          const changed = large();
          changed.write("another block", largeBytes / 2);
          await writeFile(join(data("bravo"), "files", "folder", "large"), changed);
        }
        await writeFile(join(data("bravo"), "files", "folder", "diary"), "of a stranger");
        for (const node of ["alpha", "bravo"]) {
          using database = new DatabaseSync(join(data(node), "app.db"));
          database.exec(`CREATE TABLE notes(text TEXT); INSERT INTO notes VALUES ('of ${node}')`);
        }
        const store = (name: string): string =>
          `path: ${JSON.stringify(join(data("alpha"), name))}, at: { bravo: ${JSON.stringify(join(data("bravo"), name))} }`;
        return `  app:
    primary: alpha
    replicas: [bravo]
    limits: { sweep: 1s }
    stores:
      db: { kind: sqlite, ${store("app.db")} }
      files: { kind: files, ${store("files")} }`;
      },
    });
    [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
    [source, copy] = [join(alpha.dataDirectory, "files"), join(bravo.dataDirectory, "files")];
  });
  after(async () => await cluster?.[Symbol.asyncDispose]());

  async function shippedBytes(): Promise<number> {
    const metrics = await alpha.control.metrics();
    return Number(/^understudy_shipped_bytes_total\{group="app",peer="bravo"\} (\S+)$/m.exec(metrics)?.[1] ?? 0);
  }

  async function following(): Promise<void> {
    const waited = await until(
      async () => {
        const answer = await alpha.cli("wait", "app", "--timeout", "20s");
        return answer.code === 0 ? answer : undefined;
      },
      deadlineMs,
      "everything is durable on bravo",
    );
    expect(waited.stdout).to.match(/is durable on bravo/);
    await bravo.until(
      ({ peers, cut }) => peers.alpha?.applied?.seq === cut?.seq && peers.alpha?.state === "streaming",
      deadlineMs,
    );
  }

  async function equal(): Promise<void> {
    expect((await treeOf(copy)) as unknown).to.deep.equal(await treeOf(source));
    const verified = await bravo.control.verify("app", { quick: false });
    expect(verified, JSON.stringify(verified.differences)).to.include({ ok: true });
    using database = new DatabaseSync(join(bravo.dataDirectory, "app.db"), { readOnly: true });
    expect(database.prepare("SELECT text FROM notes").get()?.text).to.equal("of alpha");
  }

  /** Everything that was kept aside, by its bytes. */
  async function keptAside(): Promise<string[]> {
    const holder = join(bravo.dataDirectory, ".understudy");
    // What is there for scripts comes and goes.
    const files = (await filesBelow(holder)).filter((path) => !path.startsWith(join(holder, "app/")));
    return await Promise.all(files.map(async (path) => await readFile(path, "latin1")));
  }

  it("is not touched where its place is occupied, and status says what to do", async () => {
    const before = { tree: await treeOf(copy), database: await readFile(join(bravo.dataDirectory, "app.db")) };
    const group = await bravo.until(({ halted }) => halted !== null, deadlineMs);
    expect(group.halted?.message).to.match(/was not written by this group/);
    expect(group.cut).to.equal(null);
    const shown = await bravo.cli("status");
    expect(shown.stdout).to.match(/adopt/);
    const refusal = (await bravo.log()).find(({ event }) => event === "copy.unusable" || event === "session.failed");
    expect(JSON.stringify(refusal ?? (await bravo.log()))).to.match(/adopt/);
    const promoted = await bravo.cli("promote", "app", "--yes", "--accept-loss", "--accept-live-primary");
    expect(promoted.code).to.equal(3);
    expect((await alpha.group())?.peers.bravo?.state).to.be.oneOf(["refused", "connecting", "seeding"]);
    expect({ tree: await treeOf(copy), database: await readFile(join(bravo.dataDirectory, "app.db")) }).to.deep.equal(
      before,
    );
  });

  it("is compared by adopt: only the difference is shipped, and what is not the group's is kept aside", async () => {
    const before = await shippedBytes();
    const told = await bravo.cli("adopt", "app");
    expect(told, told.stderr).to.include({ code: 0 });
    await following();
    await equal();
    expect((await shippedBytes()) - before).to.be.below(largeBytes / 8);
    expect(await keptAside()).to.include("of a stranger");
  });

  it("is suspect when a stranger changed it, and can be adopted when no primary is there to repair it", async () => {
    alpha.signal("SIGSTOP");
    try {
      await appendFile(join(copy, "small"), " and foreign");
      await rm(join(copy, "folder", "large"));
      const group = await bravo.until(({ promotable }) => !promotable.ok, deadlineMs);
      expect(group.promotable.why.map(({ code, flag }) => [code, flag])).to.deep.equal([
        ["SUSPECT", "--accept-suspect"],
      ]);
      expect(group.promotable.why[0]?.message).to.match(/small|large/);
      const refused = await bravo.cli("promote", "app", "--yes", "--accept-loss", "--accept-live-primary");
      expect(refused.code).to.equal(3);
      expect(refused.stderr).to.match(/the copy is suspect[\s\S]*--accept-suspect/);
      const loud = (await bravo.log()).find(({ event }) => event === "copy.suspect");
      expect(loud).to.include({ level: "error" });
      expect((await bravo.cli("adopt", "app")).code).to.equal(0);
    } finally {
      alpha.signal("SIGCONT");
    }
    await following();
    await equal();
    expect((await bravo.group())?.promotable).to.include({ ok: true });
  });

  it("is refused when the replica lost its state, until adopt takes it for what it is", async () => {
    await bravo.stop();
    await rm(join(bravo.stateDirectory, "groups"), { recursive: true });
    const inode = (await stat(join(copy, "folder", "large"))).ino;
    await bravo.start();
    await bravo.until(({ halted }) => halted !== null, deadlineMs);
    expect((await stat(join(copy, "folder", "large"))).ino).to.equal(inode);
    const before = await shippedBytes();
    const told = await bravo.cli("adopt", "app");
    expect(told, told.stderr).to.include({ code: 0 });
    await following();
    await equal();
    expect((await shippedBytes()) - before).to.be.below(largeBytes / 8);
  });

  it("is promoted when it is suspect and that is accepted, with everything else at the newest cut", async () => {
    {
      using database = new DatabaseSync(join(alpha.dataDirectory, "app.db"));
      database.exec("INSERT INTO notes VALUES ('newest')");
    }
    for (const name of ["small", "fresh"]) await writeFile(join(source, name), "newest");
    await following();
    await alpha.kill9();
    await appendFile(join(copy, "small"), " and foreign");
    await rm(join(copy, "folder", "large"));
    await bravo.until(({ promotable }) => !promotable.ok, deadlineMs);
    await until(
      async () => (await bravo.group())?.promotable.loss.basis === "silence",
      deadlineMs,
      "bravo hears that alpha is gone",
    );
    await promote(bravo, "app", 1).then(
      () => expect.fail("it was promoted although it is suspect"),
      (error: Error) => expect(error.message).to.match(/suspect/),
    );
    const told = await bravo.cli(
      "promote",
      "app",
      "--yes",
      "--accept-loss",
      "--accept-suspect",
      "--accept-unreachable-primary",
    );
    expect(told, told.stderr).to.include({ code: 0 });
    expect((await bravo.group())?.role).to.equal("primary");
    expect(await readFile(join(copy, "fresh"), "utf8")).to.equal("newest");
    expect(await readFile(join(copy, "small"), "utf8")).to.equal("newest and foreign");
    using database = new DatabaseSync(join(bravo.dataDirectory, "app.db"));
    const rows = database.prepare("SELECT text FROM notes ORDER BY rowid").all();
    expect(rows.map(({ text }) => text)).to.deep.equal(["of alpha", "newest"]);
  });
});
