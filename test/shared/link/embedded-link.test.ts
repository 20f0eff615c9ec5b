import { expect } from "chai";
import fc from "fast-check";
import { ProtocolViolation } from "../../../shared/errors.ts";
import { dial } from "../../../shared/link/dial.ts";
import { ChannelClosed } from "../../../shared/link/link-errors.ts";
import { RateLimiter } from "../../../shared/link/rate-limit.ts";
import { nativeCryptoAvailable } from "../../../shared/link/ssh-algorithms.ts";
import type { Frame } from "../../../shared/wire/frame.ts";
import { until } from "../../until.ts";
import { collect, drain, embeddedPair, listening, never, numbered, recorder, someIdentities } from "./link-fixtures.ts";

describe("embedded link", () => {
  let cleanup: AsyncDisposableStack;
  beforeEach(() => {
    cleanup = new AsyncDisposableStack();
  });
  afterEach(() => cleanup.disposeAsync());

  it("runs on ssh2's native addon", () => {
    expect(nativeCryptoAvailable()).to.equal(true);
  });

  it("carries frames in order both ways and knows who is at the other end", async () => {
    const { dialed, accepted } = await embeddedPair(cleanup);
    expect([dialed.peer, dialed.via, accepted.peer, accepted.via]).to.deep.equal([
      "bravo",
      "embedded",
      "alpha",
      "embedded",
    ]);
    const sizes = [0, 1, 100, 32_768, 300_000, 0, 4 * 1024 * 1024];
    const frames = sizes.map((size, number) => numbered(number, size));
    const [there, back] = await Promise.all([
      collect(accepted, frames.length),
      collect(dialed, frames.length),
      ...frames.flatMap((frame) => [dialed.send(frame), accepted.send(frame)]),
    ]);
    for (const received of [there, back]) expectSame(received as Frame[], frames);
    expect(accepted.bytesReceived).to.be.greaterThan(4 * 1024 * 1024);
    expect(dialed.bytesSent).to.be.at.least(accepted.bytesReceived);
  });

  it("carries any mix of frames whatever their sizes", async () => {
    const { dialed, accepted } = await embeddedPair(cleanup);
    const iterator = accepted.frames()[Symbol.asyncIterator]();
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(), fc.oneof(fc.constant(0), fc.nat(100_000))), { maxLength: 20 }),
        async (mix) => {
          const frames = mix.map(([number, size]) => numbered(number, size));
          const sent = Promise.all(frames.map((frame) => dialed.send(frame)));
          const received: Frame[] = [];
          while (received.length < frames.length) received.push((await iterator.next()).value);
          await sent;
          expectSame(received, frames);
        },
      ),
      { numRuns: 30 },
    );
  });

  it("has several channels on one connection, each with its own frames", async () => {
    const { listener, channels } = await listening(cleanup);
    const [alpha, bravo] = await someIdentities();
    const connection = await dial(
      {
        target: { kind: "embedded", host: "localhost", port: listener.port },
        peer: "bravo",
        identity: alpha,
        hostKeys: [bravo.publicKey],
        log: recorder().log,
      },
      never,
    );
    cleanup.defer(() => connection.close());
    const dialed = await Promise.all(Array.from({ length: 10 }, () => connection.openChannel(never)));
    await until(() => channels.length === 10, "ten channels");
    await Promise.all(dialed.map((channel, number) => channel.send(numbered(number, 1000))));
    const received = await Promise.all(channels.map((channel) => collect(channel, 1)));
    expect(received.map(([frame]) => frame!.payload[0]).sort()).to.deep.equal([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  it("flushes what was sent before an orderly close, which is no error on either side", async () => {
    const { dialed, accepted, connection } = await embeddedPair(cleanup);
    for (let number = 0; number < 20; number++) await dialed.send(numbered(number, 50_000));
    dialed.close();
    const received: Frame[] = [];
    for await (const frame of accepted.frames()) received.push(frame);
    expect(received.length).to.equal(20);
    expect(await accepted.closed).to.equal(undefined);
    expect(await dialed.closed).to.equal(undefined);
    connection.close();
    expect(await connection.closed).to.equal(undefined);
  });

  it("refuses to send on a channel that is closed, and ends whoever waits for frames", async () => {
    const { dialed } = await embeddedPair(cleanup);
    const waiting = drain(dialed);
    dialed.close();
    expect(await waiting).to.equal(undefined);
    const refused = await dialed.send(numbered(1)).catch((error: unknown) => error);
    expect(refused).to.be.instanceOf(ChannelClosed);
  });

  it("tells whoever reads why the channel was closed, and the peer only that it is", async () => {
    const { dialed, accepted } = await embeddedPair(cleanup);
    const reason = new ProtocolViolation("said the session");
    dialed.close(reason);
    expect(await drain(dialed)).to.equal(reason);
    expect(await dialed.closed).to.equal(reason);
    expect(await drain(accepted)).to.equal(undefined);
  });

  it("holds the sender back while nobody pulls, loses nothing, and does not take the peer for dead meanwhile", async () => {
    const deadlineMs = 200;
    const { dialed, accepted } = await embeddedPair(cleanup, { deadlineMs });
    const total = 100;
    let sent = 0;
    const sending = (async () => {
      for (let number = 0; number < total; number++) {
        await dialed.send(numbered(number, 256 * 1024));
        sent++;
      }
    })();
    let stalledSince = performance.now();
    let last = -1;
    await until(() => {
      if (sent !== last) stalledSince = performance.now();
      last = sent;
      return performance.now() - stalledSince > 4 * deadlineMs;
    }, "the sender stands still for four deadlines");
    expect(sent, "frames of 256 KiB in windows and buffers").to.be.below(50);
    expect(accepted.bytesReceived).to.be.below(4 * 1024 * 1024);
    const received = await collect(accepted, total);
    expectSame(
      received,
      Array.from({ length: total }, (_, number) => numbered(number, 256 * 1024)),
    );
    await sending;
  });

  it("leaves a payload's memory to the sender once it was sent, and tells him not before", async () => {
    const { dialed, accepted } = await embeddedPair(cleanup);
    const total = 12;
    const sizeBytes = 1024 * 1024;
    let taken = 0;
    const sending = Array.from({ length: total }, async (_, number) => {
      const frame = numbered(number, sizeBytes);
      await dialed.send(frame);
      frame.payload.fill(0xee);
      taken++;
    });
    await until(() => taken > 0, "the window takes a frame");
    expect(taken, "while nobody reads").to.be.below(total);
    const received = await collect(accepted, total);
    expectSame(
      received,
      Array.from({ length: total }, (_, number) => numbered(number, sizeBytes)),
    );
    await Promise.all(sending);
  });

  it("fails what waits to be sent when the channel ends", async () => {
    const { dialed } = await embeddedPair(cleanup);
    const sending = Array.from({ length: 12 }, (_, number) => dialed.send(numbered(number, 1024 * 1024)));
    const outcomes = Promise.allSettled(sending);
    await sending[0];
    dialed.close(new ProtocolViolation("enough"));
    const failed = (await outcomes).filter(({ status }) => status === "rejected");
    expect(failed.length).to.be.greaterThan(5);
  });

  it("keeps an idle link alive by heartbeats, and hands none of them out", async () => {
    const { dialed, accepted } = await embeddedPair(cleanup, { deadlineMs: 150 });
    const got: Frame[] = [];
    void (async () => {
      for await (const frame of accepted.frames()) got.push(frame);
    })();
    await until(() => accepted.bytesReceived > 500 && dialed.bytesReceived > 500, "dozens of heartbeats");
    await dialed.send(numbered(7));
    await until(() => got.length === 1, "the one frame");
    expect(got[0]!.header).to.deep.equal(new Uint8Array(numbered(7).header));
  });

  it("goes on through changes of keys in full flow", async () => {
    const { dialed, accepted, listenLog } = await embeddedPair(cleanup, {
      deadlineMs: 400,
      limits: { rekeyBytes: 1024 * 1024 },
    });
    const rekeyed = () => listenLog.lines.filter(({ event }) => event === "connection.rekeyed").length;
    let sent = 0;
    const sending = (async () => {
      for (; rekeyed() < 4; sent++) await dialed.send(numbered(sent, 100_000));
      dialed.close();
    })();
    let received = 0;
    for await (const frame of accepted.frames()) {
      if (frame.payload[0] !== (received & 0xff)) throw new Error(`frame ${received} is another`);
      received++;
    }
    await sending;
    expect(received).to.equal(sent);
  });

  it("keeps to the line's rate, shares it between channels, and does not mix their frames", async () => {
    const limiter = new RateLimiter(2_000_000);
    const { dialed, accepted, connection } = await embeddedPair(cleanup, { dialOptions: { limiter } });
    const begun = performance.now();
    const frames = Array.from({ length: 8 }, (_, number) => numbered(number, number % 2 === 0 ? 100_000 : 0));
    const second = await connection.openChannel(never);
    await Promise.all([
      ...frames.map((frame) => dialed.send(frame)),
      second.send(numbered(9, 200_000)),
      collect(accepted, frames.length).then((received) => expectSame(received, frames)),
    ]);
    expect((performance.now() - begun) / 1000, "seconds").to.be.at.least(0.2);
  });

  it("opens no channel once it is closed, nor dials when it is told to stop", async () => {
    const { connection, listener } = await embeddedPair(cleanup);
    connection.close();
    const refused = await connection.openChannel(never).catch((error: unknown) => error);
    expect(refused).to.have.property("code", "LINK_LOST");
    const [alpha, bravo] = await someIdentities();
    const stop = new AbortController();
    const dialing = dial(
      {
        target: { kind: "embedded", host: "127.0.0.1", port: listener.port },
        peer: "bravo",
        identity: alpha,
        hostKeys: [bravo.publicKey],
        log: recorder().log,
      },
      stop.signal,
    );
    const reason = new Error("shutdown");
    stop.abort(reason);
    expect(await dialing.catch((error: unknown) => error)).to.equal(reason);
  });

  it("tells both sides when the listener is closed", async () => {
    const { dialed, accepted, listener, connection } = await embeddedPair(cleanup);
    await listener.close();
    expect(await drain(dialed)).to.have.property("code", "LINK_LOST");
    expect(await drain(accepted)).to.have.property("code", "LINK_LOST");
    expect(await connection.closed).to.have.property("code", "LINK_LOST");
  });
});

function expectSame(received: readonly Frame[], sent: readonly Frame[]): void {
  expect(received.length).to.equal(sent.length);
  for (const [index, frame] of sent.entries()) {
    const got = received[index]!;
    const same =
      got.kind === frame.kind &&
      Buffer.compare(got.header, frame.header) === 0 &&
      Buffer.compare(got.payload, frame.payload) === 0;
    if (!same) throw new Error(`frame ${index} is not what was sent`);
  }
}
