import { once } from "node:events";
import { createServer } from "node:net";

/**
 * Ports of nodes, which must stay theirs while their agent is down: so below those that the system gives to whoever
 * asks for any or dials out, each only once in a process, and of each lane of `test/run.ts` others.
 */
const lanePorts = 1500;
const lane = Number(process.env.UNDERSTUDY_TEST_LANE ?? 7);
const first = 20_000 + lane * lanePorts;
let next = process.pid % lanePorts;

export async function nodePorts(count: number): Promise<number[]> {
  const found: number[] = [];
  for (let tried = 0; found.length < count; tried++) {
    if (tried === lanePorts) throw new Error(`no ${count} ports are free from ${first} to ${first + lanePorts - 1}`);
    const port = first + next;
    next = (next + 1) % lanePorts;
    if (await isFree(port)) found.push(port);
  }
  return found;
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, "127.0.0.1");
  try {
    await once(server, "listening");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EADDRINUSE") return false;
    throw error;
  }
  server.close();
  await once(server, "close");
  return true;
}
