import { closeSync, fdatasyncSync, openSync } from "node:fs";
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { assert, isSystemError, UnderstudyError } from "../errors.ts";
import type { Paused } from "../session/paused.ts";
import type { SwitchoverRecord } from "../session/switchover.ts";
import type { CutStore } from "../wire/messages.ts";
import {
  type Coherency,
  type CutId,
  type Epoch,
  epoch,
  type GroupId,
  type ObjectId,
  type Role,
  type Seq,
  seq,
} from "../words.ts";
import { catalogProblem } from "./catalog-errors.ts";
import { catalogVersion, migrations, schema } from "./schema.ts";

/** The catalog cannot be read, or is of another version. */
class CatalogUnusable extends UnderstudyError {
  readonly code = "CATALOG_UNUSABLE";
  readonly remedy = "stop";
  readonly state = "Nothing was changed; the copy itself is not concerned.";
  readonly hint =
    "Run the version of understudy that wrote it, or move catalog.db aside: the copy is then compared anew.";
}

/** What a node is in its group, durably. */
export interface Standing {
  readonly groupId: GroupId | "";
  readonly role: Role;
  readonly epoch: Epoch;
  /** First seq of each epoch known here, oldest first. */
  readonly epochs: readonly { readonly epoch: bigint; readonly firstSeq: bigint }[];
  /** The highest epoch ever heard of. */
  readonly epochSeen: Epoch;
  /** The last cut whose rows are visible: taken (primary) or committed (replica). */
  readonly committed: CutId;
  readonly applied: Seq;
  /** Set digest as of `committed`. */
  readonly digest: Uint8Array;
  /** A batch is being written into the copy: redo it, without saving images. `although`: somebody accepted that. */
  readonly applying: { readonly from: Seq; readonly to: Seq; readonly although?: "suspect" } | undefined;
  /** Nothing is committed from then on: a promotion has begun. */
  readonly sealed: boolean;
  /** Why the copy is not to be trusted as it stands; "" when it is. */
  readonly suspect: string;
  /** Why the group stands still until a person acts; "" when it does not. */
  readonly halted: string;
  readonly nextObject: number;
  readonly lastTakenAtUs: number;
  readonly generation: bigint;
  /** A planned promotion of another node that this primary leads. */
  readonly switchover: SwitchoverRecord | undefined;
  /** The boot and the reign in which this primary was last known to be the only one; "" when never. */
  readonly confirmed: string;
  /** What a person has paused. */
  readonly paused: Paused | undefined;
}

const initial: Standing = {
  groupId: "",
  role: "unformed",
  epoch: epoch(0),
  epochs: [],
  epochSeen: epoch(0),
  committed: { epoch: epoch(0), seq: seq(0) },
  applied: seq(0),
  digest: new Uint8Array(32),
  applying: undefined,
  sealed: false,
  suspect: "",
  halted: "",
  nextObject: 1,
  lastTakenAtUs: 0,
  generation: 0n,
  switchover: undefined,
  confirmed: "",
  paused: undefined,
};

export interface CutRecord {
  readonly cut: CutId;
  readonly incarnation: string;
  readonly base: Seq;
  readonly takenAtUs: number;
  readonly state: "receiving" | "committed" | "applied";
  readonly digest: Uint8Array;
  readonly coherency: Coherency;
  readonly stores: readonly CutStore[];
  readonly payloadBytes: number;
  readonly freezeMs: number;
  readonly committedAtUs: number;
  readonly appliedAtUs: number;
  readonly point: boolean;
}

/** Called around every commit; the crash matrix throws from it. `durable`: the power may fail and it stands. */
export type CommitObserver = (when: "before" | "after", purpose: string, durable: boolean) => void;

/**
 * The one transaction log of a group on a node (SQLite: WAL, synchronous=FULL). A single connection writes; it belongs
 * to one worker. Rows written between `begin` and `commit` become durable together.
 */
export class Catalog {
  readonly db: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  #standing: Standing;
  #open = false;
  #newObjects = 0;
  /** A part of the open transaction can be taken back. */
  #marked = false;
  #standingBefore: Standing;
  /** Commits are not synced at present. */
  #unsynced = false;
  readonly #synchronous: "FULL" | "OFF";
  readonly #observer: CommitObserver | undefined;
  readonly #readOnly: boolean;

  /** `readOnly`: beside the connection that writes, in another thread; `standing` is then read anew each time. */
  constructor(
    path: string,
    options: { observer?: CommitObserver; synchronous?: "FULL" | "OFF"; readOnly?: boolean } = {},
  ) {
    this.#observer = options.observer;
    this.#readOnly = options.readOnly ?? false;
    this.#synchronous = options.synchronous ?? "FULL";
    if (!this.#readOnly && this.#synchronous === "FULL") syncLeftLog(path);
    this.db = new DatabaseSync(path, { readOnly: this.#readOnly });
    try {
      if (this.#readOnly) {
        const version = Number(this.get("PRAGMA user_version")?.user_version ?? 0);
        if (version !== catalogVersion)
          throw new CatalogUnusable(`catalog ${path} has version ${version}, this program knows ${catalogVersion}`);
        this.#standing = this.#readStanding();
        this.#standingBefore = this.#standing;
        return;
      }
      this.db.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = ${this.#synchronous};
        PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY;`);
      const version = Number(this.get("PRAGMA user_version")?.user_version ?? 0);
      if (version === 0) {
        this.db.exec(`BEGIN IMMEDIATE; ${schema} PRAGMA user_version = ${catalogVersion}; COMMIT;`);
      } else {
        for (let at = version; at < catalogVersion; at++) this.#migrate(path, at);
        if (version > catalogVersion)
          throw new CatalogUnusable(`catalog ${path} has version ${version}, this program knows ${catalogVersion}`);
      }
      this.#standing = this.#readStanding();
      this.#standingBefore = this.#standing;
    } catch (error) {
      this.db.close();
      if (error instanceof UnderstudyError) throw error;
      throw catalogProblem(error) ?? new CatalogUnusable(`cannot open catalog ${path}`, { cause: error });
    }
  }

  #migrate(path: string, version: number): void {
    const change = migrations.get(version);
    if (change === undefined) throw new CatalogUnusable(`catalog ${path} has version ${version}, which is too old`);
    this.db.exec(`BEGIN IMMEDIATE; ${change} PRAGMA user_version = ${version + 1}; COMMIT;`);
  }

  close(): void {
    if (this.#open) this.rollback();
    this.db.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  get standing(): Standing {
    return this.#readOnly ? this.#readStanding() : this.#standing;
  }

  /** Statements are prepared once; `sql` is a literal of the program. */
  statement(sql: string): StatementSync {
    let found = this.#statements.get(sql);
    if (found === undefined) {
      found = this.db.prepare(sql);
      this.#statements.set(sql, found);
    }
    return found;
  }

  get(sql: string, ...values: SQLInputValue[]): Record<string, unknown> | undefined {
    return this.statement(sql).get(...values) as Record<string, unknown> | undefined;
  }

  all(sql: string, ...values: SQLInputValue[]): Record<string, unknown>[] {
    return this.statement(sql).all(...values) as Record<string, unknown>[];
  }

  run(sql: string, ...values: SQLInputValue[]): void {
    this.statement(sql).run(...values);
  }

  /** Beside the connection that writes, whose work goes on meanwhile. */
  get readOnly(): boolean {
    return this.#readOnly;
  }

  get inTransaction(): boolean {
    return this.#open;
  }

  /** Opens a transaction unless one is open. */
  begin(): void {
    if (this.#open) return;
    assert(!this.#readOnly, "a catalog that was opened to be read is not written");
    this.db.exec("BEGIN IMMEDIATE");
    this.#standingBefore = this.#standing;
    this.#open = true;
  }

  /** Makes everything since `begin` durable; `purpose` names the step for the crash matrix and the trace. */
  commit(purpose: string): void {
    this.#observer?.("before", purpose, true);
    this.#endTransaction();
    if (this.#unsynced) this.#syncLog();
    this.#observer?.("after", purpose, true);
  }

  /**
   * Ends the transaction without waiting for the disk. A power failure may take it back, whole, until a later `commit`
   * has made everything before it durable; other connections and a killed program's next start see it.
   */
  commitUnsynced(purpose: string): void {
    this.#observer?.("before", purpose, false);
    this.#endTransaction();
    // How a transaction is synced is decided before it begins: the first of a row of them is synced still.
    if (!this.#unsynced && this.#synchronous === "FULL") this.db.exec("PRAGMA synchronous = NORMAL");
    this.#unsynced = true;
    this.#observer?.("after", purpose, false);
  }

  /**
   * Begins a transaction whose commit is synced, and with it all that came before; what is open goes before it, unsynced.
   */
  beginSynced(purpose: string): void {
    if (this.#unsynced) {
      if (this.#open) this.commitUnsynced(purpose);
      if (this.#synchronous === "FULL") this.db.exec("PRAGMA synchronous = FULL");
      this.#unsynced = false;
    }
    this.begin();
  }

  #endTransaction(): void {
    assert(this.#open, "commit without begin");
    if (this.#newObjects > 0) this.stand({ nextObject: this.#standing.nextObject + this.#newObjects });
    this.#newObjects = 0;
    this.db.exec("COMMIT");
    this.#open = false;
    this.#marked = false;
  }

  /** A synced commit syncs the whole log, and with it all that came before. */
  #syncLog(): void {
    if (this.#synchronous === "FULL") this.db.exec("PRAGMA synchronous = FULL");
    // A page that was written to is logged, whatever it comes to; an update that changes nothing would not be.
    this.db.exec("BEGIN IMMEDIATE");
    try {
      this.run("INSERT OR REPLACE INTO standing (key, value) VALUES ('logSynced', 0)");
      this.run("DELETE FROM standing WHERE key = 'logSynced'");
      this.db.exec("COMMIT");
    } catch (error) {
      if (this.db.isTransaction) this.db.exec("ROLLBACK");
      throw error;
    }
    this.#unsynced = false;
  }

  rollback(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#marked = false;
    this.#newObjects = 0;
    this.#standing = this.#standingBefore;
    // SQLite has rolled back by itself after some failures (a full disk): then there is nothing left to end.
    if (this.db.isTransaction) this.db.exec("ROLLBACK");
  }

  /** One transaction of its own around `change`; nothing of it remains when it throws. */
  transaction<T>(purpose: string, change: () => T): T {
    assert(!this.#open, `transaction "${purpose}" within another`);
    this.begin();
    try {
      const result = change();
      this.commit(purpose);
      return result;
    } catch (error) {
      this.rollback();
      throw error;
    }
  }

  /**
   * A transaction that is durable on return, also between two steps of one that is open: what that has so far goes before
   * it, and it goes on in another one.
   */
  transactionBetween(purpose: string, change: () => void): void {
    if (!this.#open) {
      this.transaction(purpose, change);
      return;
    }
    this.commit("rows");
    try {
      this.transaction(purpose, change);
    } finally {
      this.begin();
    }
  }

  /** From here on the open transaction can be taken back for a part: `takeBack` or `keep` ends it. */
  mark(): void {
    assert(this.#open && !this.#marked, "one part of an open transaction is marked at a time");
    this.run("SAVEPOINT part");
    this.#marked = true;
  }

  keep(): void {
    if (this.#marked) this.run("RELEASE part");
    this.#marked = false;
  }

  /** False where what was marked was committed by now, and stays. */
  takeBack(): boolean {
    if (!this.#marked) return false;
    this.run("ROLLBACK TO part");
    this.keep();
    return true;
  }

  /**
   * A number for a new object, within a transaction. The next free one is written down by the commit: a row of standing
   * for each would cost as much as the object's own.
   */
  newObject(): ObjectId {
    assert(this.#open, "objects are numbered within a transaction");
    return (this.#standing.nextObject + this.#newObjects++) as ObjectId;
  }

  /** Changes standing within the open transaction. */
  stand(change: Partial<Standing>): void {
    assert(this.#open, "standing changes within a transaction");
    this.#standing = { ...this.#standing, ...change };
    for (const key of Object.keys(change) as (keyof Standing)[]) {
      this.run("INSERT OR REPLACE INTO standing (key, value) VALUES (?, ?)", key, encode(this.#standing[key]));
    }
  }

  #readStanding(): Standing {
    const result: Record<string, unknown> = { ...initial };
    for (const row of this.all("SELECT key, value FROM standing")) {
      const key = String(row.key);
      if (key in initial) result[key] = decode(String(row.value));
    }
    return result as unknown as Standing;
  }

  /** The number of a store in this catalog, given at its first use. Within a transaction when it may be new. */
  storeNumber(name: string, kind: string): number {
    const found = this.knownStoreNumber(name);
    if (found !== undefined) return found;
    this.run("INSERT INTO stores (name, kind) VALUES (?, ?)", name, kind);
    return this.knownStoreNumber(name)!;
  }

  /** Undefined before the store's first use. */
  knownStoreNumber(name: string): number | undefined {
    const found = this.get("SELECT number FROM stores WHERE name = ?", name);
    return found === undefined ? undefined : Number(found.number);
  }

  storeNames(): Map<number, string> {
    return new Map(this.all("SELECT number, name FROM stores").map((row) => [Number(row.number), String(row.name)]));
  }

  recordCut(record: CutRecord): void {
    this.run(
      `INSERT OR REPLACE INTO cuts (seq, epoch, incarnation, base_seq, taken_at_us, state, digest, coherency, stores,
        payload_bytes, freeze_ms, committed_at_us, applied_at_us, point) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
      record.cut.seq,
      record.cut.epoch,
      record.incarnation,
      record.base,
      record.takenAtUs,
      record.state,
      record.digest,
      record.coherency,
      JSON.stringify(record.stores),
      record.payloadBytes,
      record.freezeMs,
      record.committedAtUs,
      record.appliedAtUs,
      record.point ? 1 : 0,
    );
  }

  cut(at: Seq): CutRecord | undefined {
    const row = this.get("SELECT * FROM cuts WHERE seq = ?", at);
    return row === undefined ? undefined : cutRecord(row);
  }

  cuts(where: "receiving" | "committed" | "applied" | "point"): CutRecord[] {
    const rows =
      where === "point"
        ? this.all("SELECT * FROM cuts WHERE point = 1 ORDER BY seq")
        : this.all("SELECT * FROM cuts WHERE state = ? ORDER BY seq", where);
    return rows.map(cutRecord);
  }

  /** How many recovery points there are, and when the oldest was taken; 0 where there is none. */
  pointSummary(): { readonly pointCount: number; readonly oldestPointUs: number } {
    return {
      pointCount: Number(this.get("SELECT count(*) AS n FROM cuts WHERE point = 1")?.n ?? 0),
      oldestPointUs: Number(this.get("SELECT min(taken_at_us) AS at FROM cuts WHERE point = 1")?.at ?? 0),
    };
  }

  unappliedBytes(): number {
    const { committed, applied } = this.#standing;
    if (committed.seq === applied) return 0;
    // By seq, since the cuts of all recovery points are there: looked through whole, they would cost more than a commit.
    const sum = "SELECT coalesce(sum(payload_bytes),0) AS n FROM cuts WHERE seq > ? AND state = 'committed'";
    return Number(this.get(sum, applied)?.n ?? 0);
  }

  event(name: string, detail: Record<string, unknown>, atUs: number): void {
    this.run("INSERT INTO events (at_us, name, detail) VALUES (?, ?, ?)", atUs, name, encode(detail));
  }

  /** Copies the WAL back into the database; called when idle, since a committing connection must not pay for it. */
  checkpoint(): void {
    if (!this.#open) this.db.exec("PRAGMA wal_checkpoint(PASSIVE)");
  }
}

function cutRecord(row: Record<string, unknown>): CutRecord {
  return {
    cut: { epoch: epoch(Number(row.epoch)), seq: seq(Number(row.seq)) },
    incarnation: String(row.incarnation),
    base: seq(Number(row.base_seq)),
    takenAtUs: Number(row.taken_at_us),
    state: row.state as CutRecord["state"],
    digest: row.digest === null ? new Uint8Array(0) : (row.digest as Uint8Array),
    coherency: (row.coherency ?? "independent") as Coherency,
    stores: row.stores === null ? [] : (JSON.parse(String(row.stores)) as CutStore[]),
    payloadBytes: Number(row.payload_bytes),
    freezeMs: Number(row.freeze_ms),
    committedAtUs: Number(row.committed_at_us ?? 0),
    appliedAtUs: Number(row.applied_at_us ?? 0),
    point: row.point === 1,
  };
}

/** JSON with bigints and bytes tagged, for the few values of standing and events. */
function encode(value: unknown): string {
  if (value === undefined) return "null";
  return JSON.stringify(value, (_key, item: unknown) => {
    if (typeof item === "bigint") return { $bigint: item.toString() };
    if (item instanceof Uint8Array) return { $bytes: Buffer.from(item).toString("base64") };
    return item;
  });
}

function decode(text: string): unknown {
  const value: unknown = JSON.parse(text, (_key, item: unknown) => {
    if (typeof item === "object" && item !== null) {
      if ("$bigint" in item) return BigInt(String(item.$bigint));
      if ("$bytes" in item) return new Uint8Array(Buffer.from(String(item.$bytes), "base64"));
    }
    return item;
  });
  return value ?? undefined;
}

/**
 * A process that was killed between writing a commit and syncing it leaves one that is read as if it stood, and that a
 * power failure would still take back: nothing may be acknowledged, nor removed, because of it.
 */
function syncLeftLog(path: string): void {
  try {
    const log = openSync(`${path}-wal`, "r");
    try {
      fdatasyncSync(log);
    } finally {
      closeSync(log);
    }
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return;
    throw new CatalogUnusable(`cannot sync the log of catalog ${path}`, { cause: error });
  }
}
