import { chmod, rename, unlink } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { explain, isSystemError } from "../errors.ts";
import { peerNamePattern } from "./authorized-keys.ts";
import { greetingBytesMax, greetingPrefix } from "./bridge.ts";
import { type Channel, type ChannelOptions, FramedChannel } from "./channel.ts";
import { LinkLost, ListenFailed } from "./link-errors.ts";
import { type LinkLog, sparing } from "./link-log.ts";

/** The kernel's limit for a socket's path, less the end of the name under which it is made. */
const pathBytesMax = 103;
const greetingMs = 5000;
const bridgesMax = 256;

export interface SocketListenerOptions {
  readonly channelOptions?: (peer: string) => ChannelOptions;
}

export interface SocketListener {
  readonly path: string;
  close(): Promise<void>;
}

/**
 * The agent's end of the OpenSSH way: whoever may open this socket (mode 0600: the agent's user) is believed about the
 * peer that it names, because sshd checked the key and the forced command put the name there.
 * @throws {ListenFailed}
 */
export async function listenSocket(
  path: string,
  onChannel: (channel: Channel) => void,
  log: LinkLog,
  options: SocketListenerOptions = {},
): Promise<SocketListener> {
  if (Buffer.byteLength(path) > pathBytesMax) {
    throw new ListenFailed(`the path of a socket has at most ${pathBytesMax} bytes: ${path}`);
  }
  const sockets = new Set<Socket>();
  const heard = new Map<string, { bytes: number }>();
  const spared = sparing(log);
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    if (sockets.size >= bridgesMax) {
      spared("warn", "connection.refused", { reason: "too many bridges" });
      socket.destroy();
      return;
    }
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    awaitGreeting(socket, spared, (peer) => {
      const shared = heard.get(peer) ?? { bytes: 0 };
      heard.set(peer, shared);
      const channel = new FramedChannel(
        { peer, via: "openssh", stream: socket, heard: shared, abort: (error) => channel.fail(error) },
        options.channelOptions?.(peer) ?? {},
        log,
      );
      log("info", "connection.accepted", { peer, via: "openssh" });
      onChannel(channel);
    });
  });

  // Made under another name, closed to others, then renamed: at no instant can anybody else connect, and what a crash
  // left behind is replaced.
  const made = `${path}.new`;
  try {
    await removeStale(made);
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(made, resolve);
    });
    await chmod(made, 0o600);
    await rename(made, path);
  } catch (error) {
    server.close();
    throw new ListenFailed(`cannot listen at the socket ${path}`, { cause: error });
  }
  server.removeAllListeners("error");
  server.on("error", (error) => log("warn", "listener.failed", { error: explain(error) }));
  return {
    path,
    close: async () => {
      const closed = new Promise<void>((done) => server.close(() => done()));
      for (const socket of sockets) socket.destroy();
      await removeStale(path);
      await closed;
    },
  };
}

async function removeStale(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (!isSystemError(error, "ENOENT")) throw error; // Nothing was left: good.
  }
}

/** Reads the line with which a bridge begins, and leaves everything behind it in the socket. */
function awaitGreeting(socket: Socket, log: LinkLog, greeted: (peer: string) => void): void {
  let line = Buffer.alloc(0);
  const refuse = (reason: string) => {
    log("warn", "connection.refused", { via: "openssh", reason });
    socket.destroy();
  };
  const timer = setTimeout(() => refuse(`no greeting within ${greetingMs} ms`), greetingMs);
  const failed = (error: Error) => refuse(explain(new LinkLost("the bridge failed", { cause: error })));
  const ended = () => refuse("the bridge ended before it greeted");
  const stop = () => clearTimeout(timer);
  const read = () => {
    for (let chunk: Buffer | null = socket.read(); chunk !== null; chunk = socket.read()) {
      line = Buffer.concat([line, chunk]);
      const end = line.indexOf(0x0a);
      if (end === -1 ? line.length > greetingBytesMax : end > greetingBytesMax) {
        refuse("greeting too long");
        return;
      }
      if (end === -1) continue;
      const peer = line.toString("latin1", greetingPrefix.length, end);
      if (line.toString("latin1", 0, greetingPrefix.length) !== greetingPrefix || !peerNamePattern.test(peer)) {
        refuse("not a greeting of a bridge");
        return;
      }
      clearTimeout(timer);
      socket.off("readable", read).off("error", failed).off("end", ended).off("close", stop);
      const rest = line.subarray(end + 1);
      if (rest.length > 0) socket.unshift(rest);
      greeted(peer);
      return;
    }
  };
  socket.on("readable", read).on("error", failed).on("end", ended).on("close", stop);
}
