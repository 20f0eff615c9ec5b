import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";

/**
 * An application that can be paused and has a rule over several stores: two files and a row of a database always carry the
 * same number, except while it is writing. It stands still between two writes while `pause` is there and says so by
 * `paused`. Ends with its standard input; says on standard output how long each pause was, in ms.
 *
 *     node pausing-writer.ts DATABASE FILES CONTROL
 */
const [databasePath = "", files = "", control = ""] = process.argv.slice(2);
const [pause, paused] = [join(control, "pause"), join(control, "paused")];

const database = new DatabaseSync(databasePath);
database.exec("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS numbers(number INTEGER)");
if (database.prepare("SELECT count(*) AS n FROM numbers").get()?.n === 0)
  database.exec("INSERT INTO numbers VALUES (0)");
const update = database.prepare("UPDATE numbers SET number = ?");

let pausedAt = 0;
function next(number: number): void {
  if (existsSync(pause)) {
    if (pausedAt === 0) {
      pausedAt = performance.now();
      writeFileSync(paused, "");
    }
    setTimeout(next, 2, number);
    return;
  }
  if (pausedAt !== 0) {
    rmSync(paused, { force: true });
    process.stdout.write(`${performance.now() - pausedAt}\n`);
    pausedAt = 0;
  }
  writeFileSync(join(files, "one.txt"), `${number}`.padStart(5000, "0"));
  update.run(number);
  writeFileSync(join(files, "two.txt"), `${number}`.padStart(9000, "0"));
  setTimeout(next, 2, number + 1);
}

process.stdin.on("end", () => process.exit(0)).resume();
next(1);
