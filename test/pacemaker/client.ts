import { appendFileSync } from "node:fs";
import { createConnection, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * Somebody who uses the service by the address that moves with it: `client.ts ADDRESS PORT LOG`. Sends a new id every 20 ms, never one twice,
 * and writes down what it was told: `TIME ID committed NODE EPOCH`, `TIME ID durable`.
 */
const [host = "", port = "", log = ""] = process.argv.slice(2);
/** Without an answer for so long it looks whether the service is somewhere else. */
const patienceMs = 1000;
let number = 0;

function connect(): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = createConnection({ host, port: Number(port) });
    const timer = setTimeout(() => socket.destroy(), patienceMs);
    socket.once("connect", () => {
      clearTimeout(timer);
      resolve(socket);
    });
    socket.on("error", () => socket.destroy());
    socket.once("close", () => {
      clearTimeout(timer);
      resolve(undefined);
    });
  });
}

for (;;) {
  const socket = await connect();
  if (socket === undefined) {
    await sleep(20);
    continue;
  }
  let heardAt = performance.now();
  createInterface({ input: socket })
    .on("line", (line) => {
      heardAt = performance.now();
      appendFileSync(log, `${Date.now()} ${line}\n`);
    })
    .on("error", () => socket.destroy());
  while (!socket.destroyed && performance.now() - heardAt < patienceMs) {
    socket.write(`${process.pid}-${++number}\n`);
    await sleep(20);
  }
  socket.destroy();
}
