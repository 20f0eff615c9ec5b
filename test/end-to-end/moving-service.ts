import { appendFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";

/**
 * A service as an operator's unit would run it: commits one number after the other, going on from what is there, and writes
 * each that is committed into a log outside of any node, with the time. Ends with SIGTERM between two commits.
 *
 *     node moving-service.ts DATABASE LOG PERIOD-MS
 */
const [databasePath = "", log = "", period = ""] = process.argv.slice(2);

const database = new DatabaseSync(databasePath, { timeout: 5000 });
database.exec("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS numbers(number INTEGER)");
const insert = database.prepare("INSERT INTO numbers VALUES (?)");
let last = Number(database.prepare("SELECT coalesce(max(number), 0) AS last FROM numbers").get()?.last);

function next(): void {
  last++;
  insert.run(last);
  appendFileSync(log, `${last} ${Date.now()}\n`);
  setTimeout(next, Number(period));
}

process.on("SIGTERM", () => {
  database.close();
  process.exit(0);
});
next();
