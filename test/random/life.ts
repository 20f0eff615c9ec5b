import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { keyOf } from "../../deploy/demo/local-agent.ts";
import { ClusterNode, type LogLine } from "../end-to-end/harness.ts";
import { nodePorts } from "../end-to-end/node-ports.ts";
import { Application, type Entry, openDatabase } from "./application.ts";
import { BreakableLink } from "./breakable-link.ts";
import { type Begun, type Contact, NodeRecord, type Taken } from "./node-record.ts";
import { type Interval, intervalsOf } from "./outside-checks.ts";

export const names = ["alpha", "bravo", "charlie"] as const;
const serviceScript = fileURLToPath(new URL("service.sh", import.meta.url));

/** What is known of a life from outside: the hooks' own record, and what each node has written down. */
export interface Recorded {
  readonly intervals: readonly Interval[];
  readonly taken: readonly Taken[];
  readonly begun: readonly Begun[];
  readonly contacts: readonly Contact[];
  readonly fenced: readonly { readonly node: string; readonly at: number }[];
}

/** Three real agents whose links can be broken one by one, and the application of each of them. */
export class Life implements AsyncDisposable {
  readonly directory: string;
  readonly nodes: ReadonlyMap<string, ClusterNode>;
  readonly links: ReadonlyMap<string, BreakableLink>;
  readonly applications: readonly Application[];
  readonly records: readonly NodeRecord[];
  /** Everything that any application has ever written. */
  readonly written: readonly Entry[];
  /** What it leaves is there to be looked at. */
  keeps = false;

  private constructor(parts: Pick<Life, "directory" | "nodes" | "links" | "applications" | "written">) {
    this.records = [...parts.nodes.values()].map((node) => new NodeRecord(node));
    this.directory = parts.directory;
    this.nodes = parts.nodes;
    this.links = parts.links;
    this.applications = parts.applications;
    this.written = parts.written;
  }

  /** @param launcher of the agents, in place of this checkout's */
  static async begin(groupKeys: string, launcher?: string): Promise<Life> {
    const directory = await mkdtemp(join(tmpdir(), "us-random-"));
    const data = (name: string): string => join(directory, name, "data");
    const ports = await nodePorts(names.length * 2);
    const real = new Map(names.map((name, index) => [name as string, ports[index]!]));
    const links = new Map<string, BreakableLink>();
    const through = new Map<string, number>();
    for (const [index, dialer] of names.entries()) {
      for (const listener of names.slice(index + 1)) {
        const port = ports[names.length + links.size]!;
        const link = `${dialer}-${listener}`;
        links.set(link, await BreakableLink.open(port, real.get(listener)!));
        through.set(link, port);
      }
    }
    const keys = new Map<string, string>();
    for (const name of names) {
      await mkdir(join(data(name), "files"), { recursive: true });
      keys.set(name, await keyOf(join(directory, name, "state")));
    }
    // The names of both stores lie in each node's own directory, in either role.
    const at = (file: string): string =>
      names
        .slice(1)
        .map((name) => `${name}: ${JSON.stringify(join(data(name), file))}`)
        .join(", ");
    const nodes = new Map<string, ClusterNode>();
    for (const name of names) {
      const configPath = join(directory, `${name}.yaml`);
      const lines = names.map((peer) => {
        const port = through.get(`${name}-${peer}`) ?? real.get(peer);
        return `  ${peer}: { key: "${keys.get(peer)}", address: "127.0.0.1:${port}" }`;
      });
      const hook = (action: string): string =>
        `{ run: [${JSON.stringify(serviceScript)}, ${action}, ${JSON.stringify(data(name))}, ${JSON.stringify(outsideLog(directory))}], timeout: 20s }`;
      await writeFile(
        configPath,
        `nodes:
${lines.join("\n")}
groups:
  app:
    primary: alpha
    replicas: [bravo, charlie]
    stores:
      db: { kind: sqlite, path: ${JSON.stringify(join(data("alpha"), "app.db"))}, at: { ${at("app.db")} } }
      files: { kind: files, path: ${JSON.stringify(join(data("alpha"), "files"))}, at: { ${at("files")} } }
    hooks: { stop_service: ${hook("stop")}, start_service: ${hook("start")} }
${groupKeys}
`,
      );
      nodes.set(
        name,
        new ClusterNode(name, join(directory, name), configPath, launcher === undefined ? {} : { launcher }),
      );
    }
    openDatabase(join(data("alpha"), "app.db")).close();
    const written: Entry[] = [];
    const applications = [...nodes.values()].map(
      (node) =>
        new Application(
          node.name,
          node.dataDirectory,
          async () => node.running && (await node.control.isPrimary("app")).primary,
          (entry) => written.push(entry),
        ),
    );
    const life = new Life({ directory, nodes, links, applications, written });
    try {
      await Promise.all([...nodes.values()].map(async (node) => await node.start()));
      return life;
    } catch (error) {
      await life[Symbol.asyncDispose]();
      throw error;
    }
  }

  node(name: string): ClusterNode {
    return this.nodes.get(name)!;
  }

  setQuiet(quiet: boolean): void {
    for (const application of this.applications) application.quiet = quiet;
  }

  /** What the nodes have written down by now, and where services ran. */
  async recorded(): Promise<Recorded> {
    await Promise.all(this.records.map(async (record) => await record.readOn()));
    const intervals = intervalsOf(await readFile(outsideLog(this.directory), "utf8").catch(() => ""));
    return {
      intervals,
      taken: this.records.flatMap(({ taken }) => taken),
      begun: this.records.flatMap(({ begun }) => begun),
      contacts: this.records.flatMap(({ contacts }) => contacts),
      fenced: this.records.flatMap(({ node, fencedAt }) => fencedAt.map((at) => ({ node, at }))),
    };
  }

  /** The last words of all nodes in the order of time, short enough to be read where little is shown. */
  async lastWords(linesMax: number): Promise<string[]> {
    const logs = await Promise.all([...this.nodes.values()].map(async (node) => ({ node, lines: await node.log() })));
    return logs
      .flatMap(({ node, lines }) => {
        const telling = lines.filter(({ event }) => !/^(cut\.taken|channel|connection|listener)/.test(event));
        return telling.slice(-linesMax).map((line) => shortened(node.name, line));
      })
      .sort()
      .slice(-linesMax);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.nodes.values()].map(async (node) => await node.kill9()));
    for (const application of this.applications) await application[Symbol.asyncDispose]();
    for (const link of this.links.values()) await link[Symbol.asyncDispose]();
    if (this.keeps || process.env.UNDERSTUDY_KEEP) process.stderr.write(`kept: ${this.directory}\n`);
    else await rm(this.directory, { recursive: true, force: true });
  }
}

function shortened(node: string, { time, event, ...rest }: LogLine): string {
  const fields = Object.entries(rest).filter(([key]) => key !== "level" && key !== "node" && key !== "group");
  const text = fields.map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  return `${time} ${node} ${event} ${text.join(" ")}`.slice(0, 200);
}

function outsideLog(directory: string): string {
  return join(directory, "services.log");
}
