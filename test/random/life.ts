import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { keyOf } from "../../deploy/demo/local-agent.ts";
import { ClusterNode } from "../end-to-end/harness.ts";
import { nodePorts } from "../end-to-end/node-ports.ts";
import { Application, type Entry, openDatabase } from "./application.ts";
import { BreakableLink } from "./breakable-link.ts";

export const names = ["alpha", "bravo", "charlie"] as const;
const serviceScript = fileURLToPath(new URL("service.sh", import.meta.url));

/** Three real agents whose links can be broken one by one, and the application of each of them. */
export class Life implements AsyncDisposable {
  readonly directory: string;
  readonly nodes: ReadonlyMap<string, ClusterNode>;
  readonly links: ReadonlyMap<string, BreakableLink>;
  readonly applications: readonly Application[];
  /** Everything that any application has ever begun to write. */
  readonly written: readonly Entry[];

  private constructor(parts: Pick<Life, "directory" | "nodes" | "links" | "applications" | "written">) {
    this.directory = parts.directory;
    this.nodes = parts.nodes;
    this.links = parts.links;
    this.applications = parts.applications;
    this.written = parts.written;
  }

  static async begin(groupKeys: string): Promise<Life> {
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
      nodes.set(name, new ClusterNode(name, join(directory, name), configPath, {}));
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

  databaseOf(name: string): string {
    return join(this.node(name).dataDirectory, "app.db");
  }

  setQuiet(quiet: boolean): void {
    for (const application of this.applications) application.quiet = quiet;
  }

  async outside(): Promise<string> {
    return await readFile(outsideLog(this.directory), "utf8").catch(() => "");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.nodes.values()].map(async (node) => await node.kill9()));
    for (const application of this.applications) await application[Symbol.asyncDispose]();
    for (const link of this.links.values()) await link[Symbol.asyncDispose]();
    if (process.env.UNDERSTUDY_KEEP) process.stderr.write(`kept: ${this.directory}\n`);
    else await rm(this.directory, { recursive: true, force: true });
  }
}

function outsideLog(directory: string): string {
  return join(directory, "services.log");
}
