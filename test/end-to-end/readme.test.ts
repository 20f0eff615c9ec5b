import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import type { AgentStatus, PointsAnswer } from "../../deploy/control/api.ts";
import { Child } from "../../deploy/demo/child-process.ts";
import { nodeNamed } from "../../shared/config/config.ts";
import { loadConfig } from "../../shared/config/load.ts";
import { until } from "./harness.ts";
import { nodePorts } from "./node-ports.ts";

/**
 * README's commands, run as they are printed by a shell in the project's directory. Two directories stand for two
 * machines: what is replaced is where a machine has its files, its address and its key, and nothing else.
 */

const root = fileURLToPath(new URL("../../", import.meta.url));
const names = ["alpha", "bravo"] as const;
type Name = (typeof names)[number];

interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** One line of a block: what the shell gets, and on which of the machines. */
interface Line {
  readonly command: string;
  readonly on: readonly Name[];
}

describe("README.md", function () {
  this.timeout(300_000);

  describe("on two machines", () => {
    let directory: string;
    let blocks: ReadonlyMap<string, string>;
    let ports: readonly number[];
    const keys = new Map<Name, string>();
    const agents = new Map<Name, Child>();

    before(async () => {
      directory = await mkdtemp(join(tmpdir(), "us-readme-"));
      for (const name of names) await mkdir(join(directory, name));
      blocks = blocksOf(await readFile(join(root, "README.md"), "utf8"));
      ports = await nodePorts(names.length);
    });
    after(async () => {
      for (const agent of agents.values()) await agent[Symbol.asyncDispose]();
      await rm(directory, { recursive: true });
    });

    /** As the machine `name` would see it. */
    function onMachine(text: string, name: Name): string {
      return text
        .replaceAll("/tmp/", `${join(directory, name)}/`)
        .replaceAll("/var/lib/understudy", join(directory, name, "state"))
        .replaceAll("/etc/understudy.yaml", join(directory, name, "understudy.yaml"))
        .replaceAll("/srv/app", join(directory, name, "app"))
        .replaceAll("10.0.0.1:7522", `127.0.0.1:${ports[0]}`)
        .replaceAll("10.0.0.2:7522", `127.0.0.1:${ports[1]}`)
        .replaceAll(/ssh-ed25519 AAAA-of-(alpha|bravo)\b/g, (_, of: Name) => keys.get(of) ?? "");
    }

    function block(name: string): string {
      const text = blocks.get(name);
      if (text === undefined) throw new Error(`README.md has no block with the marker <!-- test: ${name} -->`);
      return text;
    }

    /** Runs every line of a block on the machines that its comment names, in order. */
    async function runBlock(name: string): Promise<Result[]> {
      const results: Result[] = [];
      for (const { command, on } of linesOf(block(name)))
        for (const node of on) results.push(await shell(onMachine(command, node), node));
      return results;
    }

    async function shell(command: string, node: Name): Promise<Result> {
      return await new Promise((resolve) => {
        execFile(
          "bash",
          ["-c", command],
          { cwd: root, env: { ...process.env, HOME: join(directory, node) } },
          (error, stdout, stderr) => {
            const code = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
            resolve({ code, stdout, stderr });
          },
        );
      });
    }

    async function startAgent(command: string, node: Name): Promise<void> {
      await using log = await open(join(directory, node, "log"), "a");
      // exec, so that the id that we know is the agent's own.
      const words = ["-c", `exec ${onMachine(command, node)}`];
      agents.set(node, new Child("bash", words, { cwd: root, stdio: ["ignore", log.fd, log.fd] }));
    }

    async function json<T>(words: string, node: Name): Promise<T> {
      const { stdout, stderr } = await shell(onMachine(`${words} --json --state /var/lib/understudy`, node), node);
      if (stdout === "") throw new Error(stderr);
      return JSON.parse(stdout) as T;
    }

    async function group(node: Name): Promise<AgentStatus["groups"][string] | undefined> {
      return (await json<AgentStatus>("deploy/understudy status", node)).groups.app;
    }

    it("identities: prints each node's key for the configuration", async () => {
      const results = await runBlock("identities");
      for (const [index, name] of names.entries()) {
        expect(results[index]?.stderr).to.equal("");
        const [, of, key = ""] = /^(\w+): \{ key: "(ssh-ed25519 \S+)" \}\n$/.exec(results[index]?.stdout ?? "") ?? [];
        expect(of, results[index]?.stdout).to.equal(name);
        keys.set(name, key);
      }
    });

    it("configuration: is right, and the data that it names is found", async () => {
      for (const name of names)
        await writeFile(join(directory, name, "understudy.yaml"), onMachine(block("configuration"), name));
      const app = join(directory, "alpha", "app");
      await mkdir(join(app, "uploads"), { recursive: true });
      using database = new DatabaseSync(join(app, "app.db"));
      database.exec("PRAGMA journal_mode = WAL; CREATE TABLE orders(text TEXT); INSERT INTO orders VALUES ('first')");
      await writeFile(join(app, "uploads", "a.txt"), "first");
      await writeFile(join(app, "uploads", "half.tmp"), "not for others");
    });

    it("run: check lacks only the peers that do not run yet, and the group is born", async () => {
      const lines = linesOf(block("run"));
      for (const { command, on } of lines.filter(({ command }) => command.includes(" check "))) {
        expect(on, "check is run on both").to.deep.equal(names);
        for (const node of on) {
          const { code, stdout } = await shell(
            onMachine(command.replace("--node alpha", `--node ${node}`), node),
            node,
          );
          const unready = stdout.split("\n").filter((line) => /^ {2}(warning|unreachable|failed)/.test(line));
          const peer = node === "alpha" ? "bravo" : "alpha";
          expect(unready.filter((line) => !line.includes("free where up to")).join("\n")).to.match(
            new RegExp(`^ {2}unreachable +peer ${peer} .*$`),
          );
          expect(code, stdout).to.equal(4);
        }
      }
      const runs = lines.filter(({ command }) => command.includes(" run "));
      expect(runs.map(({ on }) => on)).to.deep.equal([["alpha"], ["bravo"]]);
      for (const { command, on } of runs) {
        await startAgent(command, on[0] ?? "alpha");
      }
      await until(
        async () => {
          for (const [name, agent] of agents)
            if (!agent.running)
              throw new Error(`${name} ${await agent.ended}: ${await readFile(join(directory, name, "log"), "utf8")}`);
          const cuts = names.map(async (name) =>
            group(name).then(
              (at) => at?.cut,
              () => undefined, // It does not answer yet.
            ),
          );
          return (await Promise.all(cuts)).every((cut) => cut);
        },
        30_000,
        "both have the first cut",
      );
    });

    it("watch: shows the status, waits, and finds the copy equal", async () => {
      const [status, other, waited, verified] = await runBlock("watch");
      expect(status?.stdout).to.match(/^node alpha, [\s\S]*\napp: primary at cut 1\.\d+/);
      expect(other?.stdout).to.match(/^node bravo, [\s\S]*\napp: replica of alpha/);
      expect(waited, waited?.stderr).to.include({ code: 0 });
      expect(waited?.stdout).to.match(/^cut 1\.\d+ is durable on bravo /);
      expect(verified, verified?.stderr).to.include({ code: 0 });
      expect(verified?.stdout).to.match(/^cut 1\.\d+: equal \(2 files read/);
      expect(await readFile(join(directory, "bravo", "app", "uploads", "a.txt"), "utf8")).to.equal("first");
    });

    it("restore: gives what alpha had then", async () => {
      const wanted = Number(/--at "(\d+)s ago"/.exec(block("restore"))?.[1]) * 1000;
      expect(wanted, "README names seconds").to.be.within(1000, 20_000);
      const { points } = await json<PointsAnswer>("deploy/understudy points app", "bravo");
      const newest = Date.parse(points[0]?.takenAt ?? "");
      await until(() => Date.now() - newest > wanted, 40_000, "the point is old enough");
      {
        using database = new DatabaseSync(join(directory, "alpha", "app", "app.db"));
        database.exec("INSERT INTO orders VALUES ('second')");
      }
      await writeFile(join(directory, "alpha", "app", "uploads", "a.txt"), "second");
      const waited = await shell(
        onMachine("deploy/understudy wait app --timeout 30s --state /var/lib/understudy", "alpha"),
        "alpha",
      );
      expect(waited, waited.stderr).to.include({ code: 0 });

      const [listed, restored] = await runBlock("restore");
      expect(listed?.stdout).to.match(/\n {2}1\.\d+ .* db transactional, uploads (whole|crash)/);
      expect(restored, restored?.stderr).to.include({ code: 0 });
      const to = onMachine(/--to (\S+)/.exec(block("restore"))?.[1] ?? "", "bravo");
      expect(await readFile(join(to, "uploads", "a.txt"), "utf8")).to.equal("first");
      expect(ordersIn(join(to, "db", "app.db"))).to.deep.equal(["first"]);
      expect(await readFile(join(directory, "bravo", "app", "uploads", "a.txt"), "utf8")).to.equal("second");
    });

    it("promote: says what is lost and asks, and is done when it is told yes", async () => {
      const alpha = agents.get("alpha");
      alpha?.kill9();
      await alpha?.ended;
      await until(
        async () => (await group("bravo"))?.promotable.loss.basis === "silence",
        30_000,
        "bravo hears that alpha is gone",
      );
      const [line] = linesOf(block("promote"));
      expect(line?.on).to.deep.equal(["bravo"]);
      const { code, output } = await atTerminal(onMachine(line?.command ?? "", "bravo"), "Promote it?", "y\n");
      expect(output).to.match(/losing at most what was written in the last .*\n.*goes on from cut 1\.\d+/);
      expect(output).to.match(/app: primary in epoch 2 after /);
      expect(code, output).to.equal(0);
      expect((await group("bravo"))?.role).to.equal("primary");
      expect(ordersIn(join(directory, "bravo", "app", "app.db"))).to.deep.equal(["first", "second"]);
    });

    it("rejoin: the former primary is fenced, keeps what only it has, and follows", async () => {
      await writeFile(join(directory, "alpha", "app", "uploads", "a.txt"), "beyond the last cut");
      const start = linesOf(block("run")).find(({ command, on }) => on.includes("alpha") && command.includes(" run "));
      await startAgent(start?.command ?? "", "alpha");
      await until(
        async () => (await group("alpha").catch(() => undefined))?.halted?.code === "FORK",
        30_000,
        "alpha is fenced and has met bravo",
      );
      const [rejoin, list] = linesOf(block("rejoin"));
      const rejoined = await shell(onMachine(rejoin?.command ?? "", "alpha"), "alpha");
      expect(rejoined, rejoined.stderr).to.include({ code: 0 });
      const app = join(directory, "alpha", "app");
      await until(
        async () => (await readFile(join(app, "uploads", "a.txt"), "utf8")) === "second",
        30_000,
        "alpha's copy is bravo's",
      );
      expect((await group("alpha"))?.role).to.equal("replica");
      const waited = await shell(
        onMachine("deploy/understudy wait app --timeout 30s --state /var/lib/understudy", "bravo"),
        "bravo",
      );
      expect(waited, waited.stderr).to.include({ code: 0 });
      const [name = ""] = (await group("alpha"))?.forks.names ?? [];
      const listed = await shell(onMachine(list?.command ?? "", "alpha"), "alpha");
      expect(listed.stdout).to.include(name).and.include("bravo, epoch 2");
      const shown = await shell(
        onMachine(`deploy/understudy forks show ${name} --state /var/lib/understudy`, "alpha"),
        "alpha",
      );
      expect(shown.stdout).to.include('changed uploads "a.txt": 19 B');
    });

    it("openssh: the node's line is right", async () => {
      const line = onMachine(block("openssh"), "bravo").replace(
        "ssh-ed25519 AAAA-of-bravos-sshd",
        keys.get("bravo") ?? "",
      );
      expect(line).to.match(/^ {2}bravo: .*ssh:\/\/.*host_key/);
      const text = onMachine(block("configuration"), "bravo").replace(/^ {2}bravo: .*$/m, line.trimEnd());
      const path = join(directory, "openssh.yaml");
      await writeFile(path, text);
      const config = await loadConfig(path);
      expect(nodeNamed(config, "bravo").address).to.include({ kind: "openssh", user: "understudy", port: 22 });
    });

    /** With a terminal around it, as a person has one, who answers when asked. */
    async function atTerminal(command: string, question: string, answer: string) {
      await using child = new Child("script", ["-qec", command, "/dev/null"], { cwd: root, stdio: "pipe" });
      const { stdin, stdout } = child.process;
      let output = "";
      stdout?.setEncoding("utf8").on("data", (text: string) => {
        if (!output.includes(question) && (output + text).includes(question)) stdin?.write(answer);
        output += text;
      });
      const [code] = (await once(child.process, "close")) as [number | null];
      return { code, output: output.replaceAll("\r\n", "\n") };
    }

    it("authorize: lets alpha's key reach bravo's agent, and nothing else", async () => {
      const [installed] = await runBlock("authorize");
      expect(installed, installed?.stderr).to.include({ code: 0 });
      const lines = await readFile(join(directory, "bravo", ".ssh", "authorized_keys"), "utf8");
      expect(lines).to.match(
        /^restrict,command="\S+\/deploy\/understudy bridge --peer alpha --state \S+" ssh-ed25519 /,
      );
      expect(lines).to.include(keys.get("alpha"));
    });

    it("has no block that nobody runs", () => {
      expect([...blocks.keys()].sort()).to.deep.equal(
        ["authorize", "configuration", "identities", "openssh", "promote", "rejoin", "restore", "run", "watch"].sort(),
      );
    });
  });

  it("names only commands and options that the reference has", async () => {
    const [readme, reference] = await Promise.all(
      ["README.md", "deploy/docs/commands.md"].map(async (file) => await readFile(join(root, file), "utf8")),
    );
    const sections = new Map(
      reference!.split(/^### `/m).flatMap((text, index) => (index === 0 ? [] : [[/^[\w-]+/.exec(text)?.[0], text]])),
    );
    const everywhere = reference!.slice(0, reference!.indexOf("### `"));
    const commands = [...readme!.matchAll(/^deploy\/understudy ([\w-]+)(.*)$/gm)];
    expect(commands).to.have.length.above(8);
    for (const [line, verb, rest = ""] of commands) {
      const section = sections.get(verb);
      expect(section, line).to.be.a("string");
      for (const [option] of rest.matchAll(/(?<=[ ;,])--?[a-z][a-z-]*/g))
        expect(`${everywhere}${section}`, line).to.match(new RegExp(`(^|[^\\w-])${option}($|[^\\w-])`));
    }
    // In prose and in tables: `status`, `promote --abort`, `is-primary app`.
    const verbs = new Set(sections.keys());
    const spoken = [...readme!.matchAll(/`([a-z-]+)((?: --[a-z-]+)*)`/g)].filter(([, verb]) => verbs.has(verb));
    expect(spoken).to.have.length.above(3);
    for (const [option] of readme!.matchAll(/(?<=[`\s])--[a-z][a-z-]+/g)) expect(reference).to.include(option);
  });
});

/** Marker to text of the fenced block that follows it. */
function blocksOf(markdown: string): Map<string, string> {
  const found = markdown.matchAll(/<!-- test: ([a-z]+) -->\n```\w+\n([\s\S]*?)```/g);
  return new Map([...found].map(([, name = "", text = ""]) => [name, text]));
}

/** A line says in its comment where it is run; the whole line goes to the shell, with its comment. */
function linesOf(block: string): Line[] {
  return block
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => {
      const where = /# on (alpha|bravo|each|either)\b/.exec(line)?.[1];
      if (where === undefined) throw new Error(`README.md does not say on which node this is run: ${line}`);
      return { command: line, on: where === "alpha" || where === "bravo" ? [where] : names };
    });
}

function ordersIn(path: string): unknown[] {
  using database = new DatabaseSync(path);
  return database
    .prepare("SELECT text FROM orders ORDER BY rowid")
    .all()
    .map(({ text }) => text);
}
