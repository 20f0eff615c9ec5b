import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import { type Cluster, type ClusterNode, promote, startCluster, until } from "./harness.ts";

const run = promisify(execFile);
const deadlineMs = 120_000;
const MiB = 1024 * 1024;

describe("limits", function () {
  this.timeout(300_000);

  describe("of what can be cut and kept", () => {
    let cluster: Cluster;
    let alpha: ClusterNode;
    let bravo: ClusterNode;
    let mounted = "";

    before(async () => {
      cluster = await startCluster({
        groupYaml: async ({ data }) => {
          for (const name of ["gone", "staged", "full"]) {
            await mkdir(join(data("alpha"), name));
            await writeFile(join(data("alpha"), name, "text"), "first");
          }
          // More than its limit for staging: a first copy is not limited by it.
          await writeFile(join(data("alpha"), "staged", "base"), randomBytes(5 * MiB));
          // A small filesystem for one copy; whoever may not mount it must not take this test for passed.
          const volume = join(data("bravo"), "volume");
          await mkdir(volume);
          await run("mount", ["-t", "tmpfs", "-o", "size=48m,mode=700", "understudy-test", volume]);
          mounted = volume;
          const group = (name: string, copy: string, more: string): string => `  ${name}:
    primary: alpha
    replicas: [bravo]
    stores:
      files: { kind: files, path: ${JSON.stringify(join(data("alpha"), name))}, at: { bravo: ${JSON.stringify(copy)} } }
    retention: { keep: {} }
${more}`;
          return [
            group("gone", join(data("bravo"), "gone"), ""),
            group("staged", join(data("bravo"), "staged"), "    limits: { staging: 2MiB }"),
            group("full", join(volume, "full"), ""),
          ].join("\n");
        },
      });
      [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
      for (const name of ["gone", "staged", "full"])
        await until(async () => (await bravo.group(name))?.cut ?? undefined, deadlineMs, `${name} has a first cut`);
    });
    after(async () => {
      for (const node of cluster?.nodes.values() ?? []) await node.kill9();
      if (mounted !== "") await run("umount", [mounted]);
      await cluster?.[Symbol.asyncDispose]();
    });

    const source = (name: string): string => join(alpha.dataDirectory, name);

    async function textOf(path: string): Promise<string> {
      return await readFile(path, "utf8").catch(() => "");
    }

    /** At one blow: what is half there may be still for so long that it is cut. */
    async function appears(path: string, bytes: Uint8Array): Promise<void> {
      const staged = join(alpha.dataDirectory, "appears");
      await writeFile(staged, bytes);
      await rename(staged, path);
    }

    async function durable(group: string): Promise<void> {
      const waited = await until(
        async () => {
          const answer = await alpha.cli("wait", group, "--timeout", "20s");
          return answer.code === 0 ? answer : undefined;
        },
        deadlineMs,
        `${group} is durable on bravo`,
      );
      expect(waited.stdout).to.match(/durable on bravo/);
    }

    for (const how of ["vanishes", "becomes empty"] as const) {
      it(`a source that ${how} halts its group, and goes on when it is there again`, async () => {
        const copy = join(bravo.dataDirectory, "gone", "text");
        await until(async () => (await textOf(copy)) !== "", deadlineMs, "the copy is applied");
        const before = await textOf(copy);
        await rename(source("gone"), `${source("gone")}.away`);
        if (how === "becomes empty") await mkdir(source("gone"));
        const told = await alpha.cli("cut", "gone");
        expect(told.code).to.equal(1);
        expect(told.stderr).to.match(/gone: .*(vanished|empty)/);
        const halted = (await alpha.group("gone"))?.halted;
        expect(halted?.message).to.match(/vanished|empty/);
        expect(halted?.hint).to.match(/Bring the source back/);
        expect((await alpha.cli("status")).stdout).to.match(/It stands still: .*Bring the source back/);
        await until(async () => (await bravo.group("gone"))?.halted, deadlineMs, "bravo knows");
        expect(await textOf(copy)).to.equal(before);
        expect((await alpha.group("full"))?.halted, "other groups go on").to.equal(null);

        await rm(source("gone"), { recursive: true, force: true });
        await rename(`${source("gone")}.away`, source("gone"));
        await writeFile(join(source("gone"), "text"), `after it ${how}`);
        await durable("gone");
        await until(async () => (await textOf(copy)) === `after it ${how}`, deadlineMs, "the copy has it");
        await until(async () => (await alpha.group("gone"))?.halted === null, deadlineMs, "it is not halted any more");
      });
    }

    it("a cut that needs more than limits.staging is refused, the one before stays, and smaller ones go on", async () => {
      await appears(join(source("staged"), "large"), randomBytes(6 * MiB));
      const refusal = await until(
        async () => (await bravo.log()).find(({ event, group }) => event === "cut.refused" && group === "staged"),
        deadlineMs,
        "the cut is refused",
      );
      expect(JSON.stringify(refusal)).to.match(/limits\.staging/);
      const told = await until(
        async () => (await alpha.log()).find(({ event, group }) => event === "cut.rejected" && group === "staged"),
        deadlineMs,
        "the primary hears of it",
      );
      expect(told?.reason).to.match(/limits\.staging/);
      expect((await bravo.group("staged"))?.promotable.ok).to.equal(true);
      expect(await textOf(join(bravo.dataDirectory, "staged", "text"))).to.equal("first");
      expect(await readdir(join(bravo.dataDirectory, "staged"))).to.have.members(["base", "text"]);
      await writeFile(join(source("staged"), "large"), "small now");
      await durable("staged");
      await until(
        async () => (await textOf(join(bravo.dataDirectory, "staged", "large"))) === "small now",
        deadlineMs,
        "the copy has it",
      );
    });

    it("a full disk refuses cuts, keeps the old one promotable, and takes them when there is room", async () => {
      const copy = join(mounted, "full");
      await writeFile(join(source("full"), "kept"), randomBytes(2 * MiB));
      await durable("full");
      const kept = await readFile(join(source("full"), "kept"));
      await until(
        async () => (await stat(join(copy, "kept")).catch(() => undefined))?.size === 2 * MiB,
        deadlineMs,
        "kept",
      );
      await appears(join(source("full"), "large"), randomBytes(60 * MiB));
      await writeFile(join(source("full"), "text"), "with the large one");
      await until(
        async () => (await bravo.log()).find(({ event, group }) => event === "cut.refused" && group === "full"),
        deadlineMs,
        "the cut is refused",
      );
      expect(bravo.running).to.equal(true);
      expect(await readFile(join(copy, "text"), "utf8")).to.equal("first");
      expect((await readFile(join(copy, "kept"))).equals(kept)).to.equal(true);
      expect((await bravo.group("full"))?.promotable.ok).to.equal(true);
      expect(await bravo.control.verify("full", { quick: false })).to.include({ ok: true });
      expect((await bravo.group("gone"))?.halted, "other groups go on").to.equal(null);

      await rm(join(source("full"), "large"));
      await durable("full");
      await until(
        async () => (await textOf(join(copy, "text"))) === "with the large one",
        deadlineMs,
        "the copy has it",
      );

      // Full again, and now the primary is gone: the cut that is there is taken over.
      await appears(join(source("full"), "large"), randomBytes(60 * MiB));
      const known = (await bravo.log()).length;
      await until(
        async () =>
          (await bravo.log()).slice(known).find(({ event, group }) => event === "cut.refused" && group === "full"),
        deadlineMs,
        "the cut is refused again",
      );
      await alpha.kill9();
      await promote(bravo, "full", deadlineMs);
      expect((await readdir(copy)).sort()).to.deep.equal(["kept", "text"]);
      expect(await readFile(join(copy, "text"), "utf8")).to.equal("with the large one");
    });
  });

  it("of a line: nothing is sent faster than its rate", async () => {
    const size = 1.5 * MiB;
    await using cluster = await startCluster({
      nodeYaml: (node) => (node === "bravo" ? "line: { rate: 4Mbit/s, compress: never }" : ""),
      groupYaml: async ({ data }) => {
        await mkdir(join(data("alpha"), "files"));
        await writeFile(join(data("alpha"), "files", "text"), "first");
        return `  app:
    primary: alpha
    replicas: [bravo]
    stores:
      files: { kind: files, path: ${JSON.stringify(join(data("alpha"), "files"))}, at: { bravo: ${JSON.stringify(join(data("bravo"), "files"))} } }`;
      },
    });
    const [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
    await bravo.until(({ cut }) => cut !== null, deadlineMs);
    // At one blow: of what is still being written a part is cut, and the line has that sooner.
    const staged = join(alpha.dataDirectory, "appears");
    await writeFile(staged, randomBytes(size));
    const begun = performance.now();
    await rename(staged, join(alpha.dataDirectory, "files", "large"));
    let lag = 0;
    await until(
      async () => {
        const copy = await stat(join(bravo.dataDirectory, "files", "large")).catch(() => undefined);
        lag = Math.max(lag, (await alpha.group())?.peers.bravo?.lag.seconds ?? 0);
        return copy?.size === size;
      },
      deadlineMs,
      "the copy has the large file",
    );
    const seconds = (performance.now() - begun) / 1000;
    // 1.5 MiB at 500 kB/s are 3.1 s; a burst at the beginning is allowed.
    expect(seconds).to.be.at.least(2);
    expect(lag, "the lag was told while it went on").to.be.above(1);
  });
});
