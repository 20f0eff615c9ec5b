import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import ssh2 from "ssh2";
import { authorizedKeysLine } from "../../../shared/link/authorized-keys.ts";
import type { Channel } from "../../../shared/link/channel.ts";
import { type Connection, dial } from "../../../shared/link/dial.ts";
import { listenSocket } from "../../../shared/link/listen-socket.ts";
import type { Frame } from "../../../shared/wire/frame.ts";
import { until } from "../../until.ts";
import {
  collect,
  countRounds,
  drain,
  Line,
  never,
  numbered,
  recorder,
  scratch,
  someIdentities,
} from "./link-fixtures.ts";
import { type OpenSshServer, startOpenSshServer } from "./openssh-server.ts";

const bridgeCommand = fileURLToPath(new URL("bridge-command.ts", import.meta.url));

describe("link through the system's OpenSSH", function () {
  this.timeout(30_000);
  const suite = new AsyncDisposableStack();
  let cleanup: AsyncDisposableStack;
  let directory: string;
  let socketPath: string;
  let sshd: OpenSshServer;

  before(async () => {
    directory = await scratch(suite);
    socketPath = join(directory, "bridge.sock");
    const [alpha, bravo] = await someIdentities();
    const command = `"${process.execPath}" "${bridgeCommand}" "${socketPath}" alpha`;
    sshd = await startOpenSshServer(
      directory,
      [authorizedKeysLine(alpha.publicKey, "alpha", command), `restrict ${bravo.publicKey}`],
      suite,
    );
  });
  after(() => suite.disposeAsync());
  beforeEach(() => {
    cleanup = new AsyncDisposableStack();
  });
  afterEach(() => cleanup.disposeAsync());

  async function connection(options: { port?: number; deadlineMs?: number; bravo?: boolean; hostKey?: string } = {}) {
    const [alpha, bravo] = await someIdentities();
    const log = recorder();
    const dialed: Connection = await dial(
      {
        target: { kind: "openssh", user: sshd.user, host: "127.0.0.1", port: options.port ?? sshd.port },
        peer: "bravo",
        identity: options.bravo === true ? bravo : alpha,
        hostKeys: [options.hostKey ?? sshd.hostKey],
        log: log.log,
        ...(options.deadlineMs === undefined ? {} : { deadlineMs: options.deadlineMs }),
      },
      never,
    );
    cleanup.defer(() => dialed.close());
    return { dialed, log };
  }

  async function pair(options: { between?: boolean; deadlineMs?: number } = {}) {
    const channels: Channel[] = [];
    const listenLog = recorder();
    const { deadlineMs } = options;
    const listener = await listenSocket(socketPath, (channel) => channels.push(channel), listenLog.log, {
      channelOptions: () => (deadlineMs === undefined ? {} : { deadlineMs }),
    });
    cleanup.defer(() => listener.close());
    const line = options.between === true ? await Line.to(sshd.port, cleanup) : undefined;
    const { dialed, log } = await connection({
      ...(line === undefined ? {} : { port: line.port }),
      ...(deadlineMs === undefined ? {} : { deadlineMs }),
    });
    const channel = await dialed.openChannel(never);
    await until(() => channels.length === 1, "the bridge comes");
    return { dialed, channel, channels, accepted: channels[0]!, dialLog: log, listenLog, line };
  }

  it("carries frames both ways and knows who is at the other end", async () => {
    const { channel, accepted } = await pair();
    expect([channel.peer, channel.via, accepted.peer, accepted.via]).to.deep.equal([
      "bravo",
      "openssh",
      "alpha",
      "openssh",
    ]);
    const frames = [0, 1, 100_000, 0, 4 * 1024 * 1024].map((size, number) => numbered(number, size));
    const [there, back] = await Promise.all([
      collect(accepted, frames.length),
      collect(channel, frames.length),
      ...frames.flatMap((frame) => [channel.send(frame), accepted.send(frame)]),
    ]);
    expect(digestOf(there)).to.equal(digestOf(frames));
    expect(digestOf(back)).to.equal(digestOf(frames));
  });

  it("flushes what was sent before an orderly close, from either side", async () => {
    const { channel, channels, accepted, dialed } = await pair();
    for (let number = 0; number < 20; number++) await channel.send(numbered(number, 100_000));
    channel.close();
    let received = 0;
    for await (const _frame of accepted.frames()) received++;
    expect(received).to.equal(20);
    expect(await accepted.closed).to.equal(undefined);

    // Ending the connection at once takes nothing of it back.
    const second = await dialed.openChannel(never);
    for (let number = 0; number < 20; number++) await second.send(numbered(number, 100_000));
    dialed.close();
    await until(() => channels.length === 2, "the second bridge");
    expect((await collect(channels[1]!, 21)).length).to.equal(20);
    expect(await second.closed).to.equal(undefined);
    expect(await dialed.closed).to.equal(undefined);
  });

  it("gives the dialing side all that was sent before the listening side closed", async () => {
    const { channel, accepted } = await pair();
    for (let number = 0; number < 20; number++) void accepted.send(numbered(number, 100_000));
    accepted.close();
    let received = 0;
    for await (const _frame of channel.frames()) received++;
    expect(received).to.equal(20);
    expect(await channel.closed).to.equal(undefined);
  });

  it("holds the sender back while nobody pulls, through bridge and sshd, and loses nothing", async () => {
    const { channel, accepted } = await pair();
    const total = 60;
    let sent = 0;
    const sending = (async () => {
      for (; sent < total; sent++) await channel.send(numbered(sent, 256 * 1024));
    })();
    let last = -1;
    let since = performance.now();
    await until(() => {
      if (sent !== last) since = performance.now();
      last = sent;
      return performance.now() - since > 500;
    }, "the sender stands still");
    expect(sent).to.be.below(50);
    expect((await collect(accepted, total)).length).to.equal(total);
    await sending;
  });

  it("makes its socket for nobody else, and replaces what a crash left", async () => {
    const first = await listenSocket(socketPath, () => undefined, recorder().log);
    expect((await stat(socketPath)).mode & 0o777).to.equal(0o600);
    const second = await listenSocket(socketPath, () => undefined, recorder().log);
    await second.close();
    await first.close();
  });

  it("refuses a bridge that does not greet as one", async () => {
    const { listenLog } = await pair();
    for (const greeting of ["GET / HTTP/1.1\r\n\r\n", "x".repeat(1000), "understudy-bridge 1 ../../etc\n", ""]) {
      const before = listenLog.lines.length;
      const socket = connect(socketPath);
      socket.on("error", () => undefined); // It is dropped while we write.
      socket.end(greeting);
      await until(() => listenLog.lines.length > before, "a refusal is logged");
      expect(listenLog.lines.at(-1)!.event).to.equal("connection.refused");
    }
  });

  it("says so when no agent runs behind the forced command", async () => {
    const { dialed } = await connection();
    const channel = await dialed.openChannel(never);
    const error = await drain(channel);
    expect(error).to.have.property("code", "LINK_LOST");
    expect((error as Error).message).to.match(/no agent listens at .*bridge\.sock/);
  });

  it("says so when the key has no forced command", async () => {
    const { dialed } = await connection({ bravo: true });
    const error = await drain(await dialed.openChannel(never));
    expect(error).to.have.property("code", "NO_AGENT_BEHIND");
  });

  it("lets the key do nothing but bridge: no shell, no other command, no forwarding, no terminal", async () => {
    const { listenLog } = await pair();
    const [alpha] = await someIdentities();
    const client = new ssh2.Client();
    cleanup.defer(() => {
      client.end();
    });
    await new Promise<void>((resolve, reject) => {
      client.once("ready", resolve).once("error", reject);
      client.connect({ host: "127.0.0.1", port: sshd.port, username: sshd.user, privateKey: alpha.privateKeyPem });
    });
    const bridges = () => listenLog.lines.filter(({ event }) => event === "connection.accepted").length;
    const before = bridges();
    client.exec("touch /tmp/should-not-exist; id", (error, stream) => {
      if (error === undefined) stream.resume();
    });
    await until(() => bridges() === before + 1, "an exec runs the bridge instead");
    const terminal = await new Promise<Error | undefined>((resolve) => client.shell({}, (error) => resolve(error)));
    expect(terminal).to.be.instanceOf(Error);
    const forward = await new Promise<Error | undefined>((resolve) =>
      client.forwardOut("127.0.0.1", 1, "127.0.0.1", sshd.port, (error) => resolve(error)),
    );
    expect(forward).to.be.instanceOf(Error);
    const back = await new Promise<Error | undefined>((resolve) =>
      client.forwardIn("127.0.0.1", 0, (error) => resolve(error)),
    );
    expect(back).to.be.instanceOf(Error);
  });

  it("refuses another host key and names both, before our key is shown", async () => {
    const [, bravo] = await someIdentities();
    const error = await connection({ hostKey: bravo.publicKey }).catch((reason: unknown) => reason);
    expect(error).to.have.property("code", "HOST_KEY_MISMATCH");
    expect((error as Error).message).to.include(bravo.fingerprint);
    expect((error as Error).message.match(/SHA256:/g)?.length).to.equal(2);
  });

  it("says that sshd refused our key", async () => {
    const [, , stranger] = await someIdentities();
    const error = await dial(
      {
        target: { kind: "openssh", user: sshd.user, host: "127.0.0.1", port: sshd.port },
        peer: "bravo",
        identity: stranger,
        hostKeys: [sshd.hostKey],
        log: recorder().log,
      },
      never,
    ).catch((reason: unknown) => reason);
    expect(error).to.have.property("code", "KEY_REFUSED");
    expect((error as Error).message).to.include(stranger.fingerprint);
  });

  it("notices a half-open line on both sides within the deadline", async () => {
    const deadlineMs = 400;
    const { channel, accepted, line, listenLog, dialLog } = await pair({ between: true, deadlineMs });
    await channel.send(numbered(1));
    await collect(accepted, 1);
    using waited = countRounds();
    line!.freeze();
    const errors = await Promise.all([channel.closed, accepted.closed]);
    expect(waited.ms()).to.be.below(3000);
    for (const error of errors) expect(error).to.have.property("code", "PEER_SILENT");
    for (const log of [listenLog, dialLog]) expect(log.has("channel.failed", "PEER_SILENT")).to.equal(true);
  });

  it("ends the session when the line is cut within a frame", async () => {
    const { channel, accepted, line, listenLog } = await pair({ between: true });
    void channel.send(numbered(1, 4 * 1024 * 1024)).catch(() => undefined); // It cannot arrive.
    await until(() => accepted.bytesReceived > 100_000, "part of the frame");
    line!.cut();
    expect(await drain(channel)).to.have.property("code", "LINK_LOST");
    expect(await drain(accepted)).to.have.property("code", "LINK_LOST");
    expect(listenLog.has("channel.failed", "of a frame")).to.equal(true);
  });
});

function digestOf(frames: readonly Frame[]): string {
  const hash = createHash("sha256");
  for (const { kind, header, payload } of frames)
    hash.update(`${kind} ${header.length} ${payload.length} `).update(header).update(payload);
  return hash.digest("hex");
}
