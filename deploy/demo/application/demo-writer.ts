import { appendFileSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { auditFiles } from "./audit-copy.ts";
import { confirmationLine } from "./confirmations.ts";
import { documentText, journalLine, stepOf } from "./documents.ts";
import { commitBooking, openLedger } from "./ledger.ts";

/**
 * An application, as far as Understudy can tell: commits to a database and works on files at a modest rate until its
 * standard input ends or it is killed, and confirms on standard output each thing that it has done. It knows nothing of
 * replication.
 *
 *     node demo-writer.ts DATABASE DIRECTORY COMMITS-A-SECOND STEPS-A-SECOND
 */

const [databasePath = "", directory = "", commitRate = "", stepRate = ""] = process.argv.slice(2);

mkdirSync(dirname(databasePath), { recursive: true });
mkdirSync(directory, { recursive: true });
for (const folder of [0, 1, 2]) mkdirSync(join(directory, `folder-${folder}`), { recursive: true });
for (const name of readdirSync(directory)) if (name.endsWith(".tmp")) rmSync(join(directory, name));

const database = new DatabaseSync(databasePath);
let commits = openLedger(database);
// Each step is decided by its number: one that was made and not confirmed is made again without harm.
let steps = Math.max(0, ...auditFiles(directory).standing.values());

function commitNext(): void {
  commits++;
  commitBooking(database, commits);
  confirm("commit", commits);
}

function stepNext(): void {
  steps++;
  const step = stepOf(steps);
  const file = join(directory, step.path);
  switch (step.kind) {
    case "append":
      // One write: whoever reads sees the line or does not.
      appendFileSync(file, journalLine(step.line));
      break;
    case "replace": {
      const fresh = join(directory, `${step.number}.tmp`);
      writeFileSync(fresh, documentText(step.number, step.path));
      renameSync(fresh, file);
      break;
    }
    case "remove":
      rmSync(file, { force: true });
      break;
  }
  confirm("step", steps);
}

/** Written at once: what is confirmed must not die in a buffer of ours. */
function confirm(what: "commit" | "step", number: number): void {
  writeSync(1, confirmationLine(what, number, process.hrtime.bigint()));
}

/** Keeps to the rate over time; where the disk is too slow for it, it goes as fast as it can. */
function repeat(ratePerSecond: number, action: () => void): void {
  const periodMs = 1000 / ratePerSecond;
  let due = performance.now();
  const next = (): void => {
    action();
    due = Math.max(due + periodMs, performance.now() - 50);
    setTimeout(next, Math.max(0, due - performance.now()));
  };
  next();
}

process.stdin.on("end", () => process.exit(0)).resume();
repeat(Number(commitRate), commitNext);
repeat(Number(stepRate), stepNext);
