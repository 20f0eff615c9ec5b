import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { type Cluster, type ClusterNode, promote, startCluster, until } from "./harness.ts";

const MiB = 1024 * 1024;
const deadlineMs = 60_000;

describe("a former primary on a slow line", function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let alpha: ClusterNode;
  let bravo: ClusterNode;

  before(async () => {
    cluster = await startCluster({
      nodeYaml: (node) => (node === "alpha" ? "line: { rate: 16Mbit/s, compress: never }" : ""),
      groupYaml: async ({ data }) => {
        const files = join(data("alpha"), "files");
        await mkdir(files);
        await writeFile(join(files, "large"), randomBytes(12 * MiB));
        await writeFile(join(files, "removed"), randomBytes(3 * MiB));
        await writeFile(join(files, "same"), randomBytes(4 * MiB));
        return `  app:
    primary: alpha
    replicas: [bravo]
    rejoin: auto
    stores:
      files: { kind: files, path: ${JSON.stringify(files)}, at: { bravo: ${JSON.stringify(join(data("bravo"), "files"))} } }
    hooks: { stop_service: ["true"] }
    retention: { keep: {} }`;
      },
    });
    [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
  });
  after(async () => await cluster?.[Symbol.asyncDispose]());

  it("gets what it had otherwise ahead of a cut, over sessions that break, and nothing else", async () => {
    await bravo.until((group) => group.cut !== null, deadlineMs);
    const waited = await alpha.cli("wait", "app", "--timeout", "60s", "--replica", "bravo");
    expect(waited, waited.stderr).to.include({ code: 0 });
    await bravo.stop();
    // Four of its twelve MiB, and all of another file.
    const large = await open(join(alpha.dataDirectory, "files", "large"), "r+");
    await large.write(randomBytes(4 * MiB), 0, 4 * MiB, 2 * MiB);
    await large.close();
    await rm(join(alpha.dataDirectory, "files", "removed"));
    expect((await alpha.cli("cut", "app")).code).to.equal(0);
    await alpha.kill9();
    await bravo.start();
    await bravo.until(() => true, deadlineMs);
    await promote(bravo, "app", deadlineMs);
    await writeFile(join(bravo.dataDirectory, "files", "later"), "by bravo");
    await alpha.start();
    await alpha.until(() => true, deadlineMs);
    await bravo.until(
      ({ peers }) => /rejoins from cut 1\.\d+|still to be sent/.test(peers.alpha?.reason ?? ""),
      deadlineMs,
    );
    await until(async () => (await stagedBytes(alpha)) > 2 * MiB, deadlineMs, "a part of it is staged");
    // The line needs seconds for the rest, and a command may take longer to start: nothing more is sent meanwhile.
    bravo.signal("SIGSTOP");
    try {
      const early = await alpha.cli("promote", "app", "--yes", "--accept-loss", "--accept-live-primary");
      expect(early.code, early.stdout + early.stderr).to.equal(3);
      expect(early.stderr).to.match(/REJOINING|rejoins/);
      await alpha.kill9();
    } finally {
      bravo.signal("SIGCONT");
    }
    await alpha.start();
    await until(
      async () => {
        const [ours, theirs] = [await bravo.group(), await alpha.group()];
        return theirs?.role === "replica" && ours?.cut?.digest !== undefined && ours.cut.digest === theirs.cut?.digest;
      },
      deadlineMs,
      "alpha is equal to bravo",
    );
    const verified = await alpha.cli("verify", "app");
    expect(verified, verified.stdout).to.include({ code: 0 });
    for (const name of ["large", "removed", "same", "later"]) {
      const [source, copy] = await Promise.all(
        [bravo, alpha].map(async (node) => await readFile(join(node.dataDirectory, "files", name))),
      );
      expect(source!.equals(copy!), name).to.equal(true);
    }
    const shipped = (await bravo.log()).filter((line) => line.event === "ahead.shipped" && line.peer === "alpha");
    // What the first session had staged was not sent again, and nothing was that both have.
    expect(Number(shipped.at(-1)?.lackingBytes)).to.be.lessThan(5.5 * MiB);
    const metrics = await bravo.control.metrics();
    const bytes = /^understudy_shipped_bytes_total\{group="app",peer="alpha"\} (\S+)$/m.exec(metrics)?.[1];
    expect(Number(bytes)).to.be.within(7 * MiB, 12 * MiB);
  });
});

/** What lies in the staging directories of a node's copies. */
async function stagedBytes(node: ClusterNode): Promise<number> {
  let bytes = 0;
  for (const home of await entries(join(node.dataDirectory, ".understudy"))) {
    for (const name of await entries(join(home, "staging"))) {
      const found = await stat(name).catch(() => undefined);
      bytes += found?.size ?? 0;
    }
  }
  return bytes;
}

async function entries(path: string): Promise<string[]> {
  return (await readdir(path).catch(() => [])).map((name) => join(path, name));
}
