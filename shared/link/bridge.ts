import { connect } from "node:net";
import type { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { isSystemError } from "../errors.ts";
import { BridgedAgentNotRunning, LinkLost } from "./link-errors.ts";

/** The first line on the socket: version of the bridge, then the peer's name. */
export const greetingPrefix = "understudy-bridge 1 ";
export const greetingBytesMax = 128;

/**
 * What sshd runs for a peer's key: joins the session to the agent's socket. The end of `stdin` is passed on as the end of
 * the peer's sending, and answers still flow. Resolves when the agent ended its side and all of it was written; the
 * caller then ends the process, which is how sshd learns of it. Imports nothing of SSH, so that it starts fast.
 * @throws {BridgedAgentNotRunning | LinkLost}
 */
export async function bridge(socketPath: string, peerName: string, stdin: Readable, stdout: Writable): Promise<void> {
  const socket = connect({ path: socketPath, allowHalfOpen: true });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.once("connect", resolve);
  socket.once("error", reject);
  try {
    await promise;
  } catch (error) {
    const absent = isSystemError(error, "ENOENT", "ECONNREFUSED");
    throw new BridgedAgentNotRunning(absent ? `no agent listens at ${socketPath}` : `cannot open ${socketPath}`, {
      cause: error,
    });
  }
  socket.off("error", reject);
  socket.write(`${greetingPrefix}${peerName}\n`, "latin1");
  const toAgent = pipeOneWay(stdin, socket);
  try {
    await pipeline(socket, stdout);
  } catch (error) {
    throw new LinkLost("the bridge broke", { cause: error });
  } finally {
    stdin.off("error", toAgent);
    stdin.unpipe(socket);
    stdin.pause();
    socket.destroy();
  }
}

/** `pipe` ends the socket's writing half with stdin; an error of stdin is the end of the peer. */
function pipeOneWay(stdin: Readable, socket: import("node:net").Socket): (error: Error) => void {
  const failed = (error: Error) => socket.destroy(error);
  stdin.on("error", failed);
  stdin.pipe(socket);
  return failed;
}
