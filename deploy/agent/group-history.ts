import { choosePoint } from "../../replica/history/choose-point.ts";
import type { CutRecord } from "../../shared/catalog/catalog.ts";
import {
  cutIdOf,
  cutRef,
  jsonNumber,
  type RestoreAnswer,
  type RestoreOptions,
  type VerifyAnswer,
  type VerifyOptions,
} from "../control/api.ts";
import type { HistoryMainCalls, HistoryWorkerCalls } from "../workers/history-worker.ts";
import { excludesOf, placementOf } from "../workers/store-adapters.ts";
import { type GroupWorkers, WrongRole } from "./group-workers.ts";
import { namedPath } from "./source-status.ts";
import { WorkerThread } from "./worker-thread.ts";

type HistoryWorker = WorkerThread<HistoryMainCalls, HistoryWorkerCalls>;

/** Reads what a replica has and had: its recovery points, and whether the copy is what the manifest says. */
export class GroupHistory {
  readonly #workers: GroupWorkers;

  constructor(workers: GroupWorkers) {
    this.#workers = workers;
  }

  async points(): Promise<readonly CutRecord[]> {
    return (await this.#workers.replica?.call("points", undefined)) ?? [];
  }

  async restore(options: RestoreOptions, signal?: AbortSignal): Promise<RestoreAnswer> {
    const points = await this.points();
    const wanted =
      "cut" in options.at ? { cut: cutIdOf(options.at.cut) } : { timeUs: Date.parse(options.at.time) * 1000 };
    const point = choosePoint(points, wanted);
    return await this.#read(point.cut.seq, signal, async (worker) => {
      const restored = await worker.call("restore", { at: point.cut.seq, to: options.to, only: options.only });
      return {
        cut: { ...cutRef(point.cut), takenAt: new Date(point.takenAtUs / 1000).toISOString() },
        to: options.to,
        files: restored.files,
        bytes: restored.bytes,
      };
    });
  }

  async verify(options: VerifyOptions, signal?: AbortSignal): Promise<VerifyAnswer> {
    const workers = this.#workers;
    const begun = performance.now();
    await workers.refresh();
    const applied = workers.replicaStanding?.applied ?? 0n;
    return await this.#read(applied, signal, async (worker) => {
      const verified = await worker.call("verify", { at: applied, quick: options.quick });
      const cut = workers.replicaStanding?.committed;
      // The stamps of a file say nothing of a disk that forgets: what was read and differs is repaired as well.
      if (verified.differenceCount > 0)
        await workers.replica?.call(
          "differs",
          verified.differences
            .filter(({ what }) => what !== "digest")
            .map(({ store, path, what }) => ({ store, path, what: `differs in ${what}` })),
        );
      const ok = verified.differenceCount === 0 && verified.digestEqual;
      if (!options.quick) {
        await workers.lastVerified.note(ok);
        workers.following?.acknowledgeAgain();
      }
      return {
        ok,
        cut: { epoch: jsonNumber(cut?.epoch ?? 0n), seq: jsonNumber(verified.at) },
        quick: options.quick,
        files: verified.files,
        bytes: verified.bytes,
        seconds: (performance.now() - begun) / 1000,
        differences: verified.differences.map(({ store, path, what, detail }) => ({
          store,
          what: detail === "" ? what : `${what}: ${detail}`,
          ...namedPath(path),
        })),
        differencesTotal: verified.differenceCount,
      };
    });
  }

  /** After a promotion the service writes over what recovery points were read from: their files go, beside everything else. */
  discard(): void {
    const { log } = this.#workers;
    this.#inThread(async (worker) => await worker.call("discard", undefined)).then(
      (files) => log.info("history.discarded", { files }),
      (error: unknown) => log.warn("history.left", { error }),
    );
  }

  /** While apply goes on; the point is kept meanwhile. */
  async #read<T>(at: bigint, signal: AbortSignal | undefined, use: (worker: HistoryWorker) => Promise<T>): Promise<T> {
    const { replica, role } = this.#workers;
    if (replica === undefined || role === "unformed" || role === "fenced")
      throw new WrongRole("a replica has points and a copy to verify", role);
    await replica.call("pin", { seq: at });
    try {
      return await this.#inThread(use, signal);
    } finally {
      if (this.#workers.replica === replica) await replica.call("unpin", { seq: at });
    }
  }

  async #inThread<T>(use: (worker: HistoryWorker) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const { log, config, catalogPath, stores } = this.#workers;
    const worker: HistoryWorker = new WorkerThread<HistoryMainCalls, HistoryWorkerCalls>(
      "history-worker",
      {},
      (error) => log.error("history.failed", { error }),
    );
    const cancel = (): void => worker.note("cancel", undefined);
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      const placements = stores.map(placementOf);
      await worker.call("open", { groupName: config.name, catalogPath, placements, exclude: excludesOf(stores) });
      return await use(worker);
    } finally {
      signal?.removeEventListener("abort", cancel);
      await worker.close();
    }
  }
}
