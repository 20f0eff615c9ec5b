import { writeFile } from "node:fs/promises";
import { expect } from "chai";
import { fileGroup, fileOf, textOf } from "./file-group.ts";
import { type Cluster, type ClusterNode, promote, startCluster, until } from "./harness.ts";

const deadlineMs = 120_000;

/** What was announced of the durability. */
async function announced(node: ClusterNode): Promise<Record<string, unknown>[]> {
  return (await node.events()).filter(({ event }) => String(event).startsWith("durability."));
}

async function holds(node: ClusterNode, text: string): Promise<void> {
  const has = async (): Promise<boolean> => (await textOf(node)) === text;
  await until(has, deadlineMs, `${node.name} holds ${text}`);
}

describe("durability", function () {
  this.timeout(300_000);

  /** One cluster for all of it, in this order: each goes on from what the one before has left. */
  describe("semi_sync, one of two replicas", () => {
    let cluster: Cluster;
    let alpha: ClusterNode;
    let bravo: ClusterNode;
    let charlie: ClusterNode;
    before(async () => {
      cluster = await startCluster({
        groupYaml: fileGroup(["alpha", "bravo", "charlie"], {
          // Also what would be seen if it came twice.
          files: { large: Buffer.alloc(2 ** 20, "x") },
          more: "    durability: { semi_sync: { replicas: 1, timeout: 2s } }",
        }),
        nodes: ["alpha", "bravo", "charlie"],
      });
      [alpha, bravo, charlie] = [cluster.node("alpha"), cluster.node("bravo"), cluster.node("charlie")];
      for (const node of [bravo, charlie]) await node.until(({ cut }) => cut !== null, deadlineMs);
    });
    after(async () => await cluster?.[Symbol.asyncDispose]());

    async function wait(...words: string[]): Promise<{ code: number; answer: Record<string, unknown> }> {
      const { code, stdout } = await alpha.cli("wait", "app", "--json", "--timeout", "20s", ...words);
      return { code, answer: stdout === "" ? {} : (JSON.parse(stdout) as Record<string, unknown>) };
    }

    it("is content with whichever is there, and asks for more where it is told to", async () => {
      await writeFile(fileOf(alpha), "on both");
      expect(await wait()).to.deep.include({ code: 0 });
      const both = await wait("--replicas", "2");
      expect(both.code).to.equal(0);
      expect(both.answer.replicas).to.have.all.keys("bravo", "charlie");
      expect((await wait("--replicas", "3")).code, "there are two").to.equal(2);
      expect((await wait("--replica", "delta")).code, "nobody has that name").to.equal(2);

      charlie.signal("SIGSTOP");
      await writeFile(fileOf(alpha), "on bravo");
      const one = await wait();
      expect(one.code).to.equal(0);
      expect(one.answer.degraded).to.equal(false);
      expect((await wait("--replicas", "1", "--replica", "bravo", "charlie")).code).to.equal(0);
      expect((await alpha.cli("wait", "app", "--replicas", "2", "--timeout", "300ms")).code).to.equal(5);
      expect((await alpha.group())?.durability).to.deep.equal({
        mode: "semi_sync",
        replicas: 1,
        timeoutSeconds: 2,
        degraded: false,
        degradedSince: null,
      });
      expect((await bravo.group())?.durability.degraded, "that is the primary's to say").to.equal(null);
      expect(await announced(alpha)).to.deep.equal([]);
    });

    it("is degraded where none answers in time, announces it first, and lets who waits go", async () => {
      bravo.signal("SIGSTOP");
      await writeFile(fileOf(alpha), "on alpha alone");
      const { code, answer } = await wait();
      expect(code).to.equal(6);
      expect(answer.degraded).to.equal(true);
      expect((await announced(alpha)).at(-1)).to.include({
        event: "durability.degraded",
        group: "app",
        replicas: 1,
        timeoutMs: 2000,
      });
      const told = await alpha.cli("wait", "app");
      expect(told.code).to.equal(6);
      expect(told.stdout).to.match(
        /^cut 1\.\d+ is taken and not protected, since durability is degraded; durable there: /,
      );
      const status = await alpha.cli("status");
      expect(status.code).to.equal(6);
      expect(status.stdout).to.match(/durability is degraded since 2\S+: not 1 replica acknowledged within 2 s/);
      expect(status.stderr).to.match(/promise broken: app: durability is degraded/);
      expect(await alpha.control.metrics()).to.include('understudy_durability_degraded{group="app"} 1');
      expect((await alpha.cli("wait", "app", "--replicas", "1", "--timeout", "300ms")).code, "no less").to.equal(5);
      expect(await announced(alpha), "announced once").to.have.length(1);
    });

    it("heals by itself when one has caught up, announces that, and protects again", async () => {
      bravo.signal("SIGCONT");
      await alpha.until(({ durability }) => durability.degraded === false, deadlineMs);
      expect((await announced(alpha)).at(-1)).to.include({ event: "durability.restored", group: "app" });
      await holds(bravo, "on alpha alone");
      expect((await wait()).answer.degraded).to.equal(false);
      expect(await alpha.control.metrics()).to.include('understudy_durability_degraded{group="app"} 0');
    });

    it("is degraded where a person holds shipping back, and refuses who asks for more than that", async () => {
      expect((await alpha.cli("pause", "app", "--shipping")).code).to.equal(0);
      await writeFile(fileOf(alpha), "held back");
      expect((await wait()).answer.degraded).to.equal(true);
      expect((await wait("--replicas", "1")).code, "shipping is paused").to.equal(3);
      expect((await alpha.cli("resume", "app", "--shipping")).code).to.equal(0);
      await alpha.until(({ durability }) => durability.degraded === false, deadlineMs);
      await holds(bravo, "held back");
    });

    it("brings the one that stood still up to date by what it lacks, while the other goes on at its own pace", async () => {
      const shipped = async (peer: string): Promise<number> => {
        const line = new RegExp(`understudy_shipped_bytes_total\\{group="app",peer="${peer}"\\} (\\d+)`);
        return Number(line.exec(await alpha.control.metrics())?.[1]);
      };
      const before = await shipped("charlie");
      const ahead = (await bravo.group())?.cut?.seq ?? 0;
      expect((await alpha.group())?.peers.charlie?.durable?.seq).to.be.below(ahead);
      charlie.signal("SIGCONT");
      await holds(charlie, "held back");
      expect((await wait("--replicas", "2")).code).to.equal(0);
      const digests = [alpha, bravo, charlie].map(async (node) => (await node.group())?.cut?.digest);
      expect(new Set(await Promise.all(digests)).size, "all are equal").to.equal(1);
      expect((await shipped("charlie")) - before, "not the large file again").to.be.below(2 ** 19);
    });
  });

  it("is carried on by those that are left over three promotions, each following the next from where it is", async () => {
    const names = ["alpha", "bravo", "charlie", "delta"];
    await using cluster = await startCluster({
      groupYaml: fileGroup(names, { more: "    durability: { semi_sync: { replicas: 1, timeout: 10s } }" }),
      nodes: names,
    });
    const nodes = names.map((name) => cluster.node(name));
    for (const node of nodes.slice(1)) await node.until(({ cut }) => cut !== null, deadlineMs);
    for (const [index, primary] of nodes.entries()) {
      const text = `written on ${primary.name}`;
      await writeFile(fileOf(primary), text);
      const followers = nodes.slice(index + 1);
      if (followers.length === 0) break;
      const all = await primary.cli("wait", "app", "--timeout", "30s", "--replicas", String(followers.length));
      expect(all, all.stderr).to.include({ code: 0 });
      const [next] = followers;
      for (const follower of followers) {
        await holds(follower, text);
        expect((await follower.group())?.epoch).to.equal((await primary.group())?.epoch);
        const joined = (await primary.log()).filter(
          ({ event, peer }) => event === "replica.joined" && peer === follower.name,
        );
        if (index > 0) expect(joined.at(-1)?.seq, `${follower.name} goes on from what it has`).to.be.above(0);
      }
      await primary.kill9();
      await promote(next!, "app", deadlineMs);
    }
    const last = nodes.at(-1)!;
    expect(await textOf(last)).to.equal("written on delta");
    expect((await last.group())?.role).to.equal("primary");
  });
});
