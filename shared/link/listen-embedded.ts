import { createServer, type Socket } from "node:net";
import ssh2, { type AuthContext, type Session, type Connection as SshConnection } from "ssh2";
import { explain } from "../errors.ts";
import {
  type Channel,
  type ChannelOptions,
  deadlineMsDefault,
  FramedChannel,
  heartbeatsPerDeadline,
} from "./channel.ts";
import type { Identity } from "./identity.ts";
import { LinkLost, ListenFailed, PeerSilent } from "./link-errors.ts";
import { type LinkLog, sparing } from "./link-log.ts";
import { ed25519Text, fingerprintOf } from "./public-keys.ts";
import { sshAlgorithms } from "./ssh-algorithms.ts";
import { guardWindow, unsentTooMuch } from "./ssh-stream.ts";

export const subsystemName = "understudy";

export interface EmbeddedListenerOptions {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly identity: Identity;
  /** The node that has this key (`ssh-ed25519 AAAA...`, without a comment); undefined refuses it. Asked each time. */
  readonly authorize: (publicKey: string) => string | undefined;
  readonly onChannel: (channel: Channel) => void;
  readonly log: LinkLog;
  /** For the channels of a peer, asked at each. */
  readonly channelOptions?: (peer: string) => ChannelOptions;
  readonly deadlineMs?: number;
  readonly limits?: Partial<ListenerLimits>;
}

export interface ListenerLimits {
  /** At one more, the oldest of them has to go: who holds a key is through in milliseconds. */
  readonly unauthenticatedMax: number;
  readonly authenticationMs: number;
  readonly attemptsMax: number;
  readonly connectionsPerPeerMax: number;
  readonly channelsPerConnectionMax: number;
  /** New keys after this many bytes in either direction: far below where AES-GCM would begin to wear. */
  readonly rekeyBytes: number;
}

const defaultLimits: ListenerLimits = {
  unauthenticatedMax: 32,
  authenticationMs: 10_000,
  attemptsMax: 6,
  connectionsPerPeerMax: 16,
  channelsPerConnectionMax: 64,
  rekeyBytes: 32 * 1024 ** 3,
};

/** A handshake needs some 3 KiB; who sends more without a key is only keeping us busy. */
const unauthenticatedBytesMax = 64 * 1024;

export interface Listener {
  readonly host: string;
  readonly port: number;
  /** Stops listening and drops every connection. */
  close(): Promise<void>;
}

/**
 * The built-in SSH server: keys of known nodes only, and for them the subsystem `understudy` and nothing else.
 * @throws {ListenFailed}
 */
export async function listenEmbedded(options: EmbeddedListenerOptions): Promise<Listener> {
  const guests = new Guests(options);
  const server = createServer({ noDelay: true, keepAlive: true }, (socket) => guests.admit(socket));
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen({ host: options.host, port: options.port, backlog: 128 }, resolve);
  try {
    await promise;
  } catch (error) {
    throw new ListenFailed(`cannot listen at ${options.host}:${options.port}`, { cause: error });
  }
  server.off("error", reject);
  server.on("error", (error) => options.log("warn", "listener.failed", { error: explain(error) }));
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : options.port;
  options.log("info", "listener.opened", { host: options.host, port, fingerprint: options.identity.fingerprint });
  return {
    host: options.host,
    port,
    close: async () => {
      const closed = new Promise<void>((done) => server.close(() => done()));
      guests.dropAll();
      await closed;
    },
  };
}

/** Everybody who is connected, and how many of whom are allowed. */
class Guests {
  readonly options: EmbeddedListenerOptions;
  readonly limits: ListenerLimits;
  /** What people without a key can cause is logged sparingly. */
  readonly log: LinkLog;
  readonly #unauthenticated = new Set<Guest>();
  readonly #authenticated = new Set<Guest>();

  constructor(options: EmbeddedListenerOptions) {
    this.options = options;
    this.limits = { ...defaultLimits, ...options.limits };
    this.log = sparing(options.log);
  }

  admit(socket: Socket): void {
    if (this.#unauthenticated.size >= this.limits.unauthenticatedMax) {
      const [oldest] = this.#unauthenticated;
      oldest?.refuse("too many connections that are not authenticated");
    }
    const guest = new Guest(this, socket);
    this.#unauthenticated.add(guest);
    socket.once("close", () => {
      this.#unauthenticated.delete(guest);
      this.#authenticated.delete(guest);
      guest.gone();
    });
  }

  /** False when a node has too many connections already. */
  authenticated(guest: Guest, peer: string): boolean {
    this.#unauthenticated.delete(guest);
    let same = 0;
    for (const other of this.#authenticated) if (other.peer === peer) same++;
    if (same >= this.limits.connectionsPerPeerMax) return false;
    this.#authenticated.add(guest);
    return true;
  }

  dropAll(): void {
    for (const guest of [...this.#unauthenticated, ...this.#authenticated]) guest.drop(undefined);
  }
}

/** One connection, from the first byte on. */
class Guest {
  peer = "";
  readonly #guests: Guests;
  readonly #socket: Socket;
  readonly #address: string;
  readonly #deadlineMs: number;
  readonly #heard = { bytes: 0 };
  readonly #channels = new Set<FramedChannel>();
  #ssh: SshConnection | undefined;
  #node: string | undefined;
  #attempts = 0;
  #authenticationTimer: NodeJS.Timeout | undefined;
  #watchTimer: NodeJS.Timeout | undefined;
  #rekeyedAtBytes = 0;
  #reason: Error | undefined;
  #refusedAtAll = false;

  constructor(guests: Guests, socket: Socket) {
    this.#guests = guests;
    this.#socket = socket;
    this.#address = `${socket.remoteAddress ?? "?"}:${socket.remotePort ?? 0}`;
    this.#deadlineMs = guests.options.deadlineMs ?? deadlineMsDefault;
    // One server object for each connection: that is how the socket of a connection is known without looking inside.
    const server = new ssh2.Server(
      {
        hostKeys: [guests.options.identity.privateKeyPem],
        algorithms: sshAlgorithms,
        ident: "understudy",
        keepaliveInterval: this.#deadlineMs / heartbeatsPerDeadline,
        keepaliveCountMax: heartbeatsPerDeadline,
      },
      (connection) => this.#greeted(connection),
    );
    server.injectSocket(socket);
    socket.on("error", (error) => this.#failed(new LinkLost("the socket failed", { cause: error })));
    socket.on("data", this.#countUnauthenticated);
    this.#authenticationTimer = setTimeout(
      () => this.refuse(`not authenticated within ${guests.limits.authenticationMs} ms`),
      guests.limits.authenticationMs,
    );
  }

  refuse(reason: string): void {
    this.#refusedAtAll = true;
    this.#guests.log("warn", "connection.refused", { address: this.#address, peer: this.peer, reason });
    this.drop(undefined);
  }

  /** At once, without a goodbye: nobody who is dropped has a claim to our memory. */
  drop(error: Error | undefined): void {
    this.#reason ??= error;
    this.#socket.destroy();
  }

  gone(): void {
    clearTimeout(this.#authenticationTimer);
    clearTimeout(this.#watchTimer);
    const error = this.#reason ?? new LinkLost(`the connection of ${this.peer} ended`);
    for (const channel of this.#channels) channel.fail(error);
    const { log } = this.#guests;
    const address = this.#address;
    if (this.peer !== "") log("info", "connection.closed", { peer: this.peer, address });
    else if (!this.#refusedAtAll)
      log("warn", "connection.refused", { address, reason: "ended before it was authenticated" });
  }

  readonly #countUnauthenticated = (): void => {
    if (this.#socket.bytesRead > unauthenticatedBytesMax) this.refuse("too many bytes before authentication");
  };

  #failed(error: Error): void {
    if (this.#socket.destroyed) return;
    // ssh2 marks what it thinks of the peer in `level`; there is nothing to save in any case.
    if (this.peer === "") this.refuse(explain(error));
    else {
      const silent = "level" in error && error.level === "client-timeout";
      this.drop(silent ? new PeerSilent(`${this.peer} does not answer`, { cause: error }) : error);
    }
  }

  #greeted(connection: SshConnection): void {
    this.#ssh = connection;
    connection.on("error", (error) => this.#failed(error));
    connection.on("authentication", (context) => this.#authenticate(context));
    connection.once("ready", () => this.#ready());
    connection.on("session", (accept, reject) => {
      if (this.#channels.size < this.#guests.limits.channelsPerConnectionMax) this.#session(accept());
      else {
        this.#refused("session", "too many channels");
        reject();
      }
    });
    connection.on("tcpip", (_accept, reject, { destIP, destPort }) => {
      this.#refused("port-forward", `${destIP}:${destPort}`);
      reject();
    });
    connection.on("openssh.streamlocal", (_accept, reject, { socketPath }) => {
      this.#refused("socket-forward", socketPath);
      reject();
    });
    connection.on("request", (_accept, reject, name) => {
      this.#refused("request", name);
      reject?.();
    });
  }

  // --- authentication ---

  #authenticate(context: AuthContext): void {
    if (++this.#attempts > this.#guests.limits.attemptsMax) {
      this.refuse("too many authentication attempts");
      return;
    }
    if (context.method === "none") {
      // How a client asks what is possible.
      context.reject(["publickey"]);
      return;
    }
    if (context.method !== "publickey") {
      this.#guests.log("warn", "authentication.refused", {
        address: this.#address,
        reason: `method ${context.method}`,
      });
      context.reject(["publickey"]);
      return;
    }
    const { key, signature, blob, hashAlgo } = context;
    const publicKey = key.algo === "ssh-ed25519" ? ed25519Text(key.data) : undefined;
    const node = publicKey === undefined ? undefined : this.#guests.options.authorize(publicKey);
    if (publicKey === undefined || node === undefined) {
      this.#guests.log("warn", "authentication.refused", {
        address: this.#address,
        reason: publicKey === undefined ? `key of type ${key.algo}` : "unknown key",
        fingerprint: fingerprintOf(key.data),
      });
      context.reject(["publickey"]);
      return;
    }
    if (signature === undefined) {
      // Only says that this key is worth signing with.
      context.accept();
      return;
    }
    const parsed = ssh2.utils.parseKey(publicKey);
    if (parsed instanceof Error || blob === undefined || parsed.verify(blob, signature, hashAlgo) !== true) {
      this.#guests.log("warn", "authentication.refused", {
        address: this.#address,
        reason: "wrong signature",
        fingerprint: fingerprintOf(key.data),
      });
      context.reject(["publickey"]);
      return;
    }
    this.#node = node;
    context.accept();
  }

  #ready(): void {
    clearTimeout(this.#authenticationTimer);
    this.#socket.off("data", this.#countUnauthenticated);
    if (this.#node === undefined) {
      this.refuse("authenticated without a key");
      return;
    }
    if (!this.#guests.authenticated(this, this.#node)) {
      this.refuse(`${this.#node} has too many connections`);
      return;
    }
    this.peer = this.#node;
    this.#guests.options.log("info", "connection.accepted", { peer: this.peer, address: this.#address });
    this.#watch();
  }

  /** What ssh2 leaves to its user: new keys in time, and an end to answers that nobody reads. */
  #watch(): void {
    this.#watchTimer = setTimeout(() => {
      const tooMuch = unsentTooMuch(this.#socket, this.#channels.size);
      if (tooMuch !== undefined) {
        this.drop(tooMuch);
        return;
      }
      const bytes = this.#socket.bytesRead + this.#socket.bytesWritten;
      if (bytes - this.#rekeyedAtBytes > this.#guests.limits.rekeyBytes) {
        this.#rekeyedAtBytes = bytes;
        this.#ssh?.rekey(() => this.#guests.options.log("info", "connection.rekeyed", { peer: this.peer, bytes }));
      }
      this.#watch();
    }, this.#deadlineMs / heartbeatsPerDeadline);
    this.#watchTimer.unref();
  }

  // --- sessions ---

  #session(session: Session): void {
    const refuse = (what: string) => (_accept: unknown, reject: (() => void) | undefined, details?: unknown) => {
      this.#refused(what, details);
      reject?.();
    };
    session.on("exec", refuse("exec"));
    session.on("shell", refuse("shell"));
    session.on("pty", refuse("pty"));
    session.on("env", refuse("env"));
    session.on("sftp", refuse("sftp"));
    session.on("x11", refuse("x11"));
    session.on("signal", refuse("signal"));
    session.on("window-change", refuse("window-change"));
    session.on("auth-agent", refuse("auth-agent"));
    session.on("subsystem", (accept, reject, { name }) => {
      if (name !== subsystemName) {
        refuse("subsystem")(accept, reject, name);
        return;
      }
      this.#open(accept());
    });
  }

  #open(stream: ssh2.ServerChannel): void {
    const { options } = this.#guests;
    guardWindow(stream, (error) => this.drop(error));
    const channel = new FramedChannel(
      {
        peer: this.peer,
        via: "embedded",
        stream,
        heard: this.#heard,
        abort: (error) => this.drop(error),
      },
      { deadlineMs: this.#deadlineMs, ...options.channelOptions?.(this.peer) },
      options.log,
    );
    this.#channels.add(channel);
    stream.once("close", () => this.#channels.delete(channel));
    options.onChannel(channel);
  }

  #refused(what: string, details: unknown): void {
    const reason = typeof details === "string" ? `${what} ${details}` : what;
    this.#guests.log("warn", "request.refused", {
      peer: this.peer,
      address: this.#address,
      reason: reason.slice(0, 200),
    });
  }
}
