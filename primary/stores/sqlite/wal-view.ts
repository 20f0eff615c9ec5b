import { UnderstudyError } from "../../../shared/errors.ts";
import type { Found, SeenEntry, StoreView, ViewSummary } from "../../../shared/ports/store-adapter.ts";
import type { StorePath } from "../../../shared/words.ts";
import { databaseEntry, sameMeta } from "./database-entry.ts";
import type { Changed } from "./followed-log.ts";
import { HolderLost } from "./holder-process.ts";
import type { WalSource } from "./wal-source.ts";

const roundsMax = 8;

/** The database changes faster than it is read, hold after hold. */
class ViewOutrun extends UnderstudyError {
  readonly code = "VIEW_OUTRUN";
  readonly remedy = "retry";
  readonly state = "Nothing of this view was cut; the copies on the replicas are unchanged and still promotable.";
  readonly hint = "Raise limits.snapshot_hold, or give the first copy a quieter hour.";
}

export interface WalViewOptions {
  readonly source: WalSource;
  readonly path: StorePath;
  /** All of the file may differ from what was seen. */
  readonly everything: boolean;
  readonly seen: SeenEntry | undefined;
  readonly holdMsMax: number;
  /** Runs a step while the holder's reader does not move. */
  readonly exclusively: <T>(step: () => Promise<T>) => Promise<T>;
  /** `bytesTold`: how far the log had been read for what the view told. */
  readonly left: (outcome: "taken" | "dropped", bytesTold: number) => void;
}

/**
 * The database as of one commit. While the view is open, the reader stays where it is and the log is not read on, so
 * that every page has one content. At the hold's limit the reader moves all the same, since the log must not grow
 * without bound; what was read is then of several commits, and after it comes another item of the same path with what
 * has changed since: the base of a large database is a pass while it changes, then what changed.
 */
export class WalView implements StoreView {
  readonly #options: WalViewOptions;
  /** What the rounds so far have told, to be told again if they are dropped. */
  #told: Changed;
  #next: { everything: boolean; changed: Changed } | undefined;
  #position: string;
  #bytesTold: number;
  /** What was told so far is on the primary's own disk. */
  #durable: Promise<void>;
  #heldSince = performance.now();
  #moved = false;
  #open = true;

  /** The log has been read to its end, and nothing moves until `letGo`. */
  constructor(options: WalViewOptions) {
    this.#options = options;
    const { log } = options.source;
    this.#told = log.collect();
    this.#durable = this.#sync();
    this.#next = { everything: options.everything, changed: this.#told };
    this.#position = log.positionText;
    this.#bytesTold = log.bytesRead;
  }

  get open(): boolean {
    return this.#open;
  }

  /** True when the reader may move: the limit of the hold is over. */
  letGo(): boolean {
    if (performance.now() - this.#heldSince >= this.#options.holdMsMax) this.#moved = true;
    return this.#moved;
  }

  async *changes(): AsyncGenerator<Found> {
    for (let round = 1; ; round++) {
      const found = await this.#nextRound();
      if (found !== undefined) yield found;
      // Before the replica hears that the cut is whole: until then it cannot commit it.
      await this.#durable;
      // Without the holder, pages newer than this commit may have reached the file while it was read.
      if (!this.#options.source.alive()) throw new HolderLost("the holder ended while its view was read");
      if (!this.#moved) return;
      if (round === roundsMax) throw new ViewOutrun(`${round} passes, and each met the limit of its hold`);
    }
  }

  read(path: StorePath, offset: number, length: number): Uint8Array | undefined {
    const { source } = this.#options;
    if (path !== this.#options.path || this.#moved) return undefined;
    const bytes = new Uint8Array(length);
    const read = source.log.readDatabase(bytes, offset);
    return source.alive() ? bytes.subarray(0, read) : undefined;
  }

  summary(): ViewSummary {
    return { consistency: this.#moved ? "fuzzy" : "transactional", position: this.#position, behind: [], skipped: 0 };
  }

  async leave(outcome: "taken" | "dropped"): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    // The log may be closed afterwards. Whoever read to the end has met its failure there.
    await this.#durable.catch(() => {});
    if (outcome === "dropped") this.#options.source.log.giveBack(this.#told);
    this.#options.left(outcome, this.#bytesTold);
  }

  #sync(): Promise<void> {
    const syncing = this.#options.source.log.sync();
    // It may fail while nobody waits for it yet.
    syncing.catch(() => {});
    return syncing;
  }

  async #nextRound(): Promise<Found | undefined> {
    const { source } = this.#options;
    const { log } = source;
    let next = this.#next;
    this.#next = undefined;
    if (next === undefined) {
      next = await this.#options.exclusively(async () => {
        if (!source.alive()) throw new HolderLost("the holder ended before its view was read");
        log.read();
        this.#heldSince = performance.now();
        this.#moved = false;
        this.#position = log.positionText;
        this.#bytesTold = log.bytesRead;
        return { everything: false, changed: log.collect() };
      });
      this.#durable = this.#sync();
      this.#told.pages.addAll(next.changed.pages);
      this.#told.databasePagesMin = Math.min(this.#told.databasePagesMin, next.changed.databasePagesMin);
    }
    return this.#found(next.everything, next.changed);
  }

  #found(everything: boolean, changed: Changed): Found | undefined {
    const { source, path, seen } = this.#options;
    const { log } = source;
    const entry = databaseEntry(log.stat(), log.size);
    if (!everything && changed.pages.empty && changed.databasePagesMin >= log.databasePages) {
      return sameMeta(seen, entry) ? undefined : { kind: "entry", path, entry };
    }
    return {
      kind: "entry",
      path,
      entry,
      content: {
        blockSize: log.pageSize,
        ranges: everything ? "all" : log.rangesOf(changed),
        read: (buffer, offset) => {
          const wanted = Math.max(0, Math.min(buffer.length, entry.size - offset));
          const read = log.readDatabase(buffer.subarray(0, wanted), offset);
          // Shorter only when the reader has moved and the database has shrunk: the next round says so.
          buffer.fill(0, read, wanted);
          return wanted;
        },
        settle: () => (source.alive() ? "stable" : "moved"),
      },
    };
  }
}
