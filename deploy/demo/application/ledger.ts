import type { DatabaseSync } from "node:sqlite";

/**
 * The demo's database: a ledger whose every commit carries the next number and moves an amount between two accounts. A
 * hole in the numbers is a lost commit; a balance that is not the sum of its bookings is a torn one.
 */

const accounts = 16;

/** Gives the number of the last commit that is there. */
export function openLedger(database: DatabaseSync): number {
  database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000");
  database.exec(`BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS ledger(
      number INTEGER PRIMARY KEY, debit INTEGER NOT NULL, credit INTEGER NOT NULL, amount INTEGER NOT NULL, note TEXT NOT NULL);
    COMMIT`);
  const add = database.prepare("INSERT OR IGNORE INTO accounts VALUES (?, 0)");
  for (let id = 0; id < accounts; id++) add.run(id);
  return lastCommit(database);
}

function lastCommit(database: DatabaseSync): number {
  return Number(database.prepare("SELECT coalesce(max(number), 0) AS last FROM ledger").get()?.last);
}

export function commitBooking(database: DatabaseSync, number: number): void {
  const debit = number % accounts;
  const credit = (number * 7 + 3) % accounts;
  const amount = 1 + ((number * 7919) % 1000);
  database.exec("BEGIN IMMEDIATE");
  database.prepare("UPDATE accounts SET balance = balance - ? WHERE id = ?").run(amount, debit);
  database.prepare("UPDATE accounts SET balance = balance + ? WHERE id = ?").run(amount, credit);
  const note = `commit ${number} `.repeat(1 + (number % 40));
  database.prepare("INSERT INTO ledger VALUES (?, ?, ?, ?, ?)").run(number, debit, credit, amount, note);
  database.exec("COMMIT");
}

export interface LedgerAudit {
  /** What PRAGMA integrity_check says. */
  readonly integrity: string;
  readonly rows: number;
  readonly last: number;
  /** Numbers up to the last that are not there. */
  readonly holes: number;
  /** Accounts whose balance is not what their bookings make. */
  readonly unbalanced: number;
}

export function auditLedger(database: DatabaseSync): LedgerAudit {
  const integrity = database
    .prepare("PRAGMA integrity_check")
    .all()
    .map((row) => String(row.integrity_check))
    .join("; ");
  const { rows, last } = database
    .prepare("SELECT count(*) AS rows, coalesce(max(number), 0) AS last FROM ledger WHERE number > 0")
    .get() as { rows: number; last: number };
  const { unbalanced } = database
    .prepare(
      `SELECT count(*) AS unbalanced FROM accounts WHERE balance <>
         (SELECT coalesce(sum(amount), 0) FROM ledger WHERE credit = id) - (SELECT coalesce(sum(amount), 0) FROM ledger WHERE debit = id)`,
    )
    .get() as { unbalanced: number };
  return { integrity, rows, last, holes: last - rows, unbalanced };
}

export function isSound({ integrity, holes, unbalanced }: LedgerAudit): boolean {
  return integrity === "ok" && holes === 0 && unbalanced === 0;
}
