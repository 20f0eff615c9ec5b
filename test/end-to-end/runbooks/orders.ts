import { mkdir, stat } from "node:fs/promises";
import { DatabaseSync } from "node:sqlite";
import type { ScratchMachines } from "./scratch-machines.ts";

const database = "srv/app/app.db";

/** An application on two machines: a database of orders and a directory of uploads, and a service that hooks start and stop. */
export const application = `  app:
    primary: alpha
    replicas: [bravo]
    stores:
      db: { kind: sqlite, path: /srv/app/app.db }
      uploads: { kind: files, path: /srv/app/uploads }
    rpo: 30s
    limits: { staging: 1MiB, switchover_step: 60s }
    hooks:
      stop_service: { run: [systemctl, stop, app], timeout: 60s }
      start_service: { run: [systemctl, start, app], timeout: 60s }
`;

export async function madeOn(machines: ScratchMachines, name: string): Promise<void> {
  await mkdir(machines.path(name, "srv/app/uploads"), { recursive: true });
  using orders = new DatabaseSync(machines.path(name, database));
  orders.exec("PRAGMA journal_mode = WAL; CREATE TABLE orders (text TEXT)");
}

export function order(machines: ScratchMachines, name: string, text: string): void {
  // What a killed agent left running may hold it for a moment.
  using orders = new DatabaseSync(machines.path(name, database), { timeout: 10_000 });
  orders.prepare("INSERT INTO orders VALUES (?)").run(text);
}

export function ordersOn(machines: ScratchMachines, name: string): unknown[] {
  using orders = new DatabaseSync(machines.path(name, database), { timeout: 10_000 });
  const rows = orders.prepare("SELECT text FROM orders ORDER BY rowid").all();
  return rows.map(({ text }) => text);
}

/** Of a replica: nothing is opened beside its copy, which would be a stranger's doing. */
export function ordersInCopy(machines: ScratchMachines, name: string): unknown[] {
  const copy = new URL(`file://${machines.path(name, database)}?immutable=1`);
  using orders = new DatabaseSync(copy, { readOnly: true });
  const rows = orders.prepare("SELECT text FROM orders ORDER BY rowid").all();
  return rows.map(({ text }) => text);
}

/** Where the service runs: nowhere, on one, or on both. */
export async function serving(machines: ScratchMachines): Promise<string[]> {
  const running = machines.names.map(async (name) =>
    (await stat(machines.path(name, "app.runs")).catch(() => undefined)) === undefined ? [] : [name],
  );
  return (await Promise.all(running)).flat();
}
