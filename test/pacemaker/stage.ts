import { appendFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { Child } from "../../deploy/demo/child-process.ts";
import { keyOf, launcherFile } from "../../deploy/demo/local-agent.ts";
import { until } from "../end-to-end/harness.ts";
import { address, agentPort, bound, type Machine, Rig } from "./rig.ts";

const here = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const names = ["alpha", "bravo", "charlie"];
const servicePort = 7000;
const virtualAddress = address(100);

/** A cluster of three nodes with one group, its service, the address that moves with it, and somebody who uses it all the time. */
export class Stage implements AsyncDisposable {
  readonly rig: Rig;
  readonly #client: Child;

  static async set(parameters: Readonly<Record<string, string>> = {}): Promise<Stage> {
    const rig = await Rig.up({
      nodes: names,
      cluster: true,
      prepare,
    });
    const [first, ...more] = [...bound, "ip"] as const;
    const client = new Child(
      first,
      [
        ...more,
        "netns",
        "exec",
        rig.switch,
        process.execPath,
        here("client.ts"),
        virtualAddress,
        String(servicePort),
        join(rig.directory, "client.log"),
      ],
      { stdio: "inherit" },
    );
    const stage = new Stage(rig, client);
    await stage.#configure(parameters);
    for (const node of rig.nodes.values()) node.onOff = async (name) => await stage.#say("off", name);
    return stage;
  }

  private constructor(rig: Rig, client: Child) {
    this.rig = rig;
    this.#client = client;
  }

  /** As the example for crmsh has it, but for the fencing, which is the rig's, and where things lie. */
  async #configure(parameters: Readonly<Record<string, string>>): Promise<void> {
    const { directory } = this.rig;
    const example = await readFile(here("../../deploy/ocf/examples/crmsh.txt"), "utf8");
    const own = Object.entries({ ...parametersOf(directory), ...parameters }).map(
      ([name, value]) => `${name}=${value}`,
    );
    const text = example
      .replace("params group=app max_lag=10", `params ${own.join(" ")}`)
      .replace("ip=10.0.0.100", `ip=${virtualAddress}`)
      .split("\n")
      .filter((line) => !/^(?:primitive|location) fence-/.test(line));
    await writeFile(join(directory, "crmsh.txt"), text.join("\n"));
    const words = ["crm", "configure", "load", "update", join(directory, "crmsh.txt")];
    const loaded = await this.node(names[0]!).run(words);
    if (loaded.code !== 0) throw new Error(`${loaded.stdout}${loaded.stderr}`);
  }

  async #say(what: string, name: string): Promise<void> {
    await appendFile(join(this.rig.directory, "intervals.log"), `${Date.now() / 1000} ${what} ${name} -\n`);
  }

  node(name: string): Machine {
    return this.rig.node(name);
  }

  others(name: string): string[] {
    return names.filter((other) => other !== name);
  }

  async cli(name: string, ...words: string[]) {
    return await this.node(name).run([launcherFile, ...words, "--state", "/run/node/state"]);
  }

  /**
   * Runs the commands of a block of the runbook on a node as they are printed, but for whom they are about; whoever the runbook
   * calls alpha or bravo is given. Gives what they said.
   */
  async walk(block: string, on: string, alpha: string, bravo: string): Promise<string> {
    const { code, stdout, stderr } = await this.tryOut(block, on, alpha, bravo);
    if (code !== 0) throw new Error(`${block}: ${stdout}${stderr}`);
    return stdout;
  }

  async tryOut(block: string, on: string, alpha: string, bravo: string): ReturnType<Machine["run"]> {
    const text = await readFile(here("../../deploy/docs/runbooks/ha-pacemaker.md"), "utf8");
    const commands = new RegExp(`<!-- test: ${block} -->\n\`\`\`sh\n([\\s\\S]*?)\`\`\``).exec(text)?.[1];
    if (commands === undefined) throw new Error(`the runbook has no block ${block}`);
    const about = commands.replaceAll(/\b(?:alpha|bravo)\b/g, (name) => (name === "alpha" ? alpha : bravo));
    const program = `set -e\nunderstudy() { ${launcherFile} "$@" --state /run/node/state; }\n${about}`;
    return await this.node(on).run(["sh", "-c", program], 150_000);
  }

  /** Whom the cluster has promoted, as one of its nodes sees it. */
  async promoted(seenBy: string): Promise<string | undefined> {
    const { stdout } = await this.node(seenBy).run(["crm_resource", "-r", "app-clone", "-W"]);
    return /running on: (\S+) (?:Promoted|Master)/.exec(stdout)?.[1];
  }

  async promotedOther(seenBy: string, than: string | undefined, deadlineMs = 120_000): Promise<string> {
    return await until(
      async () => {
        const found = await this.promoted(seenBy);
        return found === than ? undefined : found;
      },
      deadlineMs,
      `${seenBy} sees that another than ${than} is promoted`,
      100,
    );
  }

  /** What the cluster remembers of the nodes' copies. */
  async marks(seenBy: string): Promise<Readonly<Record<string, string>>> {
    const { stdout } = await this.node(seenBy).run(["cibadmin", "-Q", "--xpath", "//node"]);
    const marks = [...stdout.matchAll(/<node [^>]*uname="(\w+)"[\s\S]*?name="understudy-app" value="([^"]*)"/g)];
    return Object.fromEntries(marks.map(([, node, mark]) => [node, mark]));
  }

  /** Who has a promotion score that would let it be promoted. */
  async scores(seenBy: string): Promise<string[]> {
    const { stdout } = await this.node(seenBy).run(["cibadmin", "-Q", "--xpath", "//node_state"]);
    const states = [...stdout.matchAll(/<node_state [^>]*uname="(\w+)"[\s\S]*?<\/node_state>/g)];
    return states.flatMap(([text, name]) => (/name="master-app" value="[1-9]/.test(text) ? [name!] : []));
  }

  /** Waits until the cluster has nothing to do any more. */
  async settled(seenBy: string): Promise<void> {
    const waited = await this.node(seenBy).run(["crm_resource", "--wait", "--timeout", "120s"], 130_000);
    if (waited.code !== 0) throw new Error(`the cluster does not settle: ${waited.stderr}`);
  }

  async granted(seenBy: string): Promise<number> {
    const { stdout } = await this.node(seenBy).run([
      "crm_attribute",
      "-t",
      "crm_config",
      "-s",
      "understudy",
      "-n",
      "app-epoch",
      "-G",
      "-q",
    ]);
    return Number(stdout);
  }

  /** Until all three are there again, one is promoted, and any of the other two could take over. Gives who is promoted. */
  async inStep(deadlineMs = 180_000): Promise<string> {
    const end = performance.now() + deadlineMs;
    await this.rig.online(names, deadlineMs);
    let last: unknown;
    return await until(
      async () => {
        // One that was being fenced when it came back is off again.
        if ([...this.rig.nodes.values()].some((node) => !node.running)) await this.rig.online(names, deadlineMs);
        const promoted = await this.promoted(names[0]!);
        if (promoted === undefined) return undefined;
        const [marks, epoch] = [await this.marks(promoted), await this.granted(promoted)];
        last = { promoted, marks, epoch };
        return names.every((name) => marks[name] === `OK@${epoch}`) ? promoted : undefined;
      },
      Math.max(0, end - performance.now()),
      () => `all are in step; the cluster remembers ${JSON.stringify(last)}`,
      200,
    );
  }

  /** What the client was told. */
  async told(): Promise<Told[]> {
    const text = await readFile(join(this.rig.directory, "client.log"), "utf8").catch(() => "");
    return text.split("\n").flatMap((line) => {
      const [at, id, what, node = "", epoch = "0"] = line.split(" ");
      if (id === undefined || what === undefined) return [];
      return [{ at: Number(at), id, what: what as Told["what"], node, epoch: Number(epoch) }];
    });
  }

  /** Waits until something that was committed after `since` is durable on all nodes. */
  async durableSince(since: number, deadlineMs = 120_000): Promise<void> {
    await until(
      async () => {
        const told = await this.told();
        const late = new Set(told.filter(({ at, what }) => at > since && what === "committed").map(({ id }) => id));
        return told.some(({ id, what }) => what === "durable" && late.has(id));
      },
      deadlineMs,
      "something new is durable everywhere",
      100,
    );
  }

  /** Waits until somebody else than `from` is promoted, and the client is served by whoever that is by then. */
  async failover(from: string, since: number): Promise<{ to: string; text: string }> {
    let last: unknown;
    const { to, afterMs, gapMs } = await until(
      async () => {
        const seen = await Promise.all(this.others(from).map(async (name) => await this.promoted(name)));
        const to = seen.find((name) => name !== undefined && name !== from);
        const served = (await this.told()).filter(({ at, what }) => what === "committed" && at > since - 10_000);
        last = { seen, served: served.at(-1) };
        const first = served.findIndex(({ at, node }) => at > since && node === to);
        const [before, next] = [served[first - 1], served[first]];
        if (to === undefined || next === undefined) return undefined;
        return { to, afterMs: next.at - since, gapMs: next.at - (before?.at ?? since) };
      },
      240_000,
      () => `the client is served by another than ${from}: ${JSON.stringify(last)}`,
      50,
    );
    const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
    return { to, text: `served again after ${seconds(afterMs)}, by nobody for ${seconds(gapMs)}` };
  }

  /** All machines are on again, all are in step, what is written now gets everywhere; then the audit. Gives whose service is used. */
  async whole(): Promise<Audit & { readonly primary: string }> {
    const primary = await this.inStep();
    await this.durableSince(Date.now());
    return { primary, ...(await this.audit(primary)) };
  }

  async log(name: string): Promise<string> {
    return await readFile(join(this.rig.directory, name, "agent.log"), "utf8").catch(() => "");
  }

  /** What was written on a node, as it has it now. */
  entries(name: string): Entry[] {
    using db = new DatabaseSync(databaseOf(this.rig.directory, name), { readOnly: true });
    return db.prepare("SELECT id, node, epoch FROM entries").all() as unknown as Entry[];
  }

  async intervals(): Promise<Interval[]> {
    const text = await readFile(join(this.rig.directory, "intervals.log"), "utf8").catch(() => "");
    const intervals: { node: string; from: number; to: number }[] = [];
    for (const line of text.split("\n")) {
      const [at, what, node = ""] = line.split(" ");
      if (what === "start") intervals.push({ node, from: Number(at), to: Number.POSITIVE_INFINITY });
      const open = intervals.findLast((interval) => interval.node === node && interval.to === Number.POSITIVE_INFINITY);
      if ((what === "stop" || what === "off") && open !== undefined) open.to = Number(at);
    }
    return intervals;
  }

  /**
   * What must hold at any time, as it is found on `primary`: what the client was told is durable is there exactly once, nothing is there
   * twice, each epoch has entries of one node, and the service never ran on two nodes. Gives what was committed and is not there.
   */
  async audit(primary: string): Promise<Audit> {
    const problems: string[] = [];
    const told = await this.told();
    const entries = this.entries(primary);
    const counts = new Map<string, number>();
    for (const { id } of entries) counts.set(id, (counts.get(id) ?? 0) + 1);
    for (const [id, count] of counts) if (count > 1) problems.push(`${id} is there ${count} times`);
    const durable = told.filter(({ what }) => what === "durable");
    for (const { id } of durable) if (!counts.has(id)) problems.push(`${id} was durable and is not there`);
    const reigns = new Map<number, string>();
    const seen = [...told.filter(({ what }) => what === "committed"), ...entries];
    for (const { node, epoch } of seen) {
      const other = reigns.get(epoch) ?? node;
      reigns.set(epoch, other);
      if (other !== node) problems.push(`epoch ${epoch} has entries of ${other} and of ${node}`);
    }
    const intervals = await this.intervals();
    for (const [index, one] of intervals.entries())
      for (const other of intervals.slice(index + 1))
        if (one.node !== other.node && one.from < other.to && other.from < one.to)
          problems.push(`the service ran on ${one.node} and on ${other.node} at ${Math.max(one.from, other.from)}`);
    const lost = told.filter(({ id, what }) => what === "committed" && !counts.has(id));
    return { problems: [...new Set(problems)], durable: durable.length, lost };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client[Symbol.asyncDispose]();
    await this.rig[Symbol.asyncDispose]();
  }
}

export interface Audit {
  readonly problems: readonly string[];
  readonly durable: number;
  readonly lost: readonly Told[];
}

export interface Told {
  /** Milliseconds of this machine's clock. */
  readonly at: number;
  readonly id: string;
  readonly what: "committed" | "durable";
  readonly node: string;
  readonly epoch: number;
}

export interface Entry {
  readonly id: string;
  readonly node: string;
  readonly epoch: number;
}

export interface Interval {
  readonly node: string;
  readonly from: number;
  readonly to: number;
}

function stateOf(directory: string, name: string): string {
  return join(directory, name, "state");
}

function databaseOf(directory: string, name: string): string {
  return join(directory, name, "data", "app.db");
}

/** The group is born on alpha, which has the database. */
async function prepare(directory: string): Promise<void> {
  const nodes: string[] = [];
  for (const [index, name] of names.entries()) {
    await mkdir(join(directory, name, "data"), { recursive: true });
    nodes.push(
      `  ${name}: { key: "${await keyOf(stateOf(directory, name))}", address: "${address(index + 1)}:${agentPort}" }`,
    );
  }
  {
    using db = new DatabaseSync(databaseOf(directory, "alpha"));
    db.exec("PRAGMA journal_mode = WAL; CREATE TABLE entries (id TEXT, node TEXT, epoch INTEGER)");
  }
  const hook = (what: string): string => {
    const program = [process.execPath, here("application.ts")];
    const words = ["sh", here("hook.sh"), what, join(directory, "intervals.log"), String(servicePort), ...program];
    return `{ run: ${JSON.stringify(words)}, timeout: 20s }`;
  };
  await writeFile(
    join(directory, "cluster.yaml"),
    `nodes:
${nodes.join("\n")}
groups:
  app:
    primary: alpha
    replicas: [bravo, charlie]
    stores:
      db: { kind: sqlite, path: /run/node/data/app.db }
    hooks:
      stop_service: ${hook("stop")}
      start_service: ${hook("start")}
    retention: { keep: {} }
    rejoin: auto
    ha: { engine: pacemaker }
`,
  );
}

function parametersOf(directory: string): Record<string, string> {
  return {
    group: "app",
    max_lag: "3",
    binary: launcherFile,
    state: "/run/node/state",
    config: join(directory, "cluster.yaml"),
    log: "/run/node/agent.log",
    run_agent: "true",
  };
}
