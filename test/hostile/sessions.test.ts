import { randomBytes } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import { expect } from "chai";
import { connectControl } from "../../deploy/control/client.ts";
import { controlSocketPath } from "../../deploy/control/state-layout.ts";
import { features } from "../../shared/session/connect.ts";
import { encodeMessage } from "../../shared/wire/codec.ts";
import type { Hello, Message } from "../../shared/wire/messages.ts";
import { unpackTouchedList } from "../../shared/wire/touched-list.ts";
import { epoch, type ObjectId, type StorePath, seq } from "../../shared/words.ts";
import { until } from "../until.ts";
import { usualDraft } from "./cut-cases.ts";
import { HostileStage } from "./hostile-stage.ts";
import { body, rawEnvelope, rawMessage } from "./raw-message.ts";
import { blockSize, type Conversation, hashesOf, type Part } from "./scripted-node.ts";

const large = 3 * 1024 * 1024;

describe("a replica under hostile sessions", () => {
  let stage: HostileStage;

  before(async () => {
    stage = await HostileStage.open();
    await stage.seed();
  });

  after(async () => {
    await stage[Symbol.asyncDispose]();
  });

  /** Says hello as alpha would, but for one thing. */
  async function greeting(
    change: Partial<Hello>,
    node: "alpha" | "charlie" | "delta" = "alpha",
  ): Promise<Conversation> {
    const conversation = await stage.node(node).open();
    await conversation.send({ kind: "hello", hello: { ...stage.node(node).hello(standing()), ...change } });
    return conversation;
  }

  /** Where alpha really stands, also for others who claim to. */
  function standing(): Partial<Hello> {
    const { epoch: at, committed, digest } = stage.alpha;
    return { epoch: at, epochSeen: at, epochs: [{ epoch: at, firstSeq: 1n }], committed, digest };
  }

  describe("hellos", () => {
    const refused: readonly {
      readonly name: string;
      readonly code: string;
      readonly names: RegExp;
      readonly from?: "charlie" | "delta";
      readonly change: () => Partial<Hello>;
    }[] = [
      {
        name: "with the name of another node than the key's",
        code: "NOT_A_MEMBER",
        names: /the key belongs to charlie, the hello comes from alpha/,
        from: "charlie",
        change: () => ({ node: "alpha" }),
      },
      {
        name: "for a group that nobody knows",
        code: "NOT_A_MEMBER",
        names: /group "other" is not shared with alpha here/,
        change: () => ({ group: "other" }),
      },
      {
        name: "of a node that has a key and no part in the group",
        code: "NOT_A_MEMBER",
        names: /group "app" is not shared with delta here/,
        from: "delta",
        change: () => ({}),
      },
      {
        name: "of a second primary of the same epoch",
        code: "TWO_PRIMARIES",
        names: /charlie says that it is primary of epoch 1, which is the epoch of alpha/,
        from: "charlie",
        change: () => ({ incarnation: "c".repeat(16) }),
      },
      {
        name: "of a group that was born elsewhere",
        code: "STRANGERS",
        names: /group app here is [0-9a-f]{32}, on alpha it is f{32}/,
        change: () => ({ groupId: "f".repeat(32) }),
      },
      {
        name: "of an unformed primary that has a group's id",
        code: "STRANGERS",
        names: /group app here is/,
        change: () => ({ groupId: "e".repeat(32), role: "unformed", epoch: 0n, epochs: [] }),
      },
      {
        name: "without one of the stores",
        code: "CONFIGURATION",
        names: /differ: alpha has no store db/,
        change: () => ({ stores: stage.alpha.configured.filter(({ name }) => name !== "db") }),
      },
      {
        name: "with one store more",
        code: "CONFIGURATION",
        names: /differ: bravo has no store etc/,
        change: () => ({
          stores: [...stage.alpha.configured, { name: "etc", kind: "files", digest: new Uint8Array(32) }],
        }),
      },
      {
        name: "with a store of another kind",
        code: "CONFIGURATION",
        names: /store db is sqlite on bravo and files on alpha/,
        change: () => ({ stores: stage.alpha.configured.map((store) => ({ ...store, kind: "files" })) }),
      },
      {
        name: "that leaves out other paths",
        code: "CONFIGURATION",
        names: /what store uploads leaves out/,
        change: () => ({ stores: stage.alpha.configured.map((store) => ({ ...store, digest: new Uint8Array(32) })) }),
      },
      {
        name: "of another major version",
        code: "WIRE_VERSION",
        names: /this node speaks version 1 of the wire, alpha version 2/,
        change: () => ({ major: 2 }),
      },
      {
        name: "of an epoch that no catalog holds",
        code: "HELLO_MALFORMED",
        names: /epoch 18446744073709551615 is out of range/,
        change: () => ({ epoch: 2n ** 64n - 1n }),
      },
      {
        name: "of a node that has seen an epoch that no catalog holds",
        code: "HELLO_MALFORMED",
        names: /epochSeen 9223372036854775808 is out of range/,
        change: () => ({ epochSeen: 2n ** 63n }),
      },
      {
        name: "of a primary whose epochs do not rise",
        code: "HELLO_MALFORMED",
        names: /epoch 1 comes after epoch 2/,
        change: () => ({
          epoch: 2n,
          epochs: [
            { epoch: 2n, firstSeq: 1n },
            { epoch: 1n, firstSeq: 5n },
          ],
        }),
      },
      {
        name: "of a primary that does not know its own epoch",
        code: "HELLO_MALFORMED",
        names: /a primary of epoch 7 that does not know when it began/,
        change: () => ({ epoch: 7n }),
      },
    ];
    for (const { name, code, names, from = "alpha", change } of refused) {
      it(`refuses one ${name}`, async () => {
        const answer = await stage.unharmed(async () => await greeting(change(), from), code, names);
        const refusal = answer.find((message) => message.kind === "refusal");
        expect(refusal?.code).to.equal(code);
        expect(refusal?.message).to.match(names);
      });
    }

    it("takes nothing from the primary of an epoch that has ended", async () => {
      await stage.unharmed(
        async () => {
          const conversation = await greeting({ epoch: 0n, epochs: [], epochSeen: 0n, role: "primary" });
          await conversation.end();
          return conversation;
        },
        "HELLO_MALFORMED",
        /a primary of epoch 0/,
      );
    });

    it("takes nothing from a node with whom there is nothing to do", async () => {
      await stage.unharmed(
        async () => {
          const conversation = await greeting({ role: "replica" }, "charlie");
          await conversation.expect("welcome");
          await conversation.sendParts(usualDraft(stage.alpha.draft()).parts());
          return conversation;
        },
        "PROTOCOL_VIOLATION",
        /a cutBegin came from charlie, with whom there is nothing to do/,
      );
    });

    it("asks everybody who said that he is no primary again before it is promoted, and keeps silent then itself", async () => {
      const control = connectControl(controlSocketPath(stage.agent.stateDirectory));
      const promote = (): Promise<unknown> => control.promote("app", { acceptLoss: true, accept: [] });
      const refusal = async (): Promise<string> =>
        await promote().then(
          () => expect.fail("it was promoted"),
          (error: Error) => error.message,
        );
      const asked = ({ received }: Conversation): { message: Message }[] =>
        received.filter(({ message }) => message.kind === "roleAsked");
      const [alpha, charlie] = [
        await greeting({ role: "fenced", features: [features.role] }),
        await greeting({ role: "replica", features: [features.role] }, "charlie"),
      ];
      await Promise.all([alpha.expect("welcome"), charlie.expect("welcome")]);
      await charlie.send({ kind: "roleAsked", nonce: 7 });
      expect((await charlie.expect("roleHeld")).nonce).to.equal(7);

      const answering = (async () => {
        const { nonce } = await alpha.expect("roleAsked");
        await charlie.send({ kind: "roleAsked", nonce: 8 });
        await alpha.send({ kind: "roleHeld", nonce });
      })();
      expect(await refusal(), "charlie said nothing").to.match(/not heard of charlie/);
      await answering;
      expect(asked(charlie)).to.have.length(1);
      const held = charlie.received.filter(({ message }) => message.kind === "roleHeld");
      expect(held, "whoever is to be promoted himself says nothing").to.have.length(1);

      expect((await stage.agent.status()).groups.app?.role).to.equal("replica");
      alpha.channel.close();
      charlie.channel.close();
    });

    for (const [name, header, names] of [
      [
        "without a node, as bytes that are no message",
        Buffer.from("ffffffffffff", "hex"),
        /malformed|wire type|no message/,
      ],
      [
        "that is another message",
        encodeMessage({ kind: "pong", nonce: 2 ** 52 }),
        /closed the channel|pong|did not say hello/,
      ],
      ["that is a welcome", rawEnvelope(2, [[1, rawMessage([[5, "alpha"]])]]), /not hello|no committed/],
    ] as const) {
      it(`refuses a first message ${name}`, async () => {
        await stage.unharmed(
          async () => {
            const conversation = await stage.alpha.open();
            await conversation.sendFrame("control", header);
            conversation.channel.close();
            return conversation;
          },
          "PROTOCOL_VIOLATION",
          names,
        );
      });
    }

    it("tolerates a newer minor version, unknown features and unknown fields", async () => {
      const hello = encodeMessage({
        kind: "hello",
        hello: stage.alpha.hello({ minor: 99, features: ["zstd", "teleport"], software: "99.0.0" }),
      });
      // The body's own length comes first in an Envelope: more fields are more body.
      const length = (hello[1]! & 0x7f) | (hello[2]! << 7);
      const inner = hello.subarray(3, 3 + length);
      expect(inner.length + 3).to.equal(hello.length);
      const more = Buffer.concat([
        inner,
        rawMessage([
          [900, "what is this?"],
          [901, 42],
        ]),
      ]);
      const conversation = await stage.alpha.open();
      await conversation.sendFrame(
        "control",
        rawMessage([
          [body.hello, more],
          [77, "nor this"],
        ]),
      );
      await conversation.expect("acknowledgement");
      await stage.alpha.ship(conversation, usualDraft(stage.alpha.draft()));
      conversation.channel.close();
      await conversation.end();
    });

    for (const [name, change] of [
      ["a last object that cannot be", { lastObject: 2 ** 53 - 1 }],
      ["a last cut far ahead", { committed: { epoch: epoch(1), seq: seq(1_000_000) } }],
    ] as const) {
      it(`follows a primary that tells of ${name}, and takes its next correct cut`, async () => {
        const conversation = await stage.alpha.follow(change);
        await stage.alpha.ship(conversation, usualDraft(stage.alpha.draft()));
        conversation.channel.close();
        await conversation.end();
      });
    }
  });

  describe("messages", () => {
    const notes: readonly { readonly name: string; readonly names: RegExp; readonly message: () => Message }[] = [
      {
        name: "a second hello",
        names: /does not send hello/,
        message: () => ({ kind: "hello", hello: stage.alpha.hello() }),
      },
      {
        name: "an acknowledgement",
        names: /does not send acknowledgement/,
        message: () => {
          const cut = stage.alpha.committed;
          return {
            kind: "acknowledgement",
            received: cut,
            durable: cut,
            applied: cut,
            suspect: "",
            unappliedBytes: 0,
            damaged: [],
          };
        },
      },
      {
        name: "an answer about staged runs that nobody asked for",
        names: /does not send stagedRuns/,
        message: () => ({ kind: "stagedRuns", object: 3 as ObjectId, blockSize }),
      },
      {
        name: "a refusal in the middle of a session",
        names: /alpha refuses: go away/,
        message: () => ({ kind: "refusal", code: "X", message: "go away", hint: "" }),
      },
    ];
    for (const { name, names, message } of notes) {
      it(`closes the session at ${name}`, async () => {
        await stage.unharmed(
          async () => {
            const conversation = await stage.alpha.follow();
            await conversation.send(message());
            return conversation;
          },
          "PROTOCOL_VIOLATION",
          names,
        );
      });
    }

    it("closes the session at a message of a cut that came as control", async () => {
      await stage.unharmed(
        async () => {
          const conversation = await stage.alpha.follow();
          const [begin] = usualDraft(stage.alpha.draft()).parts();
          await conversation.sendParts([{ ...begin!, kind: "control" }]);
          return conversation;
        },
        "PROTOCOL_VIOLATION",
        /does not send cutBegin/,
      );
    });

    for (const [name, change, code, names] of [
      ["a path that must not be", { path: "../outside/precious" }, "PATH_REFUSED", /component "\.\."/],
      ["blocks of no bytes", { blockSize: 0 }, "CUT_MALFORMED", /block size 0/],
      ["blocks of 4 GiB", { blockSize: 2 ** 32 - 1 }, "CUT_MALFORMED", /block size 4294967295/],
    ] as const) {
      it(`closes the session at a question about ${name}`, async () => {
        await stage.unharmed(
          async () => {
            const conversation = await stage.alpha.follow();
            const asked = { object: 77 as ObjectId, store: "uploads", path: "docs/a.txt" as StorePath, blockSize };
            await conversation.send({ kind: "stagedRequest", ...asked, ...change } as Message);
            return conversation;
          },
          code,
          names,
        );
      });
    }

    it("says that nothing is staged of an object that nobody knows", async () => {
      const conversation = await stage.alpha.follow();
      await conversation.send({
        kind: "stagedRequest",
        object: 77 as ObjectId,
        store: "etc",
        path: "" as StorePath,
        blockSize,
      });
      const answer = await conversation.expect("stagedRuns");
      expect(answer).to.deep.equal({ kind: "stagedRuns", object: 77, blockSize: 0 });
      conversation.channel.close();
      await conversation.end();
    });
  });

  describe("one receiver", () => {
    it("stages and commits nothing for a session that a newer one replaced", async () => {
      const older = await stage.alpha.follow();
      const parts = usualDraft(stage.alpha.draft()).parts();
      await older.sendParts(parts.slice(0, 2));
      const before = stage.footprint();
      const newer = await stage.alpha.follow();
      await older.sendParts(parts.slice(2));
      await older.end();
      expect(
        older.received.some(
          ({ message }) => message.kind === "acknowledgement" && message.durable.seq >= stage.alpha.draft().cut.seq,
        ),
      ).to.equal(false);
      newer.channel.close();
      await newer.end();
      await until(() => stage.footprint().catalog === before.catalog, "what was half received is forgotten");
      await stage.healthy();
    });

    it("takes the cuts of the last of ten sessions that begin at once, and of no other", async () => {
      const conversations = await Promise.all(Array.from({ length: 10 }, async () => await stage.alpha.open()));
      await Promise.all(
        conversations.map(async (item) => await item.send({ kind: "hello", hello: stage.alpha.hello() })),
      );
      await Promise.all(conversations.map(async (item) => await item.expect("welcome")));
      const alive = await until(
        () => {
          const left = conversations.filter((item) => !item.over);
          return (
            left.length === 1 && left[0]!.received.some(({ message }) => message.kind === "acknowledgement") && left[0]
          );
        },
        () => `one session is left of ten:\n${stage.agent.tail()}`,
      );
      await stage.alpha.ship(alive, usualDraft(stage.alpha.draft()));
      alive.channel.close();
      await alive.end();
    });
  });

  describe("while it rejoins", () => {
    const page = { store: "", path: "" as StorePath, object: 0, run: 0 };
    beforeEach(() => alter("INSERT INTO touched_paths VALUES (1, 'docs', 'b.txt')"));
    afterEach(() => alter("DELETE FROM touched_paths; DELETE FROM standing WHERE key = 'unproven'"));

    /** What a demotion leaves is all that tells the agent that it rejoins. */
    function alter(sql: string): void {
      using catalog = new DatabaseSync(stage.catalog, { timeout: 10_000 });
      catalog.exec(sql);
    }

    async function rejoins(): Promise<boolean> {
      const conversation = await stage.alpha.follow();
      const { hello } = await conversation.expect("welcome");
      conversation.channel.close();
      await conversation.end();
      return hello.features.includes(features.rejoining);
    }

    it("tells what it has otherwise, and ends the session of whoever asks from a place that is none", async () => {
      const conversation = await stage.alpha.follow();
      await conversation.send({ kind: "touchedRequest", ...page });
      expect((await conversation.expect("touchedHeld")).last).to.equal(true);
      const held = conversation.received.find(({ message }) => message.kind === "touchedHeld");
      const stores = ["db", "uploads"].map((store) => ({ kind: "path", store, path: "docs/b.txt" }));
      expect(stores).to.deep.include(unpackTouchedList(held!.payload)?.[0]);
      await stage.unharmed(
        async () => {
          await conversation.send({ kind: "touchedRequest", ...page, store: "nowhere" });
          return conversation;
        },
        "PROTOCOL_VIOLATION",
        /a list goes on in store "nowhere"/,
      );
    });

    it("commits nothing that does not come to the primary's digest, and rejoins by comparison from then on", async () => {
      expect(await rejoins()).to.equal(true);
      const tree = stage.footprint().tree;
      const conversation = await stage.alpha.follow();
      const parts = usualDraft(stage.alpha.draft())
        .parts()
        .map(
          (part): Part =>
            part.message.kind === "cutEnd" ? { ...part, message: { ...part.message, digest: randomBytes(32) } } : part,
        );
      await conversation.sendParts(parts);
      const rejected = await conversation.expect("cutRejected");
      expect(rejected).to.include({ code: "REJOIN_UNPROVEN", remedy: "stop" });
      await conversation.end();
      expect(stage.footprint().tree).to.equal(tree);
      expect(await rejoins()).to.equal(false);
      await stage.healthy();
    });

    it("knows with the commit of the cut that proves it that nothing is otherwise any more", async () => {
      await stage.takesTheNextCut();
      expect(await rejoins()).to.equal(false);
    });
  });

  describe("what an earlier session has staged", () => {
    /** Brings three MiB of a new object into staging, and goes away. */
    async function leaveStaged(change: { blockSize?: number; store?: number } = {}, bytes = large): Promise<ObjectId> {
      const draft = stage.alpha.draft();
      const object = draft.nextObject;
      const size = change.blockSize ?? blockSize;
      const conversation = await stage.alpha.follow();
      const parts: Part[] = [draft.parts()[0]!];
      const piece = 1024 * 1024;
      for (let offset = 0; offset < bytes; offset += piece) {
        const payload = randomBytes(piece);
        const extent = {
          object,
          offset,
          length: piece,
          hashes: hashesOf(payload, size),
          zero: false,
          store: change.store ?? 0,
          blockSize: size,
          fresh: true,
          held: false,
        };
        parts.push({ message: { kind: "extents", extents: [extent], encoding: "plain", decodedBytes: 0 }, payload });
      }
      await conversation.sendParts(parts);
      // The answer to a question comes behind everything that was sent before it.
      await conversation.send({
        kind: "stagedRequest",
        object: 9999 as ObjectId,
        store: "uploads",
        path: "" as StorePath,
        blockSize,
      });
      await conversation.expect("stagedRuns");
      conversation.channel.close();
      await conversation.end();
      return object;
    }

    /** Most of it is a hole, so that whatever was left there would show. */
    const holed = (bytes = 8192): Uint8Array => {
      const content = Buffer.alloc(large);
      content.set(randomBytes(bytes), 0);
      return content;
    };

    const cases: readonly [
      string,
      () => Promise<unknown>,
      (draft: ReturnType<HostileStage["alpha"]["draft"]>) => typeof draft,
    ][] = [
      ["an empty file", () => leaveStaged(undefined, 12 * large), (draft) => draft.file("uploads", "after", "")],
      ["a symlink", () => leaveStaged(undefined, 12 * large), (draft) => draft.symlink("uploads", "after", "docs")],
      ["a directory", () => leaveStaged(undefined, 12 * large), (draft) => draft.directory("uploads", "after")],
      [
        "a small file",
        () => leaveStaged(undefined, 12 * large),
        (draft) => draft.file("uploads", "after", randomBytes(5000)),
      ],
      [
        "a file with holes",
        () => leaveStaged(undefined, 12 * large),
        (draft) => draft.file("uploads", "after", holed()),
      ],
      [
        "a file with smaller blocks",
        () => leaveStaged({ blockSize: 65536 }, 12 * large),
        (draft) => draft.file("uploads", "after", holed(), { blockSize: 512 }),
      ],
      [
        "a file of another store",
        () => leaveStaged({ store: 1 }, 12 * large),
        (draft) => draft.file("uploads", "after", holed()),
      ],
    ];
    for (const [name, leave, build] of cases) {
      it(`is not taken for the content of ${name} under the same number`, async () => {
        await leave();
        const conversation = await stage.alpha.follow();
        await stage.alpha.ship(conversation, build(stage.alpha.draft()));
        conversation.channel.close();
        await conversation.end();
        const verified = await stage.verify();
        expect(verified.differences).to.deep.equal([]);
        expect(verified.ok).to.equal(true);
        const next = await stage.alpha.follow();
        await stage.alpha.ship(next, stage.alpha.draft().remove("uploads", "after"));
        next.channel.close();
        await next.end();
      });
    }
  });

  describe("floods", () => {
    it("refuses a million tiny rows in bounded time and memory, and answers meanwhile", async function () {
      this.timeout(300_000);
      const row = rawMessage([[2, rawMessage([[2, "x"]])]]);
      const header = rawMessage([[body.rows, Buffer.concat(Array.from({ length: 100_000 }, () => row))]]);
      const before = stage.agent.cpuMs();
      await stage.unharmed(
        async () => {
          const conversation = await stage.alpha.follow();
          const parts = stage.alpha.draft().parts();
          await conversation.sendParts(parts.slice(0, 1));
          for (let i = 0; i < 10; i++) await conversation.sendFrame("bulk", header);
          await stage.agent.status();
          await conversation.sendParts(parts.slice(-1));
          await conversation.end(100_000);
          return conversation;
        },
        "CUT_DAMAGED",
        /has 0 objects, 1000000 paths/,
      );
      const after = stage.agent.cpuMs();
      expect(after.all - before.all, "ms of computing for a million rows").to.be.lessThan(20_000);
      expect(after.firstThread - before.firstThread, "ms of it in the thread that answers").to.be.lessThan(3000);
    });
  });

  it("takes the next correct cut", async () => {
    await stage.takesTheNextCut();
  });
});
