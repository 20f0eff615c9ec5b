import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { expect } from "chai";
import { checkNode, exitCodeOf } from "../../../deploy/cli/check.ts";
import type { Finding } from "../../../deploy/cli/check-probe.ts";
import { serveControl } from "../../../deploy/control/server.ts";
import { controlSocketPath } from "../../../deploy/control/state-layout.ts";
import { exitCodes } from "../../../shared/errors.ts";
import { FakeAgent, replicaGroup, statusWith } from "./fake-agent.ts";

function keyOf(letter: string): string {
  const head = Buffer.from("\0\0\0\x0bssh-ed25519\0\0\0\x20", "latin1");
  return `ssh-ed25519 ${Buffer.concat([head, Buffer.alloc(32, letter)]).toString("base64")}`;
}

describe("check", () => {
  let directory: string;
  let servers: Server[];
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "us-check-"));
    servers = [];
  });
  afterEach(async () => {
    for (const server of servers) await new Promise((resolve) => server.close(resolve));
    await rm(directory, { recursive: true });
  });

  async function listening(says: string): Promise<number> {
    const server = createServer((socket) => {
      socket.on("error", () => {}); // The one who checks hangs up when it has seen enough.
      socket.end(says);
    });
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return (server.address() as AddressInfo).port;
  }

  interface Cluster {
    readonly stores?: string;
    readonly alphaAddress?: string;
    readonly bravoAddress?: string;
    readonly staging?: string;
  }

  async function found(node: "alpha" | "bravo", cluster: Cluster, further: Parameters<typeof checkNode>[2] = []) {
    const configPath = join(directory, "cluster.yaml");
    const address = (value: string | undefined) => (value === undefined ? "" : `address: "${value}", `);
    await writeFile(
      configPath,
      `nodes:
  alpha: { ${address(cluster.alphaAddress)}key: "${keyOf("A")}" }
  bravo: { ${address(cluster.bravoAddress ?? "127.0.0.1:1")}key: "${keyOf("B")}" }
groups:
  app:
    primary: alpha
    replicas: [bravo]
    stores: { data: ${cluster.stores ?? `{ kind: files, path: ${directory} }`} }
    limits: { staging: ${cluster.staging ?? "1B"} }
`,
    );
    const options = { configPath, node, stateDirectory: join(directory, "state") };
    return await checkNode(options, new AbortController().signal, further);
  }

  function of(findings: readonly Finding[], subject: string): Finding {
    const finding = findings.find((each) => each.subject === subject);
    if (!finding)
      throw new Error(`nothing was found of ${subject}: ${findings.map((each) => each.subject).join(", ")}`);
    return finding;
  }

  describe("of stores", () => {
    const rows: [why: string, node: "alpha" | "bravo", store: string, level: Finding["level"], message: RegExp][] = [
      ["a first primary without its data", "alpha", "{ kind: files, path: DIR/none }", "failed", /does not exist/],
      ["a replica's path that is not there yet", "bravo", "{ kind: files, path: DIR/none }", "ok", /free/],
      ["a file for a tree", "alpha", "{ kind: files, path: DIR/file }", "failed", /is not a directory/],
      ["a tree for a database", "alpha", "{ kind: sqlite, path: DIR/full }", "failed", /is not a file/],
      ["a database", "alpha", "{ kind: sqlite, path: DIR/file }", "ok", /free/],
      ["a replica's path with strange files", "bravo", "{ kind: files, path: DIR/full }", "warning", /is not empty/],
      ["a replica's path that is empty", "bravo", "{ kind: files, path: DIR/empty }", "ok", /free/],
      [
        "the path of the node itself",
        "bravo",
        "{ kind: files, path: DIR/none, at: { bravo: DIR/full } }",
        "warning",
        /not empty/,
      ],
    ];
    for (const [why, node, store, level, message] of rows) {
      it(`${level}: ${why}`, async () => {
        await writeFile(join(directory, "file"), "");
        await mkdir(join(directory, "full", "inner"), { recursive: true });
        await mkdir(join(directory, "empty"));
        const finding = of(await found(node, { stores: store.replaceAll("DIR", directory) }), "store app.data");
        expect(finding).to.have.property("level", level);
        expect(finding.message).to.match(message);
        expect(finding.hint === "").to.equal(level === "ok");
      });
    }

    it("knows a copy that was begun from strange files", async () => {
      await mkdir(join(directory, "full", "inner"), { recursive: true });
      await mkdir(join(directory, "state", "groups", "app"), { recursive: true });
      const stores = `{ kind: files, path: ${directory}/full }`;
      expect(of(await found("bravo", { stores }), "store app.data").level).to.equal("ok");
    });

    it("says where the room for staging is missing", async () => {
      const finding = of(await found("alpha", { staging: "8000TiB" }), "store app.data");
      expect(finding).to.have.property("level", "warning");
      expect(finding.message).to.match(/free where up to 8000 TiB may be staged/);
    });

    it("says where attributes are in use that are not carried, as far as there are tools to see them", async () => {
      const tools = join(directory, "tools");
      await mkdir(tools);
      await writeFile(join(tools, "getfattr"), "#!/bin/sh\necho '# file: /srv/a'\necho user.x\n");
      await writeFile(join(tools, "getfacl"), "#!/bin/sh\nexit 0\n");
      for (const tool of ["getfattr", "getfacl"]) await chmod(join(tools, tool), 0o755);
      const before = process.env.PATH;
      process.env.PATH = `${tools}${delimiter}${before}`;
      try {
        const warnings = (await found("alpha", {})).filter(({ level }) => level === "warning");
        expect(warnings.map(({ message }) => message)).to.deep.equal(["extended attributes are in use, as at /srv/a"]);
      } finally {
        process.env.PATH = before;
      }
    });
  });

  it("fails where somebody is connected who names other members of the group", async () => {
    expect(of(await found("bravo", {}), "members").level).to.equal("ok");
    await mkdir(join(directory, "state"), { recursive: true });
    const agent = new FakeAgent();
    agent.current = statusWith({ app: { ...replicaGroup, membersDiffer: ["charlie"] } });
    await using _ = await serveControl(controlSocketPath(join(directory, "state")), agent);
    const finding = of(await found("bravo", {}), "members");
    expect(finding).to.have.property("level", "failed");
    expect(finding.message).to.match(/charlie has a configuration that names other members of app/);
  });

  describe("of peers", () => {
    it("tells a server that speaks SSH from one that does not, and from none", async () => {
      const ssh = await listening("SSH-2.0-understudy\r\n");
      const other = await listening("HTTP/1.1 400 Bad Request\r\n\r\n");
      const mute = await listening("");
      for (const [port, level, message] of [
        [ssh, "ok", /speaks SSH/],
        [other, "unreachable", /speaks something else/],
        [mute, "unreachable", /without a word/],
        [1, "unreachable", /cannot be reached/],
      ] as const) {
        const finding = of(await found("alpha", { bravoAddress: `127.0.0.1:${port}` }), "peer bravo");
        expect(finding).to.have.property("level", level);
        expect(finding.message).to.match(message);
      }
    });

    it("leaves alone who has no address", async () => {
      expect(of(await found("bravo", {}), "peer alpha")).to.include({ level: "ok", hint: "" });
    });
  });

  describe("of its own address", () => {
    it("fails where the port is taken, unless by the agent itself", async () => {
      const port = await listening("");
      const cluster = { alphaAddress: `127.0.0.1:${port}` };
      expect(of(await found("alpha", cluster), "listening address")).to.have.property("level", "failed");
      await mkdir(join(directory, "state"));
      await using _agent = await serveControl(controlSocketPath(join(directory, "state")), new FakeAgent());
      expect(of(await found("alpha", cluster), "listening address")).to.include({
        level: "ok",
        message: "the agent runs",
      });
    });

    it("is content with a port that is free", async () => {
      const server = createServer();
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      const { port } = server.address() as AddressInfo;
      await new Promise((resolve) => server.close(resolve));
      expect(of(await found("alpha", { alphaAddress: `127.0.0.1:${port}` }), "listening address").level).to.equal("ok");
    });
  });

  it("fails on a state directory that others may write to", async () => {
    await mkdir(join(directory, "state"));
    await chmod(join(directory, "state"), 0o777);
    expect(of(await found("alpha", {}), "state directory")).to.include({
      level: "failed",
      hint: `chmod 700 ${directory}/state`,
    });
  });

  it("runs further probes, and makes a finding of what one throws", async () => {
    const findings = await found("alpha", {}, [
      { subject: "clocks", look: async () => [{ subject: "clocks", level: "ok", message: "together", hint: "" }] },
      {
        subject: "broken",
        look: async () => {
          throw new Error("no luck");
        },
      },
    ]);
    expect(of(findings, "clocks").message).to.equal("together");
    expect(of(findings, "broken")).to.include({ level: "failed", message: "no luck" });
  });

  for (const [levels, code] of [
    [["ok", "warning"], exitCodes.done],
    [["ok", "unreachable"], exitCodes.unreachable],
    [["unreachable", "failed"], exitCodes.failed],
  ] as const) {
    it(`ends with ${code} for ${levels.join(" and ")}`, () => {
      expect(exitCodeOf(levels.map((level) => ({ subject: "", level, message: "", hint: "" })))).to.equal(code);
    });
  }
});
