import { once } from "node:events";
import { open } from "node:fs/promises";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { ensureIdentity } from "../../shared/link/identity.ts";
import type { ControlHandler } from "../control/api.ts";
import { connectControl } from "../control/client.ts";
import { controlSocketPath, identityDirectory } from "../control/state-layout.ts";
import { Child } from "./child-process.ts";

/** What operators start: beside this folder in a checkout, beside the bundle when installed. */
export const launcherFile = fileURLToPath(
  new URL(import.meta.url.endsWith(".ts") ? "../understudy" : "./understudy", import.meta.url),
);

export interface LocalAgentOptions {
  readonly node: string;
  readonly stateDirectory: string;
  readonly configPath: string;
  /** Its log is appended here. */
  readonly logPath: string;
  readonly environment?: Readonly<Record<string, string>>;
  /** Put before the program's own words: a tracer, for one. */
  readonly wrapper?: readonly string[];
  /** What is started in place of this checkout's. */
  readonly launcher?: string;
}

/** An agent of this program as a process of its own, as an operator's service manager would start it. */
export async function startLocalAgent(options: LocalAgentOptions): Promise<Child> {
  const { node, stateDirectory, configPath } = options;
  await using log = await open(options.logPath, "a");
  const words = [...(options.wrapper ?? []), options.launcher ?? launcherFile, "run"];
  const [file = launcherFile, ...args] = [...words, "-c", configPath, "--node", node, "--state", stateDirectory];
  return new Child(file, args, {
    stdio: ["ignore", log.fd, log.fd],
    env: { ...process.env, ...options.environment },
  });
}

export function controlOf(stateDirectory: string): ControlHandler {
  return connectControl(controlSocketPath(stateDirectory));
}

/** Makes the node's identity where there is none, as `understudy init` does. */
export async function keyOf(stateDirectory: string): Promise<string> {
  return (await ensureIdentity(identityDirectory(stateDirectory))).publicKey;
}

/** Ports of the loopback that were free a moment ago, each another one. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
  await Promise.all(servers.map(async (server) => await once(server, "listening")));
  const ports = servers.map((server) => {
    const address = server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  });
  await Promise.all(
    servers.map(async (server) => {
      server.close();
      await once(server, "close");
    }),
  );
  return ports;
}
