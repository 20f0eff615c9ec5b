import { createInterface } from "node:readline";
import { DatabaseSync } from "node:sqlite";
import { auditCopy } from "./audit-copy.ts";

/**
 * The application on the other machine: it stands ready, and at a line on its standard input writes into the promoted
 * database, which is what ends the outage; then it reads the whole copy.
 *
 *     node demo-auditor.ts DATABASE DIRECTORY
 */

export interface Findings {
  /** Monotonic ns, as text: when the first write into the promoted database was committed. */
  readonly wroteAtNs: string;
  readonly integrity: string;
  readonly rows: number;
  readonly last: number;
  readonly holes: number;
  readonly unbalanced: number;
  readonly torn: readonly string[];
  /** Where each file stands. */
  readonly standing: readonly (readonly [string, number])[];
}

const [databasePath = "", directory = ""] = process.argv.slice(2);

const lines = createInterface({ input: process.stdin });
for await (const _ of lines) {
  const wroteAtNs = String(writeFirst());
  const { ledger, files } = auditCopy(databasePath, directory);
  const findings: Findings = { wroteAtNs, ...ledger, torn: files.torn, standing: [...files.standing] };
  process.stdout.write(`${JSON.stringify(findings)}\n`);
  break;
}

/** In a table of its own: what is counted afterwards is what the former primary wrote, and nothing else. */
function writeFirst(): bigint {
  using database = new DatabaseSync(databasePath);
  database.exec("PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000");
  database.exec("CREATE TABLE IF NOT EXISTS after_promotion(note TEXT)");
  database.prepare("INSERT INTO after_promotion VALUES (?)").run("written on the promoted node");
  return process.hrtime.bigint();
}
