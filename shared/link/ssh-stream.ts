import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { ProtocolViolation } from "../errors.ts";

/** ssh2's window of a channel. A peer may have this much in flight, and as much again in the stream's buffer. */
const windowBytes = 2 * 1024 * 1024;
const unreadBytesMax = 4 * windowBytes;
/** Of encrypted bytes that the kernel has not taken: all that the channels' windows allow, and answers to requests. */
const unsentBytesPerChannelMax = 1.5 * windowBytes;
const unsentBytesSpare = 2 * windowBytes;

/**
 * ssh2 takes what a peer sends beyond the window that it was given, without a bound. Sees each piece before the stream
 * keeps it.
 */
export function guardWindow(stream: Duplex, flooded: (error: ProtocolViolation) => void): void {
  const push = stream.push.bind(stream);
  let over = false;
  stream.push = (chunk: unknown, encoding?: BufferEncoding) => {
    if (over) return false;
    if (chunk !== null && stream.readableLength > unreadBytesMax) {
      over = true;
      flooded(new ProtocolViolation(`the peer sent ${stream.readableLength} bytes beyond what it was allowed`));
      return false;
    }
    return push(chunk, encoding);
  };
}

/** ssh2 answers requests whether or not the peer reads the answers; undefined while that stays within bounds. */
export function unsentTooMuch(socket: Socket, channels: number): ProtocolViolation | undefined {
  const max = channels * unsentBytesPerChannelMax + unsentBytesSpare;
  if (socket.writableLength <= max) return undefined;
  return new ProtocolViolation(`the peer reads nothing: ${socket.writableLength} bytes wait for it`);
}
