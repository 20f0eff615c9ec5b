import { closeSync, existsSync, openSync, readSync, realpathSync, type Stats, statSync } from "node:fs";
import { basename } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { assert, isSystemError, UnderstudyError } from "../../../shared/errors.ts";
import type {
  SeenIndex,
  StoreAdapter,
  StoreCosts,
  StoreView,
  ViewRequest,
} from "../../../shared/ports/store-adapter.ts";
import type { StorePath } from "../../../shared/words.ts";
import { watchHotFiles } from "../../watch/hot-files.ts";
import { SourceUnusable, StoreInUse } from "../source-unusable.ts";
import { wasSeen } from "./database-entry.ts";
import { type DatabaseHeader, databaseHeaderBytes, parseDatabaseHeader } from "./database-header.ts";
import { Exclusive } from "./exclusive.ts";
import { ChainBroken, FollowedLog } from "./followed-log.ts";
import { DatabaseBusy, defaultHolderFile, HolderLost, HolderProcess } from "./holder-process.ts";
import { otherUsers } from "./other-users.ts";
import { RollbackSource, sameStamp } from "./rollback-source.ts";
import { RollbackView } from "./rollback-view.ts";
import { noCounts, noteLocked, type SqliteCounters, WalSource } from "./wal-source.ts";
import { WalView } from "./wal-view.ts";

export interface SqliteStoreOptions {
  /** Absolute path of the database file X. */
  readonly path: string;
  readonly holdSecondsMax: number;
  /** The log is kept below about this: 16 MiB. */
  readonly walBytesMax?: number;
  /** So often it is looked whether the log is to be shortened, and for changes that no watch told of: 100 ms. */
  readonly maintenanceMs?: number;
  /** The holder's program, when it does not lie beside this module. */
  readonly holderFile?: string;
}

export interface SqliteStore extends StoreAdapter {
  counters(): SqliteCounters;
  /** The process that holds the database's locks. */
  holderPid(): number | undefined;
}

/**
 * One SQLite database. In WAL mode each view is the database as of its last commit, told as the pages that changed; in
 * rollback mode the file, locked while it is read. After a start, and whenever it cannot be proved that every frame
 * since the last view was read, everything is found anew and compared by the consumer.
 *
 * While a database in WAL mode is held, its application cannot switch it to another journal mode ("database is
 * locked"): the agent has to be stopped for that.
 */
export function createSqliteStore(options: SqliteStoreOptions): SqliteStore {
  return new SqliteAdapter(options);
}

const walBytesMaxDefault = 16 * 1024 * 1024;
const busyMs = 2000;
const writeLockMsMax = 100;
const openAttemptsMax = 5;
const maintenanceDelayMs = 100;
const busyDelayMs = 10;
const longLookMs = 5;

class SqliteAdapter implements SqliteStore {
  readonly kind = "sqlite";
  readonly defaultRequire = "transactional";
  readonly #options: SqliteStoreOptions;
  readonly #storePath: StorePath;
  readonly #counters = noCounts();
  readonly #exclusive = new Exclusive();
  readonly #closing = new AbortController();
  #path: string;
  #source: WalSource | RollbackSource | undefined;
  #view: WalView | RollbackView | undefined;
  /** Nothing is known of what changed since the last view that was taken. */
  #everything = true;
  #dirty = true;
  #moving = false;
  #viewLeft = Promise.withResolvers<void>();
  /** Until it is fulfilled, a step waits for the last view to be left, and goes before the next one. */
  #wanted: Promise<void> | undefined;
  #takenBytes = 0;
  /** Signs of change are not looked into before; the next look is under way. */
  #quietUntil = 0;
  #lookPlanned = false;
  #wake: () => void = () => {};
  #watch: AsyncDisposable | undefined;
  #maintenance: Promise<void> = Promise.resolve();
  #poke: () => void = () => {};

  constructor(options: SqliteStoreOptions) {
    this.#options = options;
    this.#path = options.path;
    this.#storePath = Buffer.from(basename(options.path)).toString("latin1") as StorePath;
  }

  async start(wake: () => void): Promise<void> {
    this.#wake = wake;
    fileAt(this.#options.path);
    // SQLite puts the log beside what a symlink leads to.
    this.#path = realpathSync(this.#options.path);
    this.#source = await this.#open();
    try {
      this.#watch = await watchHotFiles([this.#path, `${this.#path}-wal`], () => this.#look());
    } catch (error) {
      await this.#forget();
      throw error;
    }
    this.#maintenance = this.#maintain();
  }

  dirty(): boolean {
    return this.#dirty;
  }

  backlogBytes(): number {
    const source = this.#source;
    if (source === undefined) return 0;
    if (source.journal === "wal" && !this.#everything) {
      return source.log.bytesRead - this.#takenBytes + source.log.bytesWaiting();
    }
    return this.#everything || this.#dirty ? Number(source.stat().size) : 0;
  }

  commitsCounted(): number {
    const source = this.#source;
    return source?.journal === "wal" ? source.log.commitsRead : 0;
  }

  users(): readonly number[] {
    return otherUsers(this.#path);
  }

  peek(path: StorePath, offset: number, length: number): Uint8Array | undefined {
    const source = this.#source;
    if (path !== this.#storePath || source === undefined) return undefined;
    const bytes = new Uint8Array(length);
    const read = source.journal === "wal" ? source.log.readDatabase(bytes, offset) : source.read(bytes, offset);
    return bytes.subarray(0, read);
  }

  counters(): SqliteCounters {
    const turns = this.#source?.journal === "wal" ? this.#source.log.generationsTurned : 0;
    return { ...this.#counters, turns: this.#counters.turns + turns };
  }

  costs(): StoreCosts {
    const { lockedMs, ...counts } = this.counters();
    return { writerWaitsMs: lockedMs, counts };
  }

  holderPid(): number | undefined {
    return this.#source?.pid;
  }

  async enter(seen: SeenIndex, _request: ViewRequest, signal: AbortSignal): Promise<StoreView> {
    signal.throwIfAborted();
    await this.#wanted;
    return await this.#exclusive.run(async () => {
      signal.throwIfAborted();
      const entry = seen.byPath(this.#storePath);
      if (fileAt(this.#path).size === 0 && entry !== undefined && entry.size > 0) {
        throw new SourceUnusable(this.#path, "was emptied: 0 bytes, but the last cut has more");
      }
      const source = await this.#proved();
      const everything =
        this.#everything ||
        !seen.everCut() ||
        !wasSeen(entry, source.databaseInode) ||
        (source.journal === "rollback" && source.taken === undefined);
      const shared = { path: this.#storePath, everything, seen: entry, holdMsMax: this.#options.holdSecondsMax * 1000 };
      const view =
        source.journal === "wal"
          ? new WalView({
              ...shared,
              source,
              exclusively: (step) => this.#exclusive.run(step),
              left: (outcome, bytesTold) => this.#left(outcome, everything, bytesTold),
            })
          : new RollbackView({
              ...shared,
              source,
              left: (outcome, lockedMs) => {
                // Writers get ten times as long as they were shut out for, before the next sign is acted upon.
                this.#quietUntil = performance.now() + 10 * lockedMs;
                if (lockedMs > 0) noteLocked(this.#counters, lockedMs);
                this.#left(outcome, everything, 0);
              },
            });
      if (everything) this.#counters.everythingFound++;
      this.#view = view;
      this.#dirty = false;
      return view;
    });
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#poke();
    await this.#maintenance;
    await this.#watch?.[Symbol.asyncDispose]();
    await this.#exclusive.run(() => this.#forget());
  }

  async end(): Promise<{ covered: boolean }> {
    this.#closing.abort();
    this.#poke();
    await this.#maintenance;
    await this.#watch?.[Symbol.asyncDispose]();
    return await this.#exclusive.run(async () => {
      assert(this.#view === undefined, "a store does not end within a view");
      const source = this.#source;
      const followed = source !== undefined && !this.#everything && source.alive() && this.#inPlace(source);
      await source?.letGo();
      const last = this.#newHolder(fileAt(this.#path));
      try {
        const { journal } = await this.#whileInUse(() => last.request({ op: "exclude" }));
        const covered = followed && journal === source.journal && this.#inPlace(source) && this.#provesEnd(source);
        await last.request({ op: "finish" });
        for (const suffix of ["-wal", "-shm"]) {
          if (existsSync(`${this.#path}${suffix}`)) throw new StoreInUse(this.#path, "was opened by somebody else");
        }
        return { covered };
      } finally {
        await last.close();
        await this.#forget();
      }
    });
  }

  /** Everybody else is shut out. */
  #provesEnd(source: WalSource | RollbackSource): boolean {
    if (source.journal === "rollback") return sameStamp(source.taken, source.stamp());
    return source.log.bytesRead === this.#takenBytes && source.log.provesEnd();
  }

  async #whileInUse<T>(step: () => Promise<T>): Promise<T> {
    try {
      return await step();
    } catch (error) {
      if (!(error instanceof DatabaseBusy)) throw error;
      throw new StoreInUse(this.#path, "is open in another process", { cause: error });
    }
  }

  #left(outcome: "taken" | "dropped", everything: boolean, bytesTold: number): void {
    this.#view = undefined;
    this.#viewLeft.resolve();
    this.#viewLeft = Promise.withResolvers<void>();
    if (outcome === "taken") {
      this.#takenBytes = bytesTold;
      if (everything) this.#everything = false;
    } else {
      this.#changeSeen();
    }
    this.#look();
    this.#poke();
  }

  /** The source as it is now, proved to be the one that was followed; else opened anew, and everything is unknown. */
  async #proved(): Promise<WalSource | RollbackSource> {
    for (let attempt = 1; ; attempt++) {
      try {
        const source = this.#source;
        if (source !== undefined && this.#inPlace(source)) {
          if (source.alive() || (await this.#replaceHolder(source))) {
            if (source.journal === "wal") source.log.read();
            return source;
          }
        }
        await this.#forget();
        this.#source = await this.#open();
      } catch (error) {
        if (attempt === openAttemptsMax || !(error instanceof ChainBroken || error instanceof HolderLost)) throw error;
        await this.#forget();
      }
    }
  }

  /** The path still leads to the files that are open here, and the database is of the same kind. */
  #inPlace(source: WalSource | RollbackSource): boolean {
    if (fileAt(this.#path).ino !== source.databaseInode) return false;
    if (this.#path !== this.#options.path && realpathSync(this.#options.path) !== this.#path) {
      throw new SourceUnusable(this.#options.path, `no longer leads to ${this.#path}`);
    }
    if (source.journal === "rollback") {
      const header = source.header();
      return header === "empty" || header?.journal === "rollback";
    }
    return source.log.databaseInPlace() && source.log.logIsInPlace();
  }

  async #replaceHolder(source: WalSource | RollbackSource): Promise<boolean> {
    this.#counters.holdersLost++;
    return source.journal === "wal" && (await source.replaceHolder(this.#newHolder(fileAt(this.#path))));
  }

  async #forget(): Promise<void> {
    const source = this.#source;
    this.#source = undefined;
    this.#everything = true;
    this.#changeSeen();
    if (source?.journal === "wal") this.#counters.turns += source.log.generationsTurned;
    await source?.close();
  }

  async #open(): Promise<WalSource | RollbackSource> {
    for (let attempt = 1; ; attempt++) {
      const stat = fileAt(this.#path);
      // SQLite takes such a log for a left-over and deletes it. That is not for us to do.
      if (headerAt(this.#path) === "empty" && existsSync(`${this.#path}-wal`)) {
        throw new SourceUnusable(this.#path, "is empty, but has a log beside it");
      }
      const holder = this.#newHolder(stat);
      let followed: WalSource | undefined;
      let opened: { close(): Promise<void> } = holder;
      try {
        const { journal } = await holder.request({ op: "hold" });
        // Only now, under its lock, can the header not change any more.
        const header = headerAt(this.#path);
        let source: WalSource | RollbackSource;
        if (journal === "wal" && header !== "empty") {
          // While one holder is replaced by another, neither may vouch for what was read in between.
          const log = new FollowedLog(this.#path, header.pageSize, () => followed?.alive() ?? holder.alive());
          followed = new WalSource(holder, log, this.#options.walBytesMax ?? walBytesMaxDefault, this.#counters);
          source = followed;
          this.#takenBytes = log.bytesRead;
        } else {
          await holder.request({ op: "release" });
          source = new RollbackSource(holder, this.#path);
        }
        opened = source;
        // The same file before the holder opened it and after we did: it is the one that all three mean.
        if (source.databaseInode === stat.ino && fileAt(this.#path).ino === stat.ino) {
          this.#counters.opened++;
          return source;
        }
        await source.close();
      } catch (error) {
        await opened.close();
        if (!(error instanceof ChainBroken)) throw error;
      }
      if (attempt === openAttemptsMax) throw new SourceUnusable(this.#path, "is being replaced again and again");
    }
  }

  #newHolder(stat: Stats): HolderProcess {
    const asOwner = process.getuid?.() === 0 && stat.uid !== 0 ? { owner: { uid: stat.uid, gid: stat.gid } } : {};
    return new HolderProcess(
      { path: this.#path, busyMs, writeLockMsMax, ...asOwner },
      this.#options.holderFile ?? defaultHolderFile,
      () => {
        this.#look();
        this.#poke();
      },
    );
  }

  /** Keeps the log short and a holder in place, whether or not anybody takes views. */
  async #maintain(): Promise<void> {
    const closing = this.#closing.signal;
    let acted = false;
    while (!closing.aborted) {
      // By hand, since an aborted delay makes an error with its stack: a tenth of a millisecond for each commit.
      await new Promise<void>((resolve) => {
        const pauseMs = acted ? busyDelayMs : (this.#options.maintenanceMs ?? maintenanceDelayMs);
        const timer = setTimeout(resolve, pauseMs).unref();
        this.#poke = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      if (closing.aborted) return;
      try {
        acted = await this.#keep();
      } catch (error) {
        if (!(error instanceof ChainBroken || error instanceof UnderstudyError || isSystemError(error))) throw error;
        acted = false;
        // Whatever it is, the next view meets it too, and there somebody is told.
        this.#changeSeen();
      }
      this.#look();
    }
  }

  async #keep(): Promise<boolean> {
    const source = this.#source;
    if (source === undefined) return false;
    if (!source.alive()) {
      await this.#exclusive.run(async () => {
        if (this.#view === undefined && this.#source === source) await this.#proved();
      });
      return false;
    }
    if (source.journal === "rollback") return false;
    if (this.#mayMove()) source.log.read();
    return await source.keepShort((step) => this.#whenFree(source, step));
  }

  /**
   * Runs a step that moves the reader when no view needs it; a view that would be entered meanwhile waits, so that one
   * after the other cannot keep the log from being shortened. False when it was not run since all is different now.
   */
  async #whenFree(source: WalSource, step: () => Promise<void>): Promise<boolean> {
    const wanted = Promise.withResolvers<void>();
    this.#wanted = wanted.promise;
    try {
      while (!this.#mayMove() && !this.#closing.signal.aborted) {
        // Looked at again and again, since a view lets go by itself at the limit of its hold.
        await Promise.race([this.#viewLeft.promise, delay(maintenanceDelayMs, undefined, { ref: false })]);
      }
      return await this.#exclusive.run(async () => {
        if (!this.#mayMove() || this.#source !== source || this.#closing.signal.aborted) return false;
        this.#moving = true;
        try {
          await step();
        } finally {
          this.#moving = false;
        }
        return true;
      });
    } finally {
      this.#wanted = undefined;
      wanted.resolve();
    }
  }

  /** No view needs the log and the reader where they are. */
  #mayMove(): boolean {
    return this.#view === undefined || (this.#view instanceof WalView && this.#view.letGo());
  }

  /** After a sign of change: reads on, and wakes the agent if there is something. */
  #look(): void {
    if (this.#closing.signal.aborted) return;
    const quietMs = this.#quietUntil - performance.now();
    if (quietMs > 0) {
      this.#lookLater(quietMs);
      return;
    }
    // What comes while a view is open, or the reader moves, is looked for afterwards.
    if (this.#moving || !this.#mayMove()) return;
    if (!this.#dirty && this.#changed()) this.#changeSeen();
  }

  #changeSeen(): void {
    if (this.#dirty) return;
    this.#dirty = true;
    this.#wake();
  }

  #changed(): boolean {
    const source = this.#source;
    const begunAt = performance.now();
    try {
      if (source === undefined || !this.#inPlace(source)) return true;
      if (source.journal === "rollback") return !sameStamp(source.taken, source.stamp());
      source.log.read();
      if (source.log.bytesRead > this.#takenBytes) return true;
    } catch (error) {
      // Gone, replaced, begun anew: the next view finds out and says so.
      if (error instanceof ChainBroken || error instanceof UnderstudyError || isSystemError(error)) return true;
      throw error;
    }
    const tookMs = performance.now() - begunAt;
    // A long transaction is read again from its start at each sign until it is committed: at most a fifth of the time.
    if (tookMs > longLookMs) this.#quietUntil = performance.now() + 4 * tookMs;
    return false;
  }

  #lookLater(ms: number): void {
    if (this.#lookPlanned) return;
    this.#lookPlanned = true;
    setTimeout(() => {
      this.#lookPlanned = false;
      this.#look();
    }, ms).unref();
  }
}

/** @throws {SourceUnusable} when there is no such file: never taken for a deletion */
function fileAt(path: string): Stats {
  let stat: Stats;
  try {
    stat = statSync(path);
  } catch (error) {
    if (isSystemError(error, "ENOENT", "ENOTDIR")) throw new SourceUnusable(path, "is missing", { cause: error });
    throw new SourceUnusable(path, "cannot be looked at", { cause: error });
  }
  if (!stat.isFile()) throw new SourceUnusable(path, "is not a file");
  return stat;
}

function headerAt(path: string): DatabaseHeader | "empty" {
  let bytes = Buffer.alloc(databaseHeaderBytes);
  try {
    const file = openSync(path, "r");
    try {
      bytes = bytes.subarray(0, readSync(file, bytes, 0, bytes.length, 0));
    } finally {
      closeSync(file);
    }
  } catch (error) {
    throw new SourceUnusable(path, "cannot be read", { cause: error });
  }
  const header = parseDatabaseHeader(bytes);
  if (header === undefined) throw new SourceUnusable(path, "is not a SQLite database");
  return header;
}
