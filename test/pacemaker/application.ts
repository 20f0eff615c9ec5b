import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { controlOf } from "../../deploy/demo/local-agent.ts";

/**
 * The service on a node: `application.ts DATABASE STATE PORT NODE EPOCH READY`. Each line that comes is the id of an entry: it is
 * committed, then answered with `ID committed NODE EPOCH`, and with `ID durable` when all replicas have it. The file READY appears when it
 * listens.
 */
const [database = "", state = "", port = "", node = "", epoch = "", ready = ""] = process.argv.slice(2);
const db = new DatabaseSync(database);
db.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000");
const insert = db.prepare("INSERT INTO entries (id, node, epoch) VALUES (?, ?, ?)");
let waiting: { readonly id: string; readonly socket: Socket }[] = [];

const server = createServer((socket) => {
  // A client that is gone asks again elsewhere.
  const gone = (): void => void socket.destroy();
  socket.on("error", gone);
  createInterface({ input: socket })
    .on("line", (id) => {
      insert.run(id, node, Number(epoch));
      socket.write(`${id} committed ${node} ${epoch}\n`);
      waiting.push({ id, socket });
    })
    .on("error", gone);
});
process.on("SIGTERM", () => {
  db.close();
  process.exit(0);
});
server.listen(Number(port), "0.0.0.0");
await once(server, "listening");
await writeFile(ready, "");
for (;;) {
  const covered = waiting;
  waiting = [];
  try {
    if (covered.length > 0) await controlOf(state).wait("app", { timeoutMs: 5000, replicas: [] });
    for (const { id, socket } of covered) if (!socket.destroyed) socket.write(`${id} durable\n`);
  } catch {
    // Not durable yet: they are waited for again. Whether that ever comes is what the test wants to know.
    waiting = [...covered, ...waiting];
  }
  await sleep(20);
}
