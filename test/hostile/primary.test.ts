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
import type { Acknowledgement, Hello, Message } from "../../shared/wire/messages.ts";
import { packTouchedList } from "../../shared/wire/touched-list.ts";
import { type CutId, cutText, epoch, type ObjectId, seq } from "../../shared/words.ts";
import { nodePorts } from "../end-to-end/node-ports.ts";
import { until } from "../until.ts";
import { AgentProcess } from "./agent-process.ts";
import { type Conversation, ScriptedNode } from "./scripted-node.ts";

const residentMiBMax = 400;
/** Of the thread that answers. */
const cpuMsMax = 1500;

describe("a primary under hostile replicas", () => {
  const cleanup = new AsyncDisposableStack();
  let directory: string;
  let agent: AgentProcess;
  let bravo: ScriptedNode;
  let source: string;

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), "understudy-hostile-"));
    cleanup.defer(() => rmSync(directory, { recursive: true, force: true }));
    source = join(directory, "uploads");
    await mkdir(source);
    await writeFile(join(source, "small"), "small");
    await writeFile(join(source, "large"), randomBytes(2 * 1024 * 1024));
    const port = (await nodePorts(1))[0]!;
    const [alphaKey, bravoKey] = await Promise.all(
      ["alpha", "bravo"].map(async (node) => await ensureIdentity(identityDirectory(join(directory, node)))),
    );
    const configPath = join(directory, "understudy.yaml");
    await writeFile(
      configPath,
      `nodes:
  alpha: { address: "127.0.0.1:${port}", key: "${alphaKey!.publicKey}" }
  bravo: { key: "${bravoKey!.publicKey}" }
groups:
  app:
    primary: alpha
    replicas: [bravo]
    stores:
      uploads: { kind: files, path: ${source} }
`,
    );
    const config = await loadConfig(configPath);
    const group = [...config.groups.values()][0]!;
    agent = cleanup.use(await AgentProcess.start(configPath, "alpha", join(directory, "alpha")));
    await control().form("app", { alone: true });
    const id = (await agent.status()).groups.app!.id!;
    bravo = new ScriptedNode({
      node: "bravo",
      peer: "alpha",
      groupId: id,
      incarnation: "",
      stores: [...group.stores.values()].map((store) => ({
        name: store.name,
        kind: store.kind,
        digest: configurationDigest(store),
      })),
      identity: bravoKey!,
      port,
      hostKey: alphaKey!.publicKey,
    });
    cleanup.defer(() => bravo.close());
  });

  after(async () => {
    await cleanup.disposeAsync();
  });

  function control(): ReturnType<typeof connectControl> {
    return connectControl(controlSocketPath(agent.stateDirectory));
  }

  /** A session as a replica that has nothing yet, up to the end of its first cut. */
  async function joined(change: Partial<Hello> = {}): Promise<{ conversation: Conversation; cut: CutId }> {
    const conversation = await hello(change);
    const { cut } = await until(
      () => {
        for (const { message } of conversation.received) {
          if (message.kind === "stagedRequest" && !answered.has(message)) {
            answered.add(message);
            void conversation.send({ kind: "stagedRuns", object: message.object, blockSize: 0 });
          }
        }
        return conversation.received.map(({ message }) => message).find((message) => message.kind === "cutEnd");
      },
      () => `a first cut comes:\n${agent.tail()}`,
    );
    return { conversation, cut };
  }
  const answered = new Set<Message>();

  async function hello(change: Partial<Hello> = {}): Promise<Conversation> {
    const conversation = await bravo.open();
    await conversation.send({
      kind: "hello",
      hello: bravo.hello({
        role: "replica",
        epochs: [{ epoch: 1n, firstSeq: 1n }],
        digest: new Uint8Array(0),
        lastObject: 0,
        ...change,
      }),
    });
    await conversation.expect("welcome");
    return conversation;
  }

  function acknowledgement(durable: CutId, change: Partial<Acknowledgement> = {}): Message {
    return {
      kind: "acknowledgement",
      received: durable,
      durable,
      applied: durable,
      suspect: "",
      unappliedBytes: 0,
      damaged: [],
      ...change,
    };
  }

  /** The primary says what is wrong, ends the session, believes nothing of it, and goes on. */
  async function survives(attack: () => Promise<Conversation>, code: string, names: RegExp): Promise<void> {
    const logged = agent.lines.length;
    const conversation = await attack();
    await conversation.end();
    await until(
      () =>
        agent.exit !== undefined ||
        agent.lines.slice(logged).some((line) => {
          const error = (typeof line.error === "object" ? line.error : line) as Readonly<Record<string, unknown>>;
          const said = `${String(error.message ?? "")} ${String(line.reason ?? "")}`;
          return line.level !== "info" && line.level !== "debug" && error.code === code && names.test(said);
        }),
      () => `the log tells of ${code} ${names}:\n${agent.tail()}`,
    );
    expect(agent.exit, agent.tail()).to.equal(undefined);
    const before = agent.cpuMs().firstThread;
    const status = await agent.status();
    expect(agent.cpuMs().firstThread - before, "ms of computing before a status").to.be.lessThan(cpuMsMax);
    expect(status.groups.app?.role).to.equal("primary");
    const durable = status.groups.app?.peers.bravo?.durable;
    expect(durable?.seq ?? 0).to.be.at.most(status.groups.app?.cut?.seq ?? 0);
    expect(agent.memory().residentMiB, "MiB").to.be.lessThan(residentMiBMax);
  }

  const lies: readonly [string, (cut: CutId) => Message, RegExp][] = [
    [
      "a cut that was never sent",
      (cut) => acknowledgement({ ...cut, seq: seq(cut.seq + 1000n) }),
      /was acknowledged and never sent/,
    ],
    [
      "a cut of an epoch to come",
      (cut) => acknowledgement({ ...cut, epoch: epoch(9) }),
      /cut 9\.\d+ was acknowledged and never sent/,
    ],
    [
      "a cut of an epoch that was none, with a huge number",
      () => acknowledgement({ epoch: epoch(0), seq: seq(10 ** 9) }),
      /cut 0\.1000000000 was acknowledged and never sent/,
    ],
    [
      "a cut with the largest number that there is",
      () => acknowledgement({ epoch: epoch(0), seq: seq(2n ** 64n - 1n) }),
      /never sent/,
    ],
    [
      "the receipt of a cut that was never sent",
      (cut) => acknowledgement(cut, { received: { ...cut, seq: seq(cut.seq + 7n) } }),
      /never sent/,
    ],
    [
      "that a cut is applied and not durable",
      (cut) => acknowledgement({ epoch: epoch(0), seq: seq(0) }, { applied: cut }),
      /was applied where only 0\.0 is durable/,
    ],
  ];
  for (const [what, message, names] of lies) {
    it(`does not believe ${what}`, async () => {
      await survives(
        async () => {
          const { conversation, cut } = await joined();
          await conversation.send(message(cut));
          return conversation;
        },
        "PROTOCOL_VIOLATION",
        names,
      );
    });
  }

  it("does not believe an acknowledgement that takes back another", async () => {
    await survives(
      async () => {
        const { conversation, cut } = await joined();
        await conversation.send(acknowledgement(cut));
        await conversation.send(acknowledgement({ epoch: epoch(0), seq: seq(0) }));
        return conversation;
      },
      "PROTOCOL_VIOLATION",
      /cut 0\.0 was acknowledged after 1\.\d+/,
    );
  });

  it("does not count a cut as durable for `wait` because somebody lied about it", async () => {
    const { conversation, cut } = await joined();
    await conversation.send(acknowledgement({ epoch: epoch(0), seq: seq(10 ** 9) }));
    await conversation.end();
    const failure = await control()
      .wait("app", { timeoutMs: 300, replicas: ["bravo"] })
      .then(
        () => undefined,
        (error: unknown) => error as { code: string },
      );
    expect(failure?.code, `cut ${cutText(cut)}`).to.equal("WAIT_TIMED_OUT");
  });

  it("closes the session at the second refusal of a flood of them, and does not fill its log", async () => {
    const logged = agent.lines.length;
    await survives(
      async () => {
        const { conversation, cut } = await joined();
        const refusal: Message = {
          kind: "cutRejected",
          cut,
          code: "CUT_DAMAGED",
          message: "no",
          remedy: "replan",
          committed: { epoch: epoch(0), seq: seq(0) },
        };
        await conversation.sendParts([]);
        for (let i = 0; i < 20_000 && !conversation.over; i++) {
          try {
            await conversation.send(refusal);
          } catch {
            break; // The primary has hung up, as it should.
          }
        }
        return conversation;
      },
      "PROTOCOL_VIOLATION",
      /a cutRejected after the end of what is shipped/,
    );
    expect(agent.lines.slice(logged).filter(({ event }) => event === "cut.rejected").length).to.equal(1);
  });

  for (const [what, message, names] of [
    ["a cut", { kind: "rows", objects: [], paths: [] }, /a replica does not send rows/],
    [
      "the state of a source",
      {
        kind: "sourceState",
        taken: { epoch: epoch(1), seq: seq(1) },
        backlogBytes: 0,
        waitingMs: 0,
        paused: false,
        halted: "",
      },
      /a replica does not send sourceState/,
    ],
    ["a second hello", { kind: "ping", nonce: 2 ** 52 }, /a replica does not send hello/],
  ] as const) {
    it(`closes the session of a replica that sends ${what}`, async () => {
      await survives(
        async () => {
          const { conversation } = await joined();
          await conversation.send(
            message.kind === "ping" ? { kind: "hello", hello: bravo.hello() } : (message as Message),
          );
          return conversation;
        },
        "PROTOCOL_VIOLATION",
        names,
      );
    });
  }

  it("sends all of an object whose staged runs are garbage, and ignores answers that nobody asked for", async () => {
    const conversation = await hello();
    await conversation.send(
      { kind: "stagedRuns", object: 4711 as ObjectId, blockSize: 2 ** 32 - 1 },
      randomBytes(1000),
    );
    const asked = await conversation.expect("stagedRequest");
    await conversation.send(
      { kind: "stagedRuns", object: asked.object, blockSize: asked.blockSize },
      randomBytes(10_001),
    );
    const end = await conversation.expect("cutEnd");
    expect(end.payloadBytes).to.equal(2 * 1024 * 1024 + 5);
    conversation.channel.close();
    await conversation.end();
  });

  it("goes on after a replica that lies about the last object it has", async () => {
    const conversation = await hello({ lastObject: 2 ** 53 - 1 });
    await conversation.expect("cutEnd");
    conversation.channel.close();
    await conversation.end();
    expect(agent.exit).to.equal(undefined);
  });

  it("ships to a correct replica after all of that", async () => {
    const { conversation, cut } = await joined();
    await conversation.send(acknowledgement(cut));
    await until(
      () => agent.lines.some((line) => line.event === "cut.acknowledged" && line.seq === Number(cut.seq)),
      "the cut counts as durable",
    );
    const status = await agent.status();
    expect(status.groups.app?.halted).to.equal(null);
    expect(status.groups.app?.peers.bravo?.durable?.seq).to.equal(Number(cut.seq));
    conversation.channel.close();
    await conversation.end();
  });

  it("asks a replica that rejoins what it has otherwise, and is none the worse for any answer", async () => {
    const { conversation, cut } = await joined();
    await conversation.send(acknowledgement(cut));
    // Nobody has asked for it.
    await conversation.send({ kind: "touchedHeld", last: false }, randomBytes(1024 * 1024));
    conversation.channel.close();
    await conversation.end();
    const rejoining = { features: ["rejoining"], committed: cut, digest: randomBytes(32), lastObject: 1000 };
    const answers: readonly (readonly [string, Uint8Array])[] = [
      ["no list", Buffer.from("nothing of the kind")],
      ["does not get on", new Uint8Array(0)],
    ];
    for (const [said, payload] of answers) {
      const talking = await hello(rejoining);
      await talking.expect("aheadRequest");
      await talking.send({ kind: "aheadHeld", last: true });
      await talking.expect("touchedRequest");
      await talking.send({ kind: "touchedHeld", last: false }, payload);
      await until(
        () => agent.lines.some((line) => line.event === "ahead.failed" && JSON.stringify(line).includes(said)),
        () => `it says why:\n${agent.tail()}`,
      );
      talking.channel.close();
      await talking.end();
    }
    const correct = await hello(rejoining);
    await correct.expect("aheadRequest");
    await correct.send({ kind: "aheadHeld", last: true });
    await correct.expect("touchedRequest");
    // Object 1 is the root; of the others it says that it has none, of one that never was too.
    const lacks = [2, 3, 4711].map(
      (object) => ({ kind: "object", object, run: -1, blocks: new Uint8Array(0) }) as const,
    );
    await correct.send({ kind: "touchedHeld", last: true }, packTouchedList(lacks));
    const end = await correct.expect("cutEnd");
    // With the cut, or ahead of it: that depends on how quick the line was said to be.
    const bytes = correct.received
      .flatMap(({ message }) => (message.kind === "extents" || message.kind === "ahead" ? message.extents : []))
      .reduce((sum, { held, zero, length }) => sum + (held || zero ? 0 : length), 0);
    expect(bytes).to.equal(2 * 1024 * 1024 + 5);
    expect(end.cut.seq).to.equal(cut.seq + 1n);
    const begun = correct.received.map(({ message }) => message).find((message) => message.kind === "cutBegin");
    expect(begun?.base).to.deep.equal(cut);
    await correct.send(acknowledgement(end.cut));
    correct.channel.close();
    await correct.end();
    expect(agent.exit).to.equal(undefined);
  });

  it("refuses a replica that says it is ahead, halts until a person has looked, and says so", async () => {
    await survives(
      async () => {
        const conversation = await hello({ committed: { epoch: epoch(1), seq: seq(1_000_000) } });
        const refusal = await conversation.expect("refusal");
        expect(refusal.code).to.equal("REPLICA_NEWER");
        return conversation;
      },
      "REPLICA_NEWER",
      /bravo is newer \(cut 1\.1000000\)/,
    );
    const { halted } = (await agent.status()).groups.app!;
    expect(halted?.message).to.match(/the replica bravo is newer/);
  });
});
