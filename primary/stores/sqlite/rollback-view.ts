import { UnderstudyError } from "../../../shared/errors.ts";
import type { Found, SeenEntry, StoreView, ViewSummary } from "../../../shared/ports/store-adapter.ts";
import type { StorePath } from "../../../shared/words.ts";
import { databaseEntry, sameMeta } from "./database-entry.ts";
import { type RollbackSource, type RollbackStamp, sameStamp } from "./rollback-source.ts";

/** What a database without bytes will most likely have: it is given its page size by its first table. */
const emptyBlockSize = 4096;

/** Between the look at its header and the lock, the database was switched to WAL mode. */
class JournalModeChanged extends UnderstudyError {
  readonly code = "JOURNAL_MODE_CHANGED";
  readonly remedy = "retry";
  readonly state = "Nothing was cut this time; the database is as its application left it.";
  readonly hint = "Nothing to do: the next view reads its log.";
}

export interface RollbackViewOptions {
  readonly source: RollbackSource;
  readonly path: StorePath;
  readonly everything: boolean;
  readonly seen: SeenEntry | undefined;
  readonly holdMsMax: number;
  /** `lockedMs`: how long writers were shut out. */
  readonly left: (outcome: "taken" | "dropped", lockedMs: number) => void;
}

/** A database in rollback mode, locked from the first byte of it that is read to the last. */
export class RollbackView implements StoreView {
  readonly #options: RollbackViewOptions;
  #stamp: RollbackStamp | undefined;
  #lockedAt = 0;
  #lockedMs = 0;
  #state: "unlocked" | "locked" | "expired" = "unlocked";
  #expiry: NodeJS.Timeout | undefined;
  #torn = false;
  #open = true;

  constructor(options: RollbackViewOptions) {
    this.#options = options;
  }

  get open(): boolean {
    return this.#open;
  }

  async *changes(): AsyncGenerator<Found> {
    const { source, everything, path, seen } = this.#options;
    const before = source.stamp();
    const meta = databaseEntry(source.stat(), seen?.size ?? 0);
    if (!everything && sameStamp(source.taken, before)) {
      this.#stamp = before;
      if (!sameMeta(seen, meta)) yield { kind: "entry", path, entry: meta };
      return;
    }
    await this.#lock();
    try {
      this.#stamp = source.stamp();
      yield this.#found();
    } finally {
      await this.#unlock();
    }
  }

  read(path: StorePath, offset: number, length: number): Uint8Array | undefined {
    const { source } = this.#options;
    if (path !== this.#options.path) return undefined;
    const bytes = new Uint8Array(length);
    const read = source.read(bytes, offset);
    // Not locked any more: whoever wrote since has left a trace in one of these.
    return this.#stamp !== undefined && sameStamp(this.#stamp, source.stamp()) ? bytes.subarray(0, read) : undefined;
  }

  summary(): ViewSummary {
    return {
      consistency: this.#torn ? "fuzzy" : "transactional",
      position: `rollback:${this.#stamp?.changeCounter ?? 0}`,
      behind: this.#torn ? [this.#options.path] : [],
      skipped: 0,
    };
  }

  async leave(outcome: "taken" | "dropped"): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#unlock();
    this.#options.source.taken = outcome === "taken" && !this.#torn ? this.#stamp : undefined;
    this.#options.left(outcome, this.#lockedMs);
  }

  #found(): Found {
    const { source, path } = this.#options;
    const stat = source.stat();
    const header = source.header();
    const size =
      header === undefined || header === "empty"
        ? Number(stat.size)
        : (header.pages ?? Math.ceil(Number(stat.size) / header.pageSize)) * header.pageSize;
    return {
      kind: "entry",
      path,
      entry: databaseEntry(stat, size),
      content: {
        blockSize: header === undefined || header === "empty" ? emptyBlockSize : header.pageSize,
        ranges: "all",
        read: (buffer, offset) => (this.#state === "locked" ? source.read(buffer, offset) : 0),
        settle: () => {
          if (this.#state === "locked" && source.alive()) return "stable";
          this.#torn = true;
          return "moved";
        },
      },
    };
  }

  async #lock(): Promise<void> {
    const { source, path, holdMsMax } = this.#options;
    if (!(await source.lock())) throw new JournalModeChanged(`${path} is in WAL mode by now`);
    this.#lockedAt = performance.now();
    this.#state = "locked";
    this.#expiry = setTimeout(() => {
      this.#state = "expired";
      // A holder that is gone has let go as well; the view says "moved" either way.
      source.unlock().catch(() => undefined);
    }, holdMsMax);
  }

  async #unlock(): Promise<void> {
    clearTimeout(this.#expiry);
    if (this.#state === "unlocked") return;
    this.#lockedMs += performance.now() - this.#lockedAt;
    const expired = this.#state === "expired";
    this.#state = "unlocked";
    if (!expired && this.#options.source.alive()) await this.#options.source.unlock();
  }
}
