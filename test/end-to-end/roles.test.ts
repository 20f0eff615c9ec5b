import { cp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { callerName } from "../../deploy/cli/caller.ts";
import { fileGroup, fileOf, textOf } from "./file-group.ts";
import { type Cluster, type ClusterNode, promote, startCluster, until } from "./harness.ts";

const deadlineMs = 120_000;

/** Writes on the primary and waits until it is durable on all others that are named. */
async function write(primary: ClusterNode, text: string, ...replicas: string[]): Promise<void> {
  await writeFile(fileOf(primary), text);
  const words = replicas.length === 0 ? [] : ["--replica", ...replicas];
  const waited = await primary.cli("wait", "app", "--timeout", "30s", ...words);
  expect(waited, waited.stderr).to.include({ code: 0 });
}

async function holds(node: ClusterNode, text: string): Promise<void> {
  await until(async () => (await textOf(node)) === text, deadlineMs, `${node.name} holds ${text}`);
}

async function hearsNobody(node: ClusterNode): Promise<void> {
  await until(
    async () => (await node.group())?.promotable.loss.basis === "silence",
    deadlineMs,
    `${node.name} hears that the primary is gone`,
  );
}

describe("who is what", function () {
  this.timeout(300_000);

  describe("at the birth of a group", () => {
    it("is formed when every replica has answered, and says until then whom it waits for", async () => {
      await using cluster = await startCluster({
        groupYaml: fileGroup(["alpha", "bravo", "charlie"]),
        nodes: ["alpha", "bravo", "charlie"],
        start: ["alpha", "bravo"],
      });
      const [alpha, bravo, charlie] = [cluster.node("alpha"), cluster.node("bravo"), cluster.node("charlie")];
      await alpha.until(({ waitingFor }) => waitingFor.join() === "charlie", deadlineMs);
      expect((await alpha.cli("status")).stdout).to.include("app: unformed, waits for charlie.");
      expect((await bravo.group())?.role).to.equal("unformed");
      const refused = await alpha.cli("form", "app");
      expect(refused.code).to.equal(3);
      expect(refused.stderr)
        .to.match(/charlie did not answer/)
        .and.match(/form GROUP --alone/);
      expect((await bravo.cli("form", "app", "--alone")).code, "only the candidate forms it").to.equal(3);
      expect((await alpha.cli("wait", "app")).code, "there is no primary to ask").to.equal(3);
      expect((await alpha.cli("is-primary", "app")).code).to.equal(1);
      expect((await charlie.cli("status")).code, "no agent runs").to.equal(4);

      const alone = await alpha.cli("form", "app", "--alone");
      expect(alone, alone.stderr).to.include({ code: 0, stdout: "app: primary in epoch 1\n" });
      expect((await alpha.events()).find(({ event }) => event === "refusal.overridden")).to.include({
        verb: "form",
        flag: "--alone",
        by: callerName(process.env),
      });
      expect((await alpha.cli("is-primary", "app")).code).to.equal(0);
      await bravo.until(({ cut }) => cut !== null, deadlineMs);
      expect((await alpha.cli("wait", "app", "--timeout", "300ms")).code, "charlie is away").to.equal(5);
      await charlie.start();
      await charlie.until(({ cut, role }) => cut !== null && role === "replica", deadlineMs);
      expect((await charlie.group())?.id).to.equal((await alpha.group())?.id);

      // The second replica goes on with the first one when that is promoted, from where it is.
      await write(alpha, "second", "bravo", "charlie");
      await alpha.kill9();
      await charlie.stop();
      await hearsNobody(bravo);
      await promote(bravo, "app", deadlineMs);
      await charlie.start();
      await writeFile(fileOf(bravo), "third");
      await holds(charlie, "third");
      const group = await charlie.until(({ cut }) => cut?.epoch === 2, deadlineMs);
      expect(Object.keys(group.peers)).to.deep.equal(["bravo"]);
      const joined = (await bravo.log()).findLast(
        ({ event, peer }) => event === "replica.joined" && peer === "charlie",
      );
      expect(joined?.seq, "not from the beginning").to.be.above(0);
    });
  });

  describe("when the primary is gone, or is not", () => {
    let cluster: Cluster;
    let alpha: ClusterNode;
    let bravo: ClusterNode;
    before(async () => {
      cluster = await startCluster({ groupYaml: fileGroup(["alpha", "bravo"], { more: "    rpo: 2s" }) });
      [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
      await bravo.until(({ cut }) => cut !== null, deadlineMs);
    });
    after(async () => await cluster?.[Symbol.asyncDispose]());

    it("does not promote beside a live primary without being told so", async () => {
      await write(alpha, "second");
      const refused = await bravo.cli("promote", "app", "--yes", "--accept-loss");
      expect(refused.code).to.equal(3);
      expect(refused.stderr)
        .to.match(/the primary still answers/)
        .and.match(/--accept-live-primary/);
      expect((await bravo.cli("promote", "app")).code, "nobody can be asked").to.equal(3);
      expect((await alpha.cli("promote", "app", "--yes")).code, "it is primary already").to.equal(3);
      expect((await bravo.group())?.role).to.equal("replica");
    });

    it("says by its exit code that the RPO is broken, on either side, and when it is kept again", async () => {
      expect((await alpha.cli("status")).code).to.equal(0);
      await alpha.kill9();
      await until(async () => (await bravo.cli("status")).code === 6, deadlineMs, "bravo's status ends with 6");
      const told = await bravo.cli("status");
      expect(told.stderr).to.match(/promise broken: app towards alpha: 2 s promised/);
      expect((await bravo.group())?.peers.alpha?.rpo).to.deep.equal({ seconds: 2, broken: true });
      await alpha.start();
      await until(async () => (await bravo.cli("status")).code === 0, deadlineMs, "the promise is kept again");
      await until(async () => (await alpha.cli("status")).code === 0, deadlineMs, "on both sides");
      await bravo.kill9();
      await writeFile(fileOf(alpha), "not there yet");
      await until(async () => (await alpha.cli("status")).code === 6, deadlineMs, "alpha's status ends with 6");
      await alpha.until(({ peers }) => (peers.bravo?.lag.cuts ?? 0) > 0, deadlineMs);
      expect((await alpha.group())?.peers.bravo?.lag, "what was not yet cut is the least of it").to.include({
        bytes: null,
        basis: "silence",
      });
      await bravo.start();
      await until(async () => (await alpha.cli("status")).code === 0, deadlineMs, "it has caught up");
    });

    it("accepts a loss only from the cut that was named, and is promoted once", async () => {
      await write(alpha, "third");
      const { cut } = await bravo.until((group) => group.cut !== null, deadlineMs);
      await alpha.kill9();
      await hearsNobody(bravo);
      const unseen = "--accept-unreachable-primary";
      const plain = await bravo.cli("promote", "app", "--yes");
      expect(plain.code).to.equal(3);
      expect(plain.stderr)
        .to.include(`--accept-loss=1.${cut?.seq}`)
        .and.match(/that it is not primary was not heard of alpha[\s\S]*--accept-unreachable-primary/);
      const alone = await bravo.cli("promote", "app", "--yes", "--accept-loss");
      expect(alone.code, "a loss is accepted, two primaries are not").to.equal(3);
      const wrong = await bravo.cli("promote", "app", "--yes", `--accept-loss=1.${(cut?.seq ?? 0) - 1}`, unseen);
      expect(wrong.code).to.equal(3);
      expect(wrong.stderr).to.match(/last durable cut is 1\.\d+, the accepted one 1\.\d+/);
      const done = await bravo.cli("promote", "app", "--yes", `--accept-loss=1.${cut?.seq}`, unseen);
      expect(done, done.stderr).to.include({ code: 0 });
      expect(done.stderr).to.match(/known to be missing: 0 cuts, \S+ \w+\)/);
      expect(await textOf(bravo)).to.equal("third");
      const events = await bravo.events();
      const overridden = events.filter(({ event }) => event === "refusal.overridden");
      const by = callerName(process.env);
      expect(events.find(({ event }) => event === "group.joined")).to.include({ peer: "alpha", epoch: 1 });
      expect(events.find(({ event }) => event === "promotion.sealed")).to.include({ cut: `1.${cut?.seq}`, by });
      expect(events.find(({ event }) => event === "replica.promoted")).to.include({ epoch: 2, by });
      expect(overridden.map(({ code, flag, by }) => [code, flag, by])).to.deep.equal([
        ["UNREACHABLE_PRIMARY", unseen, callerName(process.env)],
        ["LOSS", `--accept-loss=1.${cut?.seq}`, callerName(process.env)],
      ]);
      const lag = { bytes: null, cuts: null, seconds: null, basis: "silence" };
      expect((await bravo.group())?.peers.alpha?.lag, "in this reign nothing was heard of it").to.deep.equal(lag);
      const lonely = await bravo.cli("status");
      expect(lonely.stdout).to.match(/^ +alpha +\w+ +unknown +- +- +- +2 s BROKEN$/m);
      expect(lonely.stderr).to.include("app towards alpha: 2 s promised, and how far it is behind is not known");
      const again = await bravo.cli("promote", "app", "--yes", "--accept-loss");
      expect(again.code).to.equal(3);
      expect(again.stderr).to.match(/this node is primary/);
      expect((await bravo.cli("is-primary", "app")).stdout).to.equal("primary epoch 2\n");
    });

    it("lets a fenced primary reign again where its successor is lost, which becomes a fork when it is back", async () => {
      await alpha.start();
      await alpha.until(({ role }) => role === "fenced", deadlineMs);
      await writeFile(fileOf(bravo), "bravo's alone");
      await bravo.kill9();
      const plain = await alpha.cli("promote", "app", "--yes");
      expect(plain.code).to.equal(3);
      expect(plain.stderr).to.include("--accept-fenced").and.include("--accept-unreachable-primary");
      const done = await alpha.cli("promote", "app", "--yes", "--accept-fenced", "--accept-unreachable-primary");
      expect(done, done.stderr).to.include({ code: 0 });
      expect((await alpha.cli("is-primary", "app")).stdout).to.equal("primary epoch 3\n");
      expect(await textOf(alpha)).to.equal("third");
      await bravo.start();
      await bravo.until(({ role }) => role === "fenced", deadlineMs);
      // Its session with alpha ended with its reign, and is there again soon.
      await until(async () => (await bravo.cli("rejoin", "app")).code === 0, deadlineMs, "bravo rejoins");
      await holds(bravo, "third");
      await write(alpha, "third again", "bravo");
      const { stdout } = await bravo.cli("forks", "list", "--json");
      const [fork] = (JSON.parse(stdout) as { forks: { name: string }[] }).forks;
      const to = join(cluster.directory, "fork");
      expect(await bravo.cli("forks", "export", fork?.name ?? "", "--to", to)).to.include({ code: 0 });
      expect(await readFile(join(to, "files", "files", "text"), "utf8")).to.equal("bravo's alone");
      // And back to where it was.
      await alpha.kill9();
      await hearsNobody(bravo);
      await promote(bravo, "app", deadlineMs);
      await writeFile(fileOf(bravo), "third");
    });

    it("takes a reinstalled node as a replica, whatever the configuration calls it", async () => {
      await rm(join(alpha.stateDirectory, "groups"), { recursive: true });
      await rm(join(alpha.dataDirectory, "files"), { recursive: true });
      await rename(join(alpha.dataDirectory, ".understudy"), join(alpha.dataDirectory, "former")).catch(
        () => undefined,
      );
      await bravo.kill9();
      await alpha.start();
      await alpha.until(({ role, waitingFor }) => role === "unformed" && waitingFor.join() === "bravo", deadlineMs);
      expect((await alpha.cli("form", "app")).code).to.equal(3);
      await bravo.start();
      await holds(alpha, "third");
      await write(bravo, "fourth", "alpha");
      await holds(alpha, "fourth");
      expect((await alpha.group())?.role).to.equal("replica");
      expect((await alpha.cli("is-primary", "app")).code).to.equal(1);
    });
  });

  describe("when the primary went back in time", () => {
    it("halts, until its source is accepted in a new epoch; the replica is then refused until adopt", async () => {
      await using cluster = await startCluster({ groupYaml: fileGroup(["alpha", "bravo"]) });
      const [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
      await bravo.until(({ cut }) => cut !== null, deadlineMs);
      await write(alpha, "backed up");
      await alpha.stop();
      const backup = join(cluster.directory, "backup");
      for (const part of ["state", "data"])
        await cp(join(cluster.directory, "alpha", part), join(backup, part), {
          recursive: true,
          preserveTimestamps: true,
          filter: (path) => !path.endsWith(".sock"),
        });
      await alpha.start();
      await alpha.until(({ role }) => role === "primary", deadlineMs);
      await write(alpha, "lost with the machine");
      await holds(bravo, "lost with the machine");
      const ahead = (await bravo.group())?.cut;
      await alpha.kill9();
      for (const part of ["state", "data"]) {
        await rm(join(cluster.directory, "alpha", part), { recursive: true });
        await cp(join(backup, part), join(cluster.directory, "alpha", part), {
          recursive: true,
          preserveTimestamps: true,
        });
      }
      await alpha.start();

      const halted = await alpha.until((group) => group.halted !== null, deadlineMs);
      expect(halted.halted?.message).to.match(
        /the replica bravo is newer \(cut 1\.\d+\) than this primary: promote it/,
      );
      expect(halted.halted?.hint).to.match(/--accept-source/);
      const refused = await alpha.cli("cut", "app");
      expect(refused.code).to.equal(3);
      expect(refused.stderr)
        .to.match(/is newer/)
        .and.match(/cut GROUP --accept-source/);
      await alpha.restart();
      await alpha.until((group) => group.halted !== null, deadlineMs);
      expect((await bravo.group())?.cut).to.deep.include({ epoch: ahead?.epoch, seq: ahead?.seq });
      expect(await textOf(bravo)).to.equal("lost with the machine");

      const accepted = await alpha.cli("cut", "app", "--accept-source");
      expect(accepted, accepted.stderr).to.include({ code: 0 });
      const events = (await alpha.events()).filter(({ event }) => event !== "service.left");
      const begun = events.slice(events.findIndex(({ event }) => event === "group.halted"));
      expect(begun.slice(0, 3).map(({ event, by = "" }) => [event, by])).to.deep.equal([
        ["group.halted", ""],
        ["refusal.overridden", callerName(process.env)],
        ["source.accepted", callerName(process.env)],
      ]);
      expect(begun[1]).to.include({ verb: "cut", flag: "--accept-source", code: "REPLICA_NEWER" });
      await alpha.until((group) => group.halted === null && group.epoch === 3, deadlineMs);
      await alpha.until(
        ({ peers }) =>
          /not in this primary's history/.test(peers.bravo?.reason ?? "") && peers.bravo?.state === "refused",
        deadlineMs,
      );
      expect(await textOf(bravo), "kept until somebody decides").to.equal("lost with the machine");
      const shown = (await alpha.log()).findLast(({ event }) => event === "replica.ahead");
      expect(shown?.reason).to.match(/the last common cut is 1\.\d+/);

      expect((await bravo.cli("adopt", "app")).code).to.equal(0);
      await holds(bravo, "backed up");
      await write(alpha, "and on");
      await holds(bravo, "and on");
      expect(await bravo.control.verify("app", { quick: false })).to.include({ ok: true });
    });
  });
});
