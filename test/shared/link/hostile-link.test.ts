import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { expect } from "chai";
import ssh2, { type ClientChannel, type ConnectConfig } from "ssh2";
import type { UnderstudyError } from "../../../shared/errors.ts";
import type { Channel } from "../../../shared/link/channel.ts";
import { type DialOptions, dial } from "../../../shared/link/dial.ts";
import type { Identity } from "../../../shared/link/identity.ts";
import { encodeMessage } from "../../../shared/wire/codec.ts";
import { encodeFrame, type Frame, headerBytesMax, payloadBytesMax } from "../../../shared/wire/frame.ts";
import { until } from "../../until.ts";
import {
  collect,
  countRounds,
  drain,
  embeddedPair,
  Line,
  listening,
  never,
  numbered,
  type PairOptions,
  recorder,
  someIdentities,
} from "./link-fixtures.ts";

/** What a node's own code never does: everything here comes from a plain SSH client, socket or server. */
describe("hostile peers", () => {
  let cleanup: AsyncDisposableStack;
  let alpha: Identity;
  let bravo: Identity;
  let stranger: Identity;
  beforeEach(async () => {
    cleanup = new AsyncDisposableStack();
    [alpha, bravo, stranger] = await someIdentities();
  });
  afterEach(() => cleanup.disposeAsync());

  function dialing(port: number, options: Partial<DialOptions> = {}): Promise<unknown> {
    return dial(
      {
        target: { kind: "embedded", host: "127.0.0.1", port },
        peer: "bravo",
        identity: alpha,
        hostKeys: [bravo.publicKey],
        log: recorder().log,
        ...options,
      },
      never,
    ).then(
      (connection) => {
        cleanup.defer(() => connection.close());
        return connection;
      },
      (error: unknown) => error,
    );
  }

  /** A plain SSH client: resolves when it is let in, rejects when not. */
  async function plainClient(port: number, config: ConnectConfig = {}): Promise<ssh2.Client> {
    const client = new ssh2.Client();
    cleanup.defer(() => {
      client.destroy();
    });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    client
      .once("ready", resolve)
      .on("error", reject)
      .once("close", () => reject(new Error("closed")));
    client.connect({ host: "127.0.0.1", port, username: "x", privateKey: alpha.privateKeyPem, ...config });
    await promise;
    return client;
  }

  /** The raw stream of a channel, with alpha's key. */
  async function plainChannel(options: PairOptions = {}) {
    const { listener, channels, listenLog } = await listening(cleanup, options);
    const client = await plainClient(listener.port);
    const stream = await subsystem(client, "understudy");
    stream.on("error", () => undefined); // It is dropped while we write.
    await until(() => channels.length === 1, "the channel arrives");
    return { client, stream, accepted: channels[0]!, listenLog };
  }

  async function expectOnListener(error: unknown, code: string, log: ReturnType<typeof recorder>, text: RegExp) {
    expect(error).to.have.property("code", code);
    const { state, hint, remedy } = error as UnderstudyError;
    for (const part of [state, hint, remedy]) expect(part).to.be.a("string").that.is.not.empty;
    await until(() => log.lines.some(({ fields }) => text.test(JSON.stringify(fields))), `a line with ${text}`);
  }

  describe("without a key", () => {
    it("an unknown key is refused, and both sides name its fingerprint", async () => {
      const { listener, listenLog } = await listening(cleanup);
      const error = await dialing(listener.port, { identity: stranger });
      expect((error as Error).message).to.include(stranger.fingerprint);
      await expectOnListener(error, "KEY_REFUSED", listenLog, /unknown key/);
      expect(listenLog.has("authentication.refused", stranger.fingerprint.replace(/[+]/g, "."))).to.equal(true);
    });

    it("a known public key without its private key is refused", async () => {
      const { listener, listenLog, channels } = await listening(cleanup);
      const borrowed = new BorrowedKey(alpha, stranger);
      const error = await plainClient(listener.port, { agent: borrowed, authHandler: ["agent"], privateKey: "" }).catch(
        (reason: unknown) => reason,
      );
      expect(error).to.be.instanceOf(Error);
      expect(borrowed.signed, "the server asked for a signature").to.equal(true);
      await until(() => listenLog.has("authentication.refused", "wrong signature"), "the refusal is logged");
      expect(channels).to.deep.equal([]);
    });

    const methods: readonly [string, ConnectConfig][] = [
      ["password", { password: "secret", authHandler: ["password"] }],
      ["keyboard-interactive", { tryKeyboard: true, authHandler: ["keyboard-interactive"] }],
      ["none", { authHandler: ["none"] }],
    ];
    for (const [method, config] of methods) {
      it(`authentication by ${method} is refused`, async () => {
        const { listener, listenLog } = await listening(cleanup);
        const error = await plainClient(listener.port, config).catch((reason: unknown) => reason);
        expect(error).to.be.instanceOf(Error);
        if (method !== "none") expect(listenLog.has("authentication.refused", `method ${method}`)).to.equal(true);
      });
    }

    it("a connection that tries one key after another is dropped", async () => {
      const { listener, listenLog } = await listening(cleanup, { limits: { attemptsMax: 3 } });
      let tries = 0;
      const error = await plainClient(listener.port, {
        authHandler: (_left, _partial, next) => {
          tries++;
          next({ type: "publickey", username: "x", key: stranger.privateKeyPem });
        },
      }).catch((reason: unknown) => reason);
      expect(error).to.be.instanceOf(Error);
      expect(tries).to.be.at.most(4);
      expect(listenLog.has("connection.refused", "too many authentication attempts")).to.equal(true);
    });

    it("a key is asked for anew at each connection: one that was removed opens nothing", async () => {
      const { listener, listenLog } = await listening(cleanup);
      expect(await dialing(listener.port)).to.have.property("peer", "bravo");
      await expectOnListener(
        await dialing(listener.port, { identity: bravo }),
        "KEY_REFUSED",
        listenLog,
        /unknown key/,
      );
    });

    it("a connection that never authenticates is dropped in time", async () => {
      const { listener, listenLog } = await listening(cleanup, { limits: { authenticationMs: 100 } });
      const socket = connect(listener.port, "127.0.0.1");
      socket.resume();
      await once(socket, "close");
      expect(listenLog.has("connection.refused", "not authenticated within 100 ms")).to.equal(true);
    });

    it("a connection that shakes hands and then does nothing is dropped in time", async () => {
      const { listener, listenLog } = await listening(cleanup, { limits: { authenticationMs: 150 } });
      const error = await plainClient(listener.port, { authHandler: () => undefined as never }).catch(
        (reason: unknown) => reason,
      );
      expect(error).to.be.instanceOf(Error);
      expect(listenLog.has("connection.refused", "not authenticated")).to.equal(true);
    });

    it("a crowd of silent connections keeps nobody out who has a key, and costs a bounded number of lines", async () => {
      const { listener, listenLog } = await listening(cleanup, { limits: { unauthenticatedMax: 8 } });
      const crowd: Socket[] = [];
      cleanup.defer(() => {
        for (const socket of crowd) socket.destroy();
      });
      let open = 0;
      for (let count = 0; count < 100; count++) {
        const socket = connect(listener.port, "127.0.0.1");
        socket
          .on("connect", () => open++)
          .on("close", () => open--)
          .on("error", () => undefined)
          .resume();
        crowd.push(socket);
      }
      await until(() => open <= 8 && crowd.every((socket) => !socket.connecting), "all but eight are dropped");
      expect(await dialing(listener.port)).to.have.property("peer", "bravo");
      const lines = listenLog.lines.filter(({ event }) => event === "connection.refused");
      expect(lines.length).to.be.within(1, 50);
    });

    const garbage: readonly [string, Buffer][] = [
      ["another protocol", Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n")],
      ["an endless banner", Buffer.alloc(1024 * 1024, 0x61)],
      ["rubbish after the banner", Buffer.concat([Buffer.from("SSH-2.0-x\r\n"), Buffer.alloc(100_000, 0xff)])],
      ["a packet of 4 GiB", Buffer.concat([Buffer.from("SSH-2.0-x\r\n"), Buffer.from([255, 255, 255, 255, 0, 0])])],
    ];
    for (const [what, bytes] of garbage) {
      it(`${what} is refused`, async () => {
        const { listener, listenLog, channels } = await listening(cleanup, { limits: { authenticationMs: 400 } });
        const socket = connect(listener.port, "127.0.0.1");
        const closed = new Promise((resolve) => socket.once("close", resolve));
        socket.on("error", () => undefined).resume(); // A reset is as good as an end.
        socket.write(bytes);
        await closed;
        await until(() => listenLog.has("connection.refused"), "the refusal is logged");
        expect(channels).to.deep.equal([]);
      });
    }
  });

  describe("where we dial", () => {
    async function server(onSocket: (socket: Socket) => void): Promise<number> {
      const sockets = new Set<Socket>();
      const listener = createServer((socket) => {
        sockets.add(socket);
        socket.on("error", () => undefined);
        onSocket(socket);
      }).listen(0, "127.0.0.1");
      await once(listener, "listening");
      cleanup.defer(async () => {
        for (const socket of sockets) socket.destroy();
        listener.close();
        await once(listener, "close");
      });
      const address = listener.address();
      return typeof address === "object" && address !== null ? address.port : 0;
    }

    it("another host key is refused before our name or key is shown, and both fingerprints are named", async () => {
      const { listener, listenLog } = await listening(cleanup);
      const error = await dialing(listener.port, { hostKeys: [stranger.publicKey] });
      await expectOnListener(error, "HOST_KEY_MISMATCH", listenLog, /./);
      expect((error as Error).message)
        .to.include(stranger.fingerprint)
        .and.to.include(bravo.fingerprint);
      expect(listenLog.has("authentication.refused")).to.equal(false);
      expect(listenLog.has("connection.accepted")).to.equal(false);
    });

    it("nobody is trusted for want of a pinned key", async () => {
      const { listener } = await listening(cleanup);
      expect(await dialing(listener.port, { hostKeys: [] })).to.have.property("code", "HOST_KEY_MISMATCH");
      expect(await dialing(listener.port, { hostKeys: ["nonsense"] })).to.have.property("code", "HOST_KEY_MISMATCH");
    });

    it("any one of several pinned keys will do, while one is rotated", async () => {
      const { listener } = await listening(cleanup);
      const hostKeys = [stranger.publicKey, `${bravo.publicKey} comment`];
      expect(await dialing(listener.port, { hostKeys })).to.have.property("peer", "bravo");
    });

    const cases: readonly [string, (socket: Socket) => void, string][] = [
      ["a listener that says nothing", () => undefined, "LINK_TIMED_OUT"],
      ["another protocol", (socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"), "HANDSHAKE_FAILED"],
      ["a listener that hangs up", (socket) => socket.end(), "HANDSHAKE_FAILED"],
      ["an endless banner", (socket) => socket.write(Buffer.alloc(4_000_000, "spam\r\n")), "HANDSHAKE_FAILED"],
      ["a listener that resets", (socket) => socket.resetAndDestroy(), "PEER_UNREACHABLE"],
      [
        "a banner and then rubbish",
        (socket) => socket.write(`SSH-2.0-x\r\n${"\xff".repeat(50_000)}`),
        "HANDSHAKE_FAILED",
      ],
    ];
    for (const [what, behave, code] of cases) {
      it(`${what} is ${code}`, async () => {
        const error = await dialing(await server(behave), { connectMs: 500 });
        expect(error).to.have.property("code", code);
        expect((error as UnderstudyError).remedy).to.equal("retry");
      });
    }

    it("nobody there is PEER_UNREACHABLE", async () => {
      const { listener } = await listening(cleanup);
      await listener.close();
      expect(await dialing(listener.port)).to.have.property("code", "PEER_UNREACHABLE");
    });

    it("a server whose agent hangs while SSH answers is noticed within the deadline", async () => {
      const peer = new ssh2.Server({ hostKeys: [bravo.privateKeyPem] }, (connection) => {
        connection.on("authentication", (context) => context.accept());
        connection.on("session", (accept) => accept().on("subsystem", (open) => open().resume()));
        connection.on("error", () => undefined);
      });
      const port = await server((socket) => peer.injectSocket(socket));
      const connection = await dialing(port, { deadlineMs: 200 });
      using waited = countRounds();
      const channel = await (connection as { openChannel(signal: AbortSignal): Promise<Channel> }).openChannel(never);
      expect(await channel.closed).to.have.property("code", "PEER_SILENT");
      expect(waited.ms()).to.be.below(1500);
    });
  });

  describe("with a key", () => {
    const requests: readonly [string, (client: ssh2.Client, refused: (error: unknown) => void) => void, RegExp][] = [
      ["a shell", (client, refused) => client.shell(false, refused), /shell/],
      ["a terminal", (client, refused) => client.shell({ term: "vt100" }, refused), /pty/],
      ["a command", (client, refused) => client.exec("id", refused), /exec/],
      ["an environment", (client, refused) => client.exec("id", { env: { LD_PRELOAD: "/tmp/x" } }, refused), /env/],
      ["sftp", (client, refused) => client.sftp(refused), /sftp/],
      ["another subsystem", (client, refused) => client.subsys("netconf", refused), /subsystem netconf/],
      ["x11", (client, refused) => client.exec("id", { x11: true }, refused), /x11/],
      [
        "a forwarded port",
        (client, refused) => client.forwardOut("127.0.0.1", 1, "169.254.169.254", 80, refused),
        /port-forward 169\.254\.169\.254:80/,
      ],
      [
        "a forwarded socket",
        (client, refused) => client.openssh_forwardOutStreamLocal("/run/x.sock", refused),
        /x\.sock/,
      ],
      ["a port to listen at", (client, refused) => client.forwardIn("0.0.0.0", 8080, refused), /tcpip-forward/],
      [
        "a socket to listen at",
        (client, refused) => client.openssh_forwardInStreamLocal("/tmp/x", refused),
        /streamlocal/,
      ],
    ];
    for (const [what, ask, line] of requests) {
      it(`${what} is refused and logged`, async () => {
        const { listener, listenLog, channels } = await listening(cleanup);
        const client = await plainClient(listener.port, { strictVendor: false });
        const error = await new Promise((resolve) => ask(client, resolve));
        expect(error).to.be.instanceOf(Error);
        await until(() => listenLog.lines.some(({ fields }) => line.test(String(fields.reason))), `a line ${line}`);
        expect(listenLog.has("request.refused", '"peer":"alpha"')).to.equal(true);
        expect(channels).to.deep.equal([]);
      });
    }

    it("only so many connections of one node are kept", async () => {
      const { listener, listenLog } = await listening(cleanup, { limits: { connectionsPerPeerMax: 2 } });
      const [first] = [await dialing(listener.port), await dialing(listener.port)];
      const third = (await dialing(listener.port)) as { closed?: Promise<unknown>; code?: string };
      expect(third.code ?? ((await third.closed) as UnderstudyError).code).to.be.oneOf([
        "LINK_LOST",
        "HANDSHAKE_FAILED",
      ]);
      expect(listenLog.has("connection.refused", "alpha has too many connections")).to.equal(true);
      const channel = await (first as { openChannel(signal: AbortSignal): Promise<Channel> }).openChannel(never);
      await channel.send(numbered(1));
    });

    it("only so many channels of one connection are given", async () => {
      const { connection, listenLog } = await embeddedPair(cleanup, { limits: { channelsPerConnectionMax: 2 } });
      await connection.openChannel(never);
      const error = await connection.openChannel(never).catch((reason: unknown) => reason);
      await expectOnListener(error, "CHANNEL_REFUSED", listenLog, /too many channels/);
    });

    const prefix = (version: number, kind: number, reserved: number, header: number, payload: number) => {
      const bytes = Buffer.alloc(12);
      bytes.writeUInt8(version, 0);
      bytes.writeUInt8(kind, 1);
      bytes.writeUInt16BE(reserved, 2);
      bytes.writeUInt32BE(header, 4);
      bytes.writeUInt32BE(payload, 8);
      return bytes;
    };
    const frames: readonly [string, Uint8Array, RegExp][] = [
      ["another frame version", prefix(2, 1, 0, 0, 0), /version 2/],
      ["an unknown kind of frame", prefix(1, 9, 0, 0, 0), /kind 9/],
      ["reserved bytes", prefix(1, 1, 77, 0, 0), /reserved/],
      ["a header of 4 GiB", prefix(1, 1, 0, 2 ** 32 - 1, 0), /header of 4294967295/],
      ["a header of one byte too many", prefix(1, 1, 0, headerBytesMax + 1, 0), /header of 1048577/],
      ["a payload of 4 GiB", prefix(1, 2, 0, 1, 2 ** 32 - 1), /payload of 4294967295/],
      ["a payload of one byte too many", prefix(1, 2, 0, 1, payloadBytesMax + 1), /payload of 4194305/],
      [
        "a ping that is none",
        Buffer.concat([prefix(1, 1, 0, 3, 0), Buffer.from([0x22, 0x05, 0x08])]),
        /where 1 are left/,
      ],
      ["text", Buffer.from("hello, is anybody there?\r\n"), /version 104/],
    ];
    for (const [what, bytes, message] of frames) {
      it(`${what} ends the channel with PROTOCOL_VIOLATION`, async () => {
        const { stream, accepted, listenLog } = await plainChannel();
        const ended = once(stream, "close");
        stream.resume().write(bytes);
        const error = await drain(accepted);
        expect((error as Error).message).to.match(message);
        await expectOnListener(error, "PROTOCOL_VIOLATION", listenLog, message);
        expect(await accepted.closed).to.equal(error);
        await ended;
      });
    }

    it("a channel that ends within a frame is LINK_LOST", async () => {
      const { stream, accepted, listenLog } = await plainChannel();
      stream.end(Buffer.concat(encodeFrame(numbered(5, 1000))).subarray(0, 700));
      await expectOnListener(await drain(accepted), "LINK_LOST", listenLog, /of a frame/);
    });

    it("a peer that vanishes within a frame is LINK_LOST on both sides", async () => {
      let line: Line | undefined;
      const between = async (port: number) => {
        line = await Line.to(port, cleanup);
        return line.port;
      };
      const { dialed, accepted, listenLog, dialLog } = await embeddedPair(cleanup, { between });
      const sending = (async () => {
        for (let number = 0; ; number++) await dialed.send(numbered(number, 4 * 1024 * 1024));
      })().catch((error: unknown) => error);
      await until(() => accepted.bytesReceived > 100_000, "part of the frame");
      line!.cut();
      await expectOnListener(await drain(accepted), "LINK_LOST", listenLog, /LINK_LOST/);
      await expectOnListener(await drain(dialed), "LINK_LOST", dialLog, /LINK_LOST/);
      expect(await sending).to.have.property("code", "LINK_LOST");
    });

    it("a line that goes dead without a word is noticed on both sides within the deadline", async () => {
      const deadlineMs = 300;
      let line: Line | undefined;
      const between = async (port: number) => {
        line = await Line.to(port, cleanup);
        return line.port;
      };
      const { dialed, accepted, connection, listenLog, dialLog } = await embeddedPair(cleanup, { deadlineMs, between });
      await dialed.send(numbered(1));
      await collect(accepted, 1);
      using waited = countRounds();
      line!.freeze();
      const errors = await Promise.all([dialed.closed, accepted.closed, connection.closed]);
      expect(waited.ms()).to.be.below(2000);
      for (const error of errors) expect(error).to.have.property("code", "PEER_SILENT");
      for (const log of [listenLog, dialLog]) expect(log.has("channel.failed", "PEER_SILENT")).to.equal(true);
    });

    it("a dead line is noticed on both sides also while nobody reads and the sender is held back", async () => {
      const deadlineMs = 300;
      let line: Line | undefined;
      const between = async (port: number) => {
        line = await Line.to(port, cleanup);
        return line.port;
      };
      const { dialed, accepted } = await embeddedPair(cleanup, { deadlineMs, between });
      const sending = (async () => {
        for (let number = 0; ; number++) await dialed.send(numbered(number, 1024 * 1024));
      })().catch((error: unknown) => error);
      let last = -1;
      let since = performance.now();
      await until(() => {
        if (accepted.bytesReceived !== last) since = performance.now();
        last = accepted.bytesReceived;
        return performance.now() - since > 3 * deadlineMs;
      }, "everything stands still, and nobody is taken for dead");
      using waited = countRounds();
      line!.freeze();
      const errors = await Promise.all([dialed.closed, accepted.closed, sending]);
      expect(waited.ms()).to.be.below(3000);
      for (const error of errors) expect(error).to.have.property("code").that.is.oneOf(["PEER_SILENT", "LINK_LOST"]);
    });

    it("pings without end, with answers that are never read, pile up nothing", async () => {
      const { stream, accepted } = await plainChannel();
      stream.pause();
      const ping = Buffer.concat(encodeFrame(pingFrame));
      const many = Buffer.concat(Array.from({ length: 10_000 }, () => ping));
      const rounds = 40; // Some 9 MB of pings; as much again if each were answered.
      for (let round = 0; round < rounds; round++) {
        if (!stream.write(many)) await once(stream, "drain");
      }
      await until(() => accepted.bytesReceived >= rounds * many.length, "all are read");
      expect(accepted.bytesSent).to.be.below(6 * 1024 * 1024);
      const frame = numbered(3);
      stream.write(Buffer.concat(encodeFrame(frame)));
      expect((await collect(accepted, 1))[0]!.header).to.deep.equal(new Uint8Array(frame.header));
    });

    it("what is sent beyond the window is not kept", async () => {
      const { stream, accepted, listenLog } = await plainChannel();
      const before = process.memoryUsage().rss;
      (stream as unknown as { outgoing: { window: number } }).outgoing.window = Number.MAX_SAFE_INTEGER;
      const chunk = Buffer.concat(encodeFrame(numbered(1, 1024 * 1024)));
      const gone = once(stream.resume(), "close");
      for (let count = 0; count < 60 && !stream.destroyed; count++) stream.write(chunk);
      await expectOnListener(await accepted.closed, "PROTOCOL_VIOLATION", listenLog, /beyond what it was allowed/);
      await gone;
      expect(process.memoryUsage().rss - before).to.be.below(250 * 1024 * 1024); // Ours and the flooder's together.
    });

    it("requests without end, with answers that are never read, end the connection", async () => {
      const { listener, listenLog, channels } = await listening(cleanup, { deadlineMs: 400 });
      const socket = connect(listener.port, "127.0.0.1");
      await once(socket, "connect");
      const client = await plainClient(listener.port, { sock: socket });
      const stream = await subsystem(client, "understudy");
      stream.on("error", () => undefined); // The connection is dropped while we write.
      await until(() => channels.length === 1, "the channel arrives");
      socket.pause();
      const ping = Buffer.concat(encodeFrame(pingFrame));
      const { _protocol: protocol } = client as unknown as { _protocol: { ping(): void } };
      const asking = (async () => {
        while (!socket.destroyed && channels[0] !== undefined) {
          stream.write(ping); // Nobody may think that we are dead.
          for (let count = 0; count < 2000; count++) protocol.ping();
          await Promise.race([
            new Promise((resolve) =>
              socket.writableNeedDrain ? socket.once("drain", resolve) : setImmediate(resolve),
            ),
            channels[0].closed,
          ]);
          if (listenLog.has("channel.failed")) break;
        }
      })();
      const error = await channels[0]!.closed;
      await expectOnListener(error, "PROTOCOL_VIOLATION", listenLog, /the peer reads nothing/);
      socket.destroy();
      await asking;
    });
  });
});

const pingFrame: Frame = {
  kind: "control",
  header: encodeMessage({ kind: "ping", nonce: Number.MAX_SAFE_INTEGER }),
  payload: new Uint8Array(0),
};

async function subsystem(client: ssh2.Client, name: string): Promise<ClientChannel> {
  return await new Promise((resolve, reject) => {
    client.subsys(name, (error, stream) => (error === undefined ? resolve(stream) : reject(error)));
  });
}

/** Shows one key and signs with another. */
class BorrowedKey extends ssh2.BaseAgent {
  signed = false;
  readonly #shown: Identity;
  readonly #held: Identity;

  constructor(shown: Identity, held: Identity) {
    super();
    this.#shown = shown;
    this.#held = held;
  }

  override getIdentities(callback: (error: Error | undefined, keys?: ssh2.ParsedKey[]) => void): void {
    callback(undefined, [parsed(this.#shown.publicKey)]);
  }

  override sign(
    _key: unknown,
    data: Buffer,
    options: unknown,
    callback?: (error: Error | undefined, signature?: Buffer) => void,
  ): void {
    this.signed = true;
    const done = typeof options === "function" ? (options as typeof callback) : callback;
    done?.(undefined, parsed(this.#held.privateKeyPem).sign(data));
  }
}

function parsed(text: string): ssh2.ParsedKey {
  const key = ssh2.utils.parseKey(text);
  if (key instanceof Error) throw key;
  return key;
}
