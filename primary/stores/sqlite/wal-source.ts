import type { BigIntStats } from "node:fs";
import { assert } from "../../../shared/errors.ts";
import type { FollowedLog } from "./followed-log.ts";
import type { HolderProcess } from "./holder-process.ts";
import { dueStep, turnLimits } from "./turning.ts";

/** How the lengths of the log were kept down, for people. */
export interface SqliteCounters {
  /** Generations that ended under our reader, in all. */
  turns: number;
  /** Times that writers were shut out for it. */
  turnsLocked: number;
  /** For how long, also to read a database without such a log, the last hundred: what a writer may have waited. */
  lockedMs: number[];
  /** Times that a turn was not made, since a long transaction or another reader was in the way. */
  turnsPrevented: number;
  /** Times that the reader was moved up. */
  advances: number;
  /** Holders that ended unasked, and how often the log proved that nothing was missed. */
  holdersLost: number;
  holdersReplaced: number;
  /** Times that the database was opened and nothing was known of it: 1 unless it was replaced, or the proof was lost. */
  opened: number;
  /** Views that had to compare everything. */
  everythingFound: number;
}

export function noCounts(): SqliteCounters {
  return {
    turns: 0,
    turnsLocked: 0,
    lockedMs: [],
    turnsPrevented: 0,
    advances: 0,
    holdersLost: 0,
    holdersReplaced: 0,
    opened: 0,
    everythingFound: 0,
  };
}

const lockedMsKept = 100;
const attemptsMax = 2;

export function noteLocked(counters: SqliteCounters, ms: number): void {
  counters.lockedMs = [...counters.lockedMs, ms].slice(-lockedMsKept);
}

/** A database in WAL mode: its log, read along, and the process that keeps it from being overwritten unread. */
export class WalSource {
  readonly journal = "wal";
  readonly log: FollowedLog;
  #holder: HolderProcess;
  readonly #counters: SqliteCounters;
  readonly #walBytesMax: number;
  /** False from the moment that it is not certain that the holder's reader stands. */
  #held = true;
  #grownFrom: number;
  /** Where the reader began, all may have been in the database file. */
  #anchored = false;
  #advancedAt = performance.now();
  #triedAt = Number.NEGATIVE_INFINITY;
  #lockedMs = 0;
  #prevented = 0;
  #advancesInVain = 0;

  constructor(holder: HolderProcess, log: FollowedLog, walBytesMax: number, counters: SqliteCounters) {
    this.#holder = holder;
    this.log = log;
    this.#walBytesMax = walBytesMax;
    this.#counters = counters;
    this.#grownFrom = log.bytesRead;
  }

  get pid(): number | undefined {
    return this.#holder.pid;
  }
  get databaseInode(): number {
    return this.log.databaseInode;
  }

  /** While true, nothing was lost from the log and the database file holds what the log says. */
  alive(): boolean {
    return this.#held && this.#holder.alive();
  }

  /**
   * Another holder stands in. True when the log proves that no generation ended meanwhile: then all that was committed
   * is still to be read there.
   */
  async replaceHolder(holder: HolderProcess): Promise<boolean> {
    this.#held = false;
    await this.#holder.close();
    this.#holder = holder;
    const { journal } = await holder.request({ op: "hold" });
    if (journal !== "wal" || !this.log.provesContinuity()) return false;
    this.#held = true;
    this.#anchored = false;
    this.#counters.holdersReplaced++;
    return true;
  }

  /**
   * Keeps the log short, if it is time. Each move of the reader runs by itself through `exclusively`, which answers
   * false when a view needs the reader where it is. True when something was done, so that more may be due.
   */
  async keepShort(exclusively: (step: () => Promise<void>) => Promise<boolean>): Promise<boolean> {
    const now = performance.now();
    const { log } = this;
    const step = dueStep(
      {
        logBytes: log.logBytes,
        grownBytes: log.bytesRead - this.#grownFrom,
        anchored: this.#anchored,
        sinceAdvanceMs: now - this.#advancedAt,
        sinceTurnMs: now - this.#triedAt,
        lockedMs: this.#lockedMs,
        advancesInVain: this.#advancesInVain,
        prevented: this.#prevented,
      },
      this.#walBytesMax,
    );
    if (step === "rest") return false;
    if (step === "turn") return await exclusively(() => this.#turn());
    if (!(await exclusively(() => this.#handOver()))) return false;
    if (step === "anchor") return true;
    this.#advancesInVain++;
    for (let attempt = 0; attempt < attemptsMax; attempt++) {
      const { busy, log: frames, checkpointed } = await this.#holder.request({ op: "checkpoint" });
      if (!(await exclusively(() => this.#handOver()))) return false;
      // A reader that began when all was in the file stands in nobody's way: the generation ends with the next commit.
      if (!busy && frames === checkpointed && frames === (log.position?.frame ?? 0)) {
        this.#advancesInVain = 0;
        this.#anchored = false;
        break;
      }
    }
    return true;
  }

  stat(): BigIntStats {
    return this.log.stat();
  }

  /** Nobody stands for the log any more, which stays as it is. */
  async letGo(): Promise<void> {
    this.#held = false;
    await this.#holder.kill();
  }

  async close(): Promise<void> {
    this.log.close();
    await this.#holder.close();
  }

  /** The rule of `FollowedLog`: a new reader begins, the log is read to its end, the old reader lets go. */
  async #handOver(): Promise<void> {
    await this.#orDoubt(async () => {
      await this.#holder.request({ op: "second" });
      this.log.read();
      await this.#holder.request({ op: "swap" });
    });
    this.#moved();
    this.#anchored = true;
    this.#counters.advances++;
  }

  async #turn(): Promise<void> {
    this.log.read();
    const from = this.log.position;
    if (from === undefined) return;
    const result = await this.#orDoubt(() =>
      this.#holder.request({ op: "turn", from, ...turnLimits(this.#prevented) }),
    );
    assert(this.log.position === from, "nobody reads the log on while the holder does");
    this.log.absorb(result.commits, result.end);
    this.#moved();
    this.#anchored = !result.complete;
    if (result.lockedMs > 0) {
      this.#counters.turnsLocked++;
      noteLocked(this.#counters, result.lockedMs);
      this.#lockedMs = result.lockedMs;
    }
    this.#triedAt = performance.now();
    if (result.complete) this.#prevented = 0;
    else {
      this.#prevented++;
      this.#counters.turnsPrevented++;
    }
  }

  /** A step that fails leaves it open whether a reader still stands: the holder is replaced. */
  async #orDoubt<T>(step: () => Promise<T>): Promise<T> {
    try {
      return await step();
    } catch (error) {
      this.#held = false;
      throw error;
    }
  }

  #moved(): void {
    this.log.handedOver();
    this.#grownFrom = this.log.bytesRead;
    this.#advancedAt = performance.now();
  }
}
