import { expect } from "chai";
import { GroupPeers, type RoleChanges } from "../../../deploy/agent/group-peers.ts";
import type { GroupWorkers } from "../../../deploy/agent/group-workers.ts";
import type { Session } from "../../../deploy/agent/session.ts";
import { membersDigest } from "../../../shared/config/digest.ts";
import { ProtocolViolation } from "../../../shared/errors.ts";
import { ChannelClosed, LinkLost } from "../../../shared/link/link-errors.ts";
import { type Log, silentLog } from "../../../shared/log.ts";
import { membersFeature } from "../../../shared/session/connect.ts";
import { encodeMessage } from "../../../shared/wire/codec.ts";
import type { Frame } from "../../../shared/wire/frame.ts";
import type { Hello, Message } from "../../../shared/wire/messages.ts";
import { until } from "../../end-to-end/harness.ts";

const group = (primary: string, ...replicas: string[]) =>
  ({ name: "app", primary, replicas: new Map(replicas.map((name) => [name, {}])), stores: new Map() }) as never;

/** A replica that knows of the group, and logs its errors into `errors`. */
function peersOf(errors: string[]): GroupPeers {
  const log = { ...silentLog, error: (event: string) => errors.push(event), info() {} } as unknown as Log;
  const standing = {
    ...{ groupId: "0".repeat(32), role: "replica", epoch: 1n, epochSeen: 1n, epochs: [{ epoch: 1n, firstSeq: 1n }] },
    ...{ committed: { epoch: 1n, seq: 3n }, digest: new Uint8Array(32), lastObject: 1 },
  };
  return new GroupPeers({
    ...{ config: group("alpha", "bravo", "charlie"), options: { node: "bravo", software: "1.0.0" }, log, standing },
    ...{ replicaStanding: standing, role: "replica", stopped: false },
    settled: async () => {},
    refresh: async () => {},
  } as unknown as GroupWorkers);
}

class Talk {
  readonly frames: PromiseWithResolvers<Frame | undefined>[] = [];
  readonly session: Session;
  readonly heard: Message[] = [];
  #ended = false;
  constructor(peer: string, change: Partial<Hello>) {
    const hello = {
      ...{ major: 1, minor: 0, features: [], software: "1.0.0", node: peer, group: "app", groupId: "0".repeat(32) },
      ...{ role: "replica", epoch: 1n, epochs: [{ epoch: 1n, firstSeq: 1n }], incarnation: "", epochSeen: 1n },
      ...{ committed: { epoch: 1n, seq: 3n }, digest: new Uint8Array(32), stores: [], generation: 1n, lastObject: 1 },
      ...change,
    };
    this.session = {
      ...{ peer, dialed: true, theirs: hello, hello, lastHeardAt: performance.now() },
      greet: async () => hello,
      send: async (message: Message) => {
        this.heard.push(message);
      },
      channel: { close: () => this.end() },
      next: async () => {
        const frame = Promise.withResolvers<Frame | undefined>();
        if (this.#ended) frame.resolve(undefined);
        this.frames.push(frame);
        return await frame.promise;
      },
    } as unknown as Session;
  }

  /** Brings what is read next. */
  say(message: Message): void {
    this.frames
      .at(-1)
      ?.resolve({ kind: "control", header: encodeMessage(message), payload: new Uint8Array(0) } as Frame);
  }

  end(): void {
    this.#ended = true;
    for (const frame of this.frames) frame.resolve(undefined);
  }
}

const changes = { answered: () => {} } as unknown as RoleChanges;

describe("what a node knows of the others' configurations", () => {
  it("is who names other members or the same in another order, as long as he is connected, and loud", async () => {
    const errors: string[] = [];
    const peers = peersOf(errors);
    const same = new Talk("alpha", { features: [membersFeature(membersDigest(group("alpha", "bravo", "charlie")))] });
    const other = new Talk("charlie", {
      features: [membersFeature(membersDigest(group("alpha", "charlie", "bravo")))],
    });
    const old = new Talk("delta", {});
    const talks = [same, other, old];
    const over = talks.map(async ({ session }) => await peers.converse(session, changes));
    await until(() => talks.every(({ frames }) => frames.length > 0), 20_000, "all are there");
    expect(peers.namingOthers()).to.deep.equal(["charlie"]);
    expect(errors).to.deep.equal(["members.differ"]);
    for (const talk of talks) talk.end();
    await Promise.all(over);
    expect(peers.namingOthers()).to.deep.equal([]);
  });
});

describe("what a node says of itself before a promotion", () => {
  it("is its own word: nobody answers for another", async () => {
    const peers = peersOf([]);
    const silent = new Talk("alpha", { features: ["role"] });
    const other = new Talk("charlie", { features: ["role"] });
    const talks = [silent, other];
    const over = talks.map(async ({ session }) => await peers.converse(session, changes));
    await until(() => talks.every(({ frames }) => frames.length > 0), 20_000, "both are there");
    const answering = peers.answering();
    await until(() => talks.every(({ heard }) => heard.length > 0), 20_000, "both are asked");
    const nonces = talks.map(({ heard }) => (heard[0]?.kind === "roleAsked" ? heard[0].nonce : -1));
    for (const nonce of nonces) {
      const read = other.frames.length;
      other.say({ kind: "roleHeld", nonce });
      await until(() => other.frames.length > read, 20_000, "it is heard");
    }
    expect([...(await answering)]).to.deep.equal(["charlie"]);
    for (const talk of talks) talk.end();
    await Promise.all(over);
  });
});

describe("a peer in the status", () => {
  const stranger = { groupId: "1".repeat(32) };
  const gone = new ChannelClosed("the channel to alpha is closed");
  const cases: readonly (readonly [string, Partial<Hello>, Partial<Talk["session"]>, string])[] = [
    ["was refused and heard it", stranger, {}, "refused"],
    [
      "was refused, has refused as well and is gone",
      stranger,
      { send: async () => await Promise.reject(gone) },
      "refused",
    ],
    [
      "was idle when its connection broke",
      {},
      { next: async () => await Promise.reject(new LinkLost("it broke")) },
      "connecting",
    ],
    [
      "said what it must not",
      {},
      { next: async () => await Promise.reject(new ProtocolViolation("nonsense")) },
      "refused",
    ],
  ];
  for (const [what, hello, change, state] of cases) {
    it(`is ${state} when it ${what}`, async () => {
      const peers = peersOf([]);
      const { session } = new Talk("alpha", hello);
      await peers.converse(Object.assign(session, change), changes).catch(() => {});
      expect(peers.note("alpha")?.state).to.equal(state);
    });
  }
});
