import { execFile } from "node:child_process";
import { appendFile, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { promisify } from "node:util";
import { expect } from "chai";
import type { ForkAnswer, ForkPathAnswer } from "../../deploy/control/fork-answers.ts";
import { type Cluster, type ClusterNode, type ClusterPaths, promote, startCluster, until } from "./harness.ts";

const deadlineMs = 120_000;

/** A tree and a database on each member; what its hooks are told is in `hooks` of its directory. */
function groupOf(members: readonly string[], more = "") {
  const [primary = "", ...replicas] = members;
  return async ({ data, directory }: ClusterPaths): Promise<string> => {
    const script = join(directory, "hook");
    await writeFile(
      script,
      `#!/bin/sh\ntest ! -e "${directory}/$UNDERSTUDY_NODE/refuse" || { echo refused >&2; exit 7; }\necho "$1 $UNDERSTUDY_ROLE $UNDERSTUDY_REASON" >> "${directory}/$UNDERSTUDY_NODE/hooks"\n`,
      { mode: 0o755 },
    );
    await mkdir(join(data(primary), "files", "old"), { recursive: true });
    for (const name of ["kept", "changed", "removed", "old/deep"])
      await writeFile(join(data(primary), "files", name), `${name} at first`);
    using database = new DatabaseSync(join(data(primary), "app.db"));
    database.exec("PRAGMA journal_mode=WAL; CREATE TABLE rows (text); INSERT INTO rows VALUES ('first')");
    const at = (name: string): string =>
      replicas.map((replica) => `${replica}: ${JSON.stringify(join(data(replica), name))}`).join(", ");
    return `  app:
    primary: ${primary}
    replicas: [${replicas.join(", ")}]
    stores:
      db: { kind: sqlite, path: ${JSON.stringify(join(data(primary), "app.db"))}, at: { ${at("app.db")} } }
      files: { kind: files, path: ${JSON.stringify(join(data(primary), "files"))}, at: { ${at("files")} } }
    hooks: { stop_service: [${script}, stop] }
${more}`;
  };
}

function fileOf(node: ClusterNode, name: string): string {
  return join(node.dataDirectory, "files", name);
}

function sql(node: ClusterNode, text: string): void {
  // What a killed agent left running may hold it for a moment.
  using database = new DatabaseSync(join(node.dataDirectory, "app.db"), { timeout: 10_000 });
  database.exec(text);
}

async function rowsIn(path: string): Promise<string[]> {
  const { stdout } = await promisify(execFile)("sqlite3", [path, "PRAGMA integrity_check; SELECT text FROM rows"]);
  return stdout.trim().split("\n");
}

async function hooksOf(node: ClusterNode): Promise<string[]> {
  const text = await readFile(join(node.stateDirectory, "..", "hooks"), "utf8").catch(() => "");
  return text.split("\n").filter((line) => line !== "");
}

async function started(node: ClusterNode): Promise<void> {
  await node.start();
  await node.until(() => true, deadlineMs);
}

async function durable(primary: ClusterNode, ...replicas: string[]): Promise<void> {
  const waited = await primary.cli("wait", "app", "--timeout", "120s", "--replica", ...replicas);
  expect(waited, waited.stderr).to.include({ code: 0 });
}

/** Its housekeeping has given up what no longer holds of what it has by now. */
async function thinned(node: ClusterNode): Promise<void> {
  const cut = (await node.group())?.cut?.seq ?? Number.POSITIVE_INFINITY;
  const path = join(node.stateDirectory, "groups", "app", "catalog.db");
  await until(
    () => {
      using catalog = new DatabaseSync(path, { readOnly: true, timeout: 10_000 });
      const row = catalog.prepare("SELECT value FROM standing WHERE key = 'removals'").get();
      // Spans of cuts, each with how many removals it has.
      const until = /(\d+):\d+$/.exec(String(row?.value ?? ""))?.[1];
      return until !== undefined && Number(until) >= cut;
    },
    deadlineMs,
    `${node.name} keeps nothing that no longer holds`,
    200,
  );
}

async function events(node: ClusterNode): Promise<Record<string, unknown>[]> {
  const text = await readFile(join(node.stateDirectory, "events.jsonl"), "utf8");
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

async function eventsUntil(node: ClusterNode, event: string): Promise<Record<string, unknown>[]> {
  return await until(
    async () => {
      const all = await events(node);
      return all.some((item) => item.event === event) ? all : undefined;
    },
    deadlineMs,
    `${node.name} said ${event}`,
  );
}

function pathsOf({ paths }: ForkAnswer): string[] {
  const name = (path: ForkPathAnswer): string => ("path" in path ? path.path : path.pathB64);
  return paths.map((path) => `${path.what} ${path.store} ${name(path)}`).toSorted();
}

/** Both have the same cut and digest, and the copy is what they say. */
async function equal(primary: ClusterNode, replica: ClusterNode): Promise<void> {
  await durable(primary, replica.name);
  await until(
    async () => {
      const [ours, theirs] = [await primary.group(), await replica.group()];
      const applied = Object.values(theirs?.peers ?? {})[0]?.applied;
      return ours?.cut?.digest === theirs?.cut?.digest && applied?.seq === ours?.cut?.seq;
    },
    deadlineMs,
    `${replica.name} is equal to ${primary.name}`,
  );
  const verified = await replica.cli("verify", "app");
  expect(verified, verified.stdout).to.include({ code: 0 });
}

describe("who comes back", function () {
  this.timeout(600_000);

  describe("as a primary that had written more", () => {
    let cluster: Cluster;
    let alpha: ClusterNode;
    let bravo: ClusterNode;
    let fork: string;
    before(async () => {
      cluster = await startCluster({ groupYaml: groupOf(["alpha", "bravo"]) });
      [alpha, bravo] = [cluster.node("alpha"), cluster.node("bravo")];
      await bravo.until(({ cut }) => cut !== null, deadlineMs);
      await durable(alpha, "bravo");
    });
    after(async () => await cluster?.[Symbol.asyncDispose]());

    const killFile = (): string => join(alpha.stateDirectory, "..", "kill");

    /** It dies at the step that the kill file names. */
    async function startAlpha(): Promise<void> {
      const stepFile = join(alpha.stateDirectory, "..", "step");
      const environment = { UNDERSTUDY_STEP_FILE: stepFile, UNDERSTUDY_KILL_FILE: killFile() };
      await alpha.start({ environment });
      await alpha.until(() => true, deadlineMs);
    }

    it("is fenced and its service stopped at once, and again at each start until that succeeds", async () => {
      await bravo.kill9();
      await writeFile(fileOf(alpha, "changed"), "changed and lost");
      sql(alpha, "INSERT INTO rows VALUES ('cut and lost')");
      const cut = await alpha.cli("cut", "app");
      expect(cut, cut.stderr).to.include({ code: 0 });
      await rm(fileOf(alpha, "removed"));
      await writeFile(fileOf(alpha, "created"), "created and lost");
      await alpha.kill9();
      // What no cut has seen is no less lost.
      sql(alpha, "INSERT INTO rows VALUES ('not even cut')");
      await started(bravo);
      await promote(bravo, "app", deadlineMs);
      await writeFile(fileOf(bravo, "changed"), "changed by bravo");
      await writeFile(fileOf(bravo, "old/deep"), "deep by bravo");
      sql(bravo, "INSERT INTO rows VALUES ('by bravo')");

      await writeFile(join(alpha.stateDirectory, "..", "refuse"), "");
      await startAlpha();
      const fenced = await alpha.until(({ role, halted }) => role === "fenced" && halted !== null, deadlineMs);
      await until(
        async () => (await alpha.group())?.halted?.code === "SERVICE_NOT_STOPPED",
        deadlineMs,
        `alpha says that its service may run: ${JSON.stringify(fenced.halted)}`,
      );
      const refused = await until(
        async () => {
          const result = await alpha.cli("rejoin", "app");
          return /NO_PRIMARY|no primary/.test(result.stderr) ? undefined : result;
        },
        deadlineMs,
        "alpha has met bravo",
      );
      expect(refused.code, refused.stderr).to.equal(3);
      expect(refused.stderr).to.match(/the service may still run here: .*hook on_fenced exited with 7/);
      expect(await hooksOf(alpha)).to.deep.equal([]);
      await rm(join(alpha.stateDirectory, "..", "refuse"));
      await alpha.kill9();
      await startAlpha();
      await until(async () => (await hooksOf(alpha)).length > 0, deadlineMs, "the service was stopped");
      expect(await hooksOf(alpha)).to.deep.equal(["stop fenced fenced by epoch 2"]);
      await alpha.until(({ halted }) => halted?.code === "FORK", deadlineMs);
      const status = await alpha.cli("status");
      expect(status.stdout).to.match(/has what the primary bravo has not; the last common cut is 1\.\d+/);
      expect(status.stdout).to.include("understudy rejoin app");
      expect(await readFile(fileOf(alpha, "changed"), "utf8"), "nothing was touched").to.equal("changed and lost");
    });

    for (const [step, forks] of [
      ["keep fork: rename", 0],
      ["demote: catalog demote", 1],
    ] as const)
      it(`is what it was when it is killed at "${step}" while it rejoins`, async () => {
        await writeFile(killFile(), step);
        expect((await alpha.cli("rejoin", "app")).code, "it was killed").to.equal(4);
        await until(() => !alpha.running, deadlineMs, "alpha is killed");
        await startAlpha();
        const group = await alpha.until(({ halted }) => halted?.code === "FORK", deadlineMs);
        expect(group.role).to.equal("fenced");
        expect(group.forks.count, "whole, or none").to.equal(forks);
        expect(await readFile(fileOf(alpha, "changed"), "utf8"), "nothing was touched").to.equal("changed and lost");
      });

    it("rejoins by the verb: its fork has exactly the lost writes, and it follows what the other has", async () => {
      const rejoined = await alpha.cli("rejoin", "app", "--json");
      expect(rejoined, rejoined.stderr).to.include({ code: 0 });
      const answer = JSON.parse(rejoined.stdout) as { peer: string; fork: { name: string } };
      expect(answer.peer).to.equal("bravo");
      fork = answer.fork.name;
      await alpha.until(({ role, peers }) => role === "replica" && peers.bravo?.state === "streaming", deadlineMs);
      await equal(bravo, alpha);
      expect(await readFile(fileOf(alpha, "changed"), "utf8")).to.equal("changed by bravo");
      expect(await readFile(fileOf(alpha, "old/deep"), "utf8")).to.equal("deep by bravo");
      expect((await readdir(fileOf(alpha, ""))).toSorted()).to.deep.equal(["changed", "kept", "old", "removed"]);
      expect(await rowsIn(join(alpha.dataDirectory, "app.db"))).to.deep.equal(["ok", "first", "by bravo"]);

      const shown = await alpha.control.showFork(fork);
      expect(pathsOf(shown)).to.deep.equal([
        "changed db app.db",
        "changed files changed",
        "created files created",
        "removed files removed",
      ]);
      const promoted = (await events(bravo)).find(({ event }) => event === "replica.promoted");
      const { common } = shown.fork;
      expect(`${common.epoch}.${common.seq}`, "what was promoted").to.equal(promoted?.cut);
      const to = join(cluster.directory, "lost");
      const exported = await alpha.cli("forks", "export", fork, "--to", to);
      expect(exported, exported.stderr).to.include({ code: 0 });
      const lost = async (name: string): Promise<string> => await readFile(join(to, "files", "files", name), "utf8");
      expect(await lost("changed")).to.equal("changed and lost");
      expect(await lost("created")).to.equal("created and lost");
      expect(await rowsIn(join(to, "files", "db", "app.db"))).to.deep.equal([
        "ok",
        "first",
        "cut and lost",
        "not even cut",
      ]);

      const status = await alpha.group();
      expect(status?.forks, "kept once").to.deep.equal({ count: 1, names: [fork] });
      expect(await alpha.control.metrics()).to.include('understudy_forks{group="app"} 1');
      const said = (await eventsUntil(alpha, "rejoin.done")).map(({ event }) => event);
      for (const event of ["primary.fenced", "rejoin.begun", "fork.made", "primary.demoted", "rejoin.done"])
        expect(said).to.include(event);
      expect((await alpha.cli("rejoin", "app")).stderr).to.match(/follows bravo/);
    });

    it("takes over again, and the other one comes back with nothing to keep", async () => {
      await appendFile(fileOf(bravo, "kept"), ", more");
      sql(bravo, "INSERT INTO rows VALUES ('the last by bravo')");
      await equal(bravo, alpha);
      await bravo.stop();
      await promote(alpha, "app", deadlineMs);
      await writeFile(fileOf(alpha, "kept"), "back at alpha");
      sql(alpha, "INSERT INTO rows VALUES ('back at alpha')");
      await bravo.start();
      await bravo.until(({ halted }) => halted?.code === "FORK", deadlineMs);
      const rejoined = await bravo.cli("rejoin", "app");
      expect(rejoined, rejoined.stderr).to.include({ code: 0 });
      expect(rejoined.stdout).to.match(/^app: follows alpha from cut \d+\.\d+; there was nothing beyond it\n$/);
      await equal(alpha, bravo);
      expect(await rowsIn(join(bravo.dataDirectory, "app.db"))).to.include("back at alpha");
      expect((await bravo.group())?.forks.count).to.equal(0);
      const dropped = await alpha.cli("forks", "drop", fork, "--yes");
      expect(dropped, dropped.stderr).to.include({ code: 0 });
      expect((await alpha.group())?.forks.count).to.equal(0);
      const drop = (await events(alpha)).at(-1);
      expect(drop).to.include({ event: "fork.dropped", name: fork });
      expect(drop?.by, "who did it").not.to.equal("");
    });

    it("begins from what it has where it is told so, and what only it has is beside the store", async () => {
      await alpha.kill9();
      await writeFile(fileOf(alpha, "kept"), "kept beside");
      await promote(bravo, "app", deadlineMs);
      await alpha.start();
      await alpha.until(({ halted }) => halted?.code === "FORK", deadlineMs);
      const adopted = await alpha.cli("adopt", "app");
      expect(adopted, adopted.stderr).to.include({ code: 0 });
      await equal(bravo, alpha);
      expect(await readFile(fileOf(alpha, "kept"), "utf8")).to.equal("back at alpha");
      const beside = join(alpha.dataDirectory, ".understudy");
      const kept = (await readdir(beside, { recursive: true, withFileTypes: true }))
        .filter((entry) => entry.isFile())
        .map(async (entry) => await readFile(join(entry.parentPath, entry.name), "latin1"));
      expect(await Promise.all(kept)).to.include("kept beside");
      expect((await events(alpha)).find(({ event }) => event === "copy.adopting")).to.include({ role: "fenced" });
    });
  });

  // Without history a replica gives up at once what no longer holds.
  const withoutHistory = "    rejoin: auto\n    retention: { keep: {} }";

  it("follows by itself where that is configured, as a primary that had more and as a replica that was ahead", async () => {
    await using cluster = await startCluster({
      groupYaml: groupOf(["alpha", "bravo", "charlie"], withoutHistory),
      nodes: ["alpha", "bravo", "charlie"],
    });
    const [alpha, bravo, charlie] = [cluster.node("alpha"), cluster.node("bravo"), cluster.node("charlie")];
    for (const node of [bravo, charlie]) await node.until(({ cut }) => cut !== null, deadlineMs);
    await durable(alpha, "bravo", "charlie");
    await bravo.kill9();
    await writeFile(fileOf(alpha, "changed"), "bravo never had it");
    await rm(fileOf(alpha, "removed"));
    sql(alpha, "INSERT INTO rows VALUES ('bravo never had it')");
    await durable(alpha, "charlie");
    await thinned(charlie);
    await alpha.kill9();
    await charlie.kill9();
    await writeFile(fileOf(alpha, "kept"), "nobody else had it");
    await started(bravo);
    await promote(bravo, "app", deadlineMs);
    await writeFile(fileOf(bravo, "created"), "by bravo");
    const lost = ["changed db app.db", "changed files changed", "removed files removed"];
    for (const [node, paths] of [
      [charlie, lost],
      [alpha, [...lost, "changed files kept"].toSorted()],
    ] as const) {
      // One after the other: a primary that has not heard of bravo yet would ship what it has.
      await node.start();
      const group = await node.until(({ role, forks }) => role === "replica" && forks.count === 1, deadlineMs);
      await equal(bravo, node);
      expect((await readdir(fileOf(node, ""))).toSorted()).to.deep.equal([
        "changed",
        "created",
        "kept",
        "old",
        "removed",
      ]);
      const [name = ""] = group.forks.names;
      expect(pathsOf(await node.control.showFork(name)), node.name).to.deep.equal(paths);
      const to = join(cluster.directory, `lost-by-${node.name}`);
      await node.control.exportFork(name, { to });
      expect(await rowsIn(join(to, "files", "db", "app.db"))).to.deep.equal(["ok", "first", "bravo never had it"]);
      expect((await hooksOf(node)).at(-1)).to.match(node === alpha ? /^stop fenced / : /^stop replica rejoin$/);
      const begun = (await eventsUntil(node, "rejoin.done")).find(({ event }) => event === "rejoin.begun");
      expect(begun).to.include({ by: "auto", peer: "bravo" });
    }
  });

  it("follows the replica that was promoted, as one that was behind and has to hear what was removed", async () => {
    await using cluster = await startCluster({
      groupYaml: groupOf(["alpha", "bravo", "charlie"], withoutHistory),
      nodes: ["alpha", "bravo", "charlie"],
    });
    const [alpha, bravo, charlie] = [cluster.node("alpha"), cluster.node("bravo"), cluster.node("charlie")];
    for (const node of [bravo, charlie]) await node.until(({ cut }) => cut !== null, deadlineMs);
    await durable(alpha, "bravo", "charlie");
    await bravo.kill9();
    await rm(fileOf(alpha, "removed"));
    sql(alpha, "INSERT INTO rows VALUES ('bravo never had it')");
    await durable(alpha, "charlie");
    await thinned(charlie);
    await alpha.kill9();
    await promote(charlie, "app", deadlineMs);
    await started(bravo);
    await equal(charlie, bravo);
    expect((await readdir(fileOf(bravo, ""))).toSorted()).to.deep.equal(["changed", "kept", "old"]);
  });

  it("can be promoted as it is where the primary that it rejoins is lost for good, and the others follow", async function () {
    this.timeout(400_000);
    const deadlineMs = 90_000;
    await using cluster = await startCluster({
      groupYaml: groupOf(["alpha", "bravo", "charlie"]),
      nodes: ["alpha", "bravo", "charlie"],
    });
    const [alpha, bravo, charlie] = [cluster.node("alpha"), cluster.node("bravo"), cluster.node("charlie")];
    const killFile = join(alpha.stateDirectory, "..", "kill");
    const environment = {
      UNDERSTUDY_STEP_FILE: join(alpha.stateDirectory, "..", "step"),
      UNDERSTUDY_KILL_FILE: killFile,
    };
    for (const node of [bravo, charlie]) await node.until(({ cut }) => cut !== null, deadlineMs);
    const durable = async (...replicas: string[]): Promise<unknown> =>
      await alpha.control.wait("app", { timeoutMs: deadlineMs, replicas });
    await durable("bravo", "charlie");
    for (const node of [bravo, charlie]) await node.kill9();
    await writeFile(fileOf(alpha, "changed"), "alpha's own");
    await rm(fileOf(alpha, "removed"));
    sql(alpha, "INSERT INTO rows VALUES ('alpha knows')");
    await alpha.control.cut("app", { accept: [] });
    await alpha.kill9();
    await started(bravo);
    await promote(bravo, "app", deadlineMs);
    await writeFile(fileOf(bravo, "changed"), "bravo's own");
    sql(bravo, "INSERT INTO rows VALUES ('bravo knows')");
    await bravo.control.cut("app", { accept: [] });

    // All of bravo's first cut has come when alpha dies, and none of it is committed.
    await alpha.start({ environment });
    await alpha.until(({ halted }) => halted?.code === "FORK", deadlineMs);
    await writeFile(killFile, "commit");
    // Whether it answers before it dies is chance.
    await until(
      async () => {
        if (alpha.running) await alpha.control.rejoin("app").catch(() => undefined);
        return !alpha.running;
      },
      deadlineMs,
      "alpha rejoins, and is killed",
    );
    await bravo.kill9();
    await alpha.start();
    const { rejoining, promotable } = await alpha.until((group) => group.rejoining !== undefined, deadlineMs);
    const [fork = ""] = (await alpha.group())?.forks.names ?? [];
    expect(rejoining).to.deep.include({ fork });
    expect(promotable.why.map(({ code, flag }) => [code, flag])).to.deep.equal([["REJOINING", "--accept-rejoining"]]);

    const words = ["promote", "app", "--yes", "--accept-loss", "--accept-unreachable-primary"];
    const refused = await alpha.cli(...words);
    expect(refused.code, refused.stderr).to.equal(3);
    expect(refused.stderr).to.match(
      /It rejoins: it goes on from what it has since cut 1\.\d+ up to its own cut 1\.\d+, taken /,
    );
    expect(refused.stderr).to.include("--accept-rejoining").and.include(`fork ${fork} is kept`);
    const promoted = await alpha.cli(...words, "--accept-rejoining");
    expect(promoted, promoted.stderr).to.include({ code: 0 });
    expect(promoted.stderr).to.match(/Accepted: this node rejoins/);
    const reigns = await alpha.until(({ role }) => role === "primary", deadlineMs);
    expect(reigns.cut).to.include({ epoch: reigns.epoch, seq: (rejoining?.common.seq ?? 0) + 1 });
    expect(reigns).not.to.have.property("rejoining");
    expect(await readFile(fileOf(alpha, "changed"), "utf8")).to.equal("alpha's own");
    const overridden = (await events(alpha)).filter(({ event }) => event === "refusal.overridden");
    expect(overridden.map(({ flag }) => flag)).to.include("--accept-rejoining");

    sql(alpha, "INSERT INTO rows VALUES ('alpha goes on')");
    await started(charlie);
    await durable("charlie");
    await until(
      async () => {
        const [ours, theirs] = [await alpha.group(), await charlie.group()];
        return theirs?.peers.alpha?.applied?.seq === ours?.cut?.seq && theirs?.cut?.digest === ours?.cut?.digest;
      },
      deadlineMs,
      "charlie is equal to alpha",
    );
    expect(await readFile(fileOf(charlie, "changed"), "utf8")).to.equal("alpha's own");
    expect((await readdir(fileOf(charlie, ""))).toSorted()).to.deep.equal(["changed", "kept", "old"]);
    expect(await rowsIn(join(charlie.dataDirectory, "app.db"))).to.deep.equal([
      "ok",
      "first",
      "alpha knows",
      "alpha goes on",
    ]);
  });
});
