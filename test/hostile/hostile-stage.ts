import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { connectControl } from "../../deploy/control/client.ts";
import { controlSocketPath, identityDirectory } from "../../deploy/control/state-layout.ts";
import { configurationDigest } from "../../shared/config/digest.ts";
import { loadConfig } from "../../shared/config/load.ts";
import { ensureIdentity } from "../../shared/link/identity.ts";
import type { Message } from "../../shared/wire/messages.ts";
import { nodePorts } from "../end-to-end/node-ports.ts";
import { until } from "../until.ts";
import { AgentProcess, type LogLine } from "./agent-process.ts";
import { usualDraft } from "./cut-cases.ts";
import { catalogDump, treeDigest } from "./footprint.ts";
import { type Conversation, ScriptedNode } from "./scripted-node.ts";

const nodes = ["alpha", "bravo", "charlie", "delta"] as const;
type Node = (typeof nodes)[number];

/** Generous: the agent idles at some 150 MiB, and what a hostile peer may make it hold is a few frames. */
const residentMiBMax = 400;
/** Of the thread that answers. */
const cpuMsMax = 1500;

interface Footprint {
  readonly tree: string;
  readonly outside: string;
  readonly catalog: string;
}

/**
 * A real replica agent (bravo) in a process of its own, and what surrounds it: alpha, the scripted primary of its group,
 * charlie, another replica, and delta, who has a key but no part in the group. Beside the copies lies a directory that
 * nobody may ever touch.
 */
export class HostileStage implements AsyncDisposable {
  readonly directory: string;
  readonly outside: string;
  readonly uploads: string;
  readonly database: string;
  readonly catalog: string;
  readonly configPath: string;
  readonly #cleanup = new AsyncDisposableStack();
  readonly #nodes = new Map<Node, ScriptedNode>();
  agent!: AgentProcess;

  private constructor() {
    this.directory = mkdtempSync(join(tmpdir(), "understudy-hostile-"));
    this.#cleanup.defer(() => rmSync(this.directory, { recursive: true, force: true }));
    this.outside = join(this.directory, "outside");
    this.uploads = join(this.directory, "copies", "uploads");
    this.database = join(this.directory, "copies", "db", "app.db");
    this.catalog = join(this.directory, "bravo", "groups", "app", "catalog.db");
    this.configPath = join(this.directory, "understudy.yaml");
  }

  static async open(): Promise<HostileStage> {
    const stage = new HostileStage();
    try {
      await stage.#build();
      return stage;
    } catch (error) {
      await stage[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #build(): Promise<void> {
    await mkdir(join(this.outside, "sub"), { recursive: true });
    await mkdir(join(this.directory, "copies", "db"), { recursive: true });
    await writeFile(join(this.outside, "precious"), "precious");
    await writeFile(join(this.outside, "sub", "a.txt"), "precious too");
    const port = (await nodePorts(1))[0]!;
    const keys = await Promise.all(nodes.map((node) => ensureIdentity(identityDirectory(join(this.directory, node)))));
    const [alpha, bravo, charlie, delta] = keys;
    await writeFile(
      this.configPath,
      `nodes:
  alpha:   { address: "127.0.0.1:1", key: "${alpha!.publicKey}" }
  bravo:   { address: "127.0.0.1:${port}", key: "${bravo!.publicKey}" }
  charlie: { key: "${charlie!.publicKey}" }
  delta:   { key: "${delta!.publicKey}" }
groups:
  app:
    primary: alpha
    replicas: [bravo, charlie]
    stores:
      uploads: { kind: files, path: ${this.uploads} }
      db:      { kind: sqlite, path: ${this.database} }
    retention: { keep: { all: 1h } }   # nothing is thinned while cases compare before and after
`,
    );
    const config = await loadConfig(this.configPath);
    const group = [...config.groups.values()][0]!;
    const groupId = randomBytes(16).toString("hex");
    for (const [index, node] of nodes.entries()) {
      this.#nodes.set(
        node,
        new ScriptedNode({
          node,
          peer: "bravo",
          groupId,
          incarnation: randomBytes(8).toString("hex"),
          stores: [...group.stores.values()].map((store) => ({
            name: store.name,
            kind: store.kind,
            digest: configurationDigest(store),
          })),
          identity: keys[index]!,
          port,
          hostKey: bravo!.publicKey,
        }),
      );
    }
    await this.startAgent();
    this.#cleanup.defer(() => {
      for (const node of this.#nodes.values()) node.close();
    });
  }

  async startAgent(): Promise<void> {
    this.agent = this.#cleanup.use(await AgentProcess.start(this.configPath, "bravo", join(this.directory, "bravo")));
  }

  node(name: Node): ScriptedNode {
    return this.#nodes.get(name)!;
  }

  get alpha(): ScriptedNode {
    return this.node("alpha");
  }

  /** The group's first cut, with one of everything. */
  async seed(): Promise<void> {
    const first = this.alpha
      .draft()
      .directory("uploads", "")
      .directory("uploads", "docs")
      .file("uploads", "docs/a.txt", "alpha ".repeat(2000))
      .file("uploads", "docs/b.txt", "beta")
      .directory("uploads", "docs/sub")
      .file("uploads", "docs/sub/c.txt", "gamma")
      .symlink("uploads", "out", this.outside)
      .file("uploads", "big", randomBytes(700_000))
      .file("uploads", "gone", "soon gone")
      .file("db", "database", randomBytes(8192));
    const conversation = await this.alpha.follow();
    await this.alpha.ship(conversation, first);
    await this.alpha.ship(conversation, this.alpha.draft().remove("uploads", "gone"));
    conversation.channel.close();
    await conversation.end();
  }

  /** Everything that an attack must leave as it was. */
  footprint(): Footprint {
    return {
      tree: treeDigest(join(this.directory, "copies")),
      outside: treeDigest(this.outside),
      catalog: catalogDump(this.catalog),
    };
  }

  /**
   * What must hold after every attack: a line in the log with the code, naming the thing; an answer; the session closed;
   * the copy, the catalog and what lies outside as before; the agent alive, in bounds and quick to answer. Returns what
   * the attacker was told.
   */
  async unharmed(attack: () => Promise<Conversation>, code: string, names: RegExp): Promise<readonly Message[]> {
    const before = this.footprint();
    const logged = this.agent.lines.length;
    const conversation = await attack();
    const answer = await conversation.end();
    await until(
      () => this.agent.exit !== undefined || this.agent.lines.slice(logged).some((line) => tells(line, code, names)),
      () => `the log tells of ${code} ${names}:\n${this.agent.tail()}`,
    );
    await this.asBefore(before);
    return answer;
  }

  /** What a session had open is given up a moment after its end. */
  async asBefore(before: Footprint): Promise<void> {
    expect(this.agent.exit, this.agent.tail()).to.equal(undefined);
    const deadline = performance.now() + 20_000;
    let now = this.footprint();
    while ((now.tree !== before.tree || now.catalog !== before.catalog) && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      now = this.footprint();
    }
    expect(now.catalog).to.equal(before.catalog);
    expect(now.tree, "digest of the copies").to.equal(before.tree);
    expect(now.outside, "digest of what lies outside").to.equal(before.outside);
    await this.healthy();
  }

  /** Reads the copy and compares it with the manifest. */
  async verify(): ReturnType<ReturnType<typeof connectControl>["verify"]> {
    return await connectControl(controlSocketPath(this.agent.stateDirectory)).verify("app", { quick: false });
  }

  async healthy(): Promise<void> {
    const before = this.agent.cpuMs().firstThread;
    const status = await this.agent.status();
    expect(this.agent.cpuMs().firstThread - before, "ms of computing before a status").to.be.lessThan(cpuMsMax);
    expect(status.groups.app?.role).to.equal("replica");
    expect(status.groups.app?.halted).to.equal(null);
    expect(this.agent.memory().residentMiB, "MiB").to.be.lessThan(residentMiBMax);
  }

  /** A correct cut is taken, whatever came before. */
  async takesTheNextCut(): Promise<void> {
    const conversation = await this.alpha.follow();
    await this.alpha.ship(conversation, usualDraft(this.alpha.draft()));
    conversation.channel.close();
    await conversation.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup.disposeAsync();
  }
}

function tells(line: LogLine, code: string, names: RegExp): boolean {
  if (line.level !== "warn" && line.level !== "error") return false;
  const error = (typeof line.error === "object" ? line.error : line) as Readonly<Record<string, unknown>>;
  return error.code === code && names.test(String(error.message ?? error.reason ?? error.error ?? ""));
}
