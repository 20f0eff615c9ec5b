import { setTimeout as sleep } from "node:timers/promises";
import { type Config, groupsOf, membersOf, type NodeConfig, nodeNamed } from "../../shared/config/config.ts";
import { explain, UnderstudyError } from "../../shared/errors.ts";
import { backoffDelayMs } from "../../shared/link/backoff.ts";
import type { Channel, ChannelOptions } from "../../shared/link/channel.ts";
import { type Connection, dial } from "../../shared/link/dial.ts";
import type { Identity } from "../../shared/link/identity.ts";
import type { LinkLog } from "../../shared/link/link-log.ts";
import { listenEmbedded } from "../../shared/link/listen-embedded.ts";
import { listenSocket } from "../../shared/link/listen-socket.ts";
import { RateLimiter } from "../../shared/link/rate-limit.ts";
import type { Log, LogEvent } from "../../shared/log.ts";
import type { NodeName } from "../../shared/words.ts";
import { bridgeSocketPath } from "../control/state-layout.ts";
import type { GroupAgent } from "./group.ts";
import { Session } from "./session.ts";

/** A peer that is back, or may be reached again, is met within that: as long as it is away nothing of it is protected. */
const redialMsMax = 5000;

export interface LinksOptions {
  readonly config: Config;
  readonly node: NodeName;
  readonly identity: Identity;
  readonly stateDirectory: string;
  readonly groups: ReadonlyMap<string, GroupAgent>;
  readonly log: Log;
}

/**
 * Who dials: a node without an address dials everybody; of two with addresses, the one that the configuration names
 * first. One connection for each pair of nodes, one channel in it for each group.
 */
function dials(config: Config, us: NodeConfig, peer: NodeConfig): boolean {
  if (peer.address === undefined) return false;
  if (us.address === undefined) return true;
  const names = [...config.nodes.keys()];
  return names.indexOf(us.name) < names.indexOf(peer.name);
}

/** Keeps this node joined to its peers until the signal; resolves when everything is closed. */
export async function runLinks(options: LinksOptions, signal: AbortSignal): Promise<void> {
  const { config, identity, log } = options;
  const us = nodeNamed(config, options.node);
  const limiters = new Map<string, RateLimiter>();
  const channelOptions = (peer: string): ChannelOptions => {
    const limiter = limiterFor(config, us, peer, limiters);
    return limiter === undefined ? {} : { limiter };
  };
  const linkLog: LinkLog = (level, event, fields) => log[level](event as LogEvent, fields);
  await using closing = new AsyncDisposableStack();
  const accept = (channel: Channel): void => {
    acceptChannel(options, channel).catch((error: unknown) => {
      log.warn("session.refused", { peer: channel.peer, error });
      channel.close(error instanceof Error ? error : new Error(String(error)));
    });
  };
  if (us.address?.kind === "embedded") {
    const listener = await listenEmbedded({
      host: us.address.host,
      port: us.address.port,
      identity,
      authorize: (key) =>
        [...config.nodes.values()].find((node) => node.name !== us.name && node.keys.includes(key))?.name,
      onChannel: accept,
      log: linkLog,
      channelOptions,
    });
    closing.defer(async () => await listener.close());
    log.info("listener.opened", { address: `${listener.host}:${listener.port}` });
  }
  const socket = await listenSocket(bridgeSocketPath(options.stateDirectory), accept, linkLog, { channelOptions });
  closing.defer(async () => await socket.close());

  const loops = peersOf(config, us.name)
    .map((name) => nodeNamed(config, name))
    .filter((peer) => dials(config, us, peer))
    .map(async (peer) => await keepDialing(options, peer, linkLog, channelOptions, signal));
  const stopped = new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
  await Promise.all([...loops, stopped]);
}

function peersOf(config: Config, node: NodeName): NodeName[] {
  const peers = new Set(groupsOf(config, node).flatMap(membersOf));
  peers.delete(node);
  return [...peers];
}

function limiterFor(
  config: Config,
  us: NodeConfig,
  peer: string,
  known: Map<string, RateLimiter>,
): RateLimiter | undefined {
  const rates = [us.line.rateBytesPerSecond, config.nodes.get(peer as NodeName)?.line.rateBytesPerSecond].filter(
    (rate) => rate !== undefined,
  );
  if (rates.length === 0) return undefined;
  // A slow line of ours is shared by all peers; a slow line of the peer's is its own.
  const key = us.line.rateBytesPerSecond === undefined ? peer : "";
  let limiter = known.get(key);
  if (limiter === undefined) {
    limiter = new RateLimiter(Math.min(...rates));
    known.set(key, limiter);
  }
  return limiter;
}

async function acceptChannel({ groups, config, log }: LinksOptions, channel: Channel): Promise<void> {
  const session = new Session(channel, false);
  const hello = await session.awaitHello();
  const group = groups.get(hello.group);
  const member =
    group !== undefined &&
    membersOf(group.config).includes(channel.peer as NodeName) &&
    config.nodes.has(channel.peer as NodeName);
  if (!member || hello.node !== channel.peer) {
    const message =
      hello.node === channel.peer
        ? `group "${hello.group}" is not shared with ${channel.peer} here`
        : `the key belongs to ${channel.peer}, the hello comes from ${hello.node}`;
    log.error("session.refused", { peer: channel.peer, code: "NOT_A_MEMBER", reason: message });
    await session.send({
      kind: "refusal",
      code: "NOT_A_MEMBER",
      message,
      hint: "Use the same configuration file on every node.",
    });
    channel.close();
    return;
  }
  await group.converse(session);
}

async function keepDialing(
  options: LinksOptions,
  peer: NodeConfig,
  linkLog: LinkLog,
  channelOptions: (peer: string) => ChannelOptions,
  signal: AbortSignal,
): Promise<void> {
  const shared = [...options.groups.values()].filter((group) => membersOf(group.config).includes(peer.name));
  let attempt = 0;
  let lastFailure = "";
  while (!signal.aborted) {
    try {
      const connection = await dial(
        {
          target: targetOf(peer),
          peer: peer.name,
          identity: options.identity,
          hostKeys: peer.address?.kind === "openssh" ? [peer.address.hostKey] : peer.keys,
          log: linkLog,
          channelOptions: channelOptions(peer.name),
        },
        signal,
      );
      lastFailure = "";
      options.log.info("link.opened", { peer: peer.name, via: connection.via });
      const begun = performance.now();
      // The sessions only end when their channels do.
      const hangUp = (): void => connection.close();
      signal.addEventListener("abort", hangUp, { once: true });
      try {
        await Promise.all(shared.map(async (group) => await keepConversing(options, group, connection, signal)));
      } finally {
        signal.removeEventListener("abort", hangUp);
        connection.close();
      }
      const error = await connection.closed;
      options.log.info("link.closed", { peer: peer.name, reason: error === undefined ? "" : explain(error) });
      attempt = performance.now() - begun > 5000 ? 0 : attempt + 1;
    } catch (error) {
      if (signal.aborted) return;
      attempt++;
      const failure = explain(error);
      for (const group of shared) group.peers.unreachable(peer.name, failure);
      // The same failure again and again is one line in the log, not one for each attempt.
      if (failure !== lastFailure) options.log.warn("link.failed", { peer: peer.name, error });
      lastFailure = failure;
    }
    await pause(backoffDelayMs(attempt, Math.random(), redialMsMax), signal);
  }
}

function targetOf(peer: NodeConfig): Parameters<typeof dial>[0]["target"] {
  const address = peer.address;
  if (address === undefined) throw new Error(`node ${peer.name} has no address`);
  return address.kind === "embedded"
    ? { kind: "embedded", host: address.host, port: address.port }
    : { kind: "openssh", user: address.user, host: address.host, port: address.port };
}

/** One group's channels over one connection, one after the other, until the connection ends. */
async function keepConversing(
  options: LinksOptions,
  group: GroupAgent,
  connection: Connection,
  signal: AbortSignal,
): Promise<void> {
  let over = false;
  const ended = connection.closed.then(() => {
    over = true;
  });
  let attempt = 0;
  while (!over && !signal.aborted) {
    const begun = performance.now();
    try {
      const channel = await connection.openChannel(signal);
      await group.converse(new Session(channel, true));
    } catch (error) {
      if (signal.aborted) return;
      const stop = error instanceof UnderstudyError && error.remedy === "stop";
      options.log[stop ? "error" : "warn"]("session.failed", {
        peer: connection.peer,
        group: group.config.name,
        error,
      });
    }
    attempt = performance.now() - begun > 2000 || group.peers.wanted() ? 0 : attempt + 1;
    await Promise.race([ended, pause(backoffDelayMs(attempt, Math.random()), signal)]);
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(ms, undefined, { signal });
  } catch {
    // Aborted: the loop looks at the signal.
  }
}
