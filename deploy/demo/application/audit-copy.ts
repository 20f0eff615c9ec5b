import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { type FilesAudit, stepIn } from "./documents.ts";
import { auditLedger, isSound, type LedgerAudit } from "./ledger.ts";

export interface CopyAudit {
  readonly ledger: LedgerAudit;
  readonly files: FilesAudit;
}

/** Reads a whole copy and judges it by itself alone. Blocks: for processes of their own. */
export function auditCopy(databasePath: string, filesPath: string): CopyAudit {
  using database = new DatabaseSync(databasePath);
  return { ledger: auditLedger(database), files: auditFiles(filesPath) };
}

export function auditFiles(directory: string): FilesAudit {
  const standing = new Map<string, number>();
  const torn: string[] = [];
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const file = join(entry.parentPath, entry.name);
    const path = relative(directory, file);
    const number = stepIn(path, readFileSync(file, "utf8"));
    if (number === undefined) torn.push(path);
    else standing.set(path, number);
  }
  return { standing, torn };
}

export function isWhole({ ledger, files }: CopyAudit): boolean {
  return isSound(ledger) && files.torn.length === 0;
}
