import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { AgentStatus, ControlHandler, GroupStatus } from "../../deploy/control/api.ts";
import { AgentNotRunning, ControlBroken } from "../../deploy/control/client.ts";
import type { Child } from "../../deploy/demo/child-process.ts";
import { controlOf, keyOf, launcherFile, startLocalAgent } from "../../deploy/demo/local-agent.ts";
import { until as lookUntil } from "../until.ts";
import { nodePorts } from "./node-ports.ts";

/**
 * Real agents as processes, on ephemeral ports of the loopback, in a scratch directory that goes when the cluster is
 * disposed (and stays, named, when UNDERSTUDY_KEEP is set). Whatever a test learns it learns as an operator would: by the
 * control socket, the command line, the log and the files.
 *
 *     await using cluster = await startCluster({ groupYaml: ({ paths }) => `...` });
 *     await cluster.node("bravo").until((group) => group.cut !== null);
 */

/** Where the nodes have what; `groupYaml` is made from these. */
export interface ClusterPaths {
  readonly directory: string;
  /** A directory of the node's own for data: sources on one, copies on the other. It exists. */
  data(node: string): string;
}

export interface ClusterOptions {
  /** Their names, in the order of the configuration; of two with addresses the first one dials. Default alpha, bravo. */
  readonly nodes?: readonly string[];
  /**
   * The text of `groups:`, indented by two, as `  app:\n    primary: alpha\n...`. Called when the directories exist: what
   * must be there before the agents start can be made here.
   */
  readonly groupYaml: (paths: ClusterPaths) => string | Promise<string>;
  /** The `address` of a node, or undefined for none. Default: the agent's own SSH server on an ephemeral port. */
  readonly address?: (node: string, defaultAddress: string) => string | undefined;
  /** Further keys of the node's line in the configuration, such as `host_key: "..."`. */
  readonly nodeYaml?: (node: string) => string;
  /** Environment of all agents. */
  readonly environment?: Readonly<Record<string, string>>;
  /** The program of all agents in place of this checkout's. */
  readonly launcher?: string;
  /** Which nodes are started at once. Default: all. */
  readonly start?: readonly string[];
  /** An existing directory in place of a fresh one; it is left alone at the end. */
  readonly directory?: string;
}

export async function startCluster(options: ClusterOptions): Promise<Cluster> {
  const names = options.nodes ?? ["alpha", "bravo"];
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), "us-e2e-")));
  const data = (node: string): string => join(directory, node, "data");
  for (const name of names) await mkdir(data(name), { recursive: true });
  const configPath = join(directory, "cluster.yaml");
  const nodes = new Map(names.map((name) => [name, new ClusterNode(name, join(directory, name), configPath, options)]));
  const cluster = new Cluster(directory, configPath, nodes, options.directory === undefined);
  try {
    const ports = await nodePorts(names.length);
    const lines: string[] = ["nodes:"];
    for (const [index, name] of names.entries()) {
      const free = `127.0.0.1:${ports[index]}`;
      const address = options.address === undefined ? free : options.address(name, free);
      const keys = [
        `key: "${await keyOf(nodes.get(name)!.stateDirectory)}"`,
        address === undefined ? "" : `address: "${address}"`,
        options.nodeYaml?.(name) ?? "",
      ];
      lines.push(`  ${name}: { ${keys.filter((key) => key !== "").join(", ")} }`);
    }
    lines.push("groups:", await options.groupYaml({ directory, data }));
    await writeFile(configPath, `${lines.join("\n")}\n`);
    await Promise.all((options.start ?? names).map(async (name) => await cluster.node(name).start()));
    return cluster;
  } catch (error) {
    await cluster[Symbol.asyncDispose]();
    throw error;
  }
}

export class Cluster implements AsyncDisposable {
  readonly directory: string;
  readonly configPath: string;
  readonly nodes: ReadonlyMap<string, ClusterNode>;
  readonly #own: boolean;

  constructor(directory: string, configPath: string, nodes: ReadonlyMap<string, ClusterNode>, own: boolean) {
    this.directory = directory;
    this.configPath = configPath;
    this.nodes = nodes;
    this.#own = own;
  }

  node(name: string): ClusterNode {
    const node = this.nodes.get(name);
    if (node === undefined) throw new Error(`the cluster has no node ${name}`);
    return node;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.nodes.values()].map(async (node) => await node.kill9()));
    if (!this.#own) return;
    if (process.env.UNDERSTUDY_KEEP) process.stderr.write(`kept: ${this.directory}\n`);
    else await rm(this.directory, { recursive: true, force: true });
  }
}

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface LogLine extends Record<string, unknown> {
  readonly event: string;
  readonly level: string;
  readonly time: string;
}

/** One node: its directories, and its agent while it runs. */
export class ClusterNode {
  readonly name: string;
  readonly stateDirectory: string;
  readonly dataDirectory: string;
  readonly logPath: string;
  readonly configPath: string;
  readonly control: ControlHandler;
  readonly #environment: Readonly<Record<string, string>>;
  readonly #launcher: string | undefined;
  #agent: Child | undefined;

  constructor(
    name: string,
    directory: string,
    configPath: string,
    options: Pick<ClusterOptions, "environment" | "launcher">,
  ) {
    this.name = name;
    this.stateDirectory = join(directory, "state");
    this.dataDirectory = join(directory, "data");
    this.logPath = join(directory, "agent.log");
    this.configPath = configPath;
    this.control = controlOf(this.stateDirectory);
    this.#environment = options.environment ?? {};
    this.#launcher = options.launcher;
  }

  get running(): boolean {
    return this.#agent?.running === true;
  }

  get pid(): number {
    return this.#agent?.pid ?? 0;
  }

  /** Returns as soon as the process runs; `until` and `ready` wait for more. */
  async start(
    extra: { environment?: Readonly<Record<string, string>>; wrapper?: readonly string[] } = {},
  ): Promise<void> {
    if (this.running) throw new Error(`${this.name} runs already`);
    this.#agent = await startLocalAgent({
      node: this.name,
      stateDirectory: this.stateDirectory,
      configPath: this.configPath,
      logPath: this.logPath,
      environment: { ...this.#environment, ...extra.environment },
      ...(this.#launcher === undefined ? {} : { launcher: this.#launcher }),
      ...(extra.wrapper === undefined ? {} : { wrapper: extra.wrapper }),
    });
  }

  /** SIGKILL; returns when the process is gone. */
  async kill9(): Promise<void> {
    this.#agent?.kill9();
    await this.#agent?.ended;
  }

  /** An orderly end. */
  async stop(): Promise<string> {
    return (await this.#agent?.stop()) ?? "never ran";
  }

  async restart(): Promise<void> {
    await this.kill9();
    await this.start();
  }

  signal(signal: NodeJS.Signals): void {
    process.kill(this.pid, signal);
  }

  async status(): Promise<AgentStatus> {
    return await this.control.status();
  }

  /** What the node says of its only group, or of the one named; undefined while nobody answers. */
  async group(name?: string): Promise<GroupStatus | undefined> {
    try {
      const { groups } = await this.control.status();
      return name === undefined ? Object.values(groups)[0] : groups[name];
    } catch (error) {
      if (error instanceof AgentNotRunning || error instanceof ControlBroken) return undefined;
      throw error;
    }
  }

  /** Waits until the group is as wished. @throws with what it was last, when the agent ends or the deadline passes */
  async until(
    wish: (group: GroupStatus) => boolean,
    deadlineMs = 90_000,
    what = wish.toString(),
  ): Promise<GroupStatus> {
    let last: GroupStatus | undefined;
    return await until(
      async () => {
        if (!this.running)
          throw new Error(`${this.name} ${await this.#agent?.ended}; it said:\n${await this.lastWords()}`);
        last = await this.group();
        return last !== undefined && wish(last) ? last : undefined;
      },
      deadlineMs,
      () => `${this.name}: ${what}; it is ${JSON.stringify(last)}`,
    );
  }

  /** The command line of this node: `cli("promote", "--yes")`. */
  async cli(...words: readonly string[]): Promise<CommandResult> {
    const common = ["-c", this.configPath, "--node", this.name, "--state", this.stateDirectory];
    try {
      const { stdout, stderr } = await promisify(execFile)(launcherFile, [...words, ...common]);
      return { code: 0, stdout, stderr };
    } catch (error) {
      const failed = error as { code?: unknown; stdout?: string; stderr?: string };
      if (typeof failed.code !== "number") throw error;
      return { code: failed.code, stdout: failed.stdout ?? "", stderr: failed.stderr ?? "" };
    }
  }

  async log(): Promise<LogLine[]> {
    const text = await readFile(this.logPath, "utf8").catch(() => "");
    // A killed agent may leave half a line, and Node itself does not speak JSON.
    return text
      .split("\n")
      .flatMap((line) => (line.startsWith("{") && line.endsWith("}") ? [JSON.parse(line) as LogLine] : []));
  }

  /** What an operator was told, in order. */
  async events(): Promise<Record<string, unknown>[]> {
    const text = await readFile(join(this.stateDirectory, "events.jsonl"), "utf8");
    return text.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line) as Record<string, unknown>]));
  }

  async lastWords(): Promise<string> {
    const text = await readFile(this.logPath, "utf8").catch(() => "");
    return text.split("\n").slice(-12).join("\n");
  }
}

/** Asks agents again and again, with a pause that leaves them time for something else. */
export async function until<T>(
  look: () => T | undefined | false | Promise<T | undefined | false>,
  deadlineMs: number,
  what: string | (() => string),
  pauseMs = 20,
): Promise<T> {
  return await lookUntil(look, what, deadlineMs, pauseMs);
}

/** Promotes as soon as the death of the primary's link is heard; whatever is lost is accepted, and that nobody hears of it. */
export async function promote(
  node: ClusterNode,
  group: string,
  deadlineMs = 90_000,
): ReturnType<ControlHandler["promote"]> {
  let refusal = "";
  return await until(
    async () => {
      try {
        return await node.control.promote(group, { acceptLoss: true, accept: ["unreachable-primary"] });
      } catch (error) {
        if (!(error instanceof Error) || error.name !== "PROMOTION_REFUSED") throw error;
        refusal = error.message;
        return undefined;
      }
    },
    deadlineMs,
    () => `${node.name} promoted: ${refusal}`,
  );
}

/** The group that most tests want: a ledger and files of the demo's application, from alpha to bravo. */
export function applicationYaml(
  { data }: ClusterPaths,
  options: { primary?: string; replicas?: readonly string[]; more?: string } = {},
): string {
  const { primary = "alpha", replicas = ["bravo"], more = "" } = options;
  const at = (name: string): string =>
    replicas.map((replica) => `${replica}: ${JSON.stringify(join(data(replica), name))}`).join(", ");
  return `  app:
    primary: ${primary}
    replicas: [${replicas.join(", ")}]
    stores:
      ledger: { kind: sqlite, path: ${JSON.stringify(join(data(primary), "ledger.db"))}, at: { ${at("ledger.db")} } }
      files: { kind: files, path: ${JSON.stringify(join(data(primary), "files"))}, exclude: ["*.tmp"], at: { ${at("files")} } }
${more}`;
}

export function applicationData(node: ClusterNode): { readonly database: string; readonly files: string } {
  return { database: join(node.dataDirectory, "ledger.db"), files: join(node.dataDirectory, "files") };
}
