import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { type DatabaseHeader, databaseHeaderBytes, parseDatabaseHeader } from "./database-header.ts";
import type { HolderProcess } from "./holder-process.ts";

/** What tells one state of a database in rollback mode from another. */
export interface RollbackStamp {
  readonly changeCounter: number;
  readonly size: number;
  readonly mtimeNs: bigint;
}

/**
 * A database in one of the rollback-journal modes (or with nothing in it yet). There is no log: it is read whole, while
 * the holder's read transaction makes writers wait, and a hot journal was played back by the holder's own begin.
 */
export class RollbackSource {
  readonly journal = "rollback";
  readonly databaseInode: number;
  readonly #database: number;
  readonly #holder: HolderProcess;
  /** As of the last view that was taken. */
  taken: RollbackStamp | undefined;

  constructor(holder: HolderProcess, path: string) {
    this.#holder = holder;
    this.#database = openSync(path, "r");
    this.databaseInode = fstatSync(this.#database).ino;
  }

  get pid(): number | undefined {
    return this.#holder.pid;
  }

  alive(): boolean {
    return this.#holder.alive();
  }

  /** Shuts writers out. False when the database is in WAL mode by now. */
  async lock(): Promise<boolean> {
    const { journal } = await this.#holder.request({ op: "hold" });
    if (journal === "rollback") return true;
    await this.unlock();
    return false;
  }

  async unlock(): Promise<void> {
    await this.#holder.request({ op: "release" });
  }

  header(): DatabaseHeader | "empty" | undefined {
    const bytes = Buffer.alloc(databaseHeaderBytes);
    return parseDatabaseHeader(bytes.subarray(0, readSync(this.#database, bytes, 0, bytes.length, 0)));
  }

  stamp(): RollbackStamp {
    const header = this.header();
    const { size, mtimeNs } = fstatSync(this.#database, { bigint: true });
    const changeCounter = header === undefined || header === "empty" ? 0 : header.changeCounter;
    return { changeCounter, size: Number(size), mtimeNs };
  }

  stat() {
    return fstatSync(this.#database, { bigint: true });
  }

  read(buffer: Uint8Array, offset: number): number {
    return readSync(this.#database, buffer, 0, buffer.length, offset);
  }

  async letGo(): Promise<void> {
    await this.#holder.kill();
  }

  async close(): Promise<void> {
    closeSync(this.#database);
    await this.#holder.close();
  }
}

export function sameStamp(a: RollbackStamp | undefined, b: RollbackStamp): boolean {
  return a !== undefined && a.changeCounter === b.changeCounter && a.size === b.size && a.mtimeNs === b.mtimeNs;
}
