import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";

/** A write that the application has made: it is in some node's database, or it is lost. */
export interface Entry {
  readonly id: string;
  readonly node: string;
  /** Wall clock, ms, before it was committed. */
  readonly at: number;
}

const pauseMs = 8;

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
      this.#primary = await this.#isPrimary().catch(() => false);
      await sleep(pauseMs * 4);
    }
  }

  async #serve(): Promise<void> {
    const running = join(this.#directory, "running");
    while (!this.#over) {
      if (!existsSync(join(this.#directory, "service"))) {
        await sleep(pauseMs);
        continue;
      }
      // First it says that it runs, then it looks again: whoever stops it waits for the one or is seen by the other.
      writeFileSync(running, "");
      try {
        await this.#run();
      } finally {
        rmSync(running, { force: true });
      }
    }
  }

  async #run(): Promise<void> {
    let database: DatabaseSync | undefined;
    try {
      while (!this.#over && existsSync(join(this.#directory, "service"))) {
        if (this.#primary && !this.quiet) {
          database ??= openDatabase(join(this.#directory, "app.db"));
          this.#write(database);
        }
        await sleep(pauseMs);
      }
    } finally {
      database?.close();
    }
  }

  #write(database: DatabaseSync): void {
    const entry = { id: `${this.node}-${++this.#count}-${Date.now()}`, node: this.node, at: Date.now() };
    // Known before it is committed: what is found later must have been written by somebody.
    this.#written(entry);
    database.prepare("INSERT INTO entries (id, at) VALUES (?, ?)").run(entry.id, entry.at);
    if (this.#count % 4 === 0)
      writeFileSync(join(this.#directory, "files", `${this.#count % 12}`), `${entry.id}\n`.repeat(this.#count % 40));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over = true;
    await this.#ended;
  }
}

export function openDatabase(path: string): DatabaseSync {
  const database = new DatabaseSync(path, { timeout: 10_000 });
  database.exec("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS entries (id TEXT PRIMARY KEY, at INTEGER);");
  return database;
}

/** Ids of a database as it lies there, by a connection that leaves nothing behind. */
export function idsIn(path: string): Set<string> {
  const database = new DatabaseSync(path, { readOnly: true });
  try {
    return new Set(
      database
        .prepare("SELECT id FROM entries")
        .all()
        .map((row) => String(row.id)),
    );
  } finally {
    database.close();
  }
}
