import { setTimeout as sleep } from "node:timers/promises";
import type { ScrubConfig, StoreOnNode } from "../../shared/config/config.ts";
import { readJsonFile, replaceFile } from "../../shared/durable/durable-files.ts";
import type { Log } from "../../shared/log.ts";
import type { ObjectId } from "../../shared/words.ts";
import type { ScrubMainCalls, ScrubWorkerCalls } from "../workers/scrub-worker.ts";
import { isScrubbed } from "../workers/store-adapters.ts";
import { decodeScrubState, type ScrubState } from "./scrub-state.ts";
import { namedPath } from "./source-status.ts";
import { WorkerThread } from "./worker-thread.ts";

const lookEveryMsMax = 3600_000;
const saveEveryMs = 10_000;

export interface ScrubbingOptions {
  readonly scrub: ScrubConfig;
  readonly stores: readonly StoreOnNode[];
  readonly catalogPath: string;
  /** How far it is, over restarts. */
  readonly statePath: string;
  readonly log: Log;
  /** The content of this object is not what was shipped, though its stamps are the same. */
  readonly onDiffers: (object: ObjectId) => void;
}

/** Has everything on the primary read again within a time, gently, in a thread of its own. */
export class Scrubbing {
  readonly #options: ScrubbingOptions;
  readonly #stopping = new AbortController();
  #states: Record<string, ScrubState> = {};
  #savedAt = Number.NEGATIVE_INFINITY;
  #worker: WorkerThread<ScrubMainCalls, ScrubWorkerCalls> | undefined;
  #ended: Promise<void> | undefined;

  constructor(options: ScrubbingOptions) {
    this.#options = options;
  }

  state(store: string): ScrubState | undefined {
    return this.#states[store];
  }

  start(): void {
    this.#ended = this.#loop().catch((error: unknown) => {
      // Nothing depends on it but this: the group goes on, and the next start tries again.
      if (!this.#stopping.signal.aborted) this.#options.log.error("scrub.failed", { error });
    });
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new Error("the scrub was ended"));
    this.#worker?.note("cancel", undefined);
    await this.#ended;
  }

  async #loop(): Promise<void> {
    const { scrub, stores, statePath } = this.#options;
    const scrubbed = stores.filter(isScrubbed);
    if (scrubbed.length === 0) return;
    this.#states = (await readJsonFile(statePath, decodeScrubState)) ?? {};
    for (;;) {
      for (const store of scrubbed) if (this.#dueMs(store.name) <= 0) await this.#pass(store);
      const waitMs = Math.min(lookEveryMsMax, scrub.everyMs, ...scrubbed.map(({ name }) => this.#dueMs(name)));
      await sleep(Math.max(1, waitMs), undefined, { signal: this.#stopping.signal, ref: false });
    }
  }

  /** By the wall clock, since it counts over restarts; one that was set back must not put it off. */
  #dueMs(store: string): number {
    const state = this.#states[store];
    if (state === undefined || state.finishedAt === null) return 0;
    return Math.min(Date.parse(state.begunAt) + this.#options.scrub.everyMs - Date.now(), this.#options.scrub.everyMs);
  }

  async #pass(store: StoreOnNode): Promise<void> {
    const { scrub, catalogPath, log } = this.#options;
    const { name } = store;
    const before = this.#states[name];
    const resumed = before?.finishedAt === null ? before : undefined;
    const state: ScrubState = resumed ?? {
      begunAt: new Date().toISOString(),
      finishedAt: null,
      after: 0,
      files: 0,
      bytes: 0,
      differing: 0,
      unreadable: 0,
    };
    this.#states[name] = state;
    const { files, bytes } = state;
    const worker = new WorkerThread<ScrubMainCalls, ScrubWorkerCalls>(
      "scrub-worker",
      {
        found: (finding) => this.#found(finding),
        progress: (so) => this.#update(name, { after: so.object, files: files + so.files, bytes: bytes + so.bytes }),
      },
      (error) => log.error("scrub.failed", { error }),
    );
    this.#worker = worker;
    try {
      await worker.call("open", { catalogPath });
      this.#stopping.signal.throwIfAborted();
      await worker.call("scrub", { store, after: state.after, bytesPerSecond: scrub.bytesPerSecond });
    } finally {
      this.#worker = undefined;
      await worker.close();
      await this.#save();
    }
    this.#update(name, { finishedAt: new Date().toISOString() });
    await this.#save();
    const { after: _, ...said } = this.#states[name]!;
    log.info("source.scrubbed", { store: name, ...said });
  }

  #found({ store, path, object, kind, detail }: Parameters<ScrubMainCalls["found"]>[0]): void {
    const { log } = this.#options;
    const state = this.#states[store]!;
    if (kind === "unreadable") {
      this.#update(store, { unreadable: state.unreadable + 1 });
      log.error("source.unreadable", { store, ...namedPath(path), reason: detail });
      return;
    }
    this.#update(store, { differing: state.differing + 1 });
    log.error("source.differs", {
      store,
      ...namedPath(path),
      detail,
      hint: "Its stamps did not change: the disk has other bytes than it had, or somebody wrote past the filesystem. It is shipped as it is now; what it was can be restored from a recovery point.",
    });
    this.#options.onDiffers(object);
  }

  #update(store: string, change: Partial<ScrubState>): void {
    this.#states[store] = { ...this.#states[store]!, ...change };
    if (performance.now() - this.#savedAt < saveEveryMs) return;
    this.#savedAt = performance.now();
    this.#save().catch((error: unknown) => this.#options.log.warn("scrub.unsaved", { error }));
  }

  /** One after the other: the file has one writer. */
  #saving: Promise<void> = Promise.resolve();
  async #save(): Promise<void> {
    const write = async (): Promise<void> => await replaceFile(this.#options.statePath, JSON.stringify(this.#states));
    this.#saving = this.#saving.then(write, write);
    await this.#saving;
  }
}
