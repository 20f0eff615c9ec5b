import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import { EventLog } from "../../../deploy/agent/event-log.ts";
import { Forks } from "../../../deploy/agent/forks.ts";
import { GroupAgent } from "../../../deploy/agent/group.ts";
import { HookLedger } from "../../../deploy/agent/hook-ledger.ts";
import { runLinks } from "../../../deploy/agent/links.ts";
import { identityDirectory } from "../../../deploy/control/state-layout.ts";
import { loadConfig } from "../../../shared/config/load.ts";
import { ensureIdentity } from "../../../shared/link/identity.ts";
import { silentLog } from "../../../shared/log.ts";
import { createMetrics } from "../../../shared/metrics.ts";
import { type CutId, cutText, type GroupName, type NodeName } from "../../../shared/words.ts";
import { nodePorts } from "../../end-to-end/node-ports.ts";
import { until } from "../../until.ts";

/** Everything of two agents but their processes. */
class Pair implements AsyncDisposable {
  readonly directory: string;
  readonly agents = new Map<string, GroupAgent>();
  readonly #stopping = new AbortController();
  readonly #closing = new AsyncDisposableStack();

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async start(): Promise<Pair> {
    const pair = new Pair(await mkdtemp(join(tmpdir(), "us-demotion-")));
    try {
      await pair.#start();
      return pair;
    } catch (error) {
      await pair[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #start(): Promise<void> {
    const names = ["alpha", "bravo"];
    const ports = await nodePorts(2);
    const lines: string[] = ["nodes:"];
    for (const [index, name] of names.entries()) {
      await mkdir(join(this.directory, name, "data"), { recursive: true });
      const { publicKey } = await ensureIdentity(identityDirectory(this.state(name)));
      lines.push(`  ${name}: { address: "127.0.0.1:${ports[index]}", key: "${publicKey}" }`);
    }
    const at = (node: string, store: string): string => JSON.stringify(join(this.directory, node, "data", store));
    lines.push(`groups:
  app:
    primary: alpha
    replicas: [bravo]
    stores:
      tree: { kind: files, path: ${at("alpha", "tree")}, at: { bravo: ${at("bravo", "tree")} } }
      ledger: { kind: sqlite, path: ${at("alpha", "ledger.db")}, at: { bravo: ${at("bravo", "ledger.db")} } }
`);
    const configPath = join(this.directory, "cluster.yaml");
    await writeFile(configPath, lines.join("\n"));
    await mkdir(join(this.directory, "alpha", "data", "tree"));
    await writeFile(this.file("alpha"), "first");
    this.insert("alpha", 1);
    const config = await loadConfig(configPath);
    for (const name of names as NodeName[]) {
      const stateDirectory = this.state(name);
      const events = this.#closing.use(await EventLog.open(stateDirectory, name));
      const metrics = createMetrics();
      this.#closing.defer(() => metrics[Symbol.dispose]());
      const group = new GroupAgent({
        config,
        group: config.groups.get("app" as GroupName)!,
        node: name,
        stateDirectory,
        software: "test",
        log: silentLog,
        events,
        bootId: "boot",
        hooks: await HookLedger.open(join(stateDirectory, "hooks"), silentLog),
        forks: new Forks(stateDirectory, silentLog, events),
        metrics,
        onFatal: (error) => {
          throw error;
        },
      });
      this.agents.set(name, group);
      await group.start();
      const links = runLinks(
        {
          config,
          node: name,
          identity: await ensureIdentity(identityDirectory(stateDirectory)),
          stateDirectory,
          groups: new Map([["app", group]]),
          log: silentLog,
        },
        this.#stopping.signal,
      );
      this.#closing.defer(async () => await links);
      this.#closing.defer(async () => await group.stop());
    }
  }

  state(name: string): string {
    return join(this.directory, name, "state");
  }

  file(name: string): string {
    return join(this.directory, name, "data", "tree", "text");
  }

  agent(name: string): GroupAgent {
    return this.agents.get(name)!;
  }

  insert(name: string, number: number): void {
    using database = new DatabaseSync(join(this.directory, name, "data", "ledger.db"));
    database.exec("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t (n INTEGER)");
    database.prepare("INSERT INTO t VALUES (?)").run(number);
  }

  /** As a switchover does it: a last cut, applied there; the replica takes over, the primary becomes a replica of it. */
  async swap(from: string, to: string): Promise<CutId> {
    const primary = this.agent(from);
    const replica = this.agent(to);
    const { cut } = await primary.reign!.requestCut();
    await this.applied(to, cut);
    await replica.promotion.promote({
      acceptLoss: true,
      accept: ["live-primary", "unreachable-primary"],
    } as Parameters<typeof replica.promotion.promote>[0]);
    await until(() => primary.role === "fenced", `${from} has met the new reign`);
    await primary.workers.exclusively(async () => {
      const demotion = await primary.roles.demote(cut);
      expect(demotion.cut).to.deep.equal(cut);
      expect(demotion.touched).to.deep.equal({ paths: 0, objects: 0, blocks: 0 });
    });
    return cut;
  }

  async applied(name: string, cut: CutId): Promise<void> {
    const { workers } = this.agent(name);
    await until(
      async () => {
        await workers.refresh();
        const standing = workers.replicaStanding;
        return standing?.committed.seq === cut.seq && standing.applied === cut.seq && standing.suspect === "";
      },
      `${name} has applied ${cutText(cut)}`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort(new Error("the test is over"));
    await this.#closing.disposeAsync();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** A `sync` that fails when it is told to, first in the path of all workers that begin. */
class FailingSync implements AsyncDisposable {
  readonly #directory: string;
  readonly #path = process.env.PATH;

  private constructor(directory: string) {
    this.#directory = directory;
    process.env.PATH = `${directory}:${this.#path}`;
  }

  static async install(): Promise<FailingSync> {
    const directory = await mkdtemp(join(tmpdir(), "us-sync-"));
    const script = `#!/bin/sh\n[ ! -e ${directory}/fails ] || exit 1\nPATH=\${PATH#*:}\nexec sync "$@"\n`;
    await writeFile(join(directory, "sync"), script, { mode: 0o755 });
    return new FailingSync(directory);
  }

  async fail(): Promise<void> {
    await writeFile(join(this.#directory, "fails"), "");
  }

  async succeed(): Promise<void> {
    await rm(join(this.#directory, "fails"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    process.env.PATH = this.#path;
    await rm(this.#directory, { recursive: true });
  }
}

describe("two agents that swap their roles", function () {
  this.timeout(120_000);

  it("go on from what each of them has, there and back", async () => {
    await using pair = await Pair.start();
    await until(() => (pair.agent("bravo").standing?.committed.seq ?? 0n) > 0n, "bravo has a cut");
    const { ino } = await stat(pair.file("alpha"));
    let [primary, replica]: [string, string] = ["alpha", "bravo"];
    for (let round = 1; round <= 2; round++) {
      await pair.swap(primary, replica);
      [primary, replica] = [replica, primary];
      await writeFile(pair.file(primary), `round ${round}`, { flag: "r+" });
      pair.insert(primary, round);
      const { cut } = await pair.agent(primary).reign!.requestCut();
      await pair.applied(replica, cut);
      expect(await readFile(pair.file(replica), "utf8")).to.match(new RegExp(`^round ${round}`));
    }
    expect((await stat(pair.file("alpha"))).ino, "the very file").to.equal(ino);
    const events = (await readFile(join(pair.state("alpha"), "events.jsonl"), "utf8")).trim().split("\n");
    expect(events.map((line) => (JSON.parse(line) as { event: string }).event)).to.include("primary.demoted");
  });

  it("does not believe a sync of its files once one has failed, whatever became of the note of that", async () => {
    await using program = await FailingSync.install();
    await using pair = await Pair.start();
    await until(() => (pair.agent("bravo").standing?.committed.seq ?? 0n) > 0n, "bravo has a cut");
    const alpha = pair.agent("alpha");
    const { cut } = await alpha.reign!.requestCut();
    await pair.applied("bravo", cut);
    const refusal = async (): Promise<unknown> =>
      await alpha.workers
        .exclusively(async () => await alpha.roles.demote(cut))
        .then(
          () => undefined,
          (error: unknown) => error,
        );
    await program.fail();
    expect(await refusal()).to.include({ code: "FILES_NOT_SYNCED" });
    await program.succeed();
    {
      using catalog = new DatabaseSync(join(pair.state("alpha"), "groups", "app", "catalog.db"));
      expect(catalog.prepare("DELETE FROM standing WHERE key = 'unsynced'").run().changes).to.equal(1);
    }
    expect(await refusal()).to.include({ code: "FILES_NOT_SYNCED" });
    expect(alpha.role).to.equal("primary");
  });
});
