import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { PrimaryContext } from "../../../primary/primary-context.ts";
import type { ReplicaSink } from "../../../primary/ship/shipment.ts";
import { applyNext, markSuspect, recoverApply } from "../../../replica/apply/apply.ts";
import { ForeignChange } from "../../../replica/apply/locate.ts";
import { restore } from "../../../replica/history/restore.ts";
import { verify } from "../../../replica/history/verify.ts";
import { stageFromCopy } from "../../../replica/receive/adopt.ts";
import type { Receiver } from "../../../replica/receive/receive.ts";
import { recoverStaging, stagedRunDigests } from "../../../replica/receive/resume.ts";
import { askedOfPrimary } from "../../../replica/repair/damage.ts";
import { type RepairEvents, Repairing, strangersCodes } from "../../../replica/repair/repairing.ts";
import type { ReplicaContext } from "../../../replica/replica-context.ts";
import { isSystemError } from "../../../shared/errors.ts";
import type { Disk } from "../../../shared/ports/disk.ts";
import type { Seq } from "../../../shared/words.ts";
import { describeTree } from "../../model/describe-tree.ts";
import { commit, cutInto, openPrimary, openReplica, receiverOf, sinkInto } from "../../model/in-process.ts";
import { ModelSource } from "../../model/model-store.ts";
import { UnsyncedDisk } from "../history/history-group.ts";

/** A primary with a model of a tree and a replica on a real disk, where a stranger can do what he wants. */
export class RepairGroup {
  readonly directory = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "understudy-repair-"));
  readonly copy = join(this.directory, "copy");
  readonly source = new ModelSource();
  readonly primary: PrimaryContext;
  replica: ReplicaContext;
  receiver: Receiver;
  repairing: Repairing;
  /** What the source was at each cut. */
  readonly described = new Map<Seq, Record<string, string>>();
  readonly told: string[] = [];
  excluded = (_path: string): boolean => false;
  shippedBytes = 0;
  nowMs = 0;
  readonly #disk: Disk;
  #restores = 0;

  constructor(disk: Disk = new UnsyncedDisk()) {
    this.#disk = disk;
    this.primary = openPrimary(join(this.directory, "primary.db"), { tree: this.source.adapter() });
    ({ replica: this.replica, receiver: this.receiver, repairing: this.repairing } = this.#open());
  }

  #open(): { replica: ReplicaContext; receiver: Receiver; repairing: Repairing } {
    const path = join(this.directory, "replica.db");
    const replica = openReplica(path, this.#disk, { tree: this.copy }, { limits: { inlineBytesMax: 16384 } });
    const tell =
      (what: string) =>
      (...rest: unknown[]): void => {
        this.told.push(`${what} ${JSON.stringify(rest)}`);
      };
    const events: RepairEvents = {
      suspectChanged: () => {},
      damaged: tell("damaged"),
      mended: tell("mended"),
      lost: tell("lost"),
      putAside: tell("put aside"),
      again: tell("again"),
    };
    const repairing = new Repairing(replica, (_store, inner) => this.excluded(inner), events);
    return { replica, receiver: receiverOf(replica), repairing };
  }

  /** The ordinary start, which is the recovery; `meanwhile` happens while nobody runs. */
  reopen(meanwhile: () => void = () => {}): void {
    this.receiver.abort();
    this.replica.catalog.close();
    for (const home of this.replica.homes.values()) home.close();
    meanwhile();
    ({ replica: this.replica, receiver: this.receiver, repairing: this.repairing } = this.#open());
    recoverStaging(this.replica);
    recoverApply(this.replica);
  }

  [Symbol.dispose](): void {
    this.primary.catalog.close();
    this.replica.catalog.close();
    for (const home of this.replica.homes.values()) home.close();
    rmSync(this.directory, { recursive: true, force: true });
  }

  get suspect(): string {
    return this.replica.catalog.standing.suspect;
  }

  sink(): ReplicaSink {
    const sink = sinkInto(this.replica, this.receiver);
    const { send } = sink;
    return {
      ...sink,
      damaged: askedOfPrimary(this.replica),
      send: async (message, payload) => {
        this.shippedBytes += payload.length;
        await send(message, payload);
      },
      stagedRuns: async (asked) => {
        stageFromCopy(this.replica, asked);
        return stagedRunDigests(this.replica, asked.object);
      },
    };
  }

  /** One cut, to its commit. */
  async ship(sink = this.sink()): Promise<Seq> {
    const { cut } = await cutInto(this.primary, [sink]);
    commit(this.replica, this.receiver);
    this.described.set(cut.seq, this.source.describe());
    return cut.seq;
  }

  /** False when something has to wait for a repair. */
  apply(): boolean {
    try {
      while (applyNext(this.replica, true) !== undefined);
      return true;
    } catch (error) {
      // As the agent does: a stranger who is quicker than we are makes the copy suspect.
      if (isSystemError(error, ...strangersCodes) && this.replica.catalog.standing.applying !== undefined)
        markSuspect(this.replica, error.message);
      else if (!(error instanceof ForeignChange)) throw error;
      for (const home of this.replica.homes.values()) home.tree.forget();
      return false;
    }
  }

  async cut(): Promise<Seq> {
    const at = await this.ship();
    this.apply();
    return at;
  }

  /** What the worker does each minute and each second. */
  look(): void {
    for (const _step of this.repairing.sweep(() => this.nowMs));
    this.mend();
  }

  mend(): void {
    this.nowMs += 4 * 3600_000;
    for (const _step of this.repairing.mend(() => this.nowMs));
  }

  /** Until nothing is damaged any more. */
  async repair(roundsMax = 5): Promise<void> {
    this.look();
    for (let round = 0; this.suspect !== ""; round++) {
      if (round === roundsMax) throw new Error(`still suspect after ${round} rounds: ${this.suspect}`);
      await this.cut();
      this.mend();
    }
    this.look();
  }

  copied(): Record<string, string> {
    return describeTree(this.copy);
  }

  async differences(): Promise<string[]> {
    const signal = new AbortController().signal;
    const found = await verify(this.replica, {}, () => {}, signal);
    return found.differences.map(({ path, what }) => `${path}: ${what}`);
  }

  async restored(at: Seq): Promise<Record<string, string>> {
    const to = join(this.directory, `restored-${++this.#restores}`);
    await restore(this.replica, { at, to }, () => {}, new AbortController().signal);
    return describeTree(join(to, "tree"));
  }

  aside(): string[] {
    const { disk, homes } = this.replica;
    return [...homes.values()].flatMap((home) => disk.list(home.strangers));
  }

  asidePath(name: string): string {
    return join(this.directory, ".understudy", "app.tree", "strangers", name);
  }
}
