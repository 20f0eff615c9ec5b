import { once } from "node:events";
import { connect, type Socket } from "node:net";
import ssh2, { type ClientChannel } from "ssh2";
import { explain, type UnderstudyError } from "../errors.ts";
import {
  type Channel,
  type ChannelOptions,
  deadlineMsDefault,
  FramedChannel,
  heartbeatsPerDeadline,
  type Via,
} from "./channel.ts";
import type { Identity } from "./identity.ts";
import {
  ChannelRefused,
  HandshakeFailed,
  HostKeyMismatch,
  KeyRefused,
  LinkLost,
  LinkTimedOut,
  NoAgentBehind,
  PeerSilent,
  PeerUnreachable,
} from "./link-errors.ts";
import type { LinkLog } from "./link-log.ts";
import { subsystemName } from "./listen-embedded.ts";
import { blobOf, fingerprintOf } from "./public-keys.ts";
import { sshAlgorithms } from "./ssh-algorithms.ts";
import { guardWindow, unsentTooMuch } from "./ssh-stream.ts";

export type DialTarget =
  | { readonly kind: "embedded"; readonly host: string; readonly port: number }
  | { readonly kind: "openssh"; readonly user: string; readonly host: string; readonly port: number };

export interface DialOptions {
  readonly target: DialTarget;
  /** The node that is expected there: what its host key stands for. */
  readonly peer: string;
  readonly identity: Identity;
  /** Keys that the other side may show, as text; any one of them. Never empty: nobody is trusted on first use. */
  readonly hostKeys: readonly string[];
  readonly log: LinkLog;
  readonly channelOptions?: ChannelOptions;
  /** Silence after which the line counts as dead; also for channels, unless their options say otherwise. */
  readonly deadlineMs?: number;
  /** For everything up to the end of authentication. */
  readonly connectMs?: number;
}

export interface Connection {
  readonly peer: string;
  readonly via: Via;
  /** @throws {ChannelRefused | NoAgentBehind | LinkLost | LinkTimedOut} */
  openChannel(signal: AbortSignal): Promise<Channel>;
  /** Orderly: what was sent on its channels is flushed, as far as the peer takes it within two seconds. */
  close(): void;
  /** What broke the connection, or undefined after an orderly end. Never rejects. */
  readonly closed: Promise<Error | undefined>;
}

const connectMsDefault = 10_000;
const goodbyeMs = 2000;
/** Under a forced command the text does not matter; without one it must be nothing that could do any harm. */
const execCommand = "understudy-link";
const embeddedUser = "understudy";
const stderrBytesMax = 2048;

/**
 * One SSH connection to a peer, with its host key checked against the pinned ones before anything of ours is said.
 * @throws {PeerUnreachable | LinkTimedOut | HostKeyMismatch | KeyRefused | HandshakeFailed} or the signal's reason
 */
export async function dial(options: DialOptions, signal: AbortSignal): Promise<Connection> {
  signal.throwIfAborted();
  const pinned = pinnedKeys(options.hostKeys);
  const { target } = options;
  const where = `${target.host}:${target.port}`;
  if (pinned.length === 0) throw new HostKeyMismatch(where, [], "(not asked: no usable key is configured)");
  const connectMs = options.connectMs ?? connectMsDefault;
  const timeout = AbortSignal.timeout(connectMs);
  const either = AbortSignal.any([signal, timeout]);
  const socket = connect({ host: target.host, port: target.port, noDelay: true, keepAlive: true });
  try {
    await connected(socket, where, either);
    const client = await authenticated(socket, options, pinned, where, either);
    return new SshLink(client, socket, options);
  } catch (error) {
    socket.destroy();
    if (signal.aborted) throw signal.reason;
    if (timeout.aborted) {
      throw new LinkTimedOut(`${options.peer} at ${where} did not let us in within ${connectMs} ms`, { cause: error });
    }
    throw error;
  }
}

async function connected(socket: Socket, where: string, signal: AbortSignal): Promise<void> {
  try {
    await once(socket, "connect", { signal });
  } catch (error) {
    throw new PeerUnreachable(`cannot connect to ${where}`, { cause: error });
  }
}

interface PinnedKey {
  readonly blob: Buffer;
  readonly type: string;
}

function pinnedKeys(texts: readonly string[]): PinnedKey[] {
  return texts.flatMap((text) => {
    const blob = blobOf(text);
    return blob === undefined ? [] : [{ blob, type: text.trim().split(" ")[0]! }];
  });
}

/** A server has several keys: it is asked for those that are pinned, or it would show another and look like a stranger. */
function hostKeyAlgorithms(pinned: readonly PinnedKey[]): ssh2.ServerHostKeyAlgorithm[] {
  const types = pinned.flatMap(({ type }) => (type === "ssh-rsa" ? ["rsa-sha2-512", "rsa-sha2-256"] : [type]));
  return [...new Set(types)] as ssh2.ServerHostKeyAlgorithm[];
}

async function authenticated(
  socket: Socket,
  options: DialOptions,
  pinned: readonly PinnedKey[],
  where: string,
  signal: AbortSignal,
): Promise<ssh2.Client> {
  const client = new ssh2.Client();
  let mismatch: HostKeyMismatch | undefined;
  const deadlineMs = options.deadlineMs ?? deadlineMsDefault;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  client.once("ready", resolve);
  client.on("error", (error) => reject(mismatch ?? handshakeError(error, options, where)));
  client.once("close", () => reject(new HandshakeFailed(`${where} closed the connection during the handshake`)));
  const abort = () => reject(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  try {
    client.connect({
      sock: socket,
      username: options.target.kind === "openssh" ? options.target.user : embeddedUser,
      privateKey: options.identity.privateKeyPem,
      authHandler: ["publickey"],
      algorithms: { ...sshAlgorithms, serverHostKey: hostKeyAlgorithms(pinned) },
      ident: "understudy",
      readyTimeout: 0, // The caller's clock covers the whole of it.
      // Asked for so that a line is never quiet; the verdict is SshLink's, since answers may queue behind payload.
      keepaliveInterval: deadlineMs / heartbeatsPerDeadline,
      keepaliveCountMax: Number.POSITIVE_INFINITY,
      hostVerifier: (key: Buffer) => {
        if (pinned.some(({ blob }) => blob.equals(key))) return true;
        const expected = pinned.map(({ blob }) => fingerprintOf(blob));
        mismatch = new HostKeyMismatch(`${options.peer} at ${where}`, expected, fingerprintOf(key));
        return false;
      },
    });
    await promise;
    return client;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

function handshakeError(error: Error & { level?: string }, options: DialOptions, where: string): UnderstudyError {
  if (error.level === "client-authentication") {
    const { fingerprint } = options.identity;
    return new KeyRefused(`${options.peer} at ${where} refused our key ${fingerprint}`, { cause: error });
  }
  if (error.level === "client-socket") return new PeerUnreachable(`the connection to ${where} broke`, { cause: error });
  if (/no matching host key/i.test(error.message)) {
    const expected = [...new Set(options.hostKeys.map((key) => fingerprintOf(blobOf(key) ?? Buffer.alloc(0))))];
    return new HostKeyMismatch(`${options.peer} at ${where}`, expected, "of another type", { cause: error });
  }
  return new HandshakeFailed(`no SSH handshake with ${where}`, { cause: error });
}

class SshLink implements Connection {
  readonly peer: string;
  readonly via: Via;
  readonly closed: Promise<Error | undefined>;
  readonly #client: ssh2.Client;
  readonly #socket: Socket;
  readonly #options: DialOptions;
  readonly #deadlineMs: number;
  readonly #heard = { bytes: 0 };
  readonly #channels = new Set<FramedChannel>();
  readonly #resolveClosed: (error: Error | undefined) => void;
  readonly #over = new AbortController();
  #error: Error | undefined;
  #closing = false;
  #timer: NodeJS.Timeout | undefined;
  #goodbye: NodeJS.Timeout | undefined;
  #tickedAt = performance.now();
  #heardAt = performance.now();
  #heardBytes = 0;

  constructor(client: ssh2.Client, socket: Socket, options: DialOptions) {
    this.peer = options.peer;
    this.via = options.target.kind;
    this.#client = client;
    this.#socket = socket;
    this.#options = options;
    this.#deadlineMs = options.deadlineMs ?? deadlineMsDefault;
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.closed = promise;
    this.#resolveClosed = resolve;
    client.removeAllListeners("error");
    client.removeAllListeners("close");
    client.on("error", (error) => this.#abort(new LinkLost(`the connection to ${this.peer} failed`, { cause: error })));
    client.once("close", () => this.#ended());
    options.log("info", "connection.opened", { peer: this.peer, via: this.via });
    this.#watch();
  }

  async openChannel(signal: AbortSignal): Promise<Channel> {
    signal.throwIfAborted();
    if (this.#over.signal.aborted || this.#closing) throw this.#whyClosed();
    const timeout = AbortSignal.timeout(this.#options.connectMs ?? connectMsDefault);
    const opened = this.#request();
    const { promise: aborted, reject } = Promise.withResolvers<never>();
    const either = AbortSignal.any([signal, timeout, this.#over.signal]);
    const abort = () => {
      if (signal.aborted) reject(signal.reason);
      else if (this.#over.signal.aborted) reject(this.#whyClosed());
      else reject(new LinkTimedOut(`${this.peer} did not open a channel in time`));
    };
    either.addEventListener("abort", abort, { once: true });
    try {
      const stream = await Promise.race([opened, aborted]);
      return this.#adopt(stream);
    } catch (error) {
      opened.then(
        (stream) => stream.destroy(), // It came too late.
        () => undefined, // Told already, or nobody waits any more.
      );
      throw error;
    } finally {
      either.removeEventListener("abort", abort);
    }
  }

  close(): void {
    if (this.#closing) return;
    this.#closing = true;
    for (const channel of this.#channels) channel.close();
    const flushed = Promise.all([...this.#channels].map((channel) => channel.closed));
    void flushed.then(() => this.#client.end());
    this.#goodbye = setTimeout(() => this.#socket.destroy(), goodbyeMs);
    this.#goodbye.unref();
  }

  #request(): Promise<ClientChannel> {
    const { promise, resolve, reject } = Promise.withResolvers<ClientChannel>();
    const opened = (error: (Error & { reason?: unknown }) | undefined, stream: ClientChannel) => {
      if (error === undefined) resolve(stream);
      // A reason is given when the channel itself was refused, none when only what we asked for on it.
      else if (error.reason !== undefined)
        reject(new ChannelRefused(`${this.peer} gives no channel`, { cause: error }));
      else if (this.#over.signal.aborted) reject(this.#whyClosed());
      else reject(new NoAgentBehind(`${this.peer} knows nothing of Understudy`, { cause: error }));
    };
    try {
      // An OpenSSH server looks for a configured subsystem before it looks at the forced command, but runs that for any exec.
      if (this.via === "embedded") this.#client.subsys(subsystemName, opened);
      else this.#client.exec(execCommand, opened);
    } catch (error) {
      reject(new LinkLost(`the connection to ${this.peer} is gone`, { cause: error }));
    }
    return promise;
  }

  #adopt(stream: ClientChannel): FramedChannel {
    const { log } = this.#options;
    guardWindow(stream, (error) => this.#abort(error));
    const verdict = this.#verdictOfBridge(stream);
    const channel = new FramedChannel(
      {
        peer: this.peer,
        via: this.via,
        stream,
        heard: this.#heard,
        abort: (error) => this.#abort(error),
        verdict: () => verdict,
        startMs: this.via === "openssh" ? (this.#options.connectMs ?? connectMsDefault) : 0,
      },
      { deadlineMs: this.#deadlineMs, ...this.#options.channelOptions },
      log,
    );
    this.#channels.add(channel);
    stream.once("close", () => this.#channels.delete(channel));
    return channel;
  }

  /**
   * How the forced command ended, which is told before the channel's close but maybe after the end of its output. What it
   * said (stderr is always read, or it would block) is the only clue when it could not bridge.
   */
  #verdictOfBridge(stream: ClientChannel): Promise<Error | undefined> {
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    let said = "";
    stream.stderr.on("data", (chunk: Buffer) => {
      if (said.length < stderrBytesMax) said += chunk.toString("utf8").slice(0, stderrBytesMax - said.length);
    });
    let status: { readonly code: number | null; readonly signal: string | undefined } | undefined;
    stream.once("exit", (code: number | null, signal?: string) => {
      status = { code, signal };
    });
    stream.once("close", () => {
      if (status === undefined || status.code === 0) {
        resolve(undefined);
        return;
      }
      const { code, signal } = status;
      const how = code === null ? `by ${signal ?? "a signal"}` : `with code ${code}`;
      const message = `what ${this.peer} runs for our key ended ${how}: ${said.trim() || "it said nothing"}`;
      resolve(code === 127 || code === 126 ? new NoAgentBehind(message) : new LinkLost(message));
    });
    return promise;
  }

  /** Any byte counts, since the SSH server answers keepalives also while no channel of ours is read. */
  #watch(): void {
    const everyMs = this.#deadlineMs / heartbeatsPerDeadline;
    this.#timer = setTimeout(() => {
      const now = performance.now();
      const stoodStillMs = now - this.#tickedAt - everyMs;
      this.#tickedAt = now;
      if (stoodStillMs > everyMs) this.#heardAt += stoodStillMs;
      if (this.#socket.bytesRead !== this.#heardBytes) this.#heardAt = now;
      this.#heardBytes = this.#socket.bytesRead;
      if (now - this.#heardAt > this.#deadlineMs) {
        const seconds = ((now - this.#heardAt) / 1000).toFixed(1);
        this.#abort(new PeerSilent(`the line to ${this.peer} was silent for ${seconds} s`));
        return;
      }
      const tooMuch = unsentTooMuch(this.#socket, this.#channels.size);
      if (tooMuch !== undefined) {
        this.#abort(tooMuch);
        return;
      }
      this.#watch();
    }, everyMs);
    this.#timer.unref();
  }

  #abort(error: Error): void {
    if (this.#over.signal.aborted) return;
    this.#error ??= error;
    this.#socket.destroy();
    this.#ended();
  }

  #ended(): void {
    if (this.#over.signal.aborted) return;
    clearTimeout(this.#timer);
    clearTimeout(this.#goodbye);
    if (!this.#closing) this.#error ??= new LinkLost(`${this.peer} closed the connection`);
    this.#over.abort();
    for (const channel of this.#channels) channel.fail(this.#whyClosed());
    this.#logEnd();
    this.#resolveClosed(this.#closing ? undefined : this.#error);
  }

  #whyClosed(): Error {
    return this.#error ?? new LinkLost(`the connection to ${this.peer} is closed`);
  }

  #logEnd(): void {
    const { peer, via } = this;
    if (this.#closing || this.#error === undefined) this.#options.log("info", "connection.closed", { peer, via });
    else this.#options.log("warn", "connection.failed", { peer, via, error: explain(this.#error) });
  }
}
