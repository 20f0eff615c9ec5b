import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { isSystemError } from "../../shared/errors.ts";

/** A write that the application has made: it is in some node's database, or it is lost. */
export interface Entry {
  readonly id: string;
  readonly node: string;
  /** In which the service was started that wrote it. */
  readonly epoch: number;
  /** It was committed between the two. Wall clock, ms. */
  readonly from: number;
  readonly to: number;
}

const pauseMs = 8;
/** Whether the node is the primary is asked so often while there is something to write. */
const followMs = 40;
/** Of sqlite3.h: whoever has the database locks it, and it is tried again. */
const sqliteBusy = 5;

/**
 * The service of one node and its only client: it runs while the hooks say so, and is written to while the node's role
 * endpoint says that it is the primary.
 */
export class Application implements AsyncDisposable {
  readonly node: string;
  readonly #directory: string;
  readonly #isPrimary: () => Promise<boolean>;
  readonly #written: (entry: Entry) => void;
  readonly #ended: Promise<void>;
  #over = false;
  #runs = false;
  #primary = false;
  #count = 0;
  /** No client writes: what there is shall become equal everywhere. */
  quiet = true;

  constructor(node: string, directory: string, isPrimary: () => Promise<boolean>, written: (entry: Entry) => void) {
    this.node = node;
    this.#directory = directory;
    this.#isPrimary = isPrimary;
    this.#written = written;
    this.#ended = Promise.all([this.#serve(), this.#follow()]).then(() => undefined);
  }

  async #follow(): Promise<void> {
    while (!this.#over) {
      this.#primary = this.#runs && !this.quiet && (await this.#isPrimary().catch(() => false));
      await sleep(followMs);
    }
  }

  /** The epoch of the service that shall run; 0 where none shall. */
  #wanted(): number {
    const path = join(this.#directory, "service");
    if (!existsSync(path)) return 0;
    try {
      // It may be there and not be written yet, or be gone by now.
      return Number(readFileSync(path, "utf8"));
    } catch (error) {
      if (!isSystemError(error, "ENOENT")) throw error;
      return 0;
    }
  }

  async #serve(): Promise<void> {
    const running = join(this.#directory, "running");
    while (!this.#over) {
      if (this.#wanted() === 0) {
        await sleep(pauseMs);
        continue;
      }
      // First it says that it runs, then it looks again: whoever stops it waits for the one or is seen by the other.
      writeFileSync(running, "");
      this.#runs = true;
      try {
        await this.#run();
      } finally {
        this.#runs = false;
        this.#primary = false;
        rmSync(running, { force: true });
      }
    }
  }

  async #run(): Promise<void> {
    let database: DatabaseSync | undefined;
    try {
      while (!this.#over) {
        const epoch = this.#wanted();
        if (epoch === 0) break;
        if (this.#primary && !this.quiet) {
          try {
            database ??= openDatabase(join(this.#directory, "app.db"));
            this.#write(database, epoch);
          } catch (error) {
            // Nobody waits in here: links and applications of all nodes live in this thread.
            if (!isLocked(error)) throw error;
          }
        }
        await sleep(pauseMs);
      }
    } finally {
      database?.close();
    }
  }

  #write(database: DatabaseSync, epoch: number): void {
    const from = Date.now();
    const id = `${this.node}-${++this.#count}-${from}`;
    database.prepare("INSERT INTO entries (id, at) VALUES (?, ?)").run(id, from);
    this.#written({ id, node: this.node, epoch, from, to: Date.now() });
    if (this.#count % 4 === 0)
      writeFileSync(join(this.#directory, "files", `${this.#count % 12}`), `${id}\n`.repeat(this.#count % 40));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over = true;
    await this.#ended;
  }
}

function isLocked(error: unknown): boolean {
  return error instanceof Error && "errcode" in error && (Number(error.errcode) & 0xff) === sqliteBusy;
}

/** @throws where somebody else has it locked: nobody waits here */
export function openDatabase(path: string): DatabaseSync {
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    database.exec("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS entries (id TEXT PRIMARY KEY, at INTEGER);");
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

/** Ids of a database as it lies there, in the order in which they were written, by a connection that leaves nothing behind. */
export function idsIn(path: string): Set<string> {
  const database = new DatabaseSync(path, { readOnly: true });
  try {
    return new Set(
      database
        .prepare("SELECT id FROM entries ORDER BY rowid")
        .all()
        .map((row) => String(row.id)),
    );
  } finally {
    database.close();
  }
}
