import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, copyFileSync, ftruncateSync, openSync, rmSync, writeSync } from "node:fs";
import { createInterface } from "node:readline";
import { DatabaseSync } from "node:sqlite";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";
import type {
  Found,
  SeenEntry,
  SeenIndex,
  StoreAdapter,
  StoreView,
  ViewRequest,
} from "../../../../shared/ports/store-adapter.ts";
import type { WriterOrder, WriterReply } from "./writer.ts";

/** What a replica would be: a plain copy to which is written what the adapter tells, and nothing else. */
export class Follower implements SeenIndex {
  readonly copy: string;
  readonly #store: StoreAdapter;
  #seen: SeenEntry | undefined;
  path = "";
  position = "";
  consistency = "";
  /** Of the last cut. */
  bytesTaken = 0;
  found: Found[] = [];

  constructor(store: StoreAdapter, copy: string) {
    this.#store = store;
    this.copy = copy;
  }

  byPath(path: string): SeenEntry | undefined {
    return path === this.path ? this.#seen : undefined;
  }
  children(): Iterable<{ name: string; entry: SeenEntry }> {
    return [];
  }
  pathsOf(): [] {
    return [];
  }
  everCut(): boolean {
    return this.#seen !== undefined;
  }
  count(): number {
    return this.#seen === undefined ? 0 : 1;
  }

  /** As if the database was never read here: the next cut compares all of it. */
  forget(): void {
    if (this.#seen !== undefined) this.#seen = { ...this.#seen, seen: undefined };
  }

  async cut(depth: ViewRequest["depth"] = "changes", during?: (view: StoreView) => Promise<void>): Promise<void> {
    const view = await this.#store.enter(this, { depth, frozen: false }, new AbortController().signal);
    let outcome: "taken" | "dropped" = "dropped";
    try {
      const seen = await this.take(view, during);
      const { position, consistency } = view.summary();
      this.position = position;
      this.consistency = consistency;
      this.#seen = seen;
      outcome = "taken";
    } finally {
      await view.leave(outcome);
    }
  }

  async take(view: StoreView, during?: (view: StoreView) => Promise<void>): Promise<SeenEntry | undefined> {
    let seen = this.#seen;
    this.bytesTaken = 0;
    this.found = [];
    for await (const found of view.changes()) {
      this.found.push(found);
      if (found.kind !== "entry") throw new Error("a database is never told as gone");
      this.path = found.path;
      if (found.content !== undefined) {
        await during?.(view);
        if (!this.#write(found.entry.size, found.content)) throw new Error("moved");
      }
      seen = { object: 1, ...found.entry };
    }
    return seen;
  }

  #write(size: number, content: NonNullable<Extract<Found, { kind: "entry" }>["content"]>): boolean {
    const file = openSync(this.copy, this.#seen === undefined ? "a" : "r+");
    closeSync(file);
    const copy = openSync(this.copy, "r+");
    try {
      const ranges = content.ranges === "all" ? [{ offset: 0, length: size }] : content.ranges;
      const buffer = Buffer.alloc(64 * 1024);
      for (const { offset, length } of ranges) {
        for (let at = offset; at < Math.min(size, offset + length); ) {
          const wanted = Math.min(buffer.length, offset + length - at, size - at);
          const read = content.read(buffer.subarray(0, wanted), at);
          if (read === 0) return false;
          writeSync(copy, buffer, 0, read, at);
          this.bytesTaken += read;
          at += read;
        }
      }
      ftruncateSync(copy, size);
      return content.settle() === "stable";
    } finally {
      closeSync(copy);
    }
  }

  /** The number of the last transaction in the copy, after all of it was checked. */
  audited(): number {
    const clone = `${this.copy}.audited`;
    copyFileSync(this.copy, clone);
    const url = pathToFileURL(clone);
    // As the file alone is: with no log beside it.
    url.search = "immutable=1";
    const database = new DatabaseSync(url, { readOnly: true });
    try {
      const check = database.prepare("PRAGMA integrity_check").all();
      if (check.length !== 1 || check[0]!.integrity_check !== "ok") throw new Error(JSON.stringify(check.slice(0, 5)));
      const { last, sum } = database.prepare("SELECT last, sum FROM state").get() as { last: number; sum: number };
      const audit = database.prepare("SELECT count(*) AS rows, coalesce(max(n), 0) AS last FROM audit").get()!;
      const items = database.prepare("SELECT coalesce(sum(value), 0) AS sum FROM item").get()!;
      if (audit.rows !== last || audit.last !== last) throw new Error(`state ${last}, audit ${JSON.stringify(audit)}`);
      if (items.sum !== sum) throw new Error(`state has the sum ${sum}, the items ${items.sum}`);
      return last;
    } finally {
      database.close();
      for (const end of ["", "-wal", "-shm"]) rmSync(clone + end, { force: true });
    }
  }
}

/** The other end of `writer.ts`. */
export class Writer implements AsyncDisposable {
  readonly #process: ChildProcess & { stdin: Writable; stdout: Readable };
  readonly #waiting: ((reply: WriterReply) => void)[] = [];

  constructor() {
    this.#process = spawn(process.execPath, [fileURLToPath(new URL("./writer.ts", import.meta.url))], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    createInterface({ input: this.#process.stdout }).on("line", (line) => this.#waiting.shift()?.(JSON.parse(line)));
  }

  static async on(path: string, ...pragmas: string[]): Promise<Writer> {
    const writer = new Writer();
    await writer.do({ op: "open", path, pragmas });
    return writer;
  }

  async do(order: WriterOrder): Promise<WriterReply> {
    const reply = await this.try(order);
    if (reply.error !== undefined) throw new Error(reply.error);
    return reply;
  }

  async try(order: WriterOrder): Promise<WriterReply> {
    const { promise, resolve } = Promise.withResolvers<WriterReply>();
    this.#waiting.push(resolve);
    this.#process.stdin.write(`${JSON.stringify(order)}\n`);
    return await promise;
  }

  async write(transactions: number): Promise<number> {
    return (await this.do({ op: "write", transactions })).last;
  }

  async sql(sql: string): Promise<void> {
    await this.do({ op: "sql", sql });
  }

  /** As an application ends that nobody stops in an orderly way. */
  async kill(): Promise<void> {
    const ended = new Promise((resolve) => this.#process.once("close", resolve));
    this.#process.kill("SIGKILL");
    await ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#process.once("close", resolve));
    this.#process.stdin.end();
    await ended;
  }
}

/** The value below which the given share of the numbers is. */
export function quantile(numbers: readonly number[], share: number): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}
