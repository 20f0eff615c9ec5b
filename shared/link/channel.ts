import type { Duplex } from "node:stream";
import { assert, explain, ProtocolViolation, UnderstudyError } from "../errors.ts";
import { decodeMessage, encodeMessage, peekKind } from "../wire/codec.ts";
import { encodeFrame, type Frame, FrameDecoder, frameBytes } from "../wire/frame.ts";
import { ChannelClosed, LinkLost, PeerSilent } from "./link-errors.ts";
import type { LinkLog } from "./link-log.ts";
import { type LinkClock, monotonicClock, type RateLimiter } from "./rate-limit.ts";

export type Via = "embedded" | "openssh";

/** Frames in order, both ways, between two agents. */
export interface Channel {
  /** The node at the other end, as its key says. */
  readonly peer: string;
  readonly via: Via;
  /**
   * Frames leave in the order of the calls. Resolves when the transport took all of the frame, within the line's budget
   * where it has a rate limit. The payload must not change until then; afterwards its memory is the caller's again.
   * @throws {ChannelClosed | LinkLost | PeerSilent}
   */
  send(frame: Frame): Promise<void>;
  /**
   * What the peer sent, for one consumer. Pull: while nobody asks, no more than a bounded read-ahead is taken from the
   * transport, and the peer is held back. Ends when the peer ended the channel; throws what broke it.
   */
  frames(): AsyncIterable<Frame>;
  /** Takes back the memory of a payload that was handed out and is not needed any more, for frames that come. */
  reuse(memory: ArrayBuffer): void;
  /** Without an error: what was sent is flushed first. With one: at once. */
  close(error?: Error): void;
  /**
   * What broke the channel, or undefined after an orderly end. Never rejects. After an orderly `close` here it resolves
   * when the peer took all that was sent and ended its side too, or made no progress with it: ending what carries the
   * channel earlier would lose what is on its way.
   */
  readonly closed: Promise<Error | undefined>;
  /** Bytes of frames, heartbeats included, since the channel was opened. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

export interface ChannelOptions {
  /** Silence after which a peer counts as gone. Both ends should have the same. */
  readonly deadlineMs?: number;
  readonly limiter?: RateLimiter;
  readonly clock?: LinkClock;
}

export const deadlineMsDefault = 10_000;
/** So that a peer with the same deadline hears of us four times within it. */
export const heartbeatsPerDeadline = 4;
/** A channel may be silent this much longer than its link: its heartbeats may queue behind another channel's payload. */
const channelSilenceFactor = 6;
const readAheadBytesMax = 1024 * 1024;
const readAheadFramesMax = 1024;
const heartbeatBytesMax = 32;

/** What carries a channel, as the dialer or listener made it. */
export interface Carrier {
  readonly peer: string;
  readonly via: Via;
  readonly stream: Duplex;
  /** Shared by all channels of one link: what any of them hears is life of the link. */
  readonly heard: { bytes: number };
  /** Ends the whole link at once: nothing is expected of it any more. */
  abort(error: Error): void;
  /** How long the far side may need until its first word: a forced command is a process that has to start. */
  readonly startMs?: number;
  /** Whether an end of the stream was meant, where it takes a moment to know; what broke it, if it was not. */
  readonly verdict?: () => Promise<Error | undefined>;
}

/**
 * ## Who is alive
 * Each end sends a ping every quarter of the deadline, whatever it hears, so the other always has something to hear. An
 * answer is not waited for: behind bulk data in a full window a ping may stay for long, and a replica that is slow to
 * read would look dead although its own pings come. A peer is gone when
 * - nothing came on any channel of the link for the deadline: the line is half-open, or the agent hangs; or
 * - nothing came on this channel for six times the deadline, although other channels live.
 * A blocked writer that gets on counts as life, since only what the peer took makes room. While nobody pulls frames here,
 * nothing is read and so nothing can be concluded: no verdict then, and the clock starts anew with reading (what carries
 * the channel watches the line meanwhile, see dial.ts and listen-embedded.ts). Time in which this process
 * itself stood still does not count: what came meanwhile is still to be read.
 */
export class FramedChannel implements Channel {
  readonly peer: string;
  readonly via: Via;
  readonly closed: Promise<Error | undefined>;
  bytesSent = 0;
  bytesReceived = 0;

  readonly #carrier: Carrier;
  readonly #stream: Duplex;
  readonly #log: LinkLog;
  readonly #deadlineMs: number;
  readonly #pingMs: number;
  readonly #limiter: RateLimiter | undefined;
  readonly #clock: LinkClock;
  readonly #decoder = new FrameDecoder();
  readonly #resolveClosed: (error: Error | undefined) => void;
  readonly #over = new AbortController();

  readonly #queue: Frame[] = [];
  #queuedBytes = 0;
  #paused = false;
  #wake: (() => void) | undefined;
  /** Of frames that the transport has not taken whole. */
  readonly #sending = new Set<PromiseWithResolvers<void>>();
  #turn: Promise<void> | undefined;
  #withinFrame = false;

  #ended = false;
  #endSeen = false;
  #streamGone = false;
  #error: Error | undefined;
  #linger: NodeJS.Timeout | undefined;

  #timer: NodeJS.Timeout | undefined;
  readonly #openedAt: number;
  #tickedAt: number;
  #linkHeardAt: number;
  #linkHeardBytes: number;
  #heardAt: number;
  #heardBytes = 0;
  #nonce = 0;

  constructor(carrier: Carrier, options: ChannelOptions, log: LinkLog) {
    this.peer = carrier.peer;
    this.via = carrier.via;
    this.#carrier = carrier;
    this.#stream = carrier.stream;
    this.#log = log;
    this.#deadlineMs = options.deadlineMs ?? deadlineMsDefault;
    this.#pingMs = this.#deadlineMs / heartbeatsPerDeadline;
    this.#limiter = options.limiter;
    this.#clock = options.clock ?? monotonicClock;
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.closed = promise;
    this.#resolveClosed = resolve;

    const now = this.#clock.now();
    this.#openedAt = now;
    this.#tickedAt = now;
    this.#linkHeardAt = now;
    this.#heardAt = now;
    this.#linkHeardBytes = carrier.heard.bytes;

    this.#stream.on("data", this.#receive);
    this.#stream.once("end", () => void this.#peerEnded());
    this.#stream.on("error", (error) => this.fail(new LinkLost("the channel broke", { cause: error })));
    this.#stream.once("close", () => this.#streamClosed());
    this.#arm();
  }

  async send(frame: Frame): Promise<void> {
    if (this.#ended) throw this.#whyClosed();
    const chunks = encodeFrame(frame);
    const taken = Promise.withResolvers<void>();
    this.#sending.add(taken);
    const done = (): void => {
      this.#sending.delete(taken);
      taken.resolve();
    };
    if (this.#limiter === undefined) this.#writeAll(chunks, done);
    else this.#sendWithin(this.#limiter, chunks, done).catch(taken.reject);
    await taken.promise;
  }

  reuse(memory: ArrayBuffer): void {
    this.#decoder.reuse(memory);
  }

  async *frames(): AsyncGenerator<Frame, void, undefined> {
    for (;;) {
      const frame = this.#queue.shift();
      if (frame !== undefined) {
        this.#queuedBytes -= frameBytes(frame);
        this.#resumeReading();
        yield frame;
      } else if (this.#ended) {
        if (this.#error !== undefined) throw this.#error;
        return;
      } else {
        assert(this.#wake === undefined, "frames of a channel have one consumer");
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }

  close(error?: Error): void {
    if (this.#ended) return;
    this.#queue.length = 0;
    this.#end(error);
  }

  /** The carrier says that the link is gone; what was received whole is still handed out. */
  fail(error: Error): void {
    this.#end(error);
  }

  // --- sending ---

  /** Slice by slice as the line's budget allows; one frame at a time, since slices of two must not mix. */
  async #sendWithin(limiter: RateLimiter, chunks: readonly Uint8Array[], done: () => void): Promise<void> {
    const before = this.#turn;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#turn = promise;
    try {
      await before;
      const slices = chunks.flatMap((chunk) =>
        Array.from({ length: Math.ceil(chunk.length / limiter.sliceBytes) }, (_, i) =>
          chunk.subarray(i * limiter.sliceBytes, (i + 1) * limiter.sliceBytes),
        ),
      );
      for (const slice of slices) {
        await this.#budget(limiter, slice.length);
        this.#withinFrame = true;
        this.#write(slice, slice === slices.at(-1) ? done : undefined);
      }
    } finally {
      this.#withinFrame = false;
      resolve();
    }
  }

  async #budget(limiter: RateLimiter, bytes: number): Promise<void> {
    try {
      await limiter.take(bytes, this.#over.signal);
    } catch (error) {
      if (this.#ended) throw this.#whyClosed();
      throw error;
    }
    if (this.#ended) throw this.#whyClosed();
  }

  #writeAll(chunks: readonly Uint8Array[], done?: () => void): void {
    for (const chunk of chunks) this.#write(chunk, chunk === chunks.at(-1) ? done : undefined);
  }

  #write(chunk: Uint8Array, done: (() => void) | undefined): void {
    this.bytesSent += chunk.length;
    this.#stream.write(chunk, (error) => {
      if (error) return; // The stream says it, too, and then the channel ends.
      if (blocked) this.#noteProgress();
      done?.();
    });
    // What waits now goes on only when the peer made room.
    const blocked = this.#stream.writableNeedDrain;
  }

  /** Not behind what the peer has not taken yet: there the peer has enough to hear, and nothing must pile up. */
  #sendHeartbeat(message: { readonly kind: "ping" | "pong"; readonly nonce: number }): void {
    if (this.#stream.writableNeedDrain || this.#withinFrame) return;
    this.#writeAll(encodeFrame({ kind: "control", header: encodeMessage(message), payload: noPayload }));
  }

  // --- receiving ---

  readonly #receive = (chunk: Uint8Array): void => {
    this.bytesReceived += chunk.length;
    this.#carrier.heard.bytes += chunk.length;
    try {
      for (const frame of this.#decoder.push(chunk)) this.#take(frame);
    } catch (error) {
      if (!(error instanceof ProtocolViolation)) throw error;
      this.#end(error);
    }
  };

  #take(frame: Frame): void {
    if (frame.kind === "control" && frame.header.length <= heartbeatBytesMax) {
      const kind = peekKind(frame.header);
      if (kind === "pong") return;
      if (kind === "ping") {
        const message = decodeMessage(frame.header);
        if (message.kind === "ping") this.#sendHeartbeat({ kind: "pong", nonce: message.nonce });
        return;
      }
    }
    this.#queue.push(frame);
    this.#queuedBytes += frameBytes(frame);
    if (this.#queuedBytes > readAheadBytesMax || this.#queue.length > readAheadFramesMax) {
      this.#paused = true;
      this.#stream.pause();
    }
    this.#wakeConsumer();
  }

  #resumeReading(): void {
    if (!this.#paused || this.#queuedBytes > readAheadBytesMax / 2 || this.#queue.length > readAheadFramesMax / 2)
      return;
    this.#paused = false;
    this.#noteProgress();
    this.#stream.resume();
  }

  #wakeConsumer(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  async #peerEnded(): Promise<void> {
    this.#endSeen = true;
    const broken = await this.#carrier.verdict?.();
    const pending = this.#decoder.pending();
    this.#end(
      broken ?? (pending === 0 ? undefined : new LinkLost(`the channel ended after ${pending} bytes of a frame`)),
    );
  }

  // --- who is alive ---

  #arm(): void {
    this.#timer = setTimeout(() => this.#tick(), this.#pingMs);
    this.#timer.unref(); // What carries the channel keeps the process; a heartbeat alone should not.
  }

  #tick(): void {
    const now = this.#clock.now();
    const stoodStillMs = now - this.#tickedAt - this.#pingMs;
    this.#tickedAt = now;
    if (this.#paused) this.#noteProgress();
    else if (stoodStillMs > this.#pingMs) {
      this.#linkHeardAt += stoodStillMs;
      this.#heardAt += stoodStillMs;
    }
    if (this.#carrier.heard.bytes !== this.#linkHeardBytes) this.#linkHeardAt = now;
    if (this.bytesReceived !== this.#heardBytes) this.#heardAt = now;
    this.#linkHeardBytes = this.#carrier.heard.bytes;
    this.#heardBytes = this.bytesReceived;
    if (this.bytesReceived === 0 && now - this.#openedAt < (this.#carrier.startMs ?? 0)) this.#noteProgress();
    const linkSilentMs = now - this.#linkHeardAt;
    const silentMs = now - this.#heardAt;
    if (linkSilentMs > this.#deadlineMs || silentMs > this.#deadlineMs * channelSilenceFactor) {
      const error = new PeerSilent(`${this.peer} was not heard for ${(silentMs / 1000).toFixed(1)} s`);
      this.#end(error);
      if (linkSilentMs > this.#deadlineMs) this.#carrier.abort(error);
      return;
    }
    this.#decoder.forgetUnused();
    this.#sendHeartbeat({ kind: "ping", nonce: this.#nonce++ });
    this.#arm();
  }

  #noteProgress(): void {
    const now = this.#clock.now();
    this.#linkHeardAt = now;
    this.#heardAt = now;
  }

  // --- the end ---

  #end(error: Error | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    clearTimeout(this.#timer);
    this.#over.abort();
    this.#wakeConsumer();
    for (const taken of this.#sending) taken.reject(this.#whyClosed());
    this.#sending.clear();
    this.#logEnd(error);
    this.#stream.off("data", this.#receive);
    if (error !== undefined || this.#streamGone) {
      this.#stream.destroy();
      this.#resolveClosed(error);
    } else {
      this.#stream.end();
      this.#stream.resume(); // What still comes is dropped, so that the peer's own end is seen.
      this.#lingerOn(this.#stream.writableLength, channelSilenceFactor);
    }
  }

  /**
   * Waits for the peer to take the rest and end its side, in steps of the deadline: as long as the rest gets less, and
   * then for as long as a channel may be silent. A peer that reads nothing would keep it for ever.
   */
  #lingerOn(unsentBefore: number, stepsLeft: number): void {
    this.#linger = setTimeout(() => {
      const unsent = this.#stream.writableLength;
      if (unsent < unsentBefore) this.#lingerOn(unsent, channelSilenceFactor);
      else if (unsent === 0 && stepsLeft > 1) this.#lingerOn(unsent, stepsLeft - 1);
      else {
        this.#stream.destroy();
        this.#resolveClosed(undefined);
      }
    }, this.#deadlineMs);
    this.#linger.unref();
  }

  #streamClosed(): void {
    this.#streamGone = true;
    clearTimeout(this.#linger);
    if (!this.#endSeen) this.#end(new LinkLost(`the connection to ${this.peer} broke`));
    if (this.#ended) this.#resolveClosed(this.#error);
  }

  #whyClosed(): Error {
    return this.#error ?? new ChannelClosed(`the channel to ${this.peer} is closed`);
  }

  #logEnd(error: Error | undefined): void {
    const { peer, via, bytesSent, bytesReceived } = this;
    if (error === undefined) {
      this.#log("info", "channel.closed", { peer, via, bytesSent, bytesReceived });
      return;
    }
    const code = error instanceof UnderstudyError ? error.code : error.name;
    this.#log("warn", "channel.failed", { peer, via, code, error: explain(error), bytesSent, bytesReceived });
  }
}

const noPayload = new Uint8Array(0);
