import { ProtocolViolation, UnderstudyError } from "../../shared/errors.ts";
import type { Channel } from "../../shared/link/channel.ts";
import { decodeMessage, encodeMessage, frameKindOf } from "../../shared/wire/codec.ts";
import type { Frame } from "../../shared/wire/frame.ts";
import type { Hello, Message } from "../../shared/wire/messages.ts";

/** The other node will not go on with us, and says why. */
export class RefusedByPeer extends UnderstudyError {
  readonly code = "REFUSED_BY_PEER";
  readonly remedy = "stop";
  readonly state = "The session is closed; nothing was changed.";
  readonly hint: string;
  constructor(peer: string, code: string, message: string, hint: string) {
    super(`${peer} refuses: ${message} (${code})`);
    this.hint = hint;
  }
}

const helloMs = 10_000;
const empty = new Uint8Array(0);

/** One group's conversation with one peer, over a channel of its own. */
export class Session {
  readonly channel: Channel;
  readonly dialed: boolean;
  readonly #frames: AsyncIterator<Frame>;
  #theirs: Hello | undefined;
  /** Monotonic, ms. */
  lastHeardAt = performance.now();

  constructor(channel: Channel, dialed: boolean) {
    this.channel = channel;
    this.dialed = dialed;
    this.#frames = channel.frames()[Symbol.asyncIterator]();
  }

  get peer(): string {
    return this.channel.peer;
  }

  /** For those whom a session is given after its hello. @throws before that */
  get theirs(): Hello {
    if (this.#theirs === undefined) throw new Error("the hello was not exchanged yet");
    return this.#theirs;
  }

  /** For those who look at a session at any time; undefined before its hello. */
  get hello(): Hello | undefined {
    return this.#theirs;
  }

  /** The next frame; undefined at the orderly end. @throws what broke the channel */
  async next(): Promise<Frame | undefined> {
    const result = await this.#frames.next();
    this.lastHeardAt = performance.now();
    return result.done === true ? undefined : result.value;
  }

  async send(message: Message, payload: Uint8Array = empty): Promise<void> {
    await this.channel.send({ kind: frameKindOf(message), header: encodeMessage(message), payload });
  }

  /** The first frame of a channel that somebody else opened: which group it is about. */
  async awaitHello(): Promise<Hello> {
    const message = await this.#first();
    if (message.kind !== "hello") throw new ProtocolViolation(`the first message is ${message.kind}, not hello`);
    this.#theirs = message.hello;
    return message.hello;
  }

  async greet(ours: Hello): Promise<Hello> {
    await this.send({ kind: "hello", hello: ours });
    const message = await this.#first();
    if (message.kind === "refusal") throw new RefusedByPeer(this.peer, message.code, message.message, message.hint);
    if (message.kind !== "welcome") throw new ProtocolViolation(`the answer to hello is ${message.kind}`);
    this.#theirs = message.hello;
    return message.hello;
  }

  async welcome(ours: Hello): Promise<void> {
    await this.send({ kind: "welcome", hello: ours });
  }

  async #first(): Promise<Message> {
    const timer = setTimeout(
      () => this.channel.close(new ProtocolViolation(`${this.peer} did not say hello within ${helloMs} ms`)),
      helloMs,
    );
    try {
      const frame = await this.next();
      if (frame === undefined) throw new ProtocolViolation(`${this.peer} closed the channel before hello`);
      return decodeMessage(frame.header);
    } finally {
      clearTimeout(timer);
    }
  }
}
