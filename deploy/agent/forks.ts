import { readdir } from "node:fs/promises";
import type { ForkRecord } from "../../replica/rejoin/fork-bundle.ts";
import { groupOfFork } from "../../replica/rejoin/fork-bundle.ts";
import { isSystemError } from "../../shared/errors.ts";
import type { Log } from "../../shared/log.ts";
import { cutRefText } from "../control/api.ts";
import type {
  Caller,
  DropAnswer,
  ExportAnswer,
  ExportOptions,
  ForkAnswer,
  ForkDescription,
  ForkHandler,
  ForksAnswer,
} from "../control/fork-answers.ts";
import { forksDirectory, forksRoot } from "../control/state-layout.ts";
import type { ForkMainCalls, ForkWorkerCalls } from "../workers/fork-worker.ts";
import { RemoteError } from "../workers/port-peer.ts";
import type { EventLog } from "./event-log.ts";
import { namedPath } from "./source-status.ts";
import { WorkerThread } from "./worker-thread.ts";

type ForkWorker = WorkerThread<ForkMainCalls, ForkWorkerCalls>;

/** Paths that are shown of a fork: an export has all of them. */
const pathsShownMax = 1000;

/** The forks that are kept on this node. */
export class Forks implements Omit<ForkHandler, "rejoin"> {
  readonly #stateDirectory: string;
  readonly #log: Log;
  readonly #events: EventLog;
  readonly #names = new Map<string, readonly string[]>();

  constructor(stateDirectory: string, log: Log, events: EventLog) {
    this.#stateDirectory = stateDirectory;
    this.#log = log;
    this.#events = events;
  }

  /** Of one group, as of the last `refresh`; the oldest first. */
  names(group: string): readonly string[] {
    return this.#names.get(group) ?? [];
  }

  /** Where the bundles of a group are. */
  directory(group: string): string {
    return forksDirectory(this.#stateDirectory, group);
  }

  async refresh(group: string): Promise<void> {
    try {
      const names = await readdir(this.directory(group));
      this.#names.set(group, names.filter((name) => groupOfFork(name) === group).toSorted(byCut));
    } catch (error) {
      if (!isSystemError(error, "ENOENT")) throw error;
      this.#names.delete(group);
    }
  }

  async forks(): Promise<ForksAnswer> {
    const all = await this.#inThread(async (worker) => await worker.call("list", { root: this.#root }));
    const forks = all.flatMap((item) => ("problem" in item ? [] : [description(item)]));
    return { forks, damaged: all.flatMap((item) => ("problem" in item ? [item] : [])) };
  }

  async showFork(name: string): Promise<ForkAnswer> {
    const root = this.#root;
    const { fork, paths } = await this.#inThread(
      async (worker) => await worker.call("show", { root, name, pathsMax: pathsShownMax }),
    );
    return {
      fork: description(fork),
      paths: paths.map(({ store, path, what, entry }) => ({
        store,
        ...namedPath(path),
        what,
        ...(entry === undefined ? {} : { type: entry.type, size: entry.size, content: entry.content }),
      })),
    };
  }

  async exportFork(name: string, { to }: ExportOptions, signal?: AbortSignal): Promise<ExportAnswer> {
    const root = this.#root;
    const done = await this.#inThread(async (worker) => await worker.call("export", { root, name, to }), signal);
    const { files, bytes, metadataPartial } = done;
    return { name, to, files, bytes, metadataPartial };
  }

  async dropFork(name: string, { by = "" }: Caller = {}): Promise<DropAnswer> {
    const fork = await this.#describe(name);
    await this.#inThread(async (worker) => await worker.call("drop", { root: this.#root, name }));
    const group = groupOfFork(name) ?? "";
    await this.refresh(group);
    this.#log.warn("fork.dropped", { group, name, by });
    const cuts = fork === null ? {} : { common: cutRefText(fork.common), last: cutRefText(fork.last) };
    await this.#events.append("fork.dropped", { group, name, ...cuts, by });
    return { name, fork };
  }

  /** Null where it cannot be read any more. */
  async #describe(name: string): Promise<ForkDescription | null> {
    try {
      return (await this.showFork(name)).fork;
    } catch (error) {
      if (error instanceof RemoteError && error.code === "FORK_DAMAGED") return null;
      throw error;
    }
  }

  get #root(): string {
    return forksRoot(this.#stateDirectory);
  }

  async #inThread<T>(use: (worker: ForkWorker) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const worker: ForkWorker = new WorkerThread<ForkMainCalls, ForkWorkerCalls>("fork-worker", {}, (error) =>
      this.#log.error("forks.failed", { error }),
    );
    const cancel = (): void => worker.note("cancel", undefined);
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      return await use(worker);
    } finally {
      signal?.removeEventListener("abort", cancel);
      await worker.close();
    }
  }
}

export function description({
  name,
  group,
  node,
  madeAt,
  common,
  last,
  epochs,
  promotion,
  counts,
}: ForkRecord): ForkDescription {
  return { name, group, node, madeAt, common, last, epochs, promotion, counts };
}

/** The time at the end of the name. */
function byCut(a: string, b: string): number {
  const time = (name: string): string => name.slice(name.lastIndexOf("-"));
  return time(a) < time(b) ? -1 : time(a) > time(b) ? 1 : 0;
}
