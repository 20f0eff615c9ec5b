import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Channel, ChannelOptions } from "../../../shared/link/channel.ts";
import { type Connection, dial } from "../../../shared/link/dial.ts";
import { ensureIdentity, type Identity } from "../../../shared/link/identity.ts";
import type { LinkLog, LogFields } from "../../../shared/link/link-log.ts";
import { type Listener, type ListenerLimits, listenEmbedded } from "../../../shared/link/listen-embedded.ts";
import { encodeMessage } from "../../../shared/wire/codec.ts";
import type { Frame } from "../../../shared/wire/frame.ts";
import { until } from "../../until.ts";

export const never = new AbortController().signal;

export interface LogLine {
  readonly level: string;
  readonly event: string;
  readonly fields: LogFields;
}

export function recorder(): {
  log: LinkLog;
  lines: LogLine[];
  has: (event: string, text?: string | RegExp) => boolean;
} {
  const lines: LogLine[] = [];
  return {
    lines,
    log: (level, event, fields) => lines.push({ level, event, fields }),
    has: (event, text = "") =>
      lines.some((line) => line.event === event && JSON.stringify(line.fields).search(text) !== -1),
  };
}

/**
 * Counts a timer's rounds in the event loop that has the deadlines, too: while the machine stands still, neither goes on.
 * So "within its deadline" is told in rounds, not in time.
 */
export function countRounds(): { readonly ms: () => number } & Disposable {
  const everyMs = 20;
  let rounds = 0;
  const next = (): NodeJS.Timeout =>
    setTimeout(() => {
      rounds++;
      timer = next();
    }, everyMs);
  let timer = next();
  return { ms: () => rounds * everyMs, [Symbol.dispose]: () => clearTimeout(timer) };
}

export async function scratch(cleanup: AsyncDisposableStack): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "understudy-link-"));
  cleanup.defer(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

let identities: Promise<readonly [Identity, Identity, Identity]> | undefined;

/** Of alpha, who dials, bravo, who listens, and a stranger; made once. */
export function someIdentities(): Promise<readonly [Identity, Identity, Identity]> {
  identities ??= (async () => {
    await using cleanup = new AsyncDisposableStack();
    const directory = await scratch(cleanup);
    const names = ["alpha", "bravo", "stranger"] as const;
    const [alpha, bravo, stranger] = await Promise.all(names.map((name) => ensureIdentity(join(directory, name))));
    return [alpha!, bravo!, stranger!] as const;
  })();
  return identities;
}

export interface Pair {
  readonly listener: Listener;
  readonly connection: Connection;
  /** At alpha, which dialed. */
  readonly dialed: Channel;
  /** At bravo. */
  readonly accepted: Channel;
  readonly dialLog: ReturnType<typeof recorder>;
  readonly listenLog: ReturnType<typeof recorder>;
}

export interface PairOptions {
  readonly deadlineMs?: number;
  readonly dialOptions?: ChannelOptions;
  readonly limits?: Partial<ListenerLimits>;
  /** Something in between, that knows where the listener is and says where to dial. */
  readonly between?: (port: number) => Promise<number>;
}

export async function listening(
  cleanup: AsyncDisposableStack,
  options: PairOptions = {},
): Promise<{ listener: Listener; channels: Channel[]; listenLog: ReturnType<typeof recorder> }> {
  const [alpha, bravo] = await someIdentities();
  const listenLog = recorder();
  const channels: Channel[] = [];
  const listener = await listenEmbedded({
    host: "127.0.0.1",
    port: 0,
    identity: bravo,
    authorize: (key) => (key === alpha.publicKey ? "alpha" : undefined),
    onChannel: (channel) => channels.push(channel),
    log: listenLog.log,
    ...(options.deadlineMs === undefined ? {} : { deadlineMs: options.deadlineMs }),
    ...(options.limits === undefined ? {} : { limits: options.limits }),
  });
  cleanup.defer(() => listener.close());
  return { listener, channels, listenLog };
}

export async function embeddedPair(cleanup: AsyncDisposableStack, options: PairOptions = {}): Promise<Pair> {
  const [alpha, bravo] = await someIdentities();
  const { listener, channels, listenLog } = await listening(cleanup, options);
  const dialLog = recorder();
  const connection = await dial(
    {
      target: { kind: "embedded", host: "127.0.0.1", port: (await options.between?.(listener.port)) ?? listener.port },
      peer: "bravo",
      identity: alpha,
      hostKeys: [bravo.publicKey],
      log: dialLog.log,
      ...(options.deadlineMs === undefined ? {} : { deadlineMs: options.deadlineMs }),
      ...(options.dialOptions === undefined ? {} : { channelOptions: options.dialOptions }),
    },
    never,
  );
  cleanup.defer(() => connection.close());
  const dialed = await connection.openChannel(never);
  await until(() => channels.length === 1, "the channel arrives");
  return { listener, connection, dialed, accepted: channels[0]!, dialLog, listenLog };
}

/** A frame with a number in it, and a payload that says the same. */
export function numbered(number: number, payloadBytes = 0): Frame {
  return {
    kind: payloadBytes === 0 ? "control" : "bulk",
    header: encodeMessage({ kind: "stagedRuns", object: (number + 1) as never, blockSize: payloadBytes }),
    payload: new Uint8Array(payloadBytes).fill(number & 0xff),
  };
}

export async function collect(channel: Channel, count: number): Promise<Frame[]> {
  const frames: Frame[] = [];
  for await (const frame of channel.frames()) {
    frames.push(frame);
    if (frames.length === count) break;
  }
  return frames;
}

/** Reads a channel to its end; what broke it, if anything did. */
export async function drain(channel: Channel): Promise<unknown> {
  try {
    for await (const _frame of channel.frames());
    return undefined;
  } catch (error) {
    return error;
  }
}

/** A line that can go dead without a word, as when a firewall forgets a connection, or be cut. */
export class Line {
  readonly #sockets = new Set<Socket>();
  #frozen = false;
  port = 0;

  static async to(port: number, cleanup: AsyncDisposableStack): Promise<Line> {
    const line = new Line();
    const server = createServer({ allowHalfOpen: true }, (near) => {
      const far = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        line.#sockets.add(from);
        from.on("data", (chunk) => {
          if (line.#frozen) return;
          if (!to.write(chunk)) {
            from.pause();
            to.once("drain", () => from.resume());
          }
        });
        from.on("end", () => {
          if (!line.#frozen) to.end();
        });
        from.on("error", () => to.destroy());
        from.on("close", () => {
          if (!line.#frozen) to.destroy();
        });
      }
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const address = server.address();
    line.port = typeof address === "object" && address !== null ? address.port : 0;
    cleanup.defer(async () => {
      const closed = once(server, "close");
      server.close();
      for (const socket of line.#sockets) socket.destroy();
      await closed;
    });
    return line;
  }

  /** Bytes are swallowed both ways, and nobody is told. */
  freeze(): void {
    this.#frozen = true;
  }

  cut(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }
}
