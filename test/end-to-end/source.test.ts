import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import type { SourceStatus } from "../../deploy/control/api.ts";
import { LoopVolume } from "../primary/stores/files/loop-volume.ts";
import { type Cluster, type ClusterNode, startCluster, until } from "./harness.ts";

const run = promisify(execFile);
const deadlineMs = 120_000;
const magic = "these bytes lie on the disk as they are written here";

describe("the source of a primary", function () {
  this.timeout(300_000);
  let volume: LoopVolume;
  let cluster: Cluster;
  let alpha: ClusterNode;
  let bravo: ClusterNode;
  let tree = "";

  before(async () => {
    volume = new LoopVolume("xfs");
    tree = join(volume.path, "tree");
    await mkdir(tree);
    for (const name of ["one", "two"]) await writeFile(join(tree, name), `${name} `.repeat(5000));
    await writeFile(join(tree, "rotten"), `${magic}, and then some\n`.repeat(2000));
    await run("mkfifo", [join(tree, "fifo")]);
    await run("sync", ["-f", tree]);
    cluster = await startCluster({
      groupYaml: ({ data }) => `  app:
    primary: alpha
    replicas: [bravo]
    scrub: { every: 1s, rate: 50MiB/s }
    stores:
      files: { kind: files, path: ${JSON.stringify(tree)}, at: { bravo: ${JSON.stringify(join(data("bravo"), "tree"))} } }
`,
    });
    [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
    await bravo.until((group) => group.cut !== null, deadlineMs);
  });
  after(async () => {
    await cluster?.[Symbol.asyncDispose]();
    volume?.[Symbol.dispose]();
  });

  async function source(wish: (source: SourceStatus) => boolean): Promise<SourceStatus> {
    const group = await alpha.until(({ stores }) => {
      const said = stores.files?.source;
      return said !== undefined && wish(said);
    }, deadlineMs);
    return group.stores.files!.source!;
  }

  async function differing(): Promise<unknown[]> {
    return (await alpha.log()).filter(({ event }) => event === "source.differs");
  }

  it("is described by status: what is skipped, and what cannot be read", async () => {
    expect(await source(({ skipped }) => skipped === 1)).to.include({ mode: "watching", unreadable: 0, eventsLost: 0 });
    const deep = join(tree, ...Array.from({ length: 13 }, () => "long".repeat(62)));
    await mkdir(deep, { recursive: true });

    const { unreadablePaths } = await source(({ unreadable }) => unreadable === 1);

    expect(unreadablePaths).to.have.length(1);
    expect(unreadablePaths[0]?.reason).to.match(/at most 3072 are taken/);
    expect((await bravo.group())?.stores.files).to.not.have.property("source");
    // A replica that has all that can be read is not behind.
    await alpha.until(({ peers }) => peers.bravo?.lag.seconds === 0, deadlineMs);
  });

  it("is read again as a whole, and nothing is said of what changed in the ordinary way", async () => {
    const first = await source(({ scrub }) => scrub !== null && scrub.finishedAt !== null && scrub.files === 3);
    expect(first.scrub).to.include({ differing: 0, unreadable: 0 });
    await writeFile(join(tree, "two"), "two, changed");
    await source(({ scrub }) => scrub !== null && scrub.begunAt > new Date().toISOString().slice(0, 19));
    const changedAt = new Date().toISOString();
    await source(({ scrub }) => scrub?.finishedAt !== null && (scrub?.begunAt ?? "") > changedAt && scrub?.files === 3);
    expect(await differing()).to.deep.equal([]);
  });

  it("is reported and shipped where the disk gives other bytes under the same stamps", async () => {
    const file = join(tree, "rotten");
    await flip(volume.image, magic);
    await forget(file);
    const rotten = await readFile(file);
    expect(rotten.includes("These bytes"), "the filesystem reads what is on the disk").to.equal(true);

    const [said] = await until(
      async () => {
        const lines = await differing();
        return lines.length > 0 && lines;
      },
      deadlineMs,
      "the difference is reported",
    );

    expect(said).to.include({ level: "error", store: "files", path: "rotten" });
    await source(({ scrub }) => scrub?.differing === 1);
    const copy = join(bravo.dataDirectory, "tree", "rotten");
    await until(async () => (await readFile(copy)).equals(rotten), deadlineMs, "what the source has is in the copy");
    const at = new Date().toISOString();
    await source(({ scrub }) => (scrub?.begunAt ?? "") > at && scrub?.finishedAt !== null);
    expect(await differing(), "that it is said once").to.have.length(1);
  });

  it("keeps in the copy what is excluded later, lists it, and takes it out when it is pruned", async () => {
    const kept = (name: string): string => join(bravo.dataDirectory, "tree", name);
    await mkdir(join(tree, "cache"));
    await writeFile(join(tree, "cache", "entry"), "cached");
    await until(() => existsSync(kept("cache/entry")), deadlineMs, "the copy has it");
    for (const node of [alpha, bravo]) await node.stop();
    const configuration = await readFile(cluster.configPath, "utf8");
    await writeFile(
      cluster.configPath,
      configuration.replace("kind: files,", 'kind: files, exclude: ["cache/", "one"],'),
    );
    for (const node of [alpha, bravo]) await node.start();

    const { excludedPaths } = await source(({ excluded }) => excluded > 0);
    expect(excludedPaths).to.have.deep.members([{ path: "cache" }, { path: "one" }]);
    await writeFile(join(tree, "two"), "two, once more");
    const waited = await until(
      async () => (await alpha.cli("wait", "--timeout", "20s")).code === 0,
      deadlineMs,
      "bravo follows again",
    );
    expect(waited).to.equal(true);
    expect(await readFile(kept("two"), "utf8")).to.equal("two, once more");
    expect(await readFile(kept("cache/entry"), "utf8")).to.equal("cached");

    expect(await alpha.cli("cut", "--prune")).to.include({ code: 0 });

    await until(() => !existsSync(kept("cache")) && !existsSync(kept("one")), deadlineMs, "the copy is without it");
    expect(await readFile(join(tree, "cache", "entry"), "utf8"), "that the source has it still").to.equal("cached");
    await source(({ excluded }) => excluded === 0);
    expect((await bravo.cli("verify")).code).to.equal(0);
  });
});

/** Makes one letter of the first `text` in an image large, behind the back of the filesystem in it. */
async function flip(image: string, text: string): Promise<void> {
  await using file = await open(image, "r+");
  const piece = Buffer.alloc(1024 * 1024 + text.length);
  for (let at = 0; ; at += 1024 * 1024) {
    const { bytesRead } = await file.read(piece, 0, piece.length, at);
    if (bytesRead === 0) throw new Error(`the image does not have ${text}`);
    const found = piece.subarray(0, bytesRead).indexOf(text);
    if (found < 0) continue;
    await file.write(text.slice(0, 1).toUpperCase(), at + found);
    return;
  }
}

/** Takes a file out of the page cache. */
async function forget(file: string): Promise<void> {
  const program =
    "import os, sys; f = os.open(sys.argv[1], os.O_RDONLY); os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)";
  await run("python3", ["-c", program, file]);
}
